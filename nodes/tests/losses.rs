//! How the options of a loss are put together in a run. A model whose last layer is zero predicts zero, so the loss of a
//! row is a function of its latents, noise and timestep alone; it is written out here from the specification.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pipe_core::document::Syntax;
use pipe_core::execute::{RunOptions, run};
use pipe_core::run::{Progress, StopFlag};
use pipe_data::weights::{DType, TensorOut, WeightFile, write_safetensors};

struct Quiet;

impl Progress for Quiet {
    fn tick(&self, _: &str, _: u64, _: u64) {}
    fn say(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}

fn fixture(path: &str) -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/fixtures").join(path)
}

/// Rows of a replay.
struct Rows {
    latents: Vec<Vec<f64>>,
    noise: Vec<Vec<f64>>,
    times: Vec<f64>,
}

fn rows(replay: &str) -> Rows {
    let file = WeightFile::open(fixture(replay)).unwrap();
    let times: Vec<f64> = match file.info("timesteps").unwrap().dtype {
        DType::F32 => file.f32("timesteps").unwrap().iter().map(|t| *t as f64).collect(),
        _ => {
            let bytes = file.bytes("timesteps").unwrap().into_owned();
            bytes.as_chunks::<8>().0.iter().map(|t| i64::from_le_bytes(*t) as f64).collect()
        }
    };
    let split = |name: &str| {
        let all = file.f32(name).unwrap();
        let wide = |part: &[f32]| part.iter().map(|x| *x as f64).collect::<Vec<f64>>();
        all.chunks(all.len() / times.len()).map(wide).collect::<Vec<_>>()
    };
    Rows { latents: split("latents"), noise: split("noise"), times: times.clone() }
}

/// Loss of each row in a run whose rate is 0.
fn run_of(model: &str, replay: &str, loss: &str) -> Vec<f64> {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "version: 1\nname: t\ntrain: {{ device: cpu, steps: 8, save_state: {{ steps: 100, at_end: false }} }}\nnodes:\n  \
         rows: {{ type: loader.replay, path: {} }}\n  model: {{ {model} }}\n  \
         learn: {{ type: adapter.lora, model: model, rank: 1 }}\n  \
         loss: {{ {loss}, model: learn, batch: rows }}\n  \
         adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: 0 }}\n  \
         metrics: {{ type: logger.metrics, update: adamw }}\n",
        fixture(replay).display()
    );
    let registry = pipe_nodes::registry();
    let checked = pipe_core::check::check_text(&registry, &text, &folder.path().join("run.yaml"), Syntax::Yaml, &[]);
    let format = pipe_core::diagnostic::Format::Concise;
    assert!(checked.ok(), "{}", pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), format, false));
    let out = folder.path().join("out");
    let options =
        RunOptions { folder: out.clone(), resume: false, progress: Arc::new(Quiet), stop: StopFlag::default() };
    run(&registry, &checked, options).unwrap();
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
    metrics.lines().map(loss).collect()
}

/// Equal to 1e-6.
fn compare(what: &str, found: &[f64], expected: &[f64]) {
    near(what, found, expected, 1e-6);
}

fn near(what: &str, found: &[f64], expected: &[f64], most: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (k, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs() / expected.abs().max(1e-3);
        assert!(off < most, "{what}: row {k}: {found}, not {expected}");
    }
}

/// ᾱ of the scaled-linear schedule, rescaled to end at zero or not.
fn alphas(zero: bool) -> Vec<f64> {
    let beta = |i: usize| (0.00085f64.sqrt() + (0.012f64.sqrt() - 0.00085f64.sqrt()) * i as f64 / 999.0).powi(2);
    let mut product = 1.0;
    let mut roots: Vec<f64> = (0..1000)
        .map(|i| {
            product *= 1.0 - beta(i);
            f64::sqrt(product)
        })
        .collect();
    if zero {
        let (first, last) = (roots[0], roots[999]);
        roots.iter_mut().for_each(|root| *root = (*root - last) * first / (first - last));
    }
    roots.into_iter().map(|root| root * root).collect()
}

const SD1: &str = "lora_trajectory/replay.safetensors";

fn unet(more: &str) -> String {
    format!("type: model.sd1, init: {{ widths: [8, 8], layers: 1, heads: 2, context_dim: 24, norm_groups: 4 }}{more}")
}

/// Mean of `of` over a row's target: the noise, or v.
fn target_mean(rows: &Rows, alphas: Option<&[f64]>, k: usize, of: impl Fn(f64) -> f64) -> f64 {
    let n = rows.noise[k].len();
    let alpha = alphas.map(|alphas| alphas[rows.times[k] as usize]);
    let target = |i: usize| match alpha {
        Some(alpha) => alpha.sqrt() * rows.noise[k][i] - (1.0 - alpha).sqrt() * rows.latents[k][i],
        None => rows.noise[k][i],
    };
    (0..n).map(|i| of(target(i))).sum::<f64>() / n as f64
}

#[test]
fn weights_by_the_signal_to_noise_ratio() {
    let rows = rows(SD1);
    let snr = |alphas: &[f64], k: usize| {
        let alpha = alphas[rows.times[k] as usize];
        alpha / (1.0 - alpha)
    };
    let capped = |s: f64| s.min(1000.0);
    type Weight = fn(f64, f64) -> f64;
    let cases: [(&str, bool, bool, Weight); 9] = [
        ("", false, false, |_, _| 1.0),
        (", min_snr_gamma: 5", false, false, |s, _| s.min(5.0) / s),
        (", debiased_estimation_loss: true", false, false, |_, s| 1.0 / s.sqrt()),
        (", v_pred_like_loss: 0.3", false, false, |_, s| 1.0 + 0.3 * (s + 1.0) / s),
        (", min_snr_gamma: 3", true, false, |s, _| s.min(3.0) / (s + 1.0)),
        (", debiased_estimation_loss: true", true, false, |_, s| 1.0 / (s + 1.0)),
        (", scale_v_pred_loss_like_noise_pred: true", true, false, |_, s| s / (s + 1.0)),
        // With a schedule that ends in noise the ratio is that schedule's.
        (", min_snr_gamma: 5", true, true, |s, _| s.min(5.0) / (s + 1.0)),
        (", scale_v_pred_loss_like_noise_pred: true, min_snr_gamma: 2", true, true, |s, c| {
            s.min(2.0) / (s + 1.0) * c / (c + 1.0)
        }),
    ];
    for (options, v, zero, weight) in cases {
        let alphas = alphas(zero);
        let model = match (v, zero) {
            (false, _) => unet(""),
            (true, false) => unet(", prediction: v"),
            (true, true) => unet(", prediction: v, zero_terminal_snr: true"),
        };
        let found = run_of(&model, SD1, &format!("type: loss.diffusion{options}"));
        let expected: Vec<f64> = (0..8)
            .map(|k| {
                let s = snr(&alphas, k);
                weight(s, capped(s)) * target_mean(&rows, v.then_some(&alphas), k, |x| x * x)
            })
            .collect();
        // ᾱ is kept in f32, as PyTorch keeps it: where it is nearly 1 the ratio has fewer digits.
        near(&format!("{options} v {v} zero {zero}"), &found, &expected, 2e-5);
    }
}

#[test]
fn robust_losses_and_their_schedules() {
    let (rows, alphas) = (rows(SD1), alphas(false));
    let huber = |x: f64, c: f64| 2.0 * c * ((x * x + c * c).sqrt() - c);
    let smooth = |x: f64, c: f64| 2.0 * ((x * x + c * c).sqrt() - c);
    let constant = |_: usize| 0.2 * 1.5;
    let exponential = |k: usize| 1.5 * (0.2f64.ln() * rows.times[k] / 1000.0).exp();
    let by_snr = |k: usize| {
        let alpha = alphas[rows.times[k] as usize];
        (1.0 - 0.2) / (1.0 + ((1.0 - alpha) / alpha).sqrt()).powi(2) + 0.2
    };
    let schedules: [(&str, &dyn Fn(usize) -> f64); 3] = [
        ("{ schedule: constant, c: 0.2, scale: 1.5 }", &constant),
        ("{ schedule: exponential, c: 0.2, scale: 1.5 }", &exponential),
        ("{ c: 0.2 }", &by_snr),
    ];
    for (kind, value) in [("huber", &huber as &dyn Fn(f64, f64) -> f64), ("smooth_l1", &smooth)] {
        for (options, c) in schedules {
            let loss = format!("type: loss.diffusion, loss_type: {kind}, huber: {options}");
            let expected: Vec<f64> = (0..8).map(|k| target_mean(&rows, None, k, |x| value(x, c(k)))).collect();
            compare(&loss, &run_of(&unet(""), SD1, &loss), &expected);
        }
    }
}

/// The fixture with zeros in its last layer.
fn flow_model(folder: &Path, fixtures: &str, last: &str) {
    for entry in std::fs::read_dir(fixture(fixtures)).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
        if name == "config.json" {
            std::fs::copy(&entry, folder.join(name)).unwrap();
        } else if name == "diffusion_pytorch_model.safetensors" {
            let file = WeightFile::open(&entry).unwrap();
            let tensors = file.names().map(|tensor| {
                let shape = file.info(tensor).unwrap().shape.clone();
                let values = file.f32(tensor).unwrap();
                let values = if tensor.starts_with(last) { vec![0.0; values.len()] } else { values };
                TensorOut::f32(tensor, DType::F32, shape, values)
            });
            write_safetensors(folder.join(name), tensors, &BTreeMap::new()).unwrap();
        }
    }
}

#[test]
fn flow_predictions_and_weights() {
    for (fixtures, model, last, sign) in
        [("flux", "model.flux", "proj_out.", 1.0), ("lumina2", "model.lumina2", "norm_out.linear_2.", -1.0)]
    {
        let folder = tempfile::tempdir().unwrap();
        flow_model(folder.path(), fixtures, last);
        let replay = format!("lora_trajectory_{fixtures}/replay.safetensors");
        let rows = rows(&replay);
        let model = format!("type: {model}, weights: {}", folder.path().display());
        let mean = |k: usize, of: &dyn Fn(f64, f64) -> f64| {
            let pairs = rows.latents[k].iter().zip(&rows.noise[k]);
            pairs.map(|(x, noise)| of(*x, *noise)).sum::<f64>() / rows.noise[k].len() as f64
        };
        let sigma = |k: usize| rows.times[k] / 1000.0;
        let velocity = |k: usize| mean(k, &|x, noise| (sign * (noise - x)).powi(2));
        // x_σ − σ·0 against x0: σ² times the loss on the velocity.
        let x0 = |k: usize| mean(k, &|x, noise| ((1.0 - sigma(k)) * x + sigma(k) * noise - x).powi(2));
        let cosmap = |k: usize| {
            let s = sigma(k);
            2.0 / (std::f64::consts::PI * (1.0 - 2.0 * s + 2.0 * s * s))
        };
        let l1 = |k: usize| mean(k, &|x, noise| (noise - x).abs());
        let cases: [(&str, &dyn Fn(usize) -> f64); 6] = [
            ("", &velocity),
            (", loss_type: l1", &l1),
            (", model_prediction: sigma_scaled", &x0),
            (", model_prediction: sigma_scaled, timesteps: { scheme: { type: cosmap } }", &|k| cosmap(k) * x0(k)),
            (", model_prediction: sigma_scaled, timesteps: { scheme: { type: sigma_sqrt } }", &velocity),
            (", loss_type: smooth_l1, huber: { schedule: exponential, c: 0.3 }", &|k| {
                let c = (0.3f64.ln() * sigma(k)).exp();
                mean(k, &|x, noise| 2.0 * (((noise - x).powi(2) + c * c).sqrt() - c))
            }),
        ];
        for (options, expected) in cases {
            let found = run_of(&model, &replay, &format!("type: loss.flow{options}"));
            let expected: Vec<f64> = (0..8).map(expected).collect();
            compare(&format!("{fixtures}{options}"), &found, &expected);
        }
    }
}
