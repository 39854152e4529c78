//! Full fine-tuning of text encoders beside their model: each encoder goes at its own rate, what is saved is what was
//! trained and goes on where it was, and a stopped run ends where it would have ended without.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pipe_core::check::check_text;
use pipe_core::document::Syntax;
use pipe_core::execute::{Outcome, RunOptions, Status, run};
use pipe_core::run::{Position, Progress, StepReport, StopFlag};
use pipe_data::weights::{Component, ComponentWeights, DType, TensorOut, WeightFile, write_safetensors};

/// Sets the stop flag after a step.
struct Stopper(Option<u64>, StopFlag);

impl Progress for Stopper {
    fn tick(&self, _: &str, _: u64, _: u64) {}
    fn say(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn step(&self, position: &Position, _: &StepReport, _: f64) {
        if self.0 == Some(position.step) {
            self.1.set_after(1);
        }
    }
}

fn fixture(path: &str) -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/fixtures").join(path)
}

/// A text encoder of a fixture, whose table is stored in part, with all rows of the published one.
fn encoder(fixtures: &str, name: &str, to: &Path) {
    let file = WeightFile::open(fixture(&format!("{fixtures}/{name}.safetensors"))).unwrap();
    let tensors = file.names().map(|name| {
        let (mut shape, mut values) = (file.info(name).unwrap().shape.clone(), file.f32(name).unwrap());
        let rows = match name {
            "shared.weight" => 32128,
            _ if name.ends_with("token_embedding.weight") => 49408,
            _ => shape[0],
        };
        values = values.iter().copied().cycle().take(values.len() / shape[0] * rows).collect();
        shape[0] = rows;
        TensorOut::f32(name, DType::F32, shape, values)
    });
    write_safetensors(to, tensors, &BTreeMap::new()).unwrap();
}

/// A family: the model's node and weights, loss, denoiser, and its encoders with their parts and the rest of their nodes.
struct Case {
    name: &'static str,
    weights: &'static str,
    config: &'static str,
    loss: &'static str,
    denoiser: Component,
    texts: &'static [(&'static str, Component, &'static str)],
}

const CASES: [Case; 3] = [
    Case {
        name: "sd1",
        weights: "diffusers_dir",
        config: "",
        loss: "diffusion",
        denoiser: Component::Unet,
        texts: &[("clip_l", Component::TextEncoder, "encoder.clip_l, family: sd1")],
    },
    Case {
        name: "sdxl",
        weights: "sdxl_unet",
        config: ", config: { heads: [1, 2, 4], norm_groups: 2 }",
        loss: "diffusion",
        denoiser: Component::Unet,
        texts: &[
            ("clip_l", Component::TextEncoder, "encoder.clip_l, family: sdxl"),
            ("clip_g", Component::ClipG, "encoder.clip_g"),
        ],
    },
    Case {
        name: "sd3",
        weights: "sd3",
        config: ", config: { heads: 2 }",
        loss: "flow",
        denoiser: Component::Mmdit,
        texts: &[
            ("clip_l", Component::TextEncoder, "encoder.clip_l, family: sd3"),
            ("clip_g", Component::ClipG, "encoder.clip_g"),
            ("t5", Component::T5, "encoder.t5xxl, max_tokens: 24"),
        ],
    },
];

/// Rates of the model and of its encoders.
const RATES: [f64; 4] = [1e-3, 2e-3, 3e-3, 4e-3];

impl Case {
    /// A run on one batch of all rows, so that every step sees the same. `source` gives the weights of a part.
    fn document(&self, steps: u64, source: impl Fn(Option<&str>) -> PathBuf) -> String {
        let rows = fixture(&format!("lora_trajectory_text_{}/replay.safetensors", self.name));
        let names = Vec::from_iter(self.texts.iter().map(|text| text.0)).join(", ");
        let mut text = format!(
            "version: 1\nname: t\ntrain: {{ device: cpu, steps: {steps}, batch_size: 8, save_state: {{ steps: 100 }} }}\n\
             nodes:\n  rows: {{ type: loader.replay, path: {} }}\n  model: {{ type: model.{}, weights: {}{} }}\n",
            rows.display(),
            self.name,
            source(None).display(),
            self.config,
        );
        for (name, _, node) in self.texts {
            let hints = if *name == "t5" { "" } else { ", config: { heads: 2 }" };
            text += &format!("  {name}: {{ type: {node}, weights: {}{hints} }}\n", source(Some(*name)).display());
        }
        let fields = ["text_encoder", "text_encoder_2", "text_encoder_3"];
        let rates = fields.iter().zip(&RATES[1..]).take(self.texts.len());
        let rates = String::from_iter(rates.map(|(part, rate)| format!(", {part}_learning_rate: {rate}")));
        text += &format!(
            "  learn: {{ type: adapter.full, model: model, text: [{names}] }}\n  \
             loss: {{ type: loss.{}, model: learn, batch: rows }}\n  \
             adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: {}, weight_decay: 0{rates} }}\n  \
             metrics: {{ type: logger.metrics, update: adamw }}\n  \
             save: {{ type: saver.checkpoint, model: learn, format: diffusers, dtype: f32, every: {{ steps: 1 }} }}\n",
            self.loss, RATES[0],
        );
        text
    }
}

fn go(folder: &Path, out: &str, text: &str, resume: bool, stop: Option<u64>) -> Outcome {
    let checked = check_text(&pipe_nodes::registry(), text, &folder.join("run.yaml"), Syntax::Yaml, &[]);
    let format = pipe_core::diagnostic::Format::Concise;
    assert!(checked.ok(), "{}", pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), format, false));
    let flag = StopFlag::default();
    let progress = Arc::new(Stopper(stop, flag.clone()));
    let options = RunOptions { folder: folder.join(out), resume, progress, stop: flag };
    run(&pipe_nodes::registry(), &checked, options).unwrap()
}

fn losses(folder: &Path, out: &str) -> Vec<f64> {
    let metrics = std::fs::read_to_string(folder.join(out).join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
    metrics.lines().map(loss).collect()
}

fn values(path: &Path, part: Component) -> BTreeMap<String, Vec<f32>> {
    let file = ComponentWeights::open(path, part).unwrap();
    file.names().map(|name| (name.to_owned(), file.f32(name).unwrap())).collect()
}

#[test]
fn text_encoders_learn_whole() {
    for case in CASES {
        println!("{}", case.name);
        let tempdir = tempfile::tempdir().unwrap();
        let folder = tempdir.path();
        for (name, ..) in case.texts {
            let to = folder.join(format!("{name}.safetensors"));
            encoder(&format!("lora_trajectory_text_{}", case.name), name, &to);
        }
        let first = |part: Option<&str>| match part {
            Some(name) => folder.join(format!("{name}.safetensors")),
            None => fixture(case.weights),
        };
        let text = case.document(2, first);
        assert_eq!(go(folder, "whole", &text, false, None).status, Status::Finished);

        // The first step of AdamW moves each weight with a gradient by its rate.
        let saved = folder.join("whole/checkpoints/t-step00000001");
        let parts = [(None, case.denoiser)].into_iter().chain(case.texts.iter().map(|text| (Some(text.0), text.1)));
        for ((name, part), rate) in parts.zip(RATES) {
            let (before, after) = (values(&first(name), part), values(&saved, part));
            assert_eq!(Vec::from_iter(before.keys()), Vec::from_iter(after.keys()), "{name:?}");
            let pairs = before.iter().flat_map(|(name, values)| values.iter().zip(&after[name]));
            let furthest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max) as f64;
            assert!((furthest / rate - 1.0).abs() < 1e-2, "{} {name:?}: moved by {furthest}, not {rate}", case.name);
        }

        // A run from what was saved begins with the loss that the next step had.
        go(folder, "again", &case.document(1, |_| saved.clone()), false, None);
        let (whole, again) = (losses(folder, "whole"), losses(folder, "again"));
        assert!((whole[1] / again[0] - 1.0).abs() < 1e-5, "{}: {whole:?} {again:?}", case.name);
        assert!((whole[0] / again[0] - 1.0).abs() > 1e-4, "{}: {whole:?} {again:?}", case.name);

        // Stopped and continued, to the bit.
        let stopped = go(folder, "stopped", &text, false, Some(1));
        assert_eq!((stopped.status, stopped.position.step), (Status::Interrupted, 1));
        assert_eq!(go(folder, "stopped", &text, true, None).resumed_from, Some(1));
        let state = |out: &str| {
            let path = folder.join(out).join("state/step-00000002/state.safetensors");
            let file = WeightFile::open(&path).unwrap();
            let tensors = file.names().map(|name| (name.to_owned(), file.bytes(name).unwrap().into_owned()));
            BTreeMap::from_iter(tensors)
        };
        assert!(state("stopped") == state("whole"), "{}: the state after a stop", case.name);
        for (_, part, _) in case.texts {
            let saved = |out: &str| values(&folder.join(out).join("checkpoints/t"), *part);
            assert!(saved("stopped") == saved("whole"), "{}: {part:?} after a stop", case.name);
        }
    }
}
