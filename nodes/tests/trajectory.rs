//! Whole training runs through documents, against PyTorch: `loader.replay` makes a run a pure
//! function of its files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pipe_core::document::Syntax;
use pipe_core::execute::{RunOptions, Status, run};
use pipe_core::run::{Progress, StopFlag};
use pipe_data::weights::{Component, ComponentWeights, DType, TensorOut, WeightFile, write_safetensors};

struct Quiet;

impl Progress for Quiet {
    fn tick(&self, _: &str, _: u64, _: u64) {}
    fn say(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}

fn fixture(path: &str) -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/fixtures").join(path)
}

/// Runs a document; gives the loss and the gradient norm of each step.
fn train(folder: &Path, text: &str) -> Vec<(f64, f64)> {
    let registry = pipe_nodes::registry();
    let path = folder.join("run.yaml");
    let checked = pipe_core::check::check_text(&registry, text, &path, Syntax::Yaml, &[]);
    let format = pipe_core::diagnostic::Format::Concise;
    assert!(checked.ok(), "{}", pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), format, false));
    let options =
        RunOptions { folder: folder.join("out"), resume: false, progress: Arc::new(Quiet), stop: StopFlag::default() };
    let outcome = run(&registry, &checked, options).unwrap();
    assert_eq!(outcome.status, Status::Finished);
    let metrics = std::fs::read_to_string(folder.join("out/metrics.jsonl")).unwrap();
    let number = |line: &serde_json::Value, name: &str| line[name].as_f64().unwrap();
    metrics
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap())
        .map(|l| (number(&l, "loss"), number(&l, "grad_norm")))
        .collect()
}

fn document(steps: u64, adapter: &str, loss: &str, optimizer: &str, saver: &str, prediction: &str) -> String {
    let unet = fixture("diffusers_dir").display().to_string();
    let replay = fixture("lora_trajectory/replay.safetensors").display().to_string();
    format!(
        "version: 1\nname: parity\ntrain: {{ device: cpu, steps: {steps}, batch_size: 2 }}\nnodes:\n  \
         rows: {{ type: loader.replay, path: {replay} }}\n  \
         unet: {{ type: model.sd1, weights: {unet}, prediction: {prediction} }}\n  \
         learn: {{ {adapter} }}\n  \
         loss: {{ type: loss.diffusion, model: learn, batch: rows{loss} }}\n  \
         adamw: {{ type: optimizer.adamw, loss: loss, {optimizer} }}\n  \
         metrics: {{ type: logger.metrics, update: adamw }}\n{saver}"
    )
}

fn lora(weights: &str) -> String {
    format!("type: adapter.lora, model: unet, rank: 4, weights: {}", fixture(weights).display())
}

#[test]
fn twenty_steps_of_a_lora() {
    let folder = tempfile::tempdir().unwrap();
    let saver = "  save: { type: saver.adapter, adapter: learn, update: adamw, dtype: f32 }\n";
    let text = document(20, &lora("lora_trajectory/init.safetensors"), "", "learning_rate: 1e-3", saver, "epsilon");
    compare(folder.path(), &text, "lora_trajectory");
}

/// Runs 20 steps and compares losses, gradient norms and the saved file with those of a fixture.
fn compare(folder: &Path, text: &str, fixtures: &str) {
    let steps = train(folder, text);
    let open = |name: &str| WeightFile::open(fixture(&format!("{fixtures}/{name}.safetensors"))).unwrap();
    let expected = open("losses");
    assert_eq!(steps.len(), 20);
    compare_steps(&steps, &expected, ["losses", "grad_norms"]);
    let ours = WeightFile::open(folder.join("out/checkpoints/parity.safetensors")).unwrap();
    let (theirs, initial) = (open("final"), open("init"));
    let mut names: Vec<&str> = theirs.names().collect();
    names.sort_unstable();
    let mut own: Vec<&str> = ours.names().collect();
    own.sort_unstable();
    assert_eq!(names, own, "keys of the saved file");
    // Off by at most 1e-3 of how far training moved the weights, over all of them.
    let (mut off, mut moved) = (0.0f64, 0.0f64);
    for name in names {
        let (a, b, c) = (ours.f32(name).unwrap(), theirs.f32(name).unwrap(), initial.f32(name).unwrap());
        for ((a, b), c) in a.iter().zip(&b).zip(&c) {
            off += ((a - b) as f64).powi(2);
            moved += ((b - c) as f64).powi(2);
        }
    }
    assert!((off / moved).sqrt() < 1e-3, "final weights off by {:.2e} of the update", (off / moved).sqrt());
}

/// A run's document: the lines of its nodes after the rows, with learning rate and saver.
fn family_document(steps: u64, rows: &Path, nodes: &str, loss: &str, rate: &str, saver: &str) -> String {
    format!(
        "version: 1\nname: parity\ntrain: {{ device: cpu, steps: {steps}, batch_size: 2 }}\nnodes:\n  \
         rows: {{ type: loader.replay, path: {} }}\n{nodes}  \
         loss: {{ type: loss.{loss}, model: learn, batch: rows }}\n  \
         adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: {rate} }}\n  \
         metrics: {{ type: logger.metrics, update: adamw }}\n  save: {{ type: saver.{saver}, dtype: f32 }}\n",
        rows.display(),
    )
}

/// Fixture, model node, weights, the node's other fields, rank of the adapters, loss.
type Run = (&'static str, &'static str, &'static str, &'static str, u64, &'static str);

/// Every network but SD 1.x's, from the Diffusers folder and from the authors' file.
const RUNS: [Run; 14] = [
    ("sd2", "sd2", "lora_trajectory_sd2", "prediction: v", 4, "diffusion"),
    ("sdxl", "sdxl", "sdxl_unet", "config: { heads: [1, 2, 4], norm_groups: 2 }", 4, "diffusion"),
    ("sd3", "sd3", "sd3", "config: { heads: 2 }", 2, "flow"),
    ("sd3", "sd3", "sd3/original.safetensors", "config: { heads: 2 }", 2, "flow"),
    ("sd35m", "sd3", "sd35m", "", 2, "flow"),
    ("sd35m", "sd3", "sd35m/original.safetensors", "config: { heads: 2 }", 2, "flow"),
    ("flux", "flux", "flux", "", 2, "flow"),
    ("flux", "flux", "flux/original.safetensors", "config: { axes: [2, 4, 2] }", 2, "flow"),
    ("flux_schnell", "flux", "flux_schnell", "", 2, "flow"),
    ("flux_schnell", "flux", "flux_schnell/original.safetensors", "config: { axes: [2, 2, 4] }", 2, "flow"),
    ("lumina2", "lumina2", "lumina2/diffusion_pytorch_model.safetensors", "", 2, "flow"),
    ("lumina2", "lumina2", "lumina2/original.safetensors", "", 2, "flow"),
    ("lumina_next", "lumina_next", "lumina_next/diffusion_pytorch_model.safetensors", "", 2, "flow"),
    ("lumina_next", "lumina_next", "lumina_next/original.safetensors", "", 2, "flow"),
];

fn model_line((_, node, weights, more, ..): Run) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    format!("  model: {{ type: model.{node}, weights: {}{comma}{more} }}\n", fixture(weights).display())
}

#[test]
fn twenty_steps_of_every_family() {
    for run in RUNS {
        let (name, .., rank, loss) = run;
        println!("{name} from {}", run.2);
        let folder = tempfile::tempdir().unwrap();
        let fixtures = format!("lora_trajectory_{name}");
        let init = fixture(&format!("{fixtures}/init.safetensors"));
        let nodes = model_line(run)
            + &format!("  learn: {{ type: adapter.lora, model: model, rank: {rank}, weights: {} }}\n", init.display());
        let rows = fixture(&format!("{fixtures}/replay.safetensors"));
        let text = family_document(20, &rows, &nodes, loss, "1e-3", "adapter, adapter: learn, update: adamw");
        compare(folder.path(), &text, &fixtures);
    }
}

/// Fixture of a text encoder with a table of its published number of rows, of which the fixture has the first.
fn whole_table(from: &Path, to: &Path) {
    let file = WeightFile::open(from).unwrap();
    let tensors = file.names().map(|name| {
        let (mut shape, mut values) = (file.info(name).unwrap().shape.clone(), file.f32(name).unwrap());
        let rows = match name {
            "shared.weight" => 32128,
            "embed_tokens.weight" => 1100,
            _ if name.ends_with("token_embedding.weight") => 49408,
            _ => shape[0],
        };
        if rows > shape[0] {
            values = values.iter().copied().cycle().take(rows * shape[1]).collect();
            shape[0] = rows;
        }
        TensorOut::f32(name, DType::F32, shape, values)
    });
    write_safetensors(to, tensors, &std::collections::BTreeMap::new()).unwrap();
}

/// LoRAs of text encoders, whose captions a replay carries, with a few layers of the denoiser.
#[test]
fn twenty_steps_of_text_encoders() {
    let heads = "config: { heads: 2 }";
    let clip_l = |family: &str| format!("type: encoder.clip_l, family: {family}, {heads}");
    let clip_g = || format!("type: encoder.clip_g, {heads}");
    let t5 = || "type: encoder.t5xxl, max_tokens: 24".to_string();
    let tokenizer = fixture("gemma_small/tokenizer.json").display().to_string();
    let gemma = || format!("type: encoder.gemma, max_tokens: 24, tokenizer: {tokenizer}, config: {{ head_dim: 8 }}");
    let sd1: Run = ("sd1", "sd1", "diffusers_dir", "", 2, "diffusion");
    for (run, texts) in [
        (sd1, vec![("clip_l", clip_l("sd1"))]),
        (RUNS[0], vec![("clip_h", format!("type: encoder.clip_h, {heads}"))]),
        (RUNS[1], vec![("clip_l", clip_l("sdxl")), ("clip_g", clip_g())]),
        (RUNS[2], vec![("clip_l", clip_l("sd3")), ("clip_g", clip_g()), ("t5", t5())]),
        (RUNS[10], vec![("gemma", gemma())]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let fixtures = format!("lora_trajectory_text_{}", run.0);
        println!("{fixtures}");
        let mut nodes = model_line(run);
        let mut names = Vec::new();
        for (name, line) in &texts {
            let weights = folder.path().join(format!("{name}.safetensors"));
            whole_table(&fixture(&format!("{fixtures}/{name}.safetensors")), &weights);
            nodes += &format!("  {name}: {{ {line}, weights: {} }}\n", weights.display());
            names.push(*name);
        }
        let init = fixture(&format!("{fixtures}/init.safetensors"));
        nodes += &format!(
            "  learn: {{ type: adapter.lora, model: model, text: [{}], rank: from_file, weights: {} }}\n",
            names.join(", "),
            init.display()
        );
        let rows = fixture(&format!("{fixtures}/replay.safetensors"));
        let text = family_document(20, &rows, &nodes, run.5, "1e-3", "adapter, adapter: learn, update: adamw");
        compare(folder.path(), &text, &fixtures);
    }
}

/// Losses, gradient norms and some of the saved weights of five steps of full fine-tuning.
#[test]
fn five_steps_of_every_family() {
    for run in RUNS {
        let (name, .., loss) = run;
        println!("{name} from {}", run.2);
        let folder = tempfile::tempdir().unwrap();
        let rows = fixture(&format!("lora_trajectory_{name}/replay.safetensors"));
        let nodes = model_line(run) + "  learn: { type: adapter.full, model: model }\n";
        let saver = "checkpoint, model: learn, format: model_only";
        let steps = train(folder.path(), &family_document(5, &rows, &nodes, loss, "1e-4", saver));
        let expected = WeightFile::open(fixture(&format!("full_runs/{name}.safetensors"))).unwrap();
        compare_steps(&steps, &expected, ["losses", "grad_norms"]);
        let component = match run.1 {
            "sd3" => Component::Mmdit,
            "flux" => Component::Flux,
            "lumina2" => Component::Lumina2,
            "lumina_next" => Component::LuminaNext,
            _ => Component::Unet,
        };
        let saved =
            ComponentWeights::open(folder.path().join("out/checkpoints/parity.safetensors"), component).unwrap();
        let (mut off, mut moved) = (0.0f64, 0.0f64);
        for stored in expected.names().filter_map(|n| n.strip_prefix("after.")) {
            let (a, b) = (saved.f32(stored).unwrap(), expected.f32(&format!("after.{stored}")).unwrap());
            let c = expected.f32(&format!("before.{stored}")).unwrap();
            for ((a, b), c) in a.iter().zip(&b).zip(&c) {
                off += ((a - b) as f64).powi(2);
                moved += ((b - c) as f64).powi(2);
            }
        }
        assert!(moved > 0.0 && (off / moved).sqrt() < 1e-3, "{name}: off by {:.2e}", (off / moved).sqrt());
    }
}

fn compare_steps(steps: &[(f64, f64)], expected: &WeightFile, [losses, norms]: [&str; 2]) {
    let (losses, norms) = (expected.f32(losses).unwrap(), expected.f32(norms).unwrap());
    assert_eq!(steps.len(), losses.len());
    for (k, ((loss, norm), (l, n))) in steps.iter().zip(losses.iter().zip(&norms)).enumerate() {
        assert!((loss / *l as f64 - 1.0).abs() < 2e-5, "loss of step {k}: {loss}, not {l}");
        assert!((norm / *n as f64 - 1.0).abs() < 1e-3, "gradient norm of step {k}: {norm}, not {n}");
    }
}

#[test]
fn five_steps_of_full_fine_tuning() {
    let folder = tempfile::tempdir().unwrap();
    let text = document(5, "type: adapter.full, model: unet", "", "learning_rate: 1e-4", "", "epsilon");
    let steps = train(folder.path(), &text);
    let expected = WeightFile::open(fixture("lora_trajectory/losses.safetensors")).unwrap();
    compare_steps(&steps, &expected, ["losses_full", "grad_norms_full"]);
}

/// The rows of a trajectory with further tensors, `(name, name in the file)`.
fn joined(folder: &Path, rows: &str, more: &str, keys: &[&str]) -> PathBuf {
    let path = folder.join("rows.safetensors");
    let (rows, more) = (WeightFile::open(fixture(rows)).unwrap(), WeightFile::open(fixture(more)).unwrap());
    let tensor = |file: &WeightFile, name: &str| {
        let shape = file.info(name).unwrap().shape.clone();
        let values = file.i64(name).map(|v| v.into_iter().map(|x| x as f32).collect());
        TensorOut::f32(name, DType::F32, shape, values.or_else(|_| file.f32(name)).unwrap())
    };
    let mut tensors: Vec<TensorOut> = rows.names().map(|name| tensor(&rows, name)).collect();
    tensors.extend(more.names().filter(|name| keys.contains(name)).map(|name| tensor(&more, name)));
    write_safetensors(&path, tensors, &Default::default()).unwrap();
    path
}

const EXTRAS: [&str; 6] = ["loss_mask", "loss_weights", "preserve", "class_context", "class_pooled", "class_weights"];

/// Masks, weights of samples, the base model's output as target, and a second loss on captions of a class.
#[test]
fn what_a_loss_weighs_and_preserves() {
    for (name, case, keys, options) in [
        ("sd1", "masked", &EXTRAS[..2], ""),
        ("sd1", "floor", &EXTRAS[..1], ", mask: { floor: 0.1, normalize: true }"),
        ("sd1", "preserve", &EXTRAS[2..3], ""),
        ("sd1", "class", &EXTRAS[3..], ""),
        ("sd1", "all", &EXTRAS[..], ""),
        ("flux", "all", &EXTRAS[..], ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let start = if name == "sd1" { "lora_trajectory" } else { "lora_trajectory_flux" };
        let more = format!("preserve/{name}_rows.safetensors");
        let rows = joined(folder.path(), &format!("{start}/replay.safetensors"), &more, keys);
        let (model, rank, loss) = match name {
            "sd1" => (format!("type: model.sd1, weights: {}", fixture("diffusers_dir").display()), 4, "diffusion"),
            _ => (format!("type: model.flux, weights: {}", fixture("flux").display()), 2, "flow"),
        };
        let text = format!(
            "version: 1\nname: parity\ntrain: {{ device: cpu, steps: 8, batch_size: 2 }}\nnodes:\n  \
             rows: {{ type: loader.replay, path: {} }}\n  \
             model: {{ {model} }}\n  \
             learn: {{ type: adapter.lora, model: model, rank: {rank}, weights: {} }}\n  \
             loss: {{ type: loss.{loss}, model: learn, batch: rows{options} }}\n  \
             adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: 1e-3 }}\n  \
             metrics: {{ type: logger.metrics, update: adamw }}\n",
            rows.display(),
            fixture(&format!("{start}/init.safetensors")).display(),
        );
        let steps = train(folder.path(), &text);
        let metrics = std::fs::read_to_string(folder.path().join("out/metrics.jsonl")).unwrap();
        let expected = WeightFile::open(fixture(&format!("preserve/{name}.safetensors"))).unwrap();
        let of = |what: &str| expected.f32(&format!("{case}.{what}")).unwrap();
        let (losses, norms, class) = (of("losses"), of("norms"), of("class"));
        assert_eq!(steps.len(), 8);
        for (k, ((loss, norm), line)) in steps.iter().zip(metrics.lines()).enumerate() {
            let close = |ours: f64, theirs: f32, share: f64, what: &str| {
                let off = ours / theirs as f64 - 1.0;
                assert!(off.abs() < share, "{name} {case}: {what} of step {k}: {ours}, not {theirs}");
            };
            close(*loss, losses[k], 2e-5, "loss");
            close(*norm, norms[k], 1e-3, "gradient norm");
            let second = serde_json::from_str::<serde_json::Value>(line).unwrap()["preservation_loss"].as_f64();
            match second {
                Some(second) => close(second, class[k], 1e-4, "second loss"),
                None => assert_eq!(class[k], 0.0, "{name} {case}"),
            }
        }
    }
}

/// An adapter that changes nothing is at the base model already: there is nothing to pull back.
#[test]
fn nothing_is_preserved_of_an_adapter_that_adds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let keys = ["class_context", "class_weights"];
    let rows = joined(folder.path(), "lora_trajectory/replay.safetensors", "preserve/sd1_rows.safetensors", &keys);
    let replay = fixture("lora_trajectory/replay.safetensors").display().to_string();
    // A rate too small to move anything: of what does not learn no gradient norm is told.
    let text = document(2, "type: adapter.lora, model: unet, rank: 4", "", "learning_rate: 1e-30", "", "epsilon");
    let with = train(folder.path(), &text.replace(&replay, &rows.display().to_string()));
    let without = train(tempfile::tempdir().unwrap().path(), &text);
    assert!(without.iter().all(|(loss, norm)| *loss > 0.0 && *norm > 0.0));
    assert_eq!(with, without);
}

/// The operation on given numbers, against the same formulas by autograd.
#[test]
fn losses_on_given_numbers() {
    use pipe_ops::op::{Elementwise, Weigh, loss_and_grad};
    use pipe_ops::{Cx, Device};
    let f = WeightFile::open(fixture("train/losses.safetensors")).unwrap();
    let get = |name: &str| f.f32(name).unwrap();
    let shape = f.info("prediction").unwrap().shape.clone();
    let (b, places) = (shape[0], get("mask"));
    let places: Vec<f32> = (0..b).flat_map(|_| places.clone()).collect();
    for (key, kind, c) in [
        ("l2.constant", Elementwise::L2, "c.constant"),
        ("l1.constant", Elementwise::L1, "c.constant"),
        ("huber.constant", Elementwise::Huber, "c.constant"),
        ("huber.snr", Elementwise::Huber, "c.snr"),
        ("smooth_l1.exponential", Elementwise::SmoothL1, "c.exponential"),
    ] {
        for device in [Device::Cpu, Device::composed_cpu()] {
            let cx = Cx::new(device, pipe_ops::DType::F32);
            let tensor = |name: &str| cx.device.tensor(get(name), &shape, pipe_ops::DType::F32);
            let (samples, c) = (get("prior"), get(c));
            let weigh = Weigh { samples: &samples, c: &c, places: Some(&places) };
            let (each, grad) = loss_and_grad(&cx, kind, &tensor("prediction"), &tensor("target"), weigh);
            for (ours, name) in [(each, "each"), (grad, "grad")] {
                let theirs = get(&format!("{key}.{name}"));
                let largest = theirs.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                for (a, b) in ours.to_vec().iter().zip(&theirs) {
                    assert!((a - b).abs() <= 1e-6 * largest.max(1e-3), "{key} {name}: {a}, not {b}");
                }
            }
        }
    }
}

#[test]
fn loss_variants_on_fixed_weights() {
    let expected = WeightFile::open(fixture("lora_trajectory/losses.safetensors")).unwrap();
    for (name, options, prediction) in [
        ("losses_eps", "", "epsilon"),
        ("losses_v", "", "v"),
        ("losses_min_snr_eps", ", min_snr_gamma: 5", "epsilon"),
        ("losses_min_snr_v", ", min_snr_gamma: 5", "v"),
        ("losses_l1", ", loss_type: l1", "epsilon"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        // A fresh LoRA adds nothing, and a rate of 0 keeps it so: these are the base's losses.
        let adapter = "type: adapter.lora, model: unet, rank: 4";
        let text = document(3, adapter, options, "learning_rate: 0.0", "", prediction);
        for (k, (loss, _)) in train(folder.path(), &text).iter().enumerate() {
            let wanted = expected.f32(name).unwrap()[k] as f64;
            assert!((loss / wanted - 1.0).abs() < 2e-5, "{name}: step {k}: {loss}, not {wanted}");
        }
    }
}
