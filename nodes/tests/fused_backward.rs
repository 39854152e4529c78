//! Updates on the way back: the same weights as with all gradients at once where nothing is clipped, PyTorch's where each
//! tensor is, continued exactly, planned, and stopped where numbers are no longer finite.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pipe_core::check::{Checked, check_text};
use pipe_core::document::Syntax;
use pipe_core::execute::{Outcome, RunOptions, run};
use pipe_core::plan::{Category, Plan, plan_document};
use pipe_core::run::{Position, Progress, RunError, StepReport, StopFlag};
use pipe_data::images::{Rgb8, png};
use pipe_data::weights::{Component, ComponentWeights, DType, TensorOut, WeightFile, write_safetensors};

/// Sets the stop flag after a step, if any.
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

fn check(folder: &Path, text: &str) -> Checked {
    let checked = check_text(&pipe_nodes::registry(), text, &folder.join("run.yaml"), Syntax::Yaml, &[]);
    let format = pipe_core::diagnostic::Format::Concise;
    assert!(checked.ok(), "{}", pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), format, false));
    checked
}

fn go(folder: &Path, out: &str, text: &str, resume: bool, stop_after: u64) -> Result<Outcome, RunError> {
    let stop = StopFlag::default();
    let progress = Arc::new(Watch(stop_after, stop.clone()));
    run(&pipe_nodes::registry(), &check(folder, text), RunOptions { folder: folder.join(out), resume, progress, stop })
}

/// All that a state holds.
fn state(folder: &Path, out: &str, step: u64) -> BTreeMap<String, Vec<u8>> {
    let file = WeightFile::open(folder.join(out).join(format!("state/step-{step:08}/state.safetensors"))).unwrap();
    file.names().map(|name| (name.to_string(), file.bytes(name).unwrap().into_owned())).collect()
}

/// Loss, norm and clipped norm of each step.
fn numbers(folder: &Path, out: &str) -> Vec<[f64; 3]> {
    let text = std::fs::read_to_string(folder.join(out).join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let number = |line: &serde_json::Value, name: &str| line[name].as_f64().unwrap_or(f64::NAN);
    lines.map(|line| ["loss", "grad_norm", "grad_norm_clipped"].map(|name| number(&line, name))).collect()
}

/// A run over rows of a file. `nodes` are the model `model` and what learns, `learn`.
fn document(steps: u64, rows: &Path, nodes: &str, loss: &str, optimizer: &str) -> String {
    format!(
        "version: 1\nname: fused\ntrain: {{ device: cpu, steps: {steps}, batch_size: 2, save_state: {{ steps: 1, keep_last: {{ count: 9 }} }} }}\n\
         nodes:\n  rows: {{ type: loader.replay, path: {} }}\n{nodes}  \
         loss: {{ type: loss.{loss}, model: learn, batch: rows }}\n  \
         steps: {{ type: optimizer.{optimizer}, loss: loss }}\n  \
         metrics: {{ type: logger.metrics, update: steps }}\n",
        rows.display()
    )
}

/// Fixture with its rows, model and loss.
const FAMILIES: [(&str, &str, &str); 9] = [
    ("lora_trajectory", "sd1, weights: FIXTURES/diffusers_dir", "diffusion"),
    ("lora_trajectory_sd2", "sd2, weights: FIXTURES/lora_trajectory_sd2, prediction: v", "diffusion"),
    (
        "lora_trajectory_sdxl",
        "sdxl, weights: FIXTURES/sdxl_unet, config: { heads: [1, 2, 4], norm_groups: 2 }",
        "diffusion",
    ),
    ("lora_trajectory_sd3", "sd3, weights: FIXTURES/sd3, config: { heads: 2 }", "flow"),
    ("lora_trajectory_sd35m", "sd3, weights: FIXTURES/sd35m", "flow"),
    ("lora_trajectory_flux", "flux, weights: FIXTURES/flux", "flow"),
    ("lora_trajectory_flux_schnell", "flux, weights: FIXTURES/flux_schnell", "flow"),
    ("lora_trajectory_lumina2", "lumina2, weights: FIXTURES/lumina2/diffusion_pytorch_model.safetensors", "flow"),
    (
        "lora_trajectory_lumina_next",
        "lumina_next, weights: FIXTURES/lumina_next/diffusion_pytorch_model.safetensors",
        "flow",
    ),
];

fn family((rows, model, loss): (&str, &str, &str), steps: u64, more: &str, full: &str, optimizer: &str) -> String {
    let model = model.replace("FIXTURES", &fixture("").display().to_string());
    let nodes =
        format!("  model: {{ type: model.{model}{more} }}\n  learn: {{ type: adapter.full, model: model{full} }}\n");
    document(steps, &fixture(&format!("{rows}/replay.safetensors")), &nodes, loss, optimizer)
}

/// Trains a document as it is and fused: weights, state of the optimizer, losses and norms are the same.
fn same(text: &str, steps: u64, what: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let fused = text.replace(", loss: loss }", ", loss: loss, fused_backward: true }");
    assert_ne!(fused, text);
    for (out, text) in [("whole", text), ("fused", fused.as_str())] {
        go(folder, out, text, false, u64::MAX).unwrap();
    }
    let (whole, fused) = (state(folder, "whole", steps), state(folder, "fused", steps));
    let differing: Vec<&String> = whole.keys().filter(|key| whole.get(*key) != fused.get(*key)).collect();
    assert!(whole.len() == fused.len() && differing.is_empty(), "{what}: {differing:?}");
    assert_ne!(whole, state(folder, "whole", 1), "{what} learns");
    let of = |out: &str| numbers(folder, out).into_iter().map(|[loss, norm, _]| [loss, norm]).collect::<Vec<_>>();
    assert_eq!(of("whole"), of("fused"), "{what}");
}

#[test]
fn every_family_learns_the_same() {
    let optimizer = "adamw, learning_rate: 1e-3, max_grad_norm: false";
    for one in FAMILIES {
        same(&family(one, 3, "", "", optimizer), 3, one.0);
        same(&family(one, 3, ", checkpointing: blocks", "", optimizer), 3, one.0);
    }
}

#[test]
fn so_it_is_in_bf16_and_with_blocks_that_stay() {
    let optimizer = "adamw, learning_rate: 1e-3, max_grad_norm: false";
    for one in FAMILIES {
        same(&family(one, 3, "", ", storage: bf16", optimizer), 3, "bf16");
    }
    same(&family(FAMILIES[5], 3, "", ", freeze_last_blocks: 1", optimizer), 3, "freeze_last_blocks");
    let rates = ", block_learning_rates: { down.1: 1e-5, mid: 0 }";
    same(&family(FAMILIES[0], 3, "", rates, optimizer), 3, "block_learning_rates");
}

/// Every optimizer that does not measure over all tensors, with a limit that no norm reaches.
#[test]
fn every_optimizer_learns_the_same() {
    let mut tested = 0;
    for optimizer in [
        "adamw, learning_rate: 1e-3",
        "adam, learning_rate: 1e-3, schedule: { type: cosine, warmup: { steps: 1 } }",
        "sgd, learning_rate: 1e-2",
        "lion, learning_rate: 1e-4",
        "adafactor",
        "adafactor, learning_rate: 1e-3, beta1: 0.9",
        "came, learning_rate: 1e-3",
        "adamw_8bit, learning_rate: 1e-3",
        "lion_8bit, learning_rate: 1e-4",
    ] {
        let limited = format!("{optimizer}, max_grad_norm: 1e6");
        same(&family(FAMILIES[0], 3, "", "", &limited), 3, optimizer);
        tested += 1;
    }
    // Those that cannot are refused.
    let registry = pipe_nodes::registry();
    let all = registry.names().filter(|name| name.starts_with("optimizer.")).collect::<Vec<_>>();
    let refused = all.iter().filter(|name| {
        let own = name.strip_prefix("optimizer.").unwrap();
        let rate = if own == "adafactor" { "" } else { ", learning_rate: 1.0" };
        let text = family(FAMILIES[0], 3, "", "", &format!("{own}{rate}, fused_backward: true"));
        let checked = check_text(&registry, &text, Path::new("run.yaml"), Syntax::Yaml, &[]);
        checked.diagnostics.iter().any(|d| d.code == "P0403" && d.message.contains("fused_backward"))
    });
    // Adafactor is tested twice.
    assert_eq!(all.len(), tested - 1 + refused.count());
}

/// Fixture of a text encoder with a table of its published number of rows, of which the fixture has the first.
fn whole_table(from: &Path, to: &Path) {
    let file = WeightFile::open(from).unwrap();
    let tensors = file.names().map(|name| {
        let (mut shape, mut values) = (file.info(name).unwrap().shape.clone(), file.f32(name).unwrap());
        if name.ends_with("token_embedding.weight") {
            values = values.iter().copied().cycle().take(49408 * shape[1]).collect();
            shape[0] = 49408;
        }
        TensorOut::f32(name, DType::F32, shape, values)
    });
    write_safetensors(to, tensors, &BTreeMap::new()).unwrap();
}

/// A text encoder in front of the denoiser, at a rate of its own.
#[test]
fn text_encoders_learn_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("clip.safetensors");
    whole_table(&fixture("lora_trajectory_text_sd1/clip_l.safetensors"), &clip);
    let nodes = format!(
        "  model: {{ type: model.sd1, weights: {} }}\n  \
         clip: {{ type: encoder.clip_l, family: sd1, config: {{ heads: 2 }}, weights: {} }}\n  \
         learn: {{ type: adapter.full, model: model, text: clip }}\n",
        fixture("diffusers_dir").display(),
        clip.display()
    );
    let optimizer = "adamw, learning_rate: 1e-3, text_encoder_learning_rate: 1e-4, max_grad_norm: false";
    let rows = fixture("lora_trajectory_text_sd1/replay.safetensors");
    same(&document(3, &rows, &nodes, "diffusion", optimizer), 3, "text");
}

/// Images drawn here, for the autoencoder.
#[test]
fn an_autoencoder_learns_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    for i in 0..4u32 {
        let pixel = |at: u32| {
            let (x, y) = (at % 64, at / 64);
            [(x * 3 + i * 40) as u8, (y * 3) as u8, ((x ^ y) * 4 + i) as u8]
        };
        let image = Rgb8 { width: 64, height: 64, pixels: (0..64 * 64).flat_map(pixel).collect() };
        png::write(photos.join(format!("{i}.png")), &image, &[]).unwrap();
        std::fs::write(photos.join(format!("{i}.txt")), "a picture").unwrap();
    }
    let text = format!(
        "version: 1\nname: fused\ntrain: {{ device: cpu, steps: 3, batch_size: 2, save_state: {{ steps: 1, keep_last: {{ count: 9 }} }} }}\nnodes:\n  \
         photos: {{ type: loader.images, path: {}, resolution: 64 }}\n  \
         cached: {{ type: cacher.memory, samples: photos }}\n  \
         vae: {{ type: encoder.vae, weights: {}, config: {{ norm_groups: 2 }} }}\n  \
         learn: {{ type: adapter.full, model: vae }}\n  \
         loss: {{ type: loss.autoencoder, model: learn, batch: cached }}\n  \
         steps: {{ type: optimizer.adamw, max_grad_norm: false, loss: loss }}\n  \
         metrics: {{ type: logger.metrics, update: steps }}\n",
        photos.display(),
        fixture("diffusers_dir").display()
    );
    same(&text, 3, "autoencoder");
}

/// Each tensor clipped by itself, against PyTorch's optimizer step in the backward pass.
#[test]
fn clipping_by_tensor_is_pytorchs() {
    for (name, one, component) in [("sd2", FAMILIES[1], Component::Unet), ("flux", FAMILIES[5], Component::Flux)] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let expected = WeightFile::open(fixture(&format!("full_runs/fused_{name}.safetensors"))).unwrap();
        let saver = "  save: { type: saver.checkpoint, update: steps, model: learn, format: model_only, dtype: f32 }\n";
        // How far the weights are from PyTorch's, in parts of the update.
        let off = |out: &str, optimizer: &str| {
            go(folder, out, &(family(one, 5, "", "", optimizer) + saver), false, u64::MAX).unwrap();
            let saved = folder.join(out).join("checkpoints/fused.safetensors");
            let saved = ComponentWeights::open(saved, component).unwrap();
            let (mut off, mut moved) = (0.0f64, 0.0f64);
            for stored in expected.names().filter_map(|n| n.strip_prefix("after.")) {
                let (a, b) = (saved.f32(stored).unwrap(), expected.f32(&format!("after.{stored}")).unwrap());
                let c = expected.f32(&format!("before.{stored}")).unwrap();
                off += a.iter().zip(&b).map(|(a, b)| ((a - b) as f64).powi(2)).sum::<f64>();
                moved += b.iter().zip(&c).map(|(b, c)| ((b - c) as f64).powi(2)).sum::<f64>();
            }
            (off / moved).sqrt()
        };
        let fused = off("fused", "adamw, learning_rate: 1e-4, max_grad_norm: 0.05, fused_backward: true");
        assert!(fused < 1e-3, "{name}: off by {fused:.2e}");
        let whole = off("whole", "adamw, learning_rate: 1e-4, max_grad_norm: 0.05");
        assert!(whole > 3e-3, "{name}: clipped at once it is another run, {whole:.2e}");
        let (losses, norms) = (expected.f32("losses").unwrap(), expected.f32("grad_norms").unwrap());
        let steps = numbers(folder, "fused");
        assert_eq!(steps.len(), losses.len());
        for (k, ([loss, norm, clipped], (l, n))) in steps.iter().zip(losses.iter().zip(&norms)).enumerate() {
            assert!((loss / *l as f64 - 1.0).abs() < 2e-5, "{name}: loss of step {k}: {loss}, not {l}");
            assert!((norm / *n as f64 - 1.0).abs() < 1e-3, "{name}: norm of step {k}: {norm}, not {n}");
            // Several tensors are at the limit, so together they are longer.
            assert!(*clipped > 0.05 && clipped < norm, "{name}: {clipped} of {norm}");
        }
    }
}

#[test]
fn a_stopped_run_continues() {
    for optimizer in ["adamw, learning_rate: 1e-3", "adafactor", "adamw_8bit, learning_rate: 1e-3"] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let optimizer = format!("{optimizer}, max_grad_norm: 0.05, fused_backward: true");
        let text = family(FAMILIES[0], 6, "", ", storage: bf16", &optimizer);
        let whole = go(folder, "whole", &text, false, u64::MAX).unwrap();
        assert_eq!(go(folder, "stopped", &text, false, 3).unwrap().position.step, 3);
        let resumed = go(folder, "stopped", &text, true, u64::MAX).unwrap();
        assert_eq!((resumed.resumed_from, resumed.report), (Some(3), whole.report));
        assert!(state(folder, "whole", 6) == state(folder, "stopped", 6), "{optimizer}");
        assert_eq!(numbers(folder, "whole"), numbers(folder, "stopped"));
    }
}

/// Rows of the SD 1.x run with a weight of each sample.
fn weighed(folder: &Path, weights: [f32; 8]) -> PathBuf {
    let file = WeightFile::open(fixture("lora_trajectory/replay.safetensors")).unwrap();
    let tensor = |name: &str| {
        let shape = file.info(name).unwrap().shape.clone();
        let values = file.i64(name).map(|v| v.into_iter().map(|x| x as f32).collect());
        TensorOut::f32(name, DType::F32, shape, values.or_else(|_| file.f32(name)).unwrap())
    };
    let mut tensors: Vec<TensorOut> = file.names().map(tensor).collect();
    tensors.push(TensorOut::f32("loss_weights", DType::F32, vec![8], weights.to_vec()));
    let path = folder.join("rows.safetensors");
    write_safetensors(&path, tensors, &BTreeMap::new()).unwrap();
    path
}

/// A loss that is not finite changes nothing; a gradient that is not ends the run before its own tensor's step, and what
/// was saved is of the steps before.
#[test]
fn what_is_not_finite_is_not_kept() {
    let nodes = format!(
        "  model: {{ type: model.sd1, weights: {} }}\n  learn: {{ type: adapter.full, model: model }}\n",
        fixture("diffusers_dir").display()
    );
    let optimizer = "adamw, learning_rate: 1e-3, fused_backward: true";
    // The third step's rows; the gradient of the output is still finite with the second of these, its sums are not.
    let large = 1e20;
    for (weight, text, help) in [
        (f32::INFINITY, "norm of the output's gradient inf", "nothing was changed"),
        (large, "the gradient norm of `unet.", "had taken"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let rows = weighed(folder, [1.0, 1.0, 1.0, 1.0, weight, 1.0, 1.0, 1.0]);
        let run = |steps: u64, out: &str, resume: bool| {
            go(folder, out, &document(steps, &rows, &nodes, "diffusion", optimizer), resume, u64::MAX)
        };
        let error = run(4, "out", false).unwrap_err();
        assert!(error.code == "P0901" && error.message.starts_with("step 3: "), "{error}");
        assert!(error.message.contains(text) && error.message.contains("the batch was"), "{error}");
        assert!(error.help.as_ref().unwrap().contains(help), "{:?}", error.help);
        assert!(!folder.join("out/state/step-00000003").exists());
        run(2, "two", false).unwrap();
        assert!(state(folder, "out", 2) == state(folder, "two", 2), "{weight}");
        // It stops there again, whenever it is tried.
        assert_eq!(run(4, "out", true).unwrap_err().message, error.message);
    }
}

/// The plan of training.
fn plan(text: &str) -> Plan {
    plan_document(&pipe_nodes::registry(), &check(Path::new("."), text))
}

/// Gradients of the plan are those of the largest segment, not of the model.
#[test]
fn the_plan_needs_less() {
    for one in FAMILIES {
        let text = family(one, 3, ", checkpointing: blocks", "", "adamw");
        let fused = text.replace(", loss: loss }", ", loss: loss, fused_backward: true }");
        let (whole, fused) = (plan(&text), plan(&fused));
        let bytes = |plan: &Plan, category| {
            plan.phases.iter().find(|phase| phase.name == "train").unwrap().bytes.get(&category).copied().unwrap_or(0)
        };
        let gradients = |plan: &Plan| bytes(plan, Category::Gradients);
        assert!(
            gradients(&fused) > 0 && gradients(&fused) < gradients(&whole) * 2 / 3,
            "{}: {}",
            one.0,
            gradients(&fused)
        );
        assert!(fused.peak_bytes <= whole.peak_bytes, "{}", one.0);
        assert_eq!(bytes(&whole, Category::OptimizerState), bytes(&fused, Category::OptimizerState));
    }
    // Where the model is large beside its activations, as all are that people train, the peak is lower by a good part of
    // the gradients: a block's are there at once.
    let nodes = "  model: { type: model.sd1, init: { widths: [256, 256, 256], layers: 2, heads: 4, context_dim: 24 } }\n  \
                 learn: { type: adapter.full, model: model }\n";
    let rows = fixture("lora_trajectory/replay.safetensors");
    let text = document(3, &rows, nodes, "diffusion", "adafactor");
    let (whole, fused) = (plan(&text), plan(&text.replace(", loss: loss }", ", loss: loss, fused_backward: true }")));
    let values = whole.nodes["steps"].plan.groups.iter().map(|group| group.values).sum::<u64>();
    assert!(fused.peak_bytes + 4 * values / 4 < whole.peak_bytes, "{} {}", fused.peak_bytes, whole.peak_bytes);
}

/// Most bytes this process ever held.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Three steps of `tests/benchmarks/full.yaml`, planned and measured: fused first, as a peak does not go down again.
#[test]
#[ignore = "measures the whole process: alone, with `--ignored --nocapture`"]
fn memory_is_as_planned() {
    let path = fixture("../benchmarks/full.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let optimizer = "type: optimizer.adafactor, ";
    let mut peaks = Vec::new();
    for text in [text.replace(optimizer, &format!("{optimizer}fused_backward: true, ")), text] {
        let checked = check_text(&pipe_nodes::registry(), &text, &path, Syntax::Yaml, &[]);
        assert!(checked.ok(), "{:?}", checked.diagnostics);
        let planned = plan_document(&pipe_nodes::registry(), &checked).peak_bytes;
        let folder = tempfile::tempdir().unwrap();
        let (progress, stop) = (Arc::new(Watch(u64::MAX, StopFlag::default())), StopFlag::default());
        let options = RunOptions { folder: folder.path().join("out"), resume: false, progress, stop };
        let outcome = run(&pipe_nodes::registry(), &checked, options).unwrap();
        let measured = peak();
        println!("planned {planned}, measured {measured}, {:.1} s", outcome.seconds);
        let off = measured as f64 / planned as f64 - 1.0;
        assert!(off.abs() < 0.25, "{off}");
        peaks.push(measured);
    }
    assert!(peaks[0] + (500 << 20) < peaks[1], "{peaks:?}");
}
