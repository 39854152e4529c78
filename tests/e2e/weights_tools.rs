//! `merge` and `convert`: real files in and out, judged by PyTorch's numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use pipe_data::weights::{Component, DType, TensorOut, WeightFile, component, write_safetensors};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::support::{Ran, pipe_in, root};

pub fn fixture(name: &str) -> String {
    root().join("tests/fixtures").join(name).display().to_string()
}

pub fn tools(name: &str) -> String {
    fixture(&format!("weights_tools/{name}"))
}

pub fn dir() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

pub fn pipe(dir: &TempDir, line: &[&str]) -> Ran {
    pipe_in(dir.path(), line)
}

pub fn open(path: impl AsRef<Path>) -> WeightFile {
    WeightFile::open(path).expect("the file is whole")
}

/// Tensors of a file with their bytes.
pub fn bytes(path: impl AsRef<Path>) -> BTreeMap<String, (DType, Vec<usize>, Vec<u8>)> {
    let file = open(path);
    let one = |name: &str| {
        let info = file.info(name).unwrap();
        (name.to_owned(), (info.dtype, info.shape.clone(), file.bytes(name).unwrap().into_owned()))
    };
    file.names().map(one).collect()
}

/// `‖a − b‖ / ‖b‖`.
#[track_caller]
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |it: &mut dyn Iterator<Item = f64>| it.map(|x| x * x).sum::<f64>();
    let difference = square(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    (difference / square(&mut b.iter().map(|b| f64::from(*b))).max(1e-30)).sqrt()
}

/// `s·U·D` of a layer, by the definition.
pub fn delta(file: &WeightFile, layer: &str) -> Vec<f32> {
    let get = |ending: &str| file.f32(&format!("{layer}.{ending}")).unwrap();
    let (down, up, alpha) = (get("lora_down.weight"), get("lora_up.weight"), get("alpha")[0]);
    let rank = file.info(&format!("{layer}.lora_down.weight")).unwrap().shape[0];
    let (out, row) = (up.len() / rank, down.len() / rank);
    let scale = f64::from(alpha) / rank as f64;
    let at = |o: usize, i: usize| {
        let sum: f64 = (0..rank).map(|r| f64::from(up[o * rank + r]) * f64::from(down[r * row + i])).sum();
        (scale * sum) as f32
    };
    (0..out * row).map(|n| at(n / row, n % row)).collect()
}

pub fn layers(file: &WeightFile) -> BTreeSet<String> {
    file.names().filter_map(|name| Some(name.strip_suffix(".lora_down.weight")?.to_owned())).collect()
}

#[test]
fn every_kind_of_adapter_is_merged_as_its_formula_says() {
    let (dir, wanted) = (dir(), open(tools("merged.safetensors")));
    let unet = fixture("diffusers_dir/unet");
    let base = component(&unet, Component::Unet).unwrap();
    let kinds = [
        "loha",
        "loha_tucker",
        "lokr",
        "lokr_both",
        "lokr_tucker",
        "locon",
        "dora",
        "dora_inputs",
        "glora",
        "ia3",
        "ia3_inputs",
        "diag_oft",
        "boft",
        "oft",
        "full",
        "both",
    ];
    for kind in kinds {
        let loras = match kind {
            "both" => {
                vec![format!("{}=0.8", tools("first.safetensors")), format!("{}=-0.5", tools("second.safetensors"))]
            }
            _ => vec![format!("{}=0.7", tools(&format!("{kind}.safetensors")))],
        };
        let mut line = vec!["merge", "--base", &unet, "--output", kind];
        line.extend(loras.iter().flat_map(|lora| ["--lora", lora.as_str()]));
        pipe(&dir, &line).expect(0);
        let merged = component(dir.path().join(kind), Component::Unet).unwrap();
        let mut changed = 0;
        for name in base.names() {
            match wanted.f32(&format!("{kind}.{name}")) {
                Ok(values) => {
                    let off = distance(&merged.f32(name).unwrap(), &values);
                    assert!(off <= 1e-6, "{kind}: {name} is off by {off}");
                    changed += 1;
                }
                Err(_) => assert_eq!(merged.bytes(name).unwrap(), base.bytes(name).unwrap(), "{kind}: {name}"),
            }
        }
        assert!(changed >= 6, "{kind}: {changed}");
    }
}

#[test]
fn the_layout_of_the_base_stays_and_others_are_written() {
    let (dir, single) = (dir(), fixture("single_file/model.safetensors"));
    let lora = format!("{}=0.8", tools("first.safetensors"));
    let like = fixture("diffusers_dir");
    let merge = |more: &[&str]| {
        let mut line = vec!["merge", "--base", &single, "--lora", &lora];
        line.extend(more);
        pipe(&dir, &line).expect(0)
    };
    merge(&["--output", "same.safetensors"]);
    let (before, after) = (bytes(&single), bytes(dir.path().join("same.safetensors")));
    let differ = before.iter().filter(|(name, tensor)| after[*name] != **tensor).count();
    assert_eq!((before.len(), differ), (after.len(), 6), "six layers change, all else stays byte for byte");
    merge(&["--output", "folder", "--format", "diffusers", "--like", &like]);
    merge(&["--output", "half.ckpt", "--format", "ckpt", "--dtype", "f16"]);
    merge(&["--output", "eight.safetensors", "--dtype", "fp8-e4m3"]);
    let values = |path: &str, name: &str| component(dir.path().join(path), Component::Unet).unwrap().f32(name).unwrap();
    let name = layers_of(&tools("first.safetensors"));
    for name in &name {
        let same = values("same.safetensors", name);
        assert_eq!(values("folder", name), same, "{name}");
        assert!(distance(&values("half.ckpt", name), &same) < 1e-3);
        let eight = distance(&values("eight.safetensors", name), &same);
        assert!((1e-4..0.06).contains(&eight), "{eight}");
    }
    let index: Json = serde_json::from_slice(&fs::read(dir.path().join("folder/model_index.json")).unwrap()).unwrap();
    assert_eq!(index["unet"][1], "UNet2DConditionModel");
    assert!(dir.path().join("folder/scheduler/scheduler_config.json").is_file());
    let about = open(dir.path().join("same.safetensors"));
    assert_eq!(about.header().metadata["modelspec.merged_from"], "first.safetensors × 0.8");
}

/// Internal names of the weights that a LoRA of the tiny U-Net changes.
pub fn layers_of(path: &str) -> Vec<String> {
    let file = open(path);
    let unet = component(fixture("diffusers_dir/unet"), Component::Unet).unwrap();
    let wanted = layers(&file);
    let name = |name: &&str| {
        name.strip_suffix(".weight")
            .is_some_and(|path| wanted.contains(&format!("lora_unet_{}", path.replace('.', "_"))))
    };
    unet.names().filter(name).map(String::from).collect()
}

#[test]
fn loras_become_one_lora() {
    let (dir, sums) = (dir(), open(tools("sums.safetensors")));
    let loras = [format!("{}=0.8", tools("first.safetensors")), format!("{}=-0.5", tools("second.safetensors"))];
    let join = |more: &[&str]| {
        let mut line = vec!["merge", "--lora", &loras[0], "--lora", &loras[1]];
        line.extend(more);
        pipe(&dir, &line).expect(0)
    };
    join(&["--output", "exact.safetensors"]);
    let exact = open(dir.path().join("exact.safetensors"));
    assert_eq!(layers(&exact), sums.names().map(String::from).collect());
    for layer in layers(&exact) {
        let off = distance(&delta(&exact, &layer), &sums.f32(&layer).unwrap());
        assert!(off <= 1e-6, "{layer}: {off}");
    }
    assert_eq!(exact.header().metadata["ss_network_dim"], "Dynamic");
    assert!(exact.header().metadata["modelspec.merged_from"].contains("second.safetensors × -0.5"));
    // At a rank that holds the sum nothing is lost; at a lower one the report says what is.
    join(&["--output", "seven.safetensors", "--rank", "7"]);
    let seven = open(dir.path().join("seven.safetensors"));
    for layer in layers(&seven) {
        assert!(distance(&delta(&seven, &layer), &sums.f32(&layer).unwrap()) <= 2e-6, "{layer}");
    }
    // One of the weights has 6 rows, so that its rank ends there.
    let rank = |layer: &str| seven.info(&format!("{layer}.lora_down.weight")).unwrap().shape[0];
    assert_eq!(layers(&seven).iter().map(|layer| rank(layer)).collect::<BTreeSet<_>>(), BTreeSet::from([6, 7]));
    assert_eq!(seven.header().metadata["ss_network_dim"], "Dynamic");
    join(&["--output", "five.safetensors", "--rank", "5"]);
    let five = open(dir.path().join("five.safetensors"));
    assert_eq!(five.header().metadata["ss_network_dim"], "5");
    assert_eq!(five.header().metadata["ss_network_alpha"], "5.0");
    assert!(join(&["--output", "two.safetensors", "--rank", "2", "--conv-rank", "1"]).out.contains("norm kept"));
    let names: BTreeSet<_> = open(dir.path().join("two.safetensors"))
        .names()
        .filter(|name| name.ends_with("conv.lora_down.weight"))
        .map(|name| open(dir.path().join("two.safetensors")).info(name).unwrap().shape[0])
        .collect();
    assert_eq!(names, BTreeSet::from([1]), "convolutions have a rank of their own");
    // The hash that other programs compute is that of the file.
    let inspected = pipe(&dir, &["inspect", "seven.safetensors", "--format", "json"]).expect(0).json();
    assert_eq!(inspected["parts"][0]["metadata"]["sshs_model_hash"].as_str().map(str::len), Some(64));
}

#[test]
fn models_go_round_byte_for_byte() {
    let (dir, single, folder) = (dir(), fixture("single_file/model.safetensors"), fixture("diffusers_dir"));
    pipe(&dir, &["convert", &single, "--format", "diffusers", "--like", &folder, "--output", "folder"]).expect(0);
    for part in ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"] {
        let file = format!("{part}.safetensors");
        assert_eq!(bytes(dir.path().join("folder").join(&file)), bytes(Path::new(&folder).join(&file)), "{part}");
    }
    pipe(&dir, &["convert", "folder", "--format", "single-file", "--output", "again.safetensors"]).expect(0);
    let (first, again) = (bytes(&single), bytes(dir.path().join("again.safetensors")));
    let lost: Vec<&String> = first.keys().filter(|name| !again.contains_key(*name)).collect();
    assert!(
        lost.iter().all(|name| ["betas", "alphas_cumprod"].contains(&name.as_str()) || name.ends_with("position_ids"))
    );
    assert!(again.iter().all(|(name, tensor)| first[name] == *tensor) && again.len() > 900);
    // A torch checkpoint becomes safetensors by itself, and goes back when asked.
    pipe(&dir, &["convert", "again.safetensors", "--output", "torch.ckpt"]).expect(0);
    pipe(&dir, &["convert", "torch.ckpt", "--output", "back.safetensors"]).expect(0);
    assert_eq!(bytes(dir.path().join("back.safetensors")), again);
    assert_eq!(&fs::read(dir.path().join("torch.ckpt")).unwrap()[..2], b"PK");
    // Types: there and back again is the rounding of the type, and integers stay.
    for (dtype, off) in [("f16", 1e-3), ("bf16", 1e-2), ("fp8-e5m2", 0.2)] {
        pipe(&dir, &["convert", &single, "--dtype", dtype, "--output", dtype]).expect(0);
        let (a, b) = (open(dir.path().join(dtype)), open(&single));
        let name = "model.diffusion_model.input_blocks.0.0.weight";
        let distance = distance(&a.f32(name).unwrap(), &b.f32(name).unwrap());
        assert!(distance > 0.0 && distance < off, "{dtype}: {distance}");
        let ids = b.names().find(|name| name.ends_with("position_ids")).unwrap();
        assert_eq!(a.bytes(ids).unwrap(), b.bytes(ids).unwrap());
    }
    // One part alone.
    pipe(&dir, &["convert", &format!("{folder}/unet"), "--format", "model-only", "--output", "unet.safetensors"])
        .expect(0);
    assert!(open(dir.path().join("unet.safetensors")).info("input_blocks.0.0.weight").is_some());
    pipe(&dir, &["convert", &format!("{folder}/unet"), "--dtype", "f32", "--output", "unet"]).expect(0);
    let file = "diffusion_pytorch_model.safetensors";
    assert_eq!(bytes(dir.path().join("unet").join(file)), bytes(Path::new(&folder).join("unet").join(file)));
}

/// Diffusers keeps query, key and value apart, and exchanges the halves of a modulation.
#[test]
fn transformers_go_round_byte_for_byte() {
    for name in ["flux", "sd3", "lumina2", "lumina_next"] {
        let (dir, model) = (dir(), fixture(name));
        pipe(&dir, &["convert", &model, "--format", "model-only", "--output", "own.safetensors"]).expect(0);
        let own = bytes(dir.path().join("own.safetensors"));
        for (name, tensor) in bytes(Path::new(&model).join("original.safetensors")) {
            let plain = name.strip_prefix("model.diffusion_model.").unwrap_or(&name);
            // Of these Diffusers has none.
            if !["norm_final.weight", "pad_token"].contains(&plain) {
                assert!(own.get(plain) == Some(&tensor), "{name}");
            }
        }
        let line = ["convert", "own.safetensors", "--format", "diffusers", "--like", &model, "--output", "folder"];
        pipe(&dir, &line).expect(0);
        let file = "diffusion_pytorch_model.safetensors";
        assert_eq!(bytes(dir.path().join("folder").join(file)), bytes(Path::new(&model).join(file)), "{name}");
        pipe(&dir, &["convert", "folder", "--format", "model-only", "--output", "back.safetensors"]).expect(0);
        assert_eq!(bytes(dir.path().join("back.safetensors")), own, "{name}");
    }
}

/// A LoRA of joined matrices changes the model's own file and a Diffusers folder, which has them apart, alike.
#[test]
fn joined_matrices_are_merged_in_either_layout() {
    let dir = dir();
    let original = fixture("flux/original.safetensors");
    let base = component(&original, Component::Flux).unwrap();
    let paths = ["double_blocks.0.img_attn.qkv", "single_blocks.0.linear1", "final_layer.adaLN_modulation.1"];
    let mut tensors = Vec::new();
    for path in paths {
        let shape = base.shape(&format!("{path}.weight")).unwrap();
        let values = |n: usize| (0..n).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
        let name = format!("lora_unet_{}", path.replace('.', "_"));
        tensors.push(TensorOut::f32(
            format!("{name}.lora_down.weight"),
            DType::F32,
            [2, shape[1]],
            values(2 * shape[1]),
        ));
        tensors.push(TensorOut::f32(format!("{name}.lora_up.weight"), DType::F32, [shape[0], 2], values(2 * shape[0])));
        tensors.push(TensorOut::f32(format!("{name}.alpha"), DType::F32, [], vec![1.0]));
    }
    write_safetensors(dir.path().join("lora.safetensors"), tensors, &BTreeMap::new()).unwrap();
    let lora = open(dir.path().join("lora.safetensors"));
    let line = ["convert", "lora.safetensors", "--format", "peft", "--for", &original, "--output", "peft.safetensors"];
    pipe(&dir, &line).expect(0);
    assert_eq!(open(dir.path().join("peft.safetensors")).names().len(), 2 * (3 + 4 + 1));
    let line = ["convert", "peft.safetensors", "--format", "kohya", "--for", &original, "--output", "back.safetensors"];
    pipe(&dir, &line).expect(0);
    for (model, file) in [(original.as_str(), "own"), (&fixture("flux"), "folder")] {
        for adapter in ["lora", "peft", "back"] {
            let (lora_file, output) = (format!("{adapter}.safetensors"), format!("{file}-{adapter}"));
            pipe(&dir, &["merge", "--base", model, "--lora", &lora_file, "--output", &output]).expect(0);
            let merged = component(dir.path().join(&output), Component::Flux).unwrap();
            for name in base.names() {
                let mut wanted = base.f32(name).unwrap();
                if let Some(path) = name.strip_suffix(".weight").filter(|path| paths.contains(path)) {
                    let change = delta(&lora, &format!("lora_unet_{}", path.replace('.', "_")));
                    wanted.iter_mut().zip(&change).for_each(|(w, d)| *w += d);
                }
                let off = distance(&merged.f32(name).unwrap(), &wanted);
                assert!(off <= 1e-6, "{output}: {name} is off by {off}");
            }
        }
    }
}

#[test]
fn loras_go_between_spellings() {
    let (dir, first, unet) = (dir(), tools("first.safetensors"), fixture("diffusers_dir"));
    pipe(&dir, &["convert", &first, "--format", "peft", "--for", &unet, "--output", "peft.safetensors"]).expect(0);
    // Keys and values are those of peft.
    assert_eq!(bytes(dir.path().join("peft.safetensors")), bytes(tools("peft.safetensors")));
    pipe(&dir, &["convert", "peft.safetensors", "--format", "kohya", "--for", &unet, "--output", "kohya.safetensors"])
        .expect(0);
    let (a, b) = (open(&first), open(dir.path().join("kohya.safetensors")));
    assert_eq!(layers(&a), layers(&b));
    for layer in layers(&a) {
        assert_eq!(delta(&a, &layer), delta(&b, &layer), "{layer}: a scale of 1/2 is exact");
    }
    // With α = rank the way there and back is byte for byte.
    pipe(&dir, &["convert", "kohya.safetensors", "--format", "peft", "--for", &unet, "--output", "p2.safetensors"])
        .expect(0);
    pipe(&dir, &["convert", "p2.safetensors", "--format", "kohya", "--for", &unet, "--output", "k2.safetensors"])
        .expect(0);
    assert_eq!(bytes(dir.path().join("kohya.safetensors")), bytes(dir.path().join("k2.safetensors")));
    // Both spellings give the same model.
    for name in ["kohya", "peft"] {
        let lora = format!("{name}.safetensors");
        pipe(&dir, &["merge", "--base", &unet, "--lora", &lora, "--output", &format!("m-{name}")]).expect(0);
    }
    let unet_of = |folder: &str| bytes(dir.path().join(folder).join("unet/diffusion_pytorch_model.safetensors"));
    assert_eq!(unet_of("m-kohya"), unet_of("m-peft"));
    // And one LoRA of both is twice the one.
    let line =
        ["merge", "--lora", "kohya.safetensors", "--lora", "peft.safetensors", "--for", &unet, "--output", "two"];
    pipe(&dir, &line).expect(0);
    let (one, two) = (open(dir.path().join("kohya.safetensors")), open(dir.path().join("two")));
    for layer in layers(&one) {
        let twice: Vec<f32> = delta(&one, &layer).iter().map(|x| 2.0 * x).collect();
        assert!(distance(&delta(&two, &layer), &twice) < 1e-6);
    }
    pipe(&dir, &["convert", &first, "--dtype", "bf16", "--output", "half.safetensors"]).expect(0);
    let half = open(dir.path().join("half.safetensors"));
    assert!(
        half.names().all(
            |name| half.info(name).unwrap().dtype == if name.ends_with("alpha") { DType::F32 } else { DType::BF16 }
        )
    );
}
