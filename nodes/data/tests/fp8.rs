//! Both 8-bit float types, and weights whose scale stands beside them.

mod common;

use std::fs;

use common::{file, fixture};
use pipe_data::weights::{Component, DType, FileError, TensorOut, WeightFile, WeightSet, component, write_safetensors};

#[test]
fn every_code_has_the_value_torch_gives_it() {
    let file = WeightFile::open(fixture("pickles/fp8.safetensors")).unwrap();
    for (name, dtype, finite) in [("e4m3", DType::F8E4M3, 254), ("e5m2", DType::F8E5M2, 248)] {
        let codes = format!("{name}.codes");
        assert_eq!(file.info(&codes).unwrap().dtype, dtype);
        let (ours, theirs) = (file.f32(&codes).unwrap(), file.f32(&format!("{name}.values")).unwrap());
        assert_eq!((ours.len(), ours.iter().filter(|x| x.is_finite()).count()), (256, finite));
        for (code, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            assert!(a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()), "{name} {code:#04x}: {a} and {b}");
        }
    }
}

#[test]
fn scales_are_applied() {
    let path = fixture("pickles/fp8.safetensors");
    let (file, set) = (WeightFile::open(&path).unwrap(), WeightSet::open(&path).unwrap());
    for (name, scales) in [("whole", 1), ("rows", 4), ("column", 4)] {
        let weight = format!("{name}.weight");
        let expected = file.f32(&format!("{name}.result")).unwrap();
        assert!(expected.iter().any(|x| x.abs() > 0.01), "{name}");
        assert_eq!((file.f32(&weight).unwrap(), set.f32(&weight).unwrap()), (expected.clone(), expected), "{name}");
        assert_eq!(set.scale(&weight).unwrap().map(|scale| scale.len()), Some(scales));
        assert_eq!(file.scale(&weight).unwrap(), set.scale(&weight).unwrap());
        // Bytes stay as they are stored.
        assert_eq!(set.bytes(&weight).unwrap().len(), 24);
    }
    assert_eq!(set.scale("whole.result").unwrap(), None);
}

/// Two convolutions of a VAE in 8 bits, with these further tensors.
fn scaled_vae<'a>(path: &std::path::Path, more: Vec<TensorOut<'a>>) {
    let codes = |name: &str| TensorOut::bytes(name, DType::F8E4M3, [2, 4, 1, 1], vec![0x38; 8]);
    let tensors = [codes("decoder.conv_in.weight"), codes("encoder.conv_in.weight")];
    write_safetensors(path, tensors.into_iter().chain(more), &Default::default()).unwrap();
}

#[test]
fn a_component_has_true_values_and_nothing_unexpected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vae.safetensors");
    let f32s = |name: &str, shape: &[usize], values: &[f32]| TensorOut::f32(name, DType::F32, shape, values.to_vec());
    let marker = || TensorOut::bytes("scaled_fp8", DType::F8E4M3, [2], vec![0; 2]);
    scaled_vae(
        &path,
        vec![
            f32s("decoder.conv_in.scale_weight", &[], &[0.5]),
            f32s("decoder.conv_in.scale_input", &[], &[3.0]),
            f32s("encoder.conv_in.weight_scale", &[2], &[2.0, 3.0]),
            marker(),
        ],
    );
    let vae = component(&path, Component::Vae).unwrap();
    assert!(vae.unexpected.is_empty(), "{:?}", vae.unexpected);
    assert_eq!(vae.names().len(), 2);
    assert_eq!(vae.f32("decoder.conv_in.weight").unwrap(), [0.5; 8]);
    assert_eq!(vae.f32("encoder.conv_in.weight").unwrap(), [2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0]);
    assert_eq!(vae.scale("encoder.conv_in.weight").unwrap(), Some(vec![2.0, 3.0]));
    assert_eq!(vae.bytes("encoder.conv_in.weight").unwrap()[..], [0x38; 8]);
    // A scale of no known weight is not passed over.
    scaled_vae(&path, vec![f32s("decoder.nothing.scale_weight", &[], &[0.5]), marker()]);
    let vae = component(&path, Component::Vae).unwrap();
    assert_eq!(vae.unexpected, ["decoder.nothing.scale_weight"]);
    assert_eq!(vae.f32("decoder.conv_in.weight").unwrap(), [1.0; 8]);
    // Neither is one that fits nothing.
    for (dtype, shape, bytes) in [(DType::F32, vec![3], 12), (DType::I32, vec![], 4), (DType::F32, vec![2, 4], 32)] {
        scaled_vae(&path, vec![TensorOut::bytes("decoder.conv_in.scale_weight", dtype, shape, vec![0; bytes])]);
        let error = component(&path, Component::Vae).unwrap_err();
        assert!(matches!(&error, FileError::WrongShape { tensor, .. } if tensor.ends_with("scale_weight")), "{error}");
        assert!(WeightFile::open(&path).unwrap().f32("decoder.conv_in.weight").is_err());
        assert!(WeightFile::open(&path).unwrap().f32("encoder.conv_in.weight").is_ok());
    }
}

#[test]
fn a_scale_may_be_in_another_shard() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let header = r#"{"l.weight":{"dtype":"F8_E5M2","shape":[2],"data_offsets":[0,2]}}"#;
    fs::write(at("1.safetensors"), file(header, &[0x3c, 0xbc])).unwrap();
    let header = r#"{"l.scale_weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    fs::write(at("2.safetensors"), file(header, &4f32.to_le_bytes())).unwrap();
    let map = r#"{"weight_map":{"l.weight":"1.safetensors","l.scale_weight":"2.safetensors"}}"#;
    fs::write(at("model.safetensors.index.json"), map).unwrap();
    let set = WeightSet::open(folder.path()).unwrap();
    assert_eq!(set.f32("l.weight").unwrap(), [4.0, -4.0]);
    assert_eq!(WeightFile::open(at("1.safetensors")).unwrap().f32("l.weight").unwrap(), [1.0, -1.0]);
}
