//! Text encoders that learn in the first part of a run alone: what was learned stays to the bit, the rest goes on, and a
//! run that is stopped on either side of the switch continues exactly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pipe_core::check::{Checked, check_text};
use pipe_core::document::Syntax;
use pipe_core::execute::{Outcome, RunOptions, run};
use pipe_core::plan::plan_document;
use pipe_core::run::{Position, Progress, StepReport, StopFlag};
use pipe_data::weights::{DType, TensorOut, WeightFile, write_safetensors};

/// Sets the stop flag after a step, and keeps warnings.
struct Watch(u64, StopFlag, Mutex<Vec<String>>);

impl Progress for Watch {
    fn tick(&self, _: &str, _: u64, _: u64) {}
    fn say(&self, _: &str) {}
    fn warn(&self, line: &str) {
        self.2.lock().unwrap().push(line.to_owned());
    }
    fn step(&self, position: &Position, _: &StepReport, _: f64) {
        if position.step == self.0 {
            self.1.set();
        }
    }
}

fn fixture(path: &str) -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/fixtures").join(path)
}

/// The fixture's text encoder with a table of the published number of rows.
fn clip(folder: &Path) {
    let file = WeightFile::open(fixture("lora_trajectory_text_sd1/clip_l.safetensors")).unwrap();
    let tensors = file.names().map(|name| {
        let (mut shape, mut values) = (file.info(name).unwrap().shape.clone(), file.f32(name).unwrap());
        if name.ends_with("token_embedding.weight") {
            values = values.iter().copied().cycle().take(49408 * shape[1]).collect();
            shape[0] = 49408;
        }
        TensorOut::f32(name, DType::F32, shape, values)
    });
    write_safetensors(folder.join("clip.safetensors"), tensors, &BTreeMap::new()).unwrap();
}

const STEPS: u64 = 6;

fn document(learn: &str, stop: &str) -> String {
    format!(
        "version: 1\nname: stop\ntrain: {{ device: cpu, steps: {STEPS}, batch_size: 2, \
         save_state: {{ steps: 1, keep_last: {{ count: 9 }} }} }}\nnodes:\n  \
         rows: {{ type: loader.replay, path: {} }}\n  \
         model: {{ type: model.sd1, weights: {} }}\n  \
         clip: {{ type: encoder.clip_l, family: sd1, config: {{ heads: 2 }}, weights: clip.safetensors }}\n  \
         learn: {{ {learn}, model: model, text: clip }}\n  \
         loss: {{ type: loss.diffusion, model: learn, batch: rows }}\n  \
         steps: {{ type: optimizer.adamw, learning_rate: 1e-3, weight_decay: 0.1, loss: loss{stop} }}\n  \
         metrics: {{ type: logger.metrics, update: steps }}\n",
        fixture("lora_trajectory_text_sd1/replay.safetensors").display(),
        fixture("diffusers_dir").display()
    )
}

fn check(folder: &Path, text: &str) -> Checked {
    let checked = check_text(&pipe_nodes::registry(), text, &folder.join("run.yaml"), Syntax::Yaml, &[]);
    let format = pipe_core::diagnostic::Format::Concise;
    assert!(checked.ok(), "{}", pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), format, false));
    checked
}

fn go(folder: &Path, out: &str, text: &str, resume: bool, stop_after: u64) -> Outcome {
    told(folder, out, text, resume, stop_after).0
}

/// A run, and what it warned of.
fn told(folder: &Path, out: &str, text: &str, resume: bool, stop_after: u64) -> (Outcome, Vec<String>) {
    let stop = StopFlag::default();
    let progress = Arc::new(Watch(stop_after, stop.clone(), Mutex::default()));
    let options = RunOptions { folder: folder.join(out), resume, progress: progress.clone(), stop };
    let outcome = run(&pipe_nodes::registry(), &check(folder, text), options).unwrap();
    let warnings = progress.2.lock().unwrap().clone();
    (outcome, warnings)
}

/// All that a state holds: of the text encoder, and of the rest.
fn state(folder: &Path, out: &str, step: u64) -> [BTreeMap<String, Vec<u8>>; 2] {
    let file = WeightFile::open(folder.join(out).join(format!("state/step-{step:08}/state.safetensors"))).unwrap();
    let all = file.names().map(|name| (name.to_string(), file.bytes(name).unwrap().into_owned()));
    let own = all.filter(|(name, _)| !name.starts_with("run."));
    let (text, rest) = own.partition(|(name, _)| name.contains("lora_te_") || name.contains("text_encoder."));
    [text, rest]
}

fn metrics(folder: &Path, out: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join(out).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Each way to learn: whether dropout draws numbers, and the field.
const WAYS: [(&str, bool, &str); 4] = [
    ("type: adapter.lora, rank: 4", false, "{ steps: 3 }"),
    (
        "type: adapter.lora, rank: 4, dropout: 0.2, module_dropout: 0.1, scale_weight_norms: 0.02",
        true,
        "{ ratio: 0.5 }",
    ),
    ("type: adapter.full", false, "{ steps: 3 }"),
    ("type: adapter.full, storage: bf16", false, "{ ratio: 0.5 }"),
];

#[test]
fn what_was_learned_stays() {
    for (learn, draws, length) in WAYS {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        clip(folder);
        go(folder, "on", &document(learn, ""), false, u64::MAX);
        go(folder, "stop", &document(learn, &format!(", stop_text_encoder_training: {length}")), false, u64::MAX);
        assert!(state(folder, "on", 3) == state(folder, "stop", 3), "{learn}: the same until then");
        let [at, later] = [3, STEPS].map(|step| state(folder, "stop", step));
        assert!(!at[0].is_empty() && at[0] == later[0], "{learn}: weights and moments of the encoder stay");
        assert!(at[1] != later[1], "{learn}: the rest goes on");
        assert!(state(folder, "stop", 2)[0] != at[0] && state(folder, "on", STEPS)[0] != at[0], "{learn}");
        let (on, stop) = (metrics(folder, "on"), metrics(folder, "stop"));
        let number = |line: &serde_json::Value, name: &str| line[name].as_f64().unwrap();
        for (k, (on, stop)) in on.iter().zip(&stop).enumerate() {
            assert_eq!(number(stop, "lr_text_encoder"), if k < 3 { 1e-3 } else { 0.0 }, "{learn}");
            assert_eq!(number(stop, "lr_unet"), 1e-3);
            // The fourth step starts from the same weights; only its gradient is without the encoder's part.
            if k < 3 || (k == 3 && !draws) {
                assert_eq!(number(on, "loss"), number(stop, "loss"), "{learn}: step {k}");
            }
            if k == 3 && !draws {
                assert!(number(stop, "grad_norm") < number(on, "grad_norm"), "{learn}");
            }
        }
    }
}

#[test]
fn a_run_continues_on_either_side() {
    for (learn, _, length) in WAYS {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        clip(folder);
        let text = document(learn, &format!(", stop_text_encoder_training: {length}"));
        go(folder, "whole", &text, false, u64::MAX);
        for after in [2, 3, 4] {
            let out = format!("stopped-{after}");
            assert_eq!(go(folder, &out, &text, false, after).position.step, after);
            assert_eq!(go(folder, &out, &text, true, u64::MAX).resumed_from, Some(after));
            assert!(state(folder, "whole", STEPS) == state(folder, &out, STEPS), "{learn} after {after}");
        }
    }
}

/// The schedule multiplies the rate of each group, whatever that is.
#[test]
fn groups_follow_one_schedule() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    clip(folder);
    let rates = ", text_encoder_learning_rate: 1e-5, schedule: { type: polynomial, power: 2, end_ratio: 0.1 }";
    go(folder, "out", &document(WAYS[0].0, rates), false, u64::MAX);
    let lines = metrics(folder, "out");
    assert_eq!(lines.len(), STEPS as usize);
    for (t, line) in lines.iter().enumerate() {
        let factor = 0.9 * (1.0 - t as f64 / STEPS as f64).powi(2) + 0.1;
        for (name, rate) in [("lr_unet", 1e-3), ("lr_text_encoder", 1e-5)] {
            let found = line[name].as_f64().unwrap();
            assert!((found / (rate * factor) - 1.0).abs() < 1e-9, "{name} at {t}: {found}");
        }
    }
}

/// A ratio of a longer run is another step: that the encoder begins again is told.
#[test]
fn a_longer_run_tells_that_the_encoder_learns_again() {
    for (length, tells) in [("{ ratio: 0.5 }", true), ("{ steps: 3 }", false)] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        clip(folder);
        let text = document(WAYS[0].0, &format!(", stop_text_encoder_training: {length}"));
        assert_eq!(told(folder, "run", &text, false, u64::MAX).1, [""; 0]);
        let longer = text.replace("steps: 6", "steps: 20");
        let (outcome, warnings) = told(folder, "run", &longer, true, 8);
        assert_eq!((outcome.resumed_from, outcome.position.step), (Some(6), 8));
        let again = warnings.iter().filter(|line| line.contains("learn again until step 10")).count();
        assert_eq!(again, usize::from(tells), "{warnings:?}");
    }
}

/// Steps without the encoder's gradients cost less, and the plan says how many there are.
#[test]
fn the_plan_knows() {
    let folder = tempfile::tempdir().unwrap();
    clip(folder.path());
    let plan = |stop: &str| plan_document(&pipe_nodes::registry(), &check(folder.path(), &document(WAYS[0].0, stop)));
    let [on, half, soon] =
        ["", ", stop_text_encoder_training: { steps: 3 }", ", stop_text_encoder_training: { steps: 1 }"].map(plan);
    let flops = [&on, &half, &soon].map(|plan| plan.nodes["steps"].plan.step_flops);
    assert!(flops[0] > flops[1] && flops[1] > flops[2] && flops[2] > 0, "{flops:?}");
    assert_eq!(on.peak_bytes, half.peak_bytes);
    let notes = half.nodes["steps"].plan.notes.join("\n");
    assert!(notes.contains("text encoders learn in the first 3 of 6 steps"), "{notes}");
}
