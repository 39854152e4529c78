//! Loggers and validation through whole runs: all tell the same numbers, each once, and a run that was stopped and
//! continued leaves the same curves and the same best weights as one that was not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use pipe_core::check::check_text;
use pipe_core::diagnostic::{Format, render};
use pipe_core::document::Syntax;
use pipe_core::execute::{Outcome, RunOptions, Status, run};
use pipe_core::run::{Position, Progress, StepReport, StopFlag};
use pipe_data::weights::WeightFile;
use serde_json::Value;

/// Sets the stop flag after a step.
struct Stopper(u64, StopFlag);

impl Progress for Stopper {
    fn tick(&self, _: &str, _: u64, _: u64) {}
    fn say(&self, _: &str) {}
    fn warn(&self, line: &str) {
        panic!("{line}");
    }
    fn step(&self, position: &Position, _: &StepReport, _: f64) {
        if position.step == self.0 {
            self.1.set();
        }
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("..").join(path)
}

/// Ten images, two of them set aside; 3 batches an epoch, of which 2 make a step: 2 steps an epoch.
fn document(rate: &str, more: &str) -> String {
    format!(
        "version: 1\nname: t\ntrain: {{ device: cpu, steps: 6, batch_size: 3, accumulate: 2 }}\nnodes:\n  \
         photos: {{ type: loader.images, path: {}, resolution: 32, caption_dropout_rate: 0.3, flip_aug: true, validation_split: 0.2 }}\n  \
         vae: {{ type: encoder.vae, init: {{ widths: [8, 8], layers: 1, norm_groups: 4 }} }}\n  \
         clip: {{ type: encoder.clip_l, init: {{ width: 24, layers: 1, heads: 2 }} }}\n  \
         cached: {{ type: cacher.memory, samples: photos, vae: vae, text: clip }}\n  \
         unet: {{ type: model.sd1, weights: {} }}\n  \
         lora: {{ type: adapter.lora, model: unet, rank: 2, dropout: 0.1, lora_plus: 4 }}\n  \
         loss: {{ type: loss.diffusion, model: lora, batch: cached, noise_offset: 0.05 }}\n  \
         adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: {rate}, max_grad_norm: 0.01 }}\n  \
         save: {{ type: saver.adapter, adapter: lora, update: adamw, dtype: f32, every: {{ steps: 1 }}, keep_best: validation }}\n  \
         preview: {{ type: sampler.preview, model: lora, vae: vae, text: clip, width: 16, height: 16, steps: 1, \
         prompts: [{{ prompt: a }}, {{ prompt: b }}], every: {{ steps: 4 }} }}\n  \
         validation: {{ type: logger.validation, loss: loss, batch: cached.validation, every: {{ epochs: 1, steps: 3 }} }}\n  \
         metrics: {{ type: logger.metrics, update: adamw }}\n  \
         table: {{ type: logger.csv, update: adamw }}\n  \
         board: {{ type: logger.tensorboard, update: adamw }}\n{more}",
        repository("pipelines/quickstart/images/heldout").display(),
        repository("tests/fixtures/diffusers_dir").display()
    )
}

fn go(folder: &Path, out: &str, text: &str, resume: bool, stop: u64) -> Outcome {
    let registry = pipe_nodes::registry();
    let checked = check_text(&registry, text, &folder.join("run.yaml"), Syntax::Yaml, &[]);
    let faults = render(&checked.diagnostics, checked.files(), Format::Concise, false);
    assert!(checked.ok(), "{faults}");
    let flag = StopFlag::default();
    let progress = Arc::new(Stopper(stop, flag.clone()));
    let options = RunOptions { folder: folder.join(out), resume, progress, stop: flag };
    run(&registry, &checked, options).unwrap_or_else(|error| panic!("{error}"))
}

fn json_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Rows by step, without the clock's.
fn metrics(folder: &Path) -> Vec<Value> {
    let mut lines = json_lines(&folder.join("metrics.jsonl"));
    lines.iter_mut().for_each(|line| assert!(line.as_object_mut().unwrap().remove("seconds").is_some()));
    lines
}

/// The cells of the table that are filled, by column.
fn table(folder: &Path) -> Vec<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(folder.join("metrics.csv")).unwrap();
    let (head, rows) = text.split_once('\n').unwrap();
    let columns: Vec<&str> = head.split(',').collect();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells.len(), columns.len(), "{line}");
        let filled = columns.iter().zip(cells).filter(|(name, cell)| !cell.is_empty() && **name != "seconds");
        filled.map(|(name, cell)| (name.to_string(), cell.to_string())).collect()
    };
    rows.lines().map(row).collect()
}

/// What TensorBoard would show, read by a parser of its own: tag → step → bytes of the value.
#[derive(Debug, Default, PartialEq)]
struct Events {
    scalars: BTreeMap<String, BTreeMap<u64, f32>>,
    images: BTreeMap<String, BTreeMap<u64, Vec<u8>>>,
    texts: BTreeMap<String, String>,
}

/// Fields of a protocol buffer: number, and bytes or the bits of a number.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut list = Vec::new();
    let varint = |bytes: &mut &[u8]| {
        let mut value = 0u64;
        for shift in 0.. {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte < 0x80 {
                break;
            }
        }
        value
    };
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                list.push((key >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            5 => 4,
            2 => varint(&mut bytes) as usize,
            other => panic!("wire type {other}"),
        };
        list.push((key >> 3, bytes[..length].to_vec()));
        bytes = &bytes[length..];
    }
    list
}

fn get(bytes: &[u8], field: u64) -> Option<Vec<u8>> {
    fields(bytes).into_iter().find(|(number, _)| *number == field).map(|(_, value)| value)
}

fn read_events(folder: &Path) -> (Events, usize) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut all = Events::default();
    for file in &files {
        assert!(file.file_name().unwrap().to_str().unwrap().starts_with("events.out.tfevents."));
        let bytes = std::fs::read(file).unwrap();
        let (mut at, mut first) = (0, true);
        let crc = |data: &[u8]| crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            assert_eq!(bytes[at + 8..at + 12], crc(&bytes[at..at + 8]));
            let event = &bytes[at + 12..at + 12 + length];
            assert_eq!(bytes[at + 12 + length..at + 16 + length], crc(event));
            at += 16 + length;
            assert_eq!(get(event, 3).is_some_and(|version| version == b"brain.Event:2"), first);
            first = false;
            let step = get(event, 2).map_or(0, |step| u64::from_le_bytes(step.try_into().unwrap()));
            let summary = get(event, 5).unwrap_or_default();
            for (_, value) in fields(&summary) {
                let tag = String::from_utf8(get(&value, 1).unwrap()).unwrap();
                if let Some(number) = get(&value, 2) {
                    let number = f32::from_le_bytes(number.try_into().unwrap());
                    let old = all.scalars.entry(tag.clone()).or_default().insert(step, number);
                    assert!(old.is_none(), "{tag} of step {step} is there twice");
                } else if let Some(image) = get(&value, 4) {
                    all.images.entry(tag).or_default().insert(step, get(&image, 4).unwrap());
                } else if let Some(tensor) = get(&value, 8) {
                    all.texts.insert(tag, String::from_utf8(get(&tensor, 8).unwrap()).unwrap());
                }
            }
        }
    }
    all.scalars.remove("time/seconds_per_step");
    (all, files.len())
}

#[test]
fn all_tell_the_same_each_number_once_and_go_on_after_a_stop() {
    let tempdir = tempfile::tempdir().unwrap();
    let (folder, text) = (tempdir.path(), document("1e-3", ""));
    go(folder, "whole", &text, false, u64::MAX);
    let whole = folder.join("whole");
    let (lines, rows, (events, files)) = (metrics(&whole), table(&whole), read_events(&whole.join("events")));
    assert_eq!((lines.len(), rows.len(), files), (6, 6, 1));

    // The table is the lines.
    for (line, row) in lines.iter().zip(&rows) {
        let line = line.as_object().unwrap();
        assert_eq!(line.keys().collect::<BTreeSet<_>>(), row.keys().collect::<BTreeSet<_>>());
        for (name, value) in line {
            assert_eq!(value.as_f64().unwrap(), row[name].parse::<f64>().unwrap(), "{name}");
        }
    }
    // The events are the lines under other names, each number once.
    let number = |step: usize, name: &str| lines[step - 1][name].as_f64();
    let tags = [
        ("loss", "loss/current"),
        ("loss_average", "loss/average"),
        ("lr_unet", "lr/unet"),
        ("lr_unet_plus", "lr/unet plus"),
        ("grad_norm", "norm/grad_norm"),
        ("grad_norm_clipped", "norm/grad_norm_clipped"),
    ];
    for (name, tag) in tags {
        let curve = &events.scalars[tag];
        assert_eq!(curve.len(), 6, "{tag}");
        (1..=6).for_each(|step| assert_eq!(curve[&(step as u64)], number(step, name).unwrap() as f32, "{tag} {step}"));
        assert!(number(6, name).unwrap() > 0.0);
    }
    assert_eq!(number(3, "lr_unet_plus").unwrap(), 4.0 * number(3, "lr_unet").unwrap());
    assert!((1..=6).all(|step| number(step, "grad_norm_clipped").unwrap() <= 0.01 + 1e-9));
    assert!(number(1, "grad_norm").unwrap() > 0.01);
    // The mean over an epoch of two steps, at the epoch.
    let epochs: Vec<(u64, f32)> = events.scalars["loss/epoch_average"].iter().map(|(k, v)| (*k, *v)).collect();
    let mean = |a: usize, b: usize| ((number(a, "loss").unwrap() + number(b, "loss").unwrap()) / 2.0) as f32;
    assert_eq!(epochs, [(1, mean(1, 2)), (2, mean(3, 4)), (3, mean(5, 6))]);
    assert_eq!(number(4, "loss_average").unwrap() as f32, mean(3, 4));
    // The loss by timestep is in the bucket of its samples: together they are the whole.
    let buckets = |line: &Value| line.as_object().unwrap().keys().filter(|name| name.starts_with("loss_t")).count();
    assert!(lines.iter().all(|line| buckets(line) >= 1) && lines.iter().map(buckets).max() > Some(1));
    // Validation: at the start, every epoch, at step 3 besides.
    let measured = json_lines(&whole.join("validation.jsonl"));
    let steps: Vec<u64> = measured.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 2, 3, 4, 6]);
    let at = |tag: &str| events.scalars[tag].keys().copied().collect::<Vec<u64>>();
    assert_eq!(at("loss/validation/step_average"), [0, 3]);
    assert_eq!((at("loss/validation/epoch_average"), at("loss/validation/step_divergence")), (vec![2, 4, 6], vec![3]));
    for line in &measured[1..] {
        let (step, loss) = (line["step"].as_u64().unwrap() as usize, line["loss"].as_f64().unwrap());
        assert_eq!(number(step, "validation_loss"), Some(loss));
        let divergence = loss - number(step, "loss_average").unwrap();
        assert_eq!(line["divergence"].as_f64(), Some(divergence));
    }
    // Pictures of the start, step 4 and the end; the pipeline without anyone's folders.
    let pictures: Vec<&String> = events.images.keys().collect();
    assert_eq!(pictures, ["samples/preview/00", "samples/preview/01", "samples/preview/before-after"]);
    assert_eq!(events.images["samples/preview/01"].keys().copied().collect::<Vec<u64>>(), [0, 4, 6]);
    let picture = std::fs::read(whole.join("samples/preview/step00000004-01.png")).unwrap();
    assert_eq!(events.images["samples/preview/01"][&4], picture);
    let config = &events.texts["config"];
    assert!(config.contains("\"validation_split\": 0.2") && config.contains("\"path\": \"heldout\""), "{config}");
    assert!(!config.contains("quickstart/images"), "{config}");

    // Stopped in the middle of an epoch, and continued.
    let stopped = go(folder, "cut", &text, false, 3);
    assert_eq!((stopped.status, stopped.position.step), (Status::Interrupted, 3));
    let cut = folder.join("cut");
    // What a crash might leave behind the state: rows of later steps, and half a row.
    std::fs::write(cut.join("metrics.csv"), std::fs::read(whole.join("metrics.csv")).unwrap()).unwrap();
    let later = std::fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    std::fs::write(cut.join("metrics.jsonl"), &later[..later.len() - 20]).unwrap();
    let file = std::fs::read_dir(cut.join("events")).unwrap().next().unwrap().unwrap().path();
    let from = std::fs::read_dir(whole.join("events")).unwrap().next().unwrap().unwrap().path();
    std::fs::copy(from, file).unwrap();
    go(folder, "cut", &text, true, u64::MAX);
    assert_eq!(metrics(&cut), lines);
    assert_eq!(table(&cut), rows);
    assert_eq!(json_lines(&cut.join("validation.jsonl")), measured);
    let (again, files) = read_events(&cut.join("events"));
    assert_eq!(files, 2, "a continued run has a file of its own");
    assert_eq!(again.scalars, events.scalars);
    assert_eq!(again.images.keys().collect::<Vec<_>>(), pictures);
    best_is_kept(&whole, &measured);
    best_is_kept(&cut, &measured);
}

/// `t-best` holds the weights of the lowest validation loss: those of that step's own file.
fn best_is_kept(run: &Path, measured: &[Value]) {
    let best = measured.iter().rfind(|line| line["best"] == true).unwrap();
    let lowest = measured[1..].iter().map(|line| line["loss"].as_f64().unwrap()).min_by(f64::total_cmp);
    assert_eq!(best["loss"].as_f64(), lowest);
    let (step, checkpoints) = (best["step"].as_u64().unwrap(), run.join("checkpoints"));
    let name = if step == 6 { "t.safetensors".to_string() } else { format!("t-step{step:08}.safetensors") };
    let open = |name: &str| WeightFile::open(checkpoints.join(name)).unwrap();
    let (kept, own, other) = (open("t-best.safetensors"), open(&name), open("t-step00000001.safetensors"));
    let metadata = &kept.header().metadata;
    assert_eq!((&*metadata["ss_num_train_images"], &*metadata["ss_num_validation_images"]), ("8", "2"));
    let values = |file: &WeightFile| -> Vec<Vec<f32>> {
        let mut names: Vec<&str> = file.names().collect();
        names.sort_unstable();
        names.iter().map(|name| file.f32(name).unwrap()).collect()
    };
    assert!(values(&kept) == values(&own), "the best is of step {step}");
    assert!(values(&kept) != values(&other));
}

/// The same weights give the same validation, whatever the training batches were.
#[test]
fn validation_is_a_function_of_the_weights() {
    let tempdir = tempfile::tempdir().unwrap();
    go(tempdir.path(), "still", &document("1e-30", ""), false, u64::MAX);
    let still = tempdir.path().join("still");
    let measured = json_lines(&still.join("validation.jsonl"));
    assert_eq!(measured.len(), 5);
    let losses = |line: &Value| {
        let all = line.as_object().unwrap().iter().filter(|(name, _)| name.starts_with("loss"));
        all.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
    };
    assert!(losses(&measured[0]).len() > 3, "{measured:?}");
    assert!(measured.iter().all(|line| losses(line) == losses(&measured[0])), "{measured:?}");
    let losses: BTreeSet<String> = metrics(&still).iter().map(|line| line["loss"].to_string()).collect();
    assert_eq!(losses.len(), 6, "training draws anew in every step");
}

/// With one seed of its own, validation is the same in runs of different seeds, on images that are mirrored and whose
/// captions are dropped in training.
#[test]
fn validation_compares_runs_of_different_seeds() {
    let tempdir = tempfile::tempdir().unwrap();
    let first = |seed: u64, own: &str| {
        let text = document("1e-30", "").replace("batch: cached.validation", &format!("batch: cached{own}"));
        let text = text.replace(", validation_split: 0.2", "");
        let text =
            text.replace("name: t\n", &format!("name: t\nseed: {seed}\n")).replace(", keep_best: validation", "");
        let out = format!("{seed}{}", own.len());
        go(tempdir.path(), &out, &text, false, 1);
        json_lines(&tempdir.path().join(out).join("validation.jsonl"))[0]["loss"].as_f64().unwrap()
    };
    // Random weights are of the run's seed: the base is a file, the encoders' own seeds are given.
    assert_eq!(first(1, ", seed: 5"), first(2, ", seed: 5"));
    assert_ne!(first(1, ""), first(2, ""));
}

/// A `wandb` that writes down what it is told.
const RECORDER: &str = r#"
import json, os
calls = open(os.environ["CALLS"], "a")
def note(*call):
    calls.write(json.dumps(call) + "\n")
    calls.flush()
class Settings(dict):
    pass
class Image:
    def __init__(self, path):
        self.path = path
class Run:
    url, dir = None, "/runs/files"
    def log(self, values, step):
        note("log", step, {k: v.path if isinstance(v, Image) else v for k, v in values.items()})
    def finish(self, exit_code):
        note("finish", exit_code)
def init(settings, **given):
    if given["project"] == "closed":
        raise RuntimeError("no such project")
    note("init", given, os.environ.get("WANDB_API_KEY") == os.environ["CARGO_PKG_DESCRIPTION"])
    return Run()
"#;

/// A Python whose `wandb` is the recorder; nothing where there is no Python.
fn recorder(folder: &Path) -> Option<PathBuf> {
    let quiet = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet(Command::new("python3").arg("--version")).ok().filter(|status| status.success())?;
    std::fs::create_dir_all(folder.join("packages/wandb")).unwrap();
    std::fs::write(folder.join("packages/wandb/__init__.py"), RECORDER).unwrap();
    let python = folder.join("python");
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!("#!/bin/sh\nPYTHONPATH={} CALLS={} exec python3 \"$@\"\n", at("packages"), at("calls"));
    std::fs::write(&python, text).unwrap();
    let made = Command::new("chmod").arg("+x").arg(&python).status().ok()?;
    made.success().then_some(python)
}

#[cfg(unix)]
#[test]
fn weights_and_biases_is_told_what_the_others_are() {
    let tempdir = tempfile::tempdir().unwrap();
    let folder = tempdir.path();
    let Some(python) = recorder(folder) else { return };
    let node = |project: &str| {
        format!(
            "  wandb: {{ type: logger.wandb, update: adamw, project: {project}, entity: us, tags: [a, b], every_steps: 2, \
             python: {}, api_key: \"${{env:CARGO_PKG_DESCRIPTION}}\" }}\n",
            python.display()
        )
    };
    let text = document("1e-3", &node("faces"));
    go(folder, "run", &text, false, 3);
    go(folder, "run", &text, true, u64::MAX);
    let calls = json_lines(&folder.join("calls"));
    let named = |name: &str| calls.iter().filter(|call| call[0] == name).collect::<Vec<_>>();
    let (begun, ended) = (named("init"), named("finish"));
    let id: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("run/wandb.json")).unwrap()).unwrap();
    for call in &begun {
        let given = &call[1];
        assert_eq!((&given["project"], &given["entity"], &given["name"]), (&"faces".into(), &"us".into(), &"t".into()));
        assert_eq!((&given["id"], &given["mode"], &given["resume"]), (&id["id"], &"online".into(), &"allow".into()));
        assert_eq!(given["config"]["nodes"]["adamw"]["learning_rate"], 1e-3);
        assert_eq!(given["config"]["nodes"]["wandb"]["api_key"], "${env:CARGO_PKG_DESCRIPTION}");
        assert_eq!(call[2], true, "the key is in the environment of the process");
    }
    assert_eq!((begun.len(), &ended[0][1], &ended[1][1]), (2, &1.into(), &0.into()));
    let logged = named("log");
    let steps: Vec<u64> = logged.iter().map(|call| call[1].as_u64().unwrap()).collect();
    // Every second step, and those with validation; step 3 before the stop alone.
    assert_eq!(steps, [0, 2, 3, 4, 6]);
    let lines = metrics(&folder.join("run"));
    for (name, tag) in
        [("loss", "loss/current"), ("lr_unet", "lr/unet"), ("validation_loss", "loss/validation/epoch_average")]
    {
        assert_eq!(logged[1][2][tag], lines[1][name], "{tag}");
    }
    assert_eq!((&logged[3][2]["epoch"], &logged[3][2]["global_step"]), (&2.into(), &4.into()));
    assert!(logged[3][2]["samples/preview/00"].as_str().unwrap().ends_with("step00000004-00.png"));
    // The key is in no file of the run.
    let key = std::env::var("CARGO_PKG_DESCRIPTION").unwrap();
    for name in ["pipeline.lock.json", "run.log", "wandb.log", "wandb.json", "metrics.jsonl"] {
        assert!(!std::fs::read_to_string(folder.join("run").join(name)).unwrap().contains(&key), "{name}");
    }

    // A run that cannot be opened fails before its first step.
    let registry = pipe_nodes::registry();
    let checked = check_text(&registry, &document("1e-3", &node("closed")), &folder.join("x.yaml"), Syntax::Yaml, &[]);
    let stop = StopFlag::default();
    let options = RunOptions {
        folder: folder.join("closed"),
        resume: false,
        progress: Arc::new(Stopper(u64::MAX, stop.clone())),
        stop,
    };
    let error = run(&registry, &checked, options).unwrap_err();
    assert!(error.code == "P0911" && error.message.contains("no such project"), "{error}");
    assert!(!folder.join("closed/metrics.jsonl").exists());
}
