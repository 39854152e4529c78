//! Torch checkpoints of every form hold what torch put there, whatever the files are called.

mod common;

use std::borrow::Cow;
use std::fs;

use common::torch::{dict, int, ints, old, old_data, old_storage, parts, program, storage, tensor, text, tuple};
use common::{fixture, torch};
use pipe_data::weights::{
    Component, DType, Header, Progress, TensorOut, WeightFile, WeightSet, component, detect, write_ckpt,
};

fn open(name: &str) -> WeightFile {
    WeightFile::open(fixture(&format!("pickles/{name}"))).unwrap()
}

/// Same names, types, shapes and values; `expected` is a safetensors file.
fn assert_same(found: &WeightFile, expected: &WeightFile) {
    let path = found.path().display();
    assert!(expected.names().len() > 0);
    let sorted = |file: &WeightFile| {
        let mut names: Vec<String> = file.names().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(sorted(found), sorted(expected), "{path}");
    for name in expected.names() {
        let (ours, theirs) = (found.info(name).unwrap(), expected.info(name).unwrap());
        assert_eq!((ours.dtype, &ours.shape), (theirs.dtype, &theirs.shape), "{path}: {name}");
        assert_eq!(ours.elements(), theirs.elements(), "{path}: {name}");
        assert_eq!(found.bytes(name).unwrap(), expected.bytes(name).unwrap(), "{path}: {name}");
        if ours.dtype.is_float() {
            assert_eq!(found.f32(name).unwrap(), expected.f32(name).unwrap(), "{path}: {name}");
        } else {
            assert_eq!(found.i64(name).unwrap(), expected.i64(name).unwrap(), "{path}: {name}");
        }
    }
}

#[test]
fn every_form_holds_the_same() {
    let expected = open("state.safetensors");
    for name in ["zip.pt", "legacy.pt", "protocol4.pt", "ours.ckpt"] {
        let found = open(name);
        assert_same(&found, &expected);
        let order: Vec<&str> = found.names().take(3).collect();
        assert!(name == "ours.ckpt" || order == ["plain", "transposed", "rows"], "{name}: {order:?}");
    }
    assert_same(&open("module.bin"), &open("module.safetensors"));
}

#[test]
fn values_are_copied_only_where_they_must_be() {
    let file = open("zip.pt");
    for (name, contiguous) in [
        ("plain", true),
        ("rows", true),
        ("ids_view", true),
        ("transposed", false),
        ("channels_last", false),
        ("expanded", false),
    ] {
        assert_eq!(matches!(file.bytes(name).unwrap(), Cow::Borrowed(_)), contiguous, "{name}");
    }
    // Views of one storage lie in one place.
    let start = |name| file.info(name).unwrap().start;
    assert_eq!((start("tied"), start("rows")), (start("plain"), start("plain") + 24));
}

#[test]
fn lightning_files_give_their_state_and_progress() {
    for name in ["lightning.ckpt", "lightning-legacy.ckpt"] {
        let file = open(name);
        assert_same(&file, &open("lightning.safetensors"));
        assert_eq!(file.progress(), Some(Progress { epoch: 12, global_step: 470_000 }));
        assert_eq!(file.header().metadata["pytorch-lightning_version"], "1.4.2");
        let set = WeightSet::open(fixture(&format!("pickles/{name}"))).unwrap();
        assert_eq!((set.progress(), set.metadata("epoch")), (file.progress(), Some("12")));
    }
    assert_eq!(open("zip.pt").progress(), None);
}

#[test]
fn the_content_decides_and_not_the_name() {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [("zip.pt", "a.safetensors"), ("legacy.pt", "b.safetensors"), ("state.safetensors", "c.ckpt")] {
        let path = folder.path().join(to);
        fs::copy(fixture(&format!("pickles/{from}")), &path).unwrap();
        assert_same(&WeightFile::open(&path).unwrap(), &open("state.safetensors"));
        assert_eq!(Header::read(&path).unwrap().tensors.len(), 24);
    }
}

#[test]
fn old_views_of_storages_and_other_rare_things() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pt");
    let floats: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    // Before 0.4 a storage could be a view of another: name, first element and length.
    let view = tuple(&[text("v"), int(2), int(3)]);
    let old_file = [
        old(&dict(&[("a", tensor(old_storage("FloatStorage", "7", 6, view), 1, &[2], &[1]))]), &["7"]),
        old_data(6, &floats),
    ];
    fs::write(&path, old_file.concat()).unwrap();
    assert_eq!(WeightFile::open(&path).unwrap().f32("a").unwrap(), [3.0, 4.0]);
    // The function of torch 0.1 and an `OrderedDict` made of pairs; a name that comes twice; an archive with 64-bit fields.
    let args = [storage("FloatStorage", "0", 6), int(0), ints(&[3, 2]), ints(&[1, 3])];
    let first = torch::call("torch._utils", "_rebuild_tensor", &args);
    let second = tensor(storage("FloatStorage", "0", 6), 5, &[], &[]);
    let pair = |value: &Vec<u8>| [b"](", &text("a")[..], value, b"e"].concat();
    let pairs = [b"](", &pair(&first)[..], &pair(&second), b"e"].concat();
    let body = torch::call("collections", "OrderedDict", &[pairs]);
    let mut zip = parts(&program(&body), &[("0", &floats)]);
    zip.members[1].extra = [&[1, 0, 16, 0][..], &24u64.to_le_bytes(), &24u64.to_le_bytes()].concat();
    (zip.members[1].len, zip.members[1].packed) = (u32::MAX, u32::MAX);
    fs::write(&path, zip.bytes()).unwrap();
    assert_eq!(WeightFile::open(&path).unwrap().f32("a").unwrap(), [5.0]);
    let plain = zip.bytes();
    let directory = plain.windows(4).position(|w| w == b"PK\x01\x02").unwrap() as u64;
    let size = (plain.len() - 22) as u64 - directory;
    let numbers: Vec<u8> = [3, 3, size, directory].iter().flat_map(|n: &u64| n.to_le_bytes()).collect();
    zip.before_end =
        [b"PK\x06\x06", &44u64.to_le_bytes()[..], &[45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0], &numbers].concat();
    zip.before_end.extend([&b"PK\x06\x07\0\0\0\0"[..], &(directory + size).to_le_bytes(), &[1, 0, 0, 0]].concat());
    (zip.count, zip.offset, zip.size) = (Some(u16::MAX), Some(u32::MAX), Some(u32::MAX));
    fs::write(&path, zip.bytes()).unwrap();
    assert_eq!(WeightFile::open(&path).unwrap().f32("a").unwrap(), [5.0]);
    // Nothing at all is a valid dictionary.
    fs::write(&path, torch::zip(b"}")).unwrap();
    assert_eq!(WeightFile::open(&path).unwrap().names().len(), 0);
}

/// Writes the tensors of a safetensors file as a torch checkpoint.
fn rewrite(from: &std::path::Path, to: &std::path::Path, keep: impl Fn(&str) -> bool) {
    let file = WeightFile::open(from).unwrap();
    let tensors = file.names().filter(|name| keep(name)).map(|name| {
        let info = file.info(name).unwrap();
        TensorOut::bytes(name, info.dtype, info.shape.clone(), file.bytes(name).unwrap())
    });
    write_ckpt(to, tensors, Progress::default()).unwrap();
}

#[test]
fn a_checkpoint_is_recognised_and_taken_apart_like_its_safetensors() {
    let folder = tempfile::tempdir().unwrap();
    let (theirs, ours) = (fixture("single_file/model.safetensors"), folder.path().join("model.ckpt"));
    rewrite(&theirs, &ours, |_| true);
    let kind = |path| detect(&Header::read(path).unwrap());
    assert_eq!(kind(theirs.as_path()), kind(ours.as_path()));
    for part in [Component::Unet, Component::Vae, Component::TextEncoder] {
        let (a, b) = (component(&theirs, part).unwrap(), component(&ours, part).unwrap());
        assert_eq!((a.layout, a.names().len(), a.unexpected.len()), (b.layout, b.names().len(), 0));
        for name in a.names() {
            assert_eq!(a.shape(name), b.shape(name));
            assert_eq!((a.f32(name).unwrap(), a.bytes(name).unwrap()), (b.f32(name).unwrap(), b.bytes(name).unwrap()));
        }
    }
}

#[test]
fn diffusers_folders_may_hold_torch_files() {
    let folder = tempfile::tempdir().unwrap();
    let unet = folder.path().join("unet");
    fs::create_dir(&unet).unwrap();
    let source = fixture("diffusers_dir/unet/diffusion_pytorch_model.safetensors");
    fs::copy(fixture("diffusers_dir/unet/config.json"), unet.join("config.json")).unwrap();
    fs::copy(fixture("diffusers_dir/model_index.json"), folder.path().join("model_index.json")).unwrap();
    let expected = component(fixture("diffusers_dir"), Component::Unet).unwrap();
    let check = |wanted: &str| {
        let found = component(folder.path(), Component::Unet).unwrap();
        assert_eq!((found.layout, &found.config), (expected.layout, &expected.config), "{wanted}");
        assert!(found.set().files()[0].path().ends_with(wanted), "{wanted}");
        assert_eq!(found.names().len(), 686);
        for name in expected.names() {
            assert_eq!(found.f32(name).unwrap(), expected.f32(name).unwrap(), "{wanted}: {name}");
        }
    };
    // From the least wanted to the most.
    rewrite(&source, &unet.join("model.pth"), |_| true);
    check("model.pth");
    rewrite(&source, &unet.join("diffusion_pytorch_model.fp16.bin"), |_| true);
    check("diffusion_pytorch_model.fp16.bin");
    let is_first = |name: &str| name.starts_with("down");
    rewrite(&source, &unet.join("part-1.bin"), is_first);
    rewrite(&source, &unet.join("part-2.bin"), |name| !is_first(name));
    let names = WeightFile::open(&source).unwrap();
    let map: serde_json::Map<String, serde_json::Value> = names
        .names()
        .map(|name| (name.to_owned(), if is_first(name) { "part-1.bin" } else { "part-2.bin" }.into()))
        .collect();
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    fs::write(unet.join("diffusion_pytorch_model.bin.index.json"), index.to_string()).unwrap();
    let found = component(&unet, Component::Unet).unwrap();
    assert_eq!((found.set().files().len(), found.names().len()), (2, 686));
    rewrite(&source, &unet.join("diffusion_pytorch_model.bin"), |_| true);
    check("diffusion_pytorch_model.bin");
    fs::copy(&source, unet.join("diffusion_pytorch_model.safetensors")).unwrap();
    check("diffusion_pytorch_model.safetensors");
    // `pytorch_model.bin` is the name of text encoders.
    let text = folder.path().join("text_encoder");
    fs::create_dir(&text).unwrap();
    rewrite(&fixture("diffusers_dir/text_encoder/model.safetensors"), &text.join("pytorch_model.bin"), |_| true);
    assert_eq!(component(folder.path(), Component::TextEncoder).unwrap().names().len(), 68);
}

#[test]
fn a_single_strided_tensor_has_its_own_type_and_bytes() {
    let file = open("zip.pt");
    let info = file.info("half_transposed").unwrap();
    assert_eq!((info.dtype, info.shape.as_slice(), info.end - info.start), (DType::F16, &[4, 3][..], 24));
    assert!(file.i64("half_transposed").unwrap_err().to_string().contains("integer"));
}
