//! The JSON files of Diffusers folders.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pipe_data::weights::{Component, component};

use super::common::torch::{call, text, zip};
use super::common::zeros;

/// Nothing that is an object of its kind.
fn not_an_object() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let nested = |open: &str, close: &str| [open.repeat(100_000), close.repeat(100_000)].concat().into_bytes();
    vec![
        ("empty", vec![], "not valid JSON"),
        ("text", b"Entry not found".to_vec(), "not valid JSON"),
        ("cut", b"{\"_class_name\": \"UNet".to_vec(), "not valid JSON"),
        ("web page", b"<!DOCTYPE html>".to_vec(), "not valid JSON"),
        ("not UTF-8", b"{\"a\": \"\xff\xfe\"}".to_vec(), "not valid JSON"),
        ("zeros", vec![0; 4096], "not valid JSON"),
        ("deep arrays", nested("[", "]"), "not valid JSON"),
        ("deep objects", nested("{\"a\":", "}"), "not valid JSON"),
        ("number past all numbers", b"{\"a\": 1e999999999}".to_vec(), "not valid JSON"),
        ("two documents", b"{}{}".to_vec(), "not valid JSON"),
        ("pickle", zip(b"}"), "not valid JSON"),
        ("a number", b"3".to_vec(), ""),
        ("a list", b"[]".to_vec(), ""),
        ("nothing", b"null".to_vec(), ""),
        ("five megabytes", format!("[{}0]", "0,".repeat(2_500_000)).into_bytes(), "too many for such a file"),
    ]
}

fn refused(name: &str, path: &Path, file: &str, wanted: &str, most: Duration) {
    let started = Instant::now();
    let message = component(path, Component::Unet).map(|_| ()).expect_err(name).to_string();
    assert!(message.contains(wanted) && message.contains(file), "{file}: {name}: {message}");
    assert!(message.len() < 1000 && !message.chars().any(char::is_control), "{file}: {name}: {message}");
    assert!(started.elapsed() < most, "{file}: {name}: {:?}", started.elapsed());
}

/// Puts every hostile JSON beside good weights.
pub fn are_refused(most: Duration) {
    let folder = tempfile::tempdir().unwrap();
    let unet = folder.path().join("unet");
    fs::create_dir(&unet).unwrap();
    let weights: [(&str, &[usize]); 2] =
        [("conv_in.weight", &[4, 4, 3, 3]), ("down_blocks.0.resnets.0.conv1.weight", &[4, 4, 3, 3])];
    zeros(&unet.join("diffusion_pytorch_model.safetensors"), weights);
    component(folder.path(), Component::Unet).unwrap();

    for (file, path) in
        [("config.json", unet.join("config.json")), ("model_index.json", folder.path().join("model_index.json"))]
    {
        let mut cases = not_an_object();
        cases.iter_mut().filter(|case| case.2.is_empty()).for_each(|case| case.2 = "not a JSON object");
        if file == "model_index.json" {
            cases.extend([
                ("class of a number", br#"{"_class_name": 3}"#.to_vec(), "`_class_name` is not a text"),
                (
                    "part outside",
                    br#"{"../../etc": ["diffusers", "X"]}"#.to_vec(),
                    "`../../etc` is not the name of a folder",
                ),
                ("part above", br#"{"..": ["diffusers", "X"]}"#.to_vec(), "is not the name of a folder"),
                ("part elsewhere", br#"{"/etc": ["diffusers", "X"]}"#.to_vec(), "is not the name of a folder"),
                (
                    "part of an odd name",
                    b"{\"a\\u0000b\": [\"diffusers\", \"X\"]}".to_vec(),
                    "is not the name of a folder",
                ),
                ("part without name", br#"{"": ["diffusers", "X"]}"#.to_vec(), "is not the name of a folder"),
                ("part of three", br#"{"unet": ["a", "b", "c"]}"#.to_vec(), "not a library and a class"),
                ("part of numbers", br#"{"unet": [1, 2]}"#.to_vec(), "not a library and a class"),
                ("part of an object", br#"{"unet": {"a": 1}}"#.to_vec(), "not a library and a class"),
            ]);
        }
        for (name, bytes, wanted) in cases {
            fs::write(&path, bytes).unwrap();
            refused(name, folder.path(), file, wanted, most);
        }
        fs::write(&path, br#"{"_class_name": "X", "unet": ["diffusers", "X"], "vae": [null, null], "flag": true}"#)
            .unwrap();
        component(folder.path(), Component::Unet).unwrap();
    }

    // An index is found where there is no single file; its shards are files like any other.
    let file = "diffusion_pytorch_model.safetensors.index.json";
    fs::rename(unet.join("diffusion_pytorch_model.safetensors"), unet.join("good.safetensors")).unwrap();
    fs::write(unet.join("evil.bin"), zip(&call("os", "system", &[text("echo pwned")]))).unwrap();
    let map = |shard: &str| format!(r#"{{"weight_map": {{"conv_in.weight": {shard}}}}}"#).into_bytes();
    let mut cases = not_an_object();
    cases.retain(|case| case.0 != "a list");
    // Entries other than the map are passed over, odd ones too.
    let passed_over = ["not UTF-8", "number past all numbers"];
    cases.iter_mut().filter(|case| passed_over.contains(&case.0)).for_each(|case| case.2 = "no `weight_map`");
    cases.iter_mut().filter(|case| case.2.is_empty()).for_each(|case| case.2 = "not valid JSON");
    cases.extend([
        ("no map", b"{}".to_vec(), "no `weight_map`"),
        ("a map that is a list", br#"{"weight_map": ["a"]}"#.to_vec(), "not valid JSON"),
        ("a map of a text", br#"{"weight_map": "a.safetensors"}"#.to_vec(), "not valid JSON"),
        ("shard of a number", map("3"), "the file of `conv_in.weight` is not a text"),
        ("shard of a list", map(&format!("[{}0]", "0,".repeat(1_000_000))), "is not a text"),
        ("shard of nothing", map("null"), "is not a text"),
        ("shard above", map("\"../good.safetensors\""), "outside the folder"),
        ("shard elsewhere", map("\"/etc/passwd\""), "outside the folder"),
        ("shard here", map("\"./good.safetensors\""), "outside the folder"),
        ("shard without that tensor", br#"{"weight_map": {"a": "good.safetensors"}}"#.to_vec(), "has no tensor `a`"),
    ]);
    for (name, bytes, wanted) in cases {
        fs::write(unet.join(file), bytes).unwrap();
        refused(name, folder.path(), file, wanted, most);
    }
    for (shard, wanted) in [
        ("none.safetensors", "does not exist"),
        ("", "is a folder"),
        ("evil.bin", "`os.system`"),
        ("config.json", "looks like a JSON"),
    ] {
        fs::write(unet.join(file), map(&format!("{shard:?}"))).unwrap();
        refused(shard, folder.path(), shard, wanted, most);
    }
}
