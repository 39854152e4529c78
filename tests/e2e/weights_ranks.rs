//! `resize` and `extract`: the best approximations of each rank are those of PyTorch's singular values.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use pipe_data::weights::{Component, DType, TensorOut, WeightFile, component, write_safetensors};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::support::root;
use crate::weights_tools::{bytes, delta, dir, distance, fixture, layers, layers_of, open, pipe, tools};

fn json(name: &str) -> Json {
    serde_json::from_str(&fs::read_to_string(tools(name)).unwrap()).unwrap()
}

/// The tiny U-Net with the fixture's changes, as a part's folder.
fn tuned(dir: &TempDir) -> PathBuf {
    let base = root().join("tests/fixtures/diffusers_dir/unet");
    let (unet, changes) = (open(base.join("diffusion_pytorch_model.safetensors")), open(tools("tuned.safetensors")));
    let tensors = unet.names().map(|name| {
        let values = if changes.info(name).is_some() { changes.f32(name) } else { unet.f32(name) };
        TensorOut::f32(name, DType::F32, unet.info(name).unwrap().shape.clone(), values.unwrap())
    });
    let folder = dir.path().join("tuned");
    fs::create_dir_all(&folder).unwrap();
    write_safetensors(folder.join("diffusion_pytorch_model.safetensors"), tensors, &BTreeMap::new()).unwrap();
    fs::copy(base.join("config.json"), folder.join("config.json")).unwrap();
    folder
}

#[test]
fn resizing_keeps_the_best_approximation() {
    let (dir, wanted, deltas) = (dir(), json("resize.json"), open(tools("wide_deltas.safetensors")));
    for (method, value) in wanted["methods"].as_object().unwrap() {
        let (flag, value) = (format!("--{}", method.replace('_', "-")), value.to_string());
        let wide = tools("wide.safetensors");
        let mut line = vec!["resize", &wide, "--output", method, &flag, &value];
        if method == "rank" {
            line.extend(["--conv-rank", "2"]);
        }
        let ran = pipe(&dir, &line).expect(0);
        let file = open(dir.path().join(method));
        let (mut kept, mut count) = (0.0, 0);
        for (layer, of) in wanted["layers"][method].as_object().unwrap() {
            let number = |key: &str| of[key].as_f64().unwrap();
            let rank = file.info(&format!("{layer}.lora_down.weight")).unwrap().shape[0];
            assert_eq!(rank as f64, number("rank"), "{method}: {layer}");
            let whole = deltas.f32(layer).unwrap();
            let norm = whole.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            let error = distance(&delta(&file, layer), &whole) * norm;
            assert!((error - number("error")).abs() <= 1e-5 * norm, "{method}: {layer}: {error} and {of}");
            // α/rank is 4/8 as before.
            assert_eq!(file.f32(&format!("{layer}.alpha")).unwrap(), [rank as f32 / 2.0]);
            kept += number("kept");
            count += 1;
        }
        let said = format!("{count} layers: {:.2}% of the norm is kept on average", 100.0 * kept / f64::from(count));
        assert!(ran.out.contains(&said), "{said}\n{}", ran.out);
        let metadata = &file.header().metadata;
        let (rank, comment) = match method.as_str() {
            "rank" => ("3", "dimension is resized from 8 to 3; cats".to_owned()),
            _ => ("Dynamic", format!("Dynamic resize with {method}: {} from 8; cats", value.trim_end_matches(".0"))),
        };
        assert_eq!(
            (metadata["ss_network_dim"].as_str(), metadata["ss_training_comment"].as_str()),
            (rank, comment.as_str())
        );
    }
}

/// Norms that learnt beside a LoRA stay as they are; a file of other kinds alone is refused.
#[test]
fn norms_beside_pairs_are_kept() {
    let dir = dir();
    let wide = open(tools("wide.safetensors"));
    let norm = "lora_unet_down_blocks_0_resnets_0_norm1";
    let values = || (0..8).map(|i| i as f32).collect::<Vec<f32>>();
    let shift = |ending: &str| TensorOut::f32(format!("{norm}.{ending}"), DType::F32, [8], values());
    let own = wide
        .names()
        .map(|name| TensorOut::f32(name, DType::F32, wide.info(name).unwrap().shape.clone(), wide.f32(name).unwrap()));
    let path = dir.path().join("both.safetensors");
    write_safetensors(&path, own.chain([shift("w_norm"), shift("b_norm")]), &BTreeMap::new()).unwrap();
    pipe(&dir, &["resize", "both.safetensors", "--output", "small.safetensors", "--rank", "2"]).expect(0);
    let small = open(dir.path().join("small.safetensors"));
    for ending in ["w_norm", "b_norm"] {
        assert_eq!(small.f32(&format!("{norm}.{ending}")).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }
    let first = layers(&small).into_iter().next().unwrap();
    assert_eq!(small.info(&format!("{first}.lora_down.weight")).unwrap().shape[0], 2);
    let refused = pipe(&dir, &["resize", &tools("full.safetensors"), "--output", "x.safetensors", "--rank", "2"]);
    assert!(refused.expect(1).err.contains("is no pair of low-rank factors"));
}

#[test]
fn a_difference_is_extracted() {
    let (dir, wanted) = (dir(), json("extract.json"));
    let (tuned, base) = (tuned(&dir).display().to_string(), fixture("diffusers_dir/unet"));
    let line = ["extract", &tuned, "--base", &base, "--rank", "3", "--conv-rank", "2", "--dtype", "f32"];
    let extract = |output: &str, more: &[&str]| pipe(&dir, &[&line[..], &["--output", output], more].concat());
    let ran = extract("lora.safetensors", &[]).expect(0);
    assert!(ran.err.contains("1 tensor changed that have no place in a LoRA"), "{}", ran.err);
    let lora = open(dir.path().join("lora.safetensors"));
    let (before, after) = (component(&base, Component::Unet).unwrap(), component(&tuned, Component::Unet).unwrap());
    assert_eq!(layers(&lora), wanted.as_object().unwrap().keys().cloned().collect());
    for name in layers_of(&dir.path().join("lora.safetensors").display().to_string()) {
        let layer = format!("lora_unet_{}", name.strip_suffix(".weight").unwrap().replace('.', "_"));
        let of = &wanted[&layer];
        let (old, new) = (before.f32(&name).unwrap(), after.f32(&name).unwrap());
        let whole: Vec<f32> = new.iter().zip(&old).map(|(a, b)| a - b).collect();
        let norm = of["norm"].as_f64().unwrap();
        let error = distance(&delta(&lora, &layer), &whole) * norm;
        assert!((error - of["error"].as_f64().unwrap()).abs() <= 1e-5 * norm, "{layer}: {error}, {of}");
        if of["low"] == true {
            assert!(error <= 1e-5 * norm, "{layer}: a known low rank comes back");
        }
    }
    // Merged into the base again, the known low ranks are the tuned model's.
    pipe(&dir, &["merge", "--base", &base, "--lora", "lora.safetensors", "--output", "again"]).expect(0);
    let again = component(dir.path().join("again"), Component::Unet).unwrap();
    for (layer, of) in wanted.as_object().unwrap().iter().filter(|(_, of)| of["low"] == true) {
        let path = |name: &&str| format!("lora_unet_{}", name.trim_end_matches(".weight").replace('.', "_")) == *layer;
        let name = after.names().find(path).unwrap();
        assert!(distance(&again.f32(name).unwrap(), &after.f32(name).unwrap()) < 1e-5, "{layer}: {of}");
    }
    // The layout of the files does not matter; what only the base has is told.
    let single = fixture("single_file/model.safetensors");
    let line = ["extract", &tuned, "--base", &single, "--rank", "3", "--conv-rank", "2", "--dtype", "f32", "-o", "s"];
    assert!(pipe(&dir, &line).expect(0).err.contains("only in the base: CLIP text encoder"));
    assert_eq!(bytes(dir.path().join("s")), bytes(dir.path().join("lora.safetensors")));
    assert_eq!(lora.header().metadata["ss_network_args"], r#"{"conv_dim": "2", "conv_alpha": "2"}"#);
    // Cut factors are smaller; equal models are no work.
    extract("cut.safetensors", &["--clamp-quantile", "0.9"]).expect(0);
    let largest = |file: &str, layer: &str| {
        let up = open(dir.path().join(file)).f32(&format!("{layer}.lora_up.weight")).unwrap();
        up.iter().fold(0.0f32, |a, x| a.max(x.abs()))
    };
    let layer = wanted.as_object().unwrap().keys().next().unwrap();
    assert!(largest("cut.safetensors", layer) < largest("lora.safetensors", layer));
    let equal = pipe(&dir, &["extract", &base, "--base", &tuned, "--rank", "2", "--min-diff", "100", "--output", "x"]);
    assert!(equal.expect(1).err.contains("error[P0403]"));
    assert!(!dir.path().join("x").exists());
}

#[test]
fn a_dylora_gives_its_first_ranks() {
    let dir = dir();
    let whole = open(tools("second.safetensors"));
    let write = |name: &str, module: Option<&str>, unit: &str| {
        let linear = |key: &&str| !key.contains("conv") && !key.contains("downsamplers") && !key.contains("upsamplers");
        let tensors: Vec<TensorOut> = whole
            .names()
            .filter(linear)
            .map(|key| TensorOut::f32(key, DType::F32, whole.info(key).unwrap().shape.clone(), whole.f32(key).unwrap()))
            .collect();
        let mut metadata = BTreeMap::from([("ss_network_args".to_owned(), format!("{{\"unit\": \"{unit}\"}}"))]);
        metadata.extend(module.map(|module| ("ss_network_module".to_owned(), module.to_owned())));
        write_safetensors(dir.path().join(name), tensors, &metadata).unwrap();
    };
    write("dy.safetensors", Some("networks.dylora"), "1");
    write("pairs.safetensors", Some("networks.dylora"), "3");
    write("lora.safetensors", Some("networks.lora"), "1");
    write("silent.safetensors", None, "1");
    let extract = |file: &str, more: &[&str]| {
        pipe(&dir, &[&["extract", file, "--rank", "2", "--output", "two.safetensors", "--force"], more].concat())
    };
    extract("dy.safetensors", &[]).expect(0);
    let two = open(dir.path().join("two.safetensors"));
    assert!(layers(&two).len() >= 5);
    for layer in layers(&two) {
        let get = |file: &WeightFile, ending: &str| file.f32(&format!("{layer}.{ending}")).unwrap();
        let (down, all) = (get(&two, "lora_down.weight"), get(&whole, "lora_down.weight"));
        assert_eq!(down, all[..all.len() / 3 * 2]);
        let up: Vec<f32> = get(&whole, "lora_up.weight").chunks(3).flat_map(|row| row[..2].to_vec()).collect();
        assert_eq!(get(&two, "lora_up.weight"), up);
        assert_eq!(get(&two, "alpha"), get(&whole, "alpha"), "α stays, so the scale is α/rank");
    }
    assert_eq!(two.header().metadata["ss_network_dim"], "2");
    assert!(extract("pairs.safetensors", &[]).expect(1).err.contains("no multiple of the 3 ranks"));
    assert!(extract("lora.safetensors", &[]).expect(1).err.contains("pipe resize"));
    assert!(extract("silent.safetensors", &[]).expect(1).err.contains("--dylora"));
    extract("silent.safetensors", &["--dylora"]).expect(0);
}
