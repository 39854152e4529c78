//! Sizes read from files: blocks are counted by the highest number, and what is missing has the file's own name.

use std::path::{Path, PathBuf};

use pipe_data::weights::{Component, ComponentWeights, DType, TensorOut, write_safetensors};
use pipe_networks::clip::{Activation, ClipConfig};
use pipe_networks::flux::FluxConfig;
use pipe_networks::mmdit::MmditConfig;
use pipe_networks::unet::{UnetConfig, UnetHints};
use pipe_networks::vae::VaeConfig;
use pipe_networks::{Shapes, SizesError, Weights};

fn fixture(path: &str) -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/fixtures").join(path)
}

/// A file with tensors of zeros.
fn write(path: &Path, shapes: impl Iterator<Item = (String, Vec<usize>)>) {
    let zeros = |shape: &[usize]| vec![0.0; shape.iter().product::<usize>()];
    let tensors = shapes.map(|(name, shape)| TensorOut::f32(name, DType::F32, shape.clone(), zeros(&shape)));
    write_safetensors(path, tensors, &Default::default()).unwrap();
}

/// A fixture's file without the tensors whose names begin so.
fn without(file: &str, component: Component, lost: &str) -> ComponentWeights {
    let whole = ComponentWeights::open(fixture(file), component).unwrap();
    let set = whole.set();
    let kept: Vec<&str> = set.names().filter(|name| !name.starts_with(lost)).collect();
    assert!(kept.len() < set.names().len(), "{lost}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, kept.into_iter().map(|name| (name.to_owned(), set.info(name).unwrap().shape.clone())));
    ComponentWeights::open(path, component).unwrap()
}

fn missing(file: &ComponentWeights, shapes: &Shapes) -> String {
    Weights::verify(file, shapes, |_| false).unwrap_err().to_string()
}

#[test]
fn a_block_that_is_missing_is_told_as_missing() {
    let flux = without("flux/original.safetensors", Component::Flux, "single_blocks.0.");
    let whole = ComponentWeights::open(fixture("flux/original.safetensors"), Component::Flux).unwrap();
    let (config, complete) =
        (FluxConfig::infer(&flux, Some([2, 4, 2])).unwrap(), FluxConfig::infer(&whole, Some([2, 4, 2])).unwrap());
    assert_eq!(config, complete);
    let told = missing(&flux, &config.shapes());
    assert!(told.starts_with("8 tensors are missing: `single_blocks.0.linear1.weight`"), "{told}");

    // Diffusers keeps the parts of a matrix apart: each is named.
    let flux = without("flux/diffusion_pytorch_model.safetensors", Component::Flux, "single_transformer_blocks.1.");
    let shapes = complete.shapes();
    let told = missing(&flux, &shapes);
    assert!(told.contains("`single_transformer_blocks.1.attn.to_q.weight`"), "{told}");
    assert!(told.contains("`single_transformer_blocks.1.proj_mlp.weight`"), "{told}");

    let lost = "model.diffusion_model.joint_blocks.0.x_block.";
    let sd3 = without("sd3/original.safetensors", Component::Mmdit, lost);
    let config = MmditConfig::infer(&sd3, Some(2)).unwrap();
    assert_eq!(config.depth, 2);
    assert!(missing(&sd3, &config.shapes()).contains(&format!("`{lost}attn.qkv.weight`")));

    let clip =
        without("clip_g/model.safetensors", Component::ClipG, "text_model.encoder.layers.1.self_attn.q_proj.weight");
    let config = ClipConfig::infer(&clip, Some(2), Activation::Gelu).unwrap();
    let told = missing(&clip, &config.shapes());
    assert_eq!(told, "1 tensor is missing: `text_model.encoder.layers.1.self_attn.q_proj.weight`");
}

#[test]
fn what_is_missing_has_the_name_of_the_file() {
    let whole = "single_file/model.safetensors";
    let lost = "first_stage_model.encoder.mid.block_1.conv1.";
    let vae = without(whole, Component::Vae, lost);
    let config = VaeConfig::infer(&vae, Some(2)).unwrap();
    let told = missing(&vae, &config.shapes());
    assert_eq!(told, format!("2 tensors are missing: `{lost}weight`, `{lost}bias`"));
    // A tensor that tells a size.
    let lost = "first_stage_model.encoder.down.1.block.0.conv1.weight";
    let vae = without(whole, Component::Vae, lost);
    assert_eq!(VaeConfig::infer(&vae, Some(2)), Err(SizesError::Missing(lost.into())));

    let hints = UnetHints { heads: Some(vec![2]), groups: Some(2), ..Default::default() };
    let lost = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.";
    let unet = without(whole, Component::Unet, lost);
    let config = UnetConfig::infer(&unet, &hints).unwrap();
    assert!(missing(&unet, &config.shapes()).starts_with(&format!("5 tensors are missing: `{lost}to_q.weight`")));
    // Without its first block, the level's transformer is still one block deep.
    let lost = "model.diffusion_model.input_blocks.1.1.";
    let config = UnetConfig::infer(&without(whole, Component::Unet, lost), &hints).unwrap();
    assert_eq!(config.depth, [1, 1, 1, 0]);
}

/// SD 2.x reads 23 of the 24 layers that its single files have.
#[test]
fn open_clip_h_is_read_without_its_last_layer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for (stored, read) in [(24, 23), (23, 23), (12, 12)] {
        let config = ClipConfig {
            width: 4,
            layers: stored,
            heads: 2,
            mlp: 8,
            vocab: 10,
            positions: 7,
            projection: None,
            ..ClipConfig::vit_h()
        };
        let prefix = "cond_stage_model.transformer.";
        write(&path, config.shapes().into_iter().map(|(name, shape)| (format!("{prefix}{name}"), shape)));
        let file = ComponentWeights::open(&path, Component::TextEncoder).unwrap();
        let found = ClipConfig::infer(&file, Some(2), Activation::Gelu).unwrap();
        assert_eq!(found, ClipConfig { layers: read, ..config });
        Weights::verify(&file, &found.shapes(), |_| false).unwrap();
    }
}

/// A number far beyond the others is no count of blocks.
#[test]
fn a_number_of_nowhere_is_no_block() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let whole = ComponentWeights::open(fixture("flux/original.safetensors"), Component::Flux).unwrap();
    let config = FluxConfig::infer(&whole, Some([2, 4, 2])).unwrap();
    let far = ("single_blocks.4000000000.linear1.weight".to_owned(), vec![2, 2]);
    write(&path, config.shapes().into_iter().chain([far]));
    let file = ComponentWeights::open(&path, Component::Flux).unwrap();
    assert_eq!(FluxConfig::infer(&file, Some([2, 4, 2])), Ok(config.clone()));
    assert!(missing(&file, &config.shapes()).contains("1 tensor is unknown: `single_blocks.4000000000."));
}
