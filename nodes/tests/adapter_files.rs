//! Adapter files in other spellings and of other kinds: what starts from them or is merged from them gives the same
//! losses as the same factors under kohya's names; and metadata say what the document said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pipe_core::check::{Checked, check_text};
use pipe_core::document::Syntax;
use pipe_core::execute::{RunOptions, Status, run};
use pipe_core::run::{Progress, StopFlag};
use pipe_data::lora_names::{LoraTarget, Wanted, kohya_name, targets};
use pipe_data::weights::{Component, DType, Family, TensorOut, WeightFile, write_safetensors};

struct Quiet;

impl Progress for Quiet {
    fn tick(&self, _: &str, _: u64, _: u64) {}
    fn say(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}

fn fixture(path: &str) -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/fixtures").join(path)
}

fn look(folder: &Path, text: &str) -> Checked {
    check_text(&pipe_nodes::registry(), text, &folder.join("run.yaml"), Syntax::Yaml, &[])
}

/// Runs a document; gives the loss of each step.
fn losses(folder: &Path, text: &str) -> Vec<f64> {
    let checked = look(folder, text);
    let format = pipe_core::diagnostic::Format::Concise;
    assert!(checked.ok(), "{}", pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), format, false));
    let options =
        RunOptions { folder: folder.join("out"), resume: false, progress: Arc::new(Quiet), stop: StopFlag::default() };
    let outcome = run(&pipe_nodes::registry(), &checked, options).unwrap();
    assert_eq!(outcome.status, Status::Finished);
    let metrics = std::fs::read_to_string(folder.join("out/metrics.jsonl")).unwrap();
    let rows = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    rows.map(|row| row["loss"].as_f64().unwrap()).collect()
}

/// A family with its fixtures: model node, replay, LoRA file, loss.
#[derive(Clone, Copy)]
struct Case(&'static str, &'static str, &'static str);

const SD1: Case = Case("sd1", "diffusers_dir", "lora_trajectory");
const SDXL: Case = Case("sdxl", "sdxl_unet", "lora_trajectory_sdxl");
const FLUX: Case = Case("flux", "flux", "lora_trajectory_flux");
const LUMINA_NEXT: Case = Case("lumina_next", "lumina_next", "lora_trajectory_lumina_next");

impl Case {
    fn document(self, steps: u64, adapter: &str, rate: &str) -> String {
        let Case(model, weights, replay) = self;
        let loss = if model == "flux" || model.starts_with("lumina") { "flow" } else { "diffusion" };
        format!(
            "version: 1\nname: case\ntrain: {{ device: cpu, steps: {steps}, batch_size: 2 }}\nnodes:\n  \
             rows: {{ type: loader.replay, path: {} }}\n  model: {{ type: model.{model}, weights: {} }}\n  \
             learn: {{ model: model, {adapter} }}\n  loss: {{ type: loss.{loss}, model: learn, batch: rows }}\n  \
             adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: {rate} }}\n  \
             metrics: {{ type: logger.metrics, update: adamw }}\n  \
             save: {{ type: saver.adapter, adapter: learn, update: adamw, dtype: f32 }}\n",
            fixture(replay).join("replay.safetensors").display(),
            fixture(weights).display(),
        )
    }
    /// Losses of two steps in which nothing moves.
    fn still(self, adapter: &str) -> Vec<f64> {
        let folder = tempfile::tempdir().unwrap();
        losses(folder.path(), &self.document(2, adapter, "0.0"))
    }
    fn lora(self) -> WeightFile {
        WeightFile::open(fixture(self.2).join("init.safetensors")).unwrap()
    }
    /// The layers of its U-Net that a LoRA adapts.
    fn layers(self) -> Vec<LoraTarget> {
        let path = fixture(self.1).join("unet/diffusion_pytorch_model.safetensors");
        let path = if path.exists() { path } else { fixture(self.1).join("diffusion_pytorch_model.safetensors") };
        let unet = WeightFile::open(path).unwrap();
        let shapes: Vec<(&str, Vec<usize>)> = unet.names().map(|n| (n, unet.info(n).unwrap().shape.clone())).collect();
        let family = if self.0 == "sdxl" { Family::Sdxl } else { Family::Sd1 };
        targets(family, Component::Unet, shapes, Wanted::default())
    }
}

/// Writes the tensors of a file under other names; none leaves one out.
fn renamed(from: &WeightFile, to: &Path, name: impl Fn(&str, &str) -> Option<String>, metadata: &[(&str, &str)]) {
    let tensors = from.names().filter_map(|old| {
        let (layer, ending) = old.split_once('.').unwrap();
        let shape = from.info(old).unwrap().shape.clone();
        Some(TensorOut::f32(name(layer, ending)?, DType::F32, shape, from.f32(old).unwrap()))
    });
    let metadata = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<BTreeMap<_, _>>();
    write_safetensors(to, tensors, &metadata).unwrap();
}

fn close(a: &[f64], b: &[f64], what: &str) {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().zip(b).all(|(a, b)| (a / b - 1.0).abs() < 2e-5), "{what}: {a:?}, not {b:?}");
}

fn apart(a: &[f64], b: &[f64], what: &str) {
    assert!(a.iter().zip(b).any(|(a, b)| (a / b - 1.0).abs() > 1e-4), "{what}: {a:?} and {b:?}");
}

/// PEFT's names, with α in Diffusers' metadata.
#[test]
fn peft_names_and_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let (file, lora) = (folder.path().join("peft.safetensors"), SD1.lora());
    let paths: BTreeMap<String, String> = SD1.layers().into_iter().map(|t| (t.name, t.path)).collect();
    let alpha = lora.names().find(|n| n.ends_with(".alpha")).map(|n| lora.f32(n).unwrap()[0]).unwrap();
    let peft = |layer: &str, ending: &str| {
        let factor = match ending {
            "lora_down.weight" => "lora_A.weight",
            "lora_up.weight" => "lora_B.weight",
            _ => return None,
        };
        Some(format!("unet.{}.{factor}", paths[layer]))
    };
    let metadata = format!("{{\"unet.lora_alpha\": {alpha}, \"unet.r\": 4}}");
    renamed(&lora, &file, peft, &[("lora_adapter_metadata", &metadata)]);
    let plain = SD1.still(&format!("type: adapter.lora, rank: 4, weights: {}", lora.path().display()));
    apart(&plain, &SD1.still("type: adapter.lora, rank: 4"), "the file changes something");
    for adapter in ["rank: 4, weights: FILE", "rank: from_file, weights: FILE", "base_weights: [{ path: FILE }]"] {
        let adapter = adapter.replace("FILE", &file.display().to_string());
        close(&SD1.still(&format!("type: adapter.lora, {adapter}")), &plain, &adapter);
    }
}

/// SDXL: Diffusers' block names behind kohya's prefix.
#[test]
fn sdxl_files_with_diffusers_names() {
    let folder = tempfile::tempdir().unwrap();
    let (file, lora) = (folder.path().join("diffusers.safetensors"), SDXL.lora());
    let paths: BTreeMap<String, String> = SDXL.layers().into_iter().map(|t| (t.name, t.path)).collect();
    let name = |layer: &str, ending: &str| Some(format!("{}.{ending}", kohya_name("lora_unet", &paths[layer])));
    renamed(&lora, &file, name, &[]);
    assert!(WeightFile::open(&file).unwrap().names().any(|n| n.contains("down_blocks")));
    let plain = SDXL.still(&format!("type: adapter.lora, rank: from_file, weights: {}", lora.path().display()));
    apart(&plain, &SDXL.still("type: adapter.lora, rank: 4"), "the file changes something");
    for adapter in ["rank: from_file, weights: FILE", "base_weights: [{ path: FILE }]"] {
        let adapter = adapter.replace("FILE", &file.display().to_string());
        close(&SDXL.still(&format!("type: adapter.lora, {adapter}")), &plain, &adapter);
    }
}

/// A layer that is there in two spellings is the sum of both, and a prefix of LyCORIS is one more spelling.
#[test]
fn layers_in_two_spellings_are_added() {
    let folder = tempfile::tempdir().unwrap();
    let (file, lora) = (folder.path().join("twice.safetensors"), SDXL.lora());
    let paths: BTreeMap<String, String> = SDXL.layers().into_iter().map(|t| (t.name, t.path)).collect();
    let mut tensors = Vec::new();
    for old in lora.names() {
        let (layer, ending) = old.split_once('.').unwrap();
        let shape = lora.info(old).unwrap().shape.clone();
        let other = format!("{}.{ending}", kohya_name("lycoris", &paths[layer]));
        let values = lora.f32(old).unwrap();
        tensors.push(TensorOut::f32(old, DType::F32, shape.clone(), values.clone()));
        // Another scale, so that the factors cannot have one α.
        let half = if ending == "alpha" { 0.5 } else { 1.0 };
        tensors.push(TensorOut::f32(other, DType::F32, shape, values.iter().map(|x| x * half).collect::<Vec<_>>()));
    }
    write_safetensors(&file, tensors, &BTreeMap::new()).unwrap();
    let path = lora.path().display();
    let wanted = SDXL.still(&format!("type: adapter.lora, base_weights: [{{ path: {path}, multiplier: 1.5 }}]"));
    apart(&wanted, &SDXL.still(&format!("type: adapter.lora, base_weights: [{{ path: {path} }}]")), "half more");
    for adapter in ["rank: from_file, weights: FILE", "base_weights: [{ path: FILE }]"] {
        let adapter = adapter.replace("FILE", &file.display().to_string());
        close(&SDXL.still(&format!("type: adapter.lora, {adapter}")), &wanted, &adapter);
    }
}

/// Lumina-Next: Diffusers has the query of an attention twice, and a file says it for both.
#[test]
fn copies_of_a_weight_count_once() {
    let folder = tempfile::tempdir().unwrap();
    let lora = |name: &str, layers: &[(&str, f32)]| {
        let path = folder.path().join(name);
        let tensors = layers.iter().flat_map(|(layer, value)| {
            [("lora_A", [1, 32]), ("lora_B", [32, 1])].map(|(end, shape)| {
                let values: Vec<f32> = (0..32).map(|i| value * (i as f32).sin()).collect();
                TensorOut::f32(format!("{layer}.{end}.weight"), DType::F32, shape, values)
            })
        });
        write_safetensors(&path, tensors, &BTreeMap::new()).unwrap();
        format!("type: adapter.lora, base_weights: [{{ path: {} }}]", path.display())
    };
    let (a, b) = ("transformer.layers.0.attn1.to_q", "transformer.layers.0.attn2.to_q");
    let one = LUMINA_NEXT.still(&lora("one.safetensors", &[("transformer.layers.0.attn1.to_q", 1.0)]));
    apart(&one, &LUMINA_NEXT.still("type: adapter.lora"), "the file changes something");
    close(&LUMINA_NEXT.still(&lora("both.safetensors", &[(a, 1.0), (b, 1.0)])), &one, "both");
    let differ = lora("differ.safetensors", &[(a, 1.0), (b, 1.5)]);
    let checked = look(folder.path(), &LUMINA_NEXT.document(2, &differ, "1e-2"));
    let faults: Vec<_> = checked.diagnostics.iter().map(|d| (d.code, d.message.as_str())).collect();
    assert!(matches!(faults[..], [("P0305", message)] if message.contains("do not change it alike")), "{faults:?}");
}

/// FLUX: DoRA on query, key and value by themselves is DoRA on the joined layer.
#[test]
fn magnitudes_of_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let only = "type: adapter.dora, rank: 2, include: ['double_blocks_0_img_attn_qkv']";
    losses(folder.path(), &FLUX.document(3, only, "1e-1"));
    let saved = WeightFile::open(folder.path().join("out/checkpoints/case.safetensors")).unwrap();
    let name = "lora_unet_double_blocks_0_img_attn_qkv";
    let get = |ending: &str| saved.f32(&format!("{name}.{ending}")).unwrap();
    let (down, up, lengths) = (get("lora_down.weight"), get("lora_up.weight"), get("dora_scale"));
    let rows = lengths.len() / 3;
    let own = FLUX.still(&format!("{only}, weights: {}", saved.path().display()));
    apart(&own, &FLUX.still(only), "the file changes something");
    let write = |parts: &[usize]| {
        let file = folder.path().join(format!("pieces-{}.safetensors", parts.len()));
        let tensors = parts.iter().flat_map(|i| {
            let layer = format!("transformer.transformer_blocks.0.attn.{}", ["to_q", "to_k", "to_v"][*i]);
            let of = |values: &[f32], width: usize| values[i * rows * width..(i + 1) * rows * width].to_vec();
            let tensor = |ending: &str, shape: Vec<usize>, values: Vec<f32>| {
                TensorOut::f32(format!("{layer}.{ending}"), DType::F32, shape, values)
            };
            [
                tensor("lora_A.weight", vec![2, down.len() / 2], down.clone()),
                tensor("lora_B.weight", vec![rows, 2], of(&up, 2)),
                tensor("lora_magnitude_vector", vec![rows], of(&lengths, 1)),
            ]
        });
        write_safetensors(&file, tensors.collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
        format!("type: adapter.lora, base_weights: [{{ path: {} }}]", file.display())
    };
    close(&FLUX.still(&write(&[0, 1, 2])), &own, "pieces");
    let checked = look(folder.path(), &FLUX.document(2, &write(&[0, 2]), "1e-2"));
    let faults: Vec<_> = checked.diagnostics.iter().map(|d| (d.code, d.message.as_str())).collect();
    assert!(matches!(faults[..], [("P0305", message)] if message.contains("magnitude (DoRA)")), "{faults:?}");
}

/// Factors that are whole have no scale and no product.
#[test]
fn scales_of_whole_factors() {
    let folder = tempfile::tempdir().unwrap();
    for (adapter, field) in [
        ("rank: 64, alpha: 1", Some("`alpha`")),
        ("rank: 64, rs_lora: true", Some("`rs_lora`")),
        ("rank: 64, decompose_both: true", Some("`decompose_both`")),
        ("rank: 64", None),
        ("rank: 1, alpha: 1, rs_lora: true, factor: 2", None),
    ] {
        let document = SD1.document(2, &format!("type: adapter.lokr, {adapter}"), "1e-2");
        let faults: Vec<_> = look(folder.path(), &document).diagnostics;
        let faults: Vec<_> = faults.iter().map(|d| (d.code, d.message.as_str())).collect();
        match field {
            Some(field) => assert!(matches!(faults[..], [("P0402", m)] if m.starts_with(field)), "{faults:?}"),
            None => assert!(faults.is_empty(), "{adapter}: {faults:?}"),
        }
    }
}

/// A value that is no number is found before the first step, with its file and name.
#[test]
fn damaged_factors_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (file, lora) = (folder.path().join("nan.safetensors"), SD1.lora());
    let key = lora.names().find(|n| n.ends_with("lora_up.weight")).unwrap().to_owned();
    let tensors = lora.names().map(|name| {
        let mut values = lora.f32(name).unwrap();
        if name == key {
            values[3] = f32::NAN;
        }
        TensorOut::f32(name, DType::F32, lora.info(name).unwrap().shape.clone(), values)
    });
    write_safetensors(&file, tensors, &BTreeMap::new()).unwrap();
    for adapter in ["rank: 4, weights: FILE", "base_weights: [{ path: FILE }]"] {
        let adapter = adapter.replace("FILE", &file.display().to_string());
        let checked = look(folder.path(), &SD1.document(1, &format!("type: adapter.lora, {adapter}"), "0.0"));
        let (progress, stop) = (Arc::new(Quiet), StopFlag::default());
        let options = RunOptions { folder: folder.path().join("out"), resume: false, progress, stop };
        let error = run(&pipe_nodes::registry(), &checked, options).err().unwrap();
        let text = format!("{error:?}");
        assert!(text.contains("P0303") && text.contains(&key) && text.contains("nan.safetensors"), "{text}");
    }
}

/// FLUX: query, key and value of a joined layer by themselves, each with a scale of its own.
#[test]
fn pieces_of_joined_layers() {
    let folder = tempfile::tempdir().unwrap();
    let only = "type: adapter.lora, rank: 2, alpha: 1, split_qkv: true, include: ['double_blocks_0_img_attn_qkv']";
    losses(folder.path(), &FLUX.document(3, only, "1e-1"));
    let saved = WeightFile::open(folder.path().join("out/checkpoints/case.safetensors")).unwrap();
    let name = "lora_unet_double_blocks_0_img_attn_qkv";
    let get = |ending: &str| saved.f32(&format!("{name}.{ending}")).unwrap();
    let (down, up, alpha) = (get("lora_down.weight"), get("lora_up.weight"), get("alpha")[0]);
    let (width, rows) = (down.len() / 6, up.len() / 6 / 3);
    let plain = FLUX.still(&format!("type: adapter.lora, rank: from_file, weights: {}", saved.path().display()));
    apart(&plain, &FLUX.still("type: adapter.lora, rank: 2"), "the file changes something");
    for uneven in [false, true] {
        let file = folder.path().join(format!("pieces-{uneven}.safetensors"));
        let mut tensors = Vec::new();
        for (i, part) in ["to_q", "to_k", "to_v"].into_iter().enumerate() {
            // Twice the α and half the up factor are the same.
            let more = if uneven && i == 1 { 2.0 } else { 1.0 };
            let layer = format!("transformer.transformer_blocks.0.attn.{part}");
            let block = (0..rows).flat_map(|row| up[(i * rows + row) * 6 + 2 * i..][..2].iter().map(|x| x / more));
            let tensor = |ending: &str, shape: Vec<usize>, values: Vec<f32>| {
                TensorOut::f32(format!("{layer}.{ending}"), DType::F32, shape, values)
            };
            tensors.push(tensor("lora_A.weight", vec![2, width], down[2 * i * width..(2 * i + 2) * width].to_vec()));
            tensors.push(tensor("lora_B.weight", vec![rows, 2], block.collect()));
            tensors.push(tensor("alpha", vec![], vec![alpha / 3.0 * more]));
        }
        write_safetensors(&file, tensors, &BTreeMap::new()).unwrap();
        let split = "rank: 2, split_qkv: true, include: ['double_blocks_0_img_attn_qkv'], weights: FILE";
        for adapter in ["rank: from_file, weights: FILE", "base_weights: [{ path: FILE }]", split] {
            let adapter = adapter.replace("FILE", &file.display().to_string());
            close(&FLUX.still(&format!("type: adapter.lora, {adapter}")), &plain, &adapter);
        }
    }
}

/// What pipe saves of every kind can be merged; half as strong it lies between.
#[test]
fn every_kind_can_be_merged() {
    let plain = SD1.still("type: adapter.lora, rank: 2");
    for adapter in [
        "type: adapter.dora, rank: 2, alpha: 1, conv: { rank: 2 }",
        "type: adapter.lokr, rank: 2, conv: { rank: 2 }, factor: 3",
        "type: adapter.lokr, rank: 1, decompose_both: true",
        "type: adapter.loha, rank: 2",
        "type: adapter.oft, blocks: 2, layers: all, constraint: 0.5",
        "type: adapter.dylora, rank: 4, unit: 2",
        "type: adapter.loha, rank: 2, conv: { rank: 2 }, tucker: true, scalar: true",
        "type: adapter.lokr, rank: 1, conv: { rank: 1 }, factor: 2, tucker: true",
        "type: adapter.glora, rank: 2, conv: { rank: 2 }, norms: true",
        "type: adapter.ia3",
        "type: adapter.ia3, layers: all",
        "type: adapter.diff, layers: all, norms: true",
        "type: adapter.diag_oft, layers: all, rescaled: true, constraint: 0.01",
        "type: adapter.boft, layers: all, block_size: 10, rescaled: true",
    ] {
        let folder = tempfile::tempdir().unwrap();
        losses(folder.path(), &SD1.document(4, adapter, "3e-2"));
        let file = folder.path().join("out/checkpoints/case.safetensors").display().to_string();
        // While DyLoRA trains, its rank is drawn anew in each step; its file is a LoRA.
        let reader = if adapter.contains("dylora") { "type: adapter.lora, rank: 4" } else { adapter };
        let own = SD1.still(
            &format!("{reader}, weights: {file}")
                .replace(", alpha: 1", "")
                .replace(", constraint: 0.5", "")
                .replace(", constraint: 0.01", ""),
        );
        apart(&own, &plain, adapter);
        let merged = SD1.still(&format!("type: adapter.lora, rank: 2, base_weights: [{{ path: {file} }}]"));
        close(&merged, &own, adapter);
        let half =
            SD1.still(&format!("type: adapter.lora, rank: 2, base_weights: [{{ path: {file}, multiplier: 0.5 }}]"));
        apart(&half, &own, adapter);
        apart(&half, &plain, adapter);
    }
}

/// (IA)³: what scales inputs is told from what scales outputs by a value, which the check reads.
#[test]
fn factors_of_inputs_are_not_those_of_outputs() {
    let folder = tempfile::tempdir().unwrap();
    for (name, fits) in [("ia3", true), ("ia3_inputs", false)] {
        let reference = WeightFile::open(fixture(&format!("lycoris/{name}.safetensors"))).unwrap();
        let file = folder.path().join(format!("{name}.safetensors"));
        let tensors = reference.names().filter_map(|n| {
            let shape = reference.info(n).unwrap().shape.clone();
            Some(TensorOut::f32(n.strip_prefix("init.")?, DType::F32, shape, reference.f32(n).unwrap()))
        });
        write_safetensors(&file, tensors, &BTreeMap::new()).unwrap();
        let adapter = format!("type: adapter.ia3, layers: all, weights: {}", file.display());
        let checked = look(folder.path(), &SD1.document(2, &adapter, "1e-2"));
        let faults: Vec<_> = checked.diagnostics.iter().map(|d| (d.code, d.message.as_str())).collect();
        match fits {
            true => assert!(faults.is_empty(), "{faults:?}"),
            false => assert!(matches!(faults[..], [("P0305", _)]), "{faults:?}"),
        }
        // Merged, both are what they are.
        let merged = SD1.still(&format!("type: adapter.lora, rank: 2, base_weights: [{{ path: {} }}]", file.display()));
        apart(&merged, &SD1.still("type: adapter.lora, rank: 2"), name);
    }
}

/// FLUX's OFT has rotations by part.
#[test]
fn rotations_by_part_can_be_merged() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = "type: adapter.oft, blocks: 2, layers: linear";
    losses(folder.path(), &FLUX.document(3, &format!("{adapter}, constraint: 0.5"), "3e-2"));
    let file = folder.path().join("out/checkpoints/case.safetensors").display().to_string();
    let own = FLUX.still(&format!("{adapter}, weights: {file}"));
    apart(&own, &FLUX.still(adapter), "it learnt something");
    close(&FLUX.still(&format!("type: adapter.lora, rank: 2, base_weights: [{{ path: {file} }}]")), &own, "merged");
}

/// Factors of text encoders that are not adapted here are left out.
#[test]
fn factors_of_text_encoders_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let (file, lora) = (folder.path().join("both.safetensors"), SD1.lora());
    let layer = "lora_te_text_model_encoder_layers_0_self_attn_q_proj";
    let own =
        lora.names().map(|n| TensorOut::f32(n, DType::F32, lora.info(n).unwrap().shape.clone(), lora.f32(n).unwrap()));
    let text = ["lora_down.weight", "lora_up.weight"].into_iter().zip([[4, 24], [24, 4]]);
    let text = text.map(|(e, shape)| TensorOut::f32(format!("{layer}.{e}"), DType::F32, shape, vec![1.0; 96]));
    write_safetensors(&file, own.chain(text), &BTreeMap::new()).unwrap();
    let plain = SD1.still(&format!("type: adapter.lora, rank: 4, weights: {}", lora.path().display()));
    for rank in ["4", "from_file"] {
        close(&SD1.still(&format!("type: adapter.lora, rank: {rank}, weights: {}", file.display())), &plain, rank);
    }
}

/// A file whose up factors are no blocks is refused by the check, not by the run.
#[test]
fn a_dense_file_is_not_of_parts() {
    let folder = tempfile::tempdir().unwrap();
    losses(folder.path(), &FLUX.document(2, "type: adapter.lora, rank: 6, include: ['qkv']", "1e-2"));
    let file = folder.path().join("out/checkpoints/case.safetensors");
    let adapter =
        format!("type: adapter.lora, rank: 2, split_qkv: true, include: ['qkv'], weights: {}", file.display());
    let checked = look(folder.path(), &FLUX.document(2, &adapter, "1e-2"));
    let faults: Vec<_> = checked.diagnostics.iter().map(|d| (d.code, d.message.as_str())).collect();
    assert!(matches!(faults[..], [("P0305", message)] if message.contains("is not one of split parts")), "{faults:?}");
}

/// A rank that is no sum of three says so already.
#[test]
fn a_rank_that_is_not_of_parts() {
    let folder = tempfile::tempdir().unwrap();
    losses(folder.path(), &FLUX.document(1, "type: adapter.lora, rank: 4, include: ['qkv']", "1e-2"));
    let file = folder.path().join("out/checkpoints/case.safetensors");
    let adapter = format!("type: adapter.lora, rank: from_file, split_qkv: true, weights: {}", file.display());
    let checked = look(folder.path(), &FLUX.document(2, &adapter, "1e-2"));
    let faults: Vec<_> = checked.diagnostics.iter().map(|d| (d.code, d.help.clone().unwrap_or_default())).collect();
    assert!(matches!(&faults[..], [("P0305", help)] if help.contains("leave `split_qkv` out")), "{faults:?}");
}

/// Parts that are all left out.
#[test]
fn split_layers_that_are_excluded() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = "type: adapter.lora, rank: 2, split_qkv: true, exclude: ['qkv', 'linear1']";
    let checked = look(folder.path(), &FLUX.document(2, adapter, "1e-2"));
    let faults: Vec<_> = checked.diagnostics.iter().map(|d| (d.code, d.message.as_str())).collect();
    assert!(matches!(faults[..], [("P0402", message)] if message.contains("`split_qkv` has no effect")), "{faults:?}");
}

/// α of convolutions is `conv.alpha` whatever gave the rank; metadata have what the document says, whatever the first
/// layer has.
#[test]
fn alphas_of_convolutions_and_in_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = "type: adapter.lora, rank: 4, alpha: 3, conv: { rank: 4, alpha: 1, blocks: { down: 2 } }, \
                   blocks: { down.1: { rank: 2, alpha: 0.5 } }, patterns: [{ match: 'mid_block_resnets_0_conv1', rank: 6 }]";
    losses(folder.path(), &SD1.document(1, adapter, "1e-4"));
    let saved = WeightFile::open(folder.path().join("out/checkpoints/case.safetensors")).unwrap();
    let alpha = |layer: &str| saved.f32(&format!("lora_unet_{layer}.alpha")).unwrap()[0];
    assert_eq!(alpha("down_blocks_0_attentions_0_proj_in"), 0.5);
    assert_eq!(alpha("down_blocks_0_resnets_0_conv1"), 1.0);
    assert_eq!(alpha("mid_block_resnets_0_conv1"), 1.0);
    assert_eq!(alpha("up_blocks_0_resnets_0_conv1"), 1.0);
    let metadata = &saved.header().metadata;
    assert_eq!((metadata["ss_network_dim"].as_str(), metadata["ss_network_alpha"].as_str()), ("4", "3.0"));
    let args = &metadata["ss_network_args"];
    assert!(args.contains("\"conv_dim\": \"4\"") && args.contains("\"conv_alpha\": \"1\""), "{args}");
}

/// Keeps warnings.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Progress for Warnings {
    fn tick(&self, _: &str, _: u64, _: u64) {}
    fn say(&self, _: &str) {}
    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(line.into());
    }
}

/// Runs a document; gives what it warned of, and the file that it saved.
fn saved(folder: &Path, text: &str) -> (Vec<String>, WeightFile) {
    let warnings = Arc::new(Warnings::default());
    let options =
        RunOptions { folder: folder.join("out"), resume: false, progress: warnings.clone(), stop: StopFlag::default() };
    assert_eq!(run(&pipe_nodes::registry(), &look(folder, text), options).unwrap().status, Status::Finished);
    let told = warnings.0.lock().unwrap().iter().filter(|line| line.contains("range")).cloned().collect();
    (told, WeightFile::open(folder.join("out/checkpoints/case.safetensors")).unwrap())
}

/// A file in f16 has no infinities: a tensor with larger values is in f32, and the run ends as any other.
#[test]
fn values_beyond_f16_are_saved_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    let (file, lora) = (folder.path().join("large.safetensors"), SD1.lora());
    let large = lora.names().find(|name| name.ends_with("lora_up.weight")).unwrap().to_owned();
    let tensors = lora.names().map(|name| {
        let mut values = lora.f32(name).unwrap();
        if name == large {
            values[0] = -65520.0;
        }
        TensorOut::f32(name, DType::F32, lora.info(name).unwrap().shape.clone(), values)
    });
    write_safetensors(&file, tensors, &BTreeMap::new()).unwrap();
    let adapter = format!("type: adapter.lora, rank: 4, weights: {}", file.display());
    let document = |dtype: &str| SD1.document(1, &adapter, "0.0").replace("dtype: f32", &format!("dtype: {dtype}"));
    let (told, made) = saved(folder.path(), &document("f16"));
    for name in made.names() {
        let wide = name == large || name.ends_with(".alpha");
        assert_eq!(made.info(name).unwrap().dtype, if wide { DType::F32 } else { DType::F16 }, "{name}");
        assert!(made.f32(name).unwrap().iter().all(|x| x.is_finite()), "{name}");
    }
    assert_eq!(made.f32(&large).unwrap()[0], -65520.0);
    assert!(told.len() == 1 && told[0].contains(&large) && told[0].contains("bf16"), "{told:?}");
    let other = tempfile::tempdir().unwrap();
    let (told, made) = saved(other.path(), &document("bf16"));
    assert!(told.is_empty() && made.info(&large).unwrap().dtype == DType::BF16);
}

/// The same of whole models, in each layout.
#[test]
fn weights_beyond_f16_are_saved_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    let unet = folder.path().join("unet");
    std::fs::create_dir_all(&unet).unwrap();
    let (from, name) = (fixture("diffusers_dir/unet"), "diffusion_pytorch_model.safetensors");
    std::fs::copy(from.join("config.json"), unet.join("config.json")).unwrap();
    let base = WeightFile::open(from.join(name)).unwrap();
    let tensors = base.names().map(|name| {
        let mut values = base.f32(name).unwrap();
        if name == "conv_out.bias" {
            values[0] = 7e4;
        }
        TensorOut::f32(name, DType::F32, base.info(name).unwrap().shape.clone(), values)
    });
    write_safetensors(unet.join(name), tensors, &BTreeMap::new()).unwrap();
    for (format, place) in
        [("model_only", "case.safetensors"), ("diffusers", "case/unet/diffusion_pytorch_model.safetensors")]
    {
        let out = tempfile::tempdir().unwrap();
        let text = SD1
            .document(1, "type: adapter.full", "1e-9")
            .replace(&fixture("diffusers_dir").display().to_string(), &folder.path().display().to_string())
            .replace(
                "type: saver.adapter, adapter: learn, update: adamw, dtype: f32",
                &format!("type: saver.checkpoint, model: learn, update: adamw, dtype: f16, format: {format}"),
            );
        let warnings = Arc::new(Warnings::default());
        let options = RunOptions {
            folder: out.path().join("out"),
            resume: false,
            progress: warnings.clone(),
            stop: StopFlag::default(),
        };
        let checked = look(out.path(), &text);
        let concise = pipe_core::diagnostic::Format::Concise;
        let faults = pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), concise, false);
        assert!(checked.ok(), "{faults}");
        run(&pipe_nodes::registry(), &checked, options).unwrap();
        let made = WeightFile::open(out.path().join("out/checkpoints").join(place)).unwrap();
        let wide: Vec<&str> = made.names().filter(|name| made.info(name).unwrap().dtype == DType::F32).collect();
        assert_eq!(wide, [if format == "diffusers" { "conv_out.bias" } else { "out.2.bias" }]);
        assert!((made.f32(wide[0]).unwrap()[0] - 7e4).abs() < 1.0);
        assert_eq!(warnings.0.lock().unwrap().iter().filter(|line| line.contains("range of f16")).count(), 1);
    }
}
