//! What SD3's training may leave to chance, on text encoders that learn: an encoder that is always left out learns
//! nothing, positions change what is trained and nothing that is measured, and a run continues exactly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pipe_core::document::Syntax;
use pipe_core::execute::{Outcome, RunOptions, run};
use pipe_core::run::{Position, Progress, StepReport, StopFlag};
use pipe_data::weights::{DType, TensorOut, WeightFile, write_safetensors};

/// Sets the stop flag after a step.
struct Watch(u64, StopFlag);

impl Progress for Watch {
    fn tick(&self, _: &str, _: u64, _: u64) {}
    fn say(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn step(&self, position: &Position, _: &StepReport, _: f64) {
        if position.step == self.0 {
            self.1.set();
        }
    }
}

fn fixture(path: &str) -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/fixtures").join(path)
}

/// The fixture's text encoders with tables of the published numbers of rows.
fn encoders(folder: &Path) {
    for (name, rows) in [("clip_l", 49408), ("clip_g", 49408), ("t5", 32128)] {
        let file = WeightFile::open(fixture(&format!("lora_trajectory_text_sd3/{name}.safetensors"))).unwrap();
        let tensors = file.names().map(|tensor| {
            let (mut shape, mut values) = (file.info(tensor).unwrap().shape.clone(), file.f32(tensor).unwrap());
            if tensor == "shared.weight" || tensor.ends_with("token_embedding.weight") {
                values = values.iter().copied().cycle().take(rows * shape[1]).collect();
                shape[0] = rows;
            }
            TensorOut::f32(tensor, DType::F32, shape, values)
        });
        write_safetensors(folder.join(format!("{name}.safetensors")), tensors, &BTreeMap::new()).unwrap();
    }
}

/// A LoRA of everything over the fixture's captions; `options` are the model's.
fn go(folder: &Path, out: &str, options: &str, resume: bool, stop_after: u64) -> Outcome {
    let text = format!(
        "version: 1\nname: sd3\ntrain: {{ device: cpu, steps: 4, batch_size: 2 }}\nnodes:\n  \
         rows: {{ type: loader.replay, path: {} }}\n  \
         model: {{ type: model.sd3, weights: {}, config: {{ heads: 2 }}{options} }}\n  \
         clip_l: {{ type: encoder.clip_l, family: sd3, config: {{ heads: 2 }}, weights: clip_l.safetensors }}\n  \
         clip_g: {{ type: encoder.clip_g, config: {{ heads: 2 }}, weights: clip_g.safetensors }}\n  \
         t5: {{ type: encoder.t5xxl, max_tokens: 24, weights: t5.safetensors }}\n  \
         learn: {{ type: adapter.lora, model: model, rank: 2, text: [clip_l, clip_g, t5] }}\n  \
         loss: {{ type: loss.flow, model: learn, batch: rows }}\n  \
         steps: {{ type: optimizer.adamw, learning_rate: 1e-3, weight_decay: 0.0, loss: loss }}\n  \
         held: {{ type: logger.validation, loss: loss, batch: rows, every: {{ steps: 4 }} }}\n  \
         metrics: {{ type: logger.metrics, update: steps }}\n",
        fixture("lora_trajectory_text_sd3/replay.safetensors").display(),
        fixture("sd3").display()
    );
    let registry = pipe_nodes::registry();
    let checked = pipe_core::check::check_text(&registry, &text, &folder.join("run.yaml"), Syntax::Yaml, &[]);
    let format = pipe_core::diagnostic::Format::Concise;
    assert!(checked.ok(), "{}", pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), format, false));
    let stop = StopFlag::default();
    let progress = Arc::new(Watch(stop_after, stop.clone()));
    run(&registry, &checked, RunOptions { folder: folder.join(out), resume, progress, stop }).unwrap()
}

/// First number of this name in a file of lines.
fn first(folder: &Path, out: &str, file: &str) -> f64 {
    let text = std::fs::read_to_string(folder.join(out).join(file)).unwrap();
    serde_json::from_str::<serde_json::Value>(text.lines().next().unwrap()).unwrap()["loss"].as_f64().unwrap()
}

/// What learns, at the end.
fn learned(folder: &Path, out: &str) -> BTreeMap<String, Vec<f32>> {
    let file = WeightFile::open(folder.join(out).join("state/step-00000004/state.safetensors")).unwrap();
    let names = file.names().filter(|name| name.starts_with("param."));
    names.map(|name| (name.to_string(), file.f32(name).unwrap())).collect()
}

#[test]
fn an_encoder_that_is_always_left_out_learns_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    encoders(folder);
    for (out, options) in [("all", ""), ("less", ", text_dropout: { clip_l: 0.999999, t5xxl: 0.999999 }")] {
        go(folder, out, options, false, u64::MAX);
    }
    // An up factor is zero until it learns.
    let moved = |out: &str, prefix: &str| {
        let of = |(name, values): &(&String, &Vec<f32>)| {
            name.starts_with(&format!("param.{prefix}"))
                && name.ends_with("lora_up.weight")
                && values.iter().any(|x| *x != 0.0)
        };
        learned(folder, out).iter().filter(of).count()
    };
    for (prefix, left_out) in [("lora_te1_", true), ("lora_te2_", false), ("lora_te3_", true), ("lora_unet_", false)] {
        assert!(moved("all", prefix) > 0, "{prefix}");
        assert_eq!(moved("less", prefix) == 0, left_out, "{prefix}");
    }
    assert_eq!(
        first(folder, "all", "validation.jsonl"),
        first(folder, "less", "validation.jsonl"),
        "not in validation"
    );
    assert_ne!(first(folder, "all", "metrics.jsonl"), first(folder, "less", "metrics.jsonl"));
}

/// T5's own dropout of 0.1 is never on: with recomputation all is the same to the bit.
#[test]
fn checkpointing_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    encoders(folder);
    for (out, options) in [("kept", ""), ("again", ", checkpointing: blocks")] {
        go(folder, out, options, false, u64::MAX);
    }
    assert!(learned(folder, "kept") == learned(folder, "again"));
    assert_eq!(first(folder, "kept", "metrics.jsonl"), first(folder, "again", "metrics.jsonl"));
}

#[test]
fn positions_are_cropped_in_training_and_scaled_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    encoders(folder);
    for (out, options) in [
        ("middle", ""),
        ("anywhere", ", position_random_crop: 1"),
        ("scaled", ", scaled_positions: [64]"),
        ("both", ", scaled_positions: [64], position_random_crop: 1"),
    ] {
        go(folder, out, options, false, u64::MAX);
    }
    let measured = |out: &str| first(folder, out, "validation.jsonl");
    let trained = |out: &str| first(folder, out, "metrics.jsonl");
    assert!(measured("middle") == measured("anywhere") && trained("middle") != trained("anywhere"));
    assert!(measured("middle") != measured("scaled") && trained("middle") != trained("scaled"));
    assert!(measured("scaled") == measured("both") && trained("scaled") != trained("both"));
}

#[test]
fn what_is_left_to_chance_is_so_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    encoders(folder);
    let options = ", text_dropout: { clip_l: 0.5, clip_g: 0.5, t5xxl: 0.5 }, position_random_crop: 0.5";
    let whole = go(folder, "whole", options, false, u64::MAX);
    go(folder, "stopped", options, false, 2);
    let resumed = go(folder, "stopped", options, true, u64::MAX);
    assert_eq!((resumed.resumed_from, resumed.report), (Some(2), whole.report));
    assert!(learned(folder, "whole") == learned(folder, "stopped"));
}
