//! Stopped and continued, every optimizer ends where it would have ended without: each with a LoRA and with full
//! fine-tuning, stopped at the end of an epoch, within one, and between the forward passes of a step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use pipe_core::check::{Checked, check_text};
use pipe_core::document::Syntax;
use pipe_core::execute::{Outcome, RunOptions, Status, run};
use pipe_core::plan::{Category, plan_document};
use pipe_core::run::{Position, Progress, RunError, StepReport, StopFlag};
use pipe_data::weights::{DType, TensorOut, WeightFile, write_safetensors};

const STEPS: u64 = 8;
/// 5 batches of which 2 make a step: 3 steps an epoch, the last of one pass.
const ROWS: usize = 5;
/// Width of the text embeddings that the fixture's U-Net reads.
const CONTEXT: usize = 24;

/// Sets the stop flag when it has been looked at so often after a step: once by the loop, then before each pass.
struct Stopper {
    after_step: u64,
    looks: u64,
    flag: StopFlag,
}

impl Progress for Stopper {
    fn tick(&self, _: &str, _: u64, _: u64) {}
    fn say(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn step(&self, position: &Position, _: &StepReport, _: f64) {
        if position.step == self.after_step {
            self.flag.set_after(self.looks);
        }
    }
}

/// Latents, noise and conditions that have no pattern.
fn write_rows(folder: &Path) {
    let numbers = |n: usize, seed: usize| (0..n).map(|i| ((i * 7919 + seed) as f32 * 0.37).sin()).collect();
    let tensor = |name: &str, shape: &[usize], values: Vec<f32>| TensorOut::f32(name, DType::F32, shape, values);
    let latent = [ROWS, 4, 8, 8];
    let n = latent.iter().product();
    let tensors = [
        tensor("latents", &latent, numbers(n, 1)),
        tensor("noise", &latent, numbers(n, 2)),
        tensor("timesteps", &[ROWS], vec![50.0, 700.0, 300.0, 900.0, 120.0]),
        tensor("context", &[ROWS, 4, CONTEXT], numbers(ROWS * 4 * CONTEXT, 3)),
    ];
    write_safetensors(folder.join("rows.safetensors"), tensors, &BTreeMap::new()).unwrap();
}

fn document(optimizer: &str, (adapter, model): (&str, &str), saver: &str) -> String {
    let fixture = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/fixtures/diffusers_dir");
    let model = model.replace("FIXTURE", &fixture.display().to_string());
    format!(
        "version: 1\nname: t\ntrain: {{ device: cpu, steps: {STEPS}, accumulate: 2, save_state: {{ steps: 100 }} }}\nnodes:\n  \
         rows: {{ type: loader.replay, path: rows.safetensors }}\n  \
         unet: {{ type: model.sd1, {model} }}\n  \
         learn: {{ {adapter}, model: unet }}\n  \
         loss: {{ type: loss.diffusion, model: learn, batch: rows }}\n  \
         optimizer: {{ type: optimizer.{optimizer}, loss: loss }}\n{saver}"
    )
}

fn check(folder: &Path, text: &str) -> Checked {
    let checked = check_text(&pipe_nodes::registry(), text, &folder.join("run.yaml"), Syntax::Yaml, &[]);
    let format = pipe_core::diagnostic::Format::Concise;
    assert!(checked.ok(), "{}", pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), format, false));
    checked
}

/// Runs a document into `folder/out`, perhaps with a stop.
fn go(folder: &Path, out: &str, text: &str, resume: bool, stop: Option<(u64, u64)>) -> Result<Outcome, RunError> {
    let flag = StopFlag::default();
    let (after_step, looks) = stop.unwrap_or((u64::MAX, 0));
    let progress = Arc::new(Stopper { after_step, looks, flag: flag.clone() });
    let options = RunOptions { folder: folder.join(out), resume, progress, stop: flag };
    run(&pipe_nodes::registry(), &check(folder, text), options)
}

fn state(folder: &Path, out: &str, step: u64) -> WeightFile {
    let path = folder.join(out).join(format!("state/step-{step:08}/state.safetensors"));
    WeightFile::open(&path).unwrap()
}

/// Weights, buffers and numbers of a state: all bytes by name.
fn contents(file: &WeightFile) -> (BTreeMap<String, Vec<u8>>, BTreeMap<String, String>) {
    let tensors = file.names().map(|name| (name.to_string(), file.bytes(name).unwrap().into_owned())).collect();
    (tensors, file.header().metadata.clone().into_iter().collect())
}

/// What learns, and of which model: a LoRA on trained weights, and a network from scratch; both have tensors on either
/// side of the 4096 values from which 8-bit state is in 8 bits.
const ADAPTERS: [(&str, &str); 2] = [
    ("type: adapter.lora, rank: 64, dropout: 0.1", "weights: FIXTURE"),
    ("type: adapter.full", "init: { widths: [16, 16], layers: 1, heads: 2, context_dim: 24, norm_groups: 4 }"),
];
/// Steps done before the stop and looks at the flag until it: an epoch's end, within an epoch, within a step.
const STOPS: [(u64, u64); 3] = [(3, 1), (4, 1), (4, 3)];

/// Six stops of one optimizer, and the plan of both runs.
fn continues(optimizer: &str) {
    continues_with(optimizer, &ADAPTERS);
}

fn continues_with(optimizer: &str, adapters: &[(&str, &str)]) {
    let tempdir = tempfile::tempdir().unwrap();
    let folder = tempdir.path();
    write_rows(folder);
    for (number, adapter) in adapters.iter().copied().enumerate() {
        let text = document(optimizer, adapter, "");
        let out = |name: &str| format!("{number}-{name}");
        let whole = go(folder, &out("whole"), &text, false, None).unwrap();
        assert_eq!(whole.status, Status::Finished);
        let expected = contents(&state(folder, &out("whole"), STEPS));

        for (after, looks) in STOPS {
            let name = out(&format!("{after}-{looks}"));
            let stopped = go(folder, &name, &text, false, Some((after, looks))).unwrap();
            assert_eq!((stopped.status, stopped.position.step), (Status::Interrupted, after), "{optimizer} {name}");
            let early = contents(&state(folder, &name, after));
            assert!(early.0 != expected.0, "{optimizer} {name}: what follows changes the state");
            let resumed = go(folder, &name, &text, true, None).unwrap();
            assert_eq!((resumed.status, resumed.resumed_from), (Status::Finished, Some(after)));
            assert_eq!(resumed.report, whole.report, "{optimizer} {name}: the last step's loss, rates and norm");
            let found = contents(&state(folder, &name, STEPS));
            assert!(found.0 == expected.0, "{optimizer} {name}: weights or buffers differ");
            assert_eq!(found.1, expected.1, "{optimizer} {name}: numbers differ");
        }
        planned(folder, &text, &state(folder, &out("whole"), STEPS));
    }
}

/// The plan's optimizer state is what is saved, to the byte; its disk holds the file.
fn planned(folder: &Path, text: &str, saved: &WeightFile) {
    let plan = plan_document(&pipe_nodes::registry(), &check(folder, text));
    let train = plan.phases.iter().find(|phase| phase.name == "train").unwrap();
    let size = |weights: bool| {
        let own = saved.names().filter(|name| !name.starts_with("run."));
        let names = own.filter(|name| name.starts_with("param.") == weights);
        names.map(|name| saved.bytes(name).unwrap().len() as u64).sum::<u64>()
    };
    assert_eq!(train.bytes.get(&Category::OptimizerState).copied().unwrap_or(0), size(false));
    let node = &plan.nodes["optimizer"].plan;
    let sum = |of: fn(&pipe_core::plan::ParameterGroup) -> u64| node.groups.iter().map(of).sum::<u64>();
    // A state has weights that are kept in bf16 as f32.
    let kept =
        if text.contains("adapter.full") && text.contains("storage: bf16") { size(true) / 2 } else { size(true) };
    assert_eq!((sum(|g| g.bytes), sum(|g| g.state_bytes)), (kept, size(false)));
    assert_eq!(sum(|g| g.tensors), saved.names().filter(|name| name.starts_with("param.")).count() as u64);
    let file = std::fs::metadata(saved.path()).unwrap().len();
    assert!(node.disk >= file && node.disk < file + file / 2 + 8192, "{} planned, {file} written", node.disk);
    assert_eq!(node.schedule.as_ref().unwrap().samples.len() as u64, STEPS);
}

macro_rules! optimizers {
    ($($name:ident: $fields:literal;)+) => {
        $(#[test]
        fn $name() {
            continues($fields);
        })+

        /// Every optimizer of the registry is among the tests above.
        #[test]
        fn none_is_forgotten() {
            let tested = [$(concat!("optimizer.", stringify!($name))),+];
            let registry = pipe_nodes::registry();
            let all: Vec<&str> = registry.names().filter(|name| name.starts_with("optimizer.")).collect();
            assert!(all.iter().all(|name| tested.contains(name)) && all.len() == tested.len(), "{all:?}");
            assert!(all.len() * ADAPTERS.len() * STOPS.len() >= 60);
        }
    };
}

optimizers! {
    adamw: "adamw, learning_rate: 1e-3, schedule: { type: cosine, warmup: { steps: 2 } }";
    adam: "adam, learning_rate: 1e-3, weight_decay: 0.01, schedule: { type: cosine_with_restarts, cycles: 3 }";
    sgd: "sgd, learning_rate: 1e-2, schedule: { type: polynomial, power: 2, end_ratio: 0.1 }";
    lion: "lion, learning_rate: 1e-4, weight_decay: 0.1, schedule: { type: inverse_sqrt, warmup: { ratio: 0.3 } }";
    adafactor: "adafactor, beta1: 0.9";
    came: "came, learning_rate: 1e-3, schedule: { type: linear }";
    prodigy: "prodigy, d0: 1e-4, use_bias_correction: true, slice_p: 3, schedule: { type: cosine_with_min_lr, min_ratio: 0.1 }";
    dadapt_adam: "dadapt_adam, d0: 1e-4, decouple: true, weight_decay: 0.01";
    dadapt_adam_preprint: "dadapt_adam_preprint, d0: 1e-4";
    dadapt_adan: "dadapt_adan, d0: 1e-4";
    dadapt_adan_ip: "dadapt_adan_ip, d0: 1e-4, no_prox: true";
    dadapt_adagrad: "dadapt_adagrad, d0: 1e-4, momentum: 0.9";
    dadapt_lion: "dadapt_lion, d0: 1e-4";
    dadapt_sgd: "dadapt_sgd, d0: 1e-4, momentum: 0.9, schedule: { type: constant, warmup: { steps: 3 } }";
    schedule_free_adamw: "schedule_free_adamw, warmup_steps: 3";
    schedule_free_radam: "schedule_free_radam, betas: [0.9, 0.9]";
    schedule_free_sgd: "schedule_free_sgd, learning_rate: 0.01, warmup_steps: 3, weight_lr_power: 1";
    adamw_8bit: "adamw_8bit, learning_rate: 1e-3, max_grad_norm: false";
    lion_8bit: "lion_8bit, learning_rate: 1e-4, schedule: { type: warmup_stable_decay, warmup: { steps: 2 }, decay: { ratio: 0.5 } }";
}

/// Weights in bf16: the random rounding of a continued run is that of the unbroken one.
#[test]
fn weights_in_bf16_continue_too() {
    let adapter = [("type: adapter.full, storage: bf16", ADAPTERS[1].1)];
    for optimizer in ["adamw, learning_rate: 1e-3", "prodigy, d0: 1e-4", "adamw_8bit, learning_rate: 1e-3"] {
        continues_with(optimizer, &adapter);
    }
}

/// Frozen weights that rest in fewer bits are the same after a stop; in another type the run is another.
#[test]
fn a_lora_on_rounded_weights_continues() {
    for storage in ["bf16", "f8_e4m3"] {
        let model = format!("weights: FIXTURE, storage: {storage}");
        continues_with("adamw, learning_rate: 1e-3", &[(ADAPTERS[0].0, &model)]);
    }
    let tempdir = tempfile::tempdir().unwrap();
    let folder = tempdir.path();
    write_rows(folder);
    let text = |storage: &str| {
        document("adamw, learning_rate: 1e-3", (ADAPTERS[0].0, &format!("weights: FIXTURE{storage}")), "")
    };
    let mut learned = Vec::new();
    for storage in ["", ", storage: f16", ", storage: f8_e4m3"] {
        let name = format!("out{}", learned.len());
        go(folder, &name, &text(storage), false, Some((3, 1))).unwrap();
        let other = if storage.is_empty() { ", storage: bf16" } else { "" };
        assert_eq!(go(folder, &name, &text(other), true, None).unwrap_err().code, "P0908", "{storage}");
        go(folder, &name, &text(storage), true, None).unwrap();
        learned.push(contents(&state(folder, &name, STEPS)).0);
    }
    assert!(learned[0] != learned[1] && learned[1] != learned[2], "what is rounded shows");
}

/// Updates far smaller than a step of bf16 add up with stochastic rounding, and are lost with rounding to the nearest.
#[test]
fn small_updates_of_bf16_weights_are_not_lost() {
    let tempdir = tempfile::tempdir().unwrap();
    let folder = tempdir.path();
    write_rows(folder);
    let run = |out: &str, adapter: &str, rate: &str| {
        let text =
            document(&format!("adamw, weight_decay: 0.0, learning_rate: {rate}"), (adapter, "weights: FIXTURE"), "");
        go(folder, out, &text, false, None).unwrap();
        let file = state(folder, out, STEPS);
        let mut names: Vec<&str> = file.names().filter(|name| name.starts_with("param.")).collect();
        names.sort_unstable();
        names.iter().flat_map(|name| file.f32(name).unwrap()).collect::<Vec<f32>>()
    };
    let start = run("start", "type: adapter.full, storage: bf16", "0.0");
    let exact = run("f32", "type: adapter.full", "1e-5");
    let exact_start = run("f32-start", "type: adapter.full", "0.0");
    let moved =
        |now: &[f32], from: &[f32]| now.iter().zip(from).filter(|(a, b)| a != b).count() as f64 / now.len() as f64;
    let random = run("random", "type: adapter.full, storage: bf16", "1e-5");
    let nearest = run("nearest", "type: adapter.full, storage: bf16, rounding: nearest", "1e-5");
    assert!(random.iter().all(|x| half::bf16::from_f32(*x).to_f32() == *x), "kept in bf16");
    // At the deepest level the fixture has one pixel: all but the middle of its kernels get no gradient.
    assert!(moved(&exact, &exact_start) > 0.3, "{}", moved(&exact, &exact_start));
    assert!(
        moved(&random, &start) > 1.5 * moved(&nearest, &start),
        "{} {}",
        moved(&random, &start),
        moved(&nearest, &start)
    );
    // In the mean both went where f32 went: the shift along the exact update is that of the update.
    let (mut along, mut square) = (0.0f64, 0.0f64);
    for (((now, from), exact), exact_from) in random.iter().zip(&start).zip(&exact).zip(&exact_start) {
        let update = (exact - exact_from) as f64;
        along += (now - from) as f64 * update;
        square += update * update;
    }
    assert!((along / square - 1.0).abs() < 0.2, "{}", along / square);
}

/// Every other adapter: each kind, and what LoRA can be told of its layers, with everything that draws numbers.
const KINDS: [&str; 17] = [
    "adapter.lora, rank: 4, lora_plus: 16, dropout: 0.1, rank_dropout: 0.2, module_dropout: 0.1",
    "adapter.lora, rank: 4, frozen_down: true, dropout: 0.1",
    "adapter.lora, rank: 4, alpha: 2, conv: { rank: 2 }, scale_weight_norms: 0.05, block_rates: { down: 0.5 }, \
     patterns: [{ match: to_k, rank: 2, learning_rate: 1e-4 }, { match: ff, rank: false }]",
    "adapter.loha, rank: 2, conv: { rank: 2 }, rank_dropout: 0.2, module_dropout: 0.1",
    "adapter.loha, rank: 2, conv: { rank: 2 }, tucker: true, module_dropout: 0.1",
    "adapter.lokr, rank: 2, factor: 2, rank_dropout: 0.2, module_dropout: 0.1",
    "adapter.dora, rank: 2, rank_dropout: 0.2, module_dropout: 0.1",
    "adapter.oft, blocks: 2, layers: all, module_dropout: 0.1",
    "adapter.lora, rank: 4, rs_lora: true, scalar: true, norms: true, conv: { rank: 2 }, scale_weight_norms: 0.05",
    "adapter.lokr, rank: 2, scalar: true, norms: true",
    "adapter.glora, rank: 2, scalar: true, conv: { rank: 2 }, lora_plus: 4, module_dropout: 0.1",
    "adapter.ia3, module_dropout: 0.1",
    "adapter.diag_oft, layers: all, rescaled: true, module_dropout: 0.1",
    "adapter.boft, layers: all, block_size: 10, constraint: 0.01, module_dropout: 0.1",
    "adapter.diff, layers: all, norms: true, module_dropout: 0.1",
    "adapter.dylora, rank: 4, unit: 2, module_dropout: 0.1",
    "adapter.dylora, rank: 4, unit: 1, algorithm: sd_scripts",
];

#[test]
fn every_adapter_continues() {
    let tempdir = tempfile::tempdir().unwrap();
    let folder = tempdir.path();
    write_rows(folder);
    let saver = "  save: { type: saver.adapter, adapter: learn, update: optimizer, dtype: f32, every: { steps: 3 } }\n";
    for (number, kind) in KINDS.into_iter().enumerate() {
        let adapter = format!("type: {kind}");
        let text = document("adamw, learning_rate: 1e-2", (&adapter, "weights: FIXTURE"), saver);
        let saved = |name: &str, file: &str| {
            contents(&WeightFile::open(folder.join(name).join("checkpoints").join(file)).unwrap()).0
        };
        let whole = format!("{number}-whole");
        go(folder, &whole, &text, false, None).unwrap();
        let expected = contents(&state(folder, &whole, STEPS));
        for (after, looks) in STOPS {
            let name = format!("{number}-{after}-{looks}");
            let stopped = go(folder, &name, &text, false, Some((after, looks))).unwrap();
            assert_eq!((stopped.status, stopped.position.step), (Status::Interrupted, after), "{kind}");
            assert_eq!(go(folder, &name, &text, true, None).unwrap().resumed_from, Some(after));
            assert!(contents(&state(folder, &name, STEPS)) == expected, "{kind}: the state after a stop at {after}");
            // What does not learn is not in the state: the files hold it.
            for file in ["t.safetensors", "t-step00000003.safetensors", "t-step00000006.safetensors"] {
                assert!(saved(&name, file) == saved(&whole, file), "{kind}: {file} after a stop at {after}");
            }
        }
        let moved = saved(&whole, "t.safetensors") != saved(&whole, "t-step00000003.safetensors");
        assert!(moved, "{kind} learns");
    }
    let registry = pipe_nodes::registry();
    let tested = |name: &str| name == "adapter.full" || KINDS.iter().any(|kind| kind.starts_with(&format!("{name},")));
    let missing: Vec<&str> = registry.names().filter(|name| name.starts_with("adapter.") && !tested(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// 8-bit state is in 8 bits where the tensors are large enough, with both adapters.
#[test]
fn eight_bit_state_is_tested_in_eight_bits() {
    let tempdir = tempfile::tempdir().unwrap();
    write_rows(tempdir.path());
    for (number, adapter) in ADAPTERS.into_iter().enumerate() {
        let (out, text) = (number.to_string(), document("adamw_8bit", adapter, ""));
        go(tempdir.path(), &out, &text, false, Some((1, 1))).unwrap();
        let saved = state(tempdir.path(), &out, 1);
        let codes = |name: &&str| saved.info(name).is_some_and(|info| info.dtype == DType::U8);
        assert!(saved.names().filter(codes).count() >= 2, "{adapter:?}");
        assert!(saved.names().any(|name| name.starts_with("m.") && !codes(&name)), "{adapter:?}");
    }
}

/// A state of another optimizer is refused, also where the document's identity is the same.
#[test]
fn a_state_of_another_optimizer_is_refused() {
    let tempdir = tempfile::tempdir().unwrap();
    let folder = tempdir.path();
    write_rows(folder);
    let text = document("adam", ADAPTERS[1], "");
    for out in ["a", "b"] {
        let optimizer = if out == "a" { "adam" } else { "sgd" };
        go(folder, out, &document(optimizer, ADAPTERS[1], ""), false, Some((2, 1))).unwrap();
    }
    let error = go(folder, "a", &document("sgd", ADAPTERS[1], ""), true, None).unwrap_err();
    assert_eq!(error.code, "P0908");
    let file = |out: &str| folder.join(out).join("state/step-00000002/state.safetensors");
    std::fs::copy(file("b"), file("a")).unwrap();
    let error = go(folder, "a", &text, true, None).unwrap_err();
    assert!(error.code == "P0909" && error.message.contains("of SGD") && error.message.contains("Adam"), "{error}");
}

/// Multiplies every value of a file.
fn scaled(from: &Path, to: &Path, by: f32) {
    let file = WeightFile::open(from).unwrap();
    let tensors = file.names().map(|name| {
        let values: Vec<f32> = file.f32(name).unwrap().into_iter().map(|x| x * by).collect();
        TensorOut::f32(name, DType::F32, file.info(name).unwrap().shape.clone(), values)
    });
    let tensors: Vec<_> = tensors.collect();
    write_safetensors(to, tensors, &BTreeMap::new()).unwrap();
}

fn lora_file() -> std::path::PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/fixtures/lora_trajectory/init.safetensors")
}

/// The files that an adapter starts from, and those that are merged before it, are part of what a state belongs to.
#[test]
fn other_adapter_files_are_refused() {
    let tempdir = tempfile::tempdir().unwrap();
    let folder = tempdir.path();
    write_rows(folder);
    for (out, adapter) in [
        ("start", "type: adapter.lora, rank: 4, weights: lora.safetensors"),
        ("base", "type: adapter.lora, rank: 2, base_weights: [{ path: lora.safetensors }]"),
    ] {
        let text = document("adamw, learning_rate: 1e-3", (adapter, "weights: FIXTURE"), "");
        scaled(&lora_file(), &folder.join("lora.safetensors"), 1.0);
        go(folder, out, &text, false, Some((2, 1))).unwrap();
        scaled(&lora_file(), &folder.join("lora.safetensors"), 2.0);
        let error = go(folder, out, &text, true, None).unwrap_err();
        assert!(error.code == "P0908" && error.message.contains("`learn`"), "{out}: {error}");
        scaled(&lora_file(), &folder.join("lora.safetensors"), 1.0);
        assert_eq!(go(folder, out, &text, true, None).unwrap().resumed_from, Some(2));
    }
}

/// What an adapter has beside its weights is in the state and comes back from it: LoRA-FA's down factors, and the
/// strength of GGPO's noise, which is of the last step's gradients.
#[test]
fn frozen_tensors_come_back() {
    let tempdir = tempfile::tempdir().unwrap();
    let folder = tempdir.path();
    write_rows(folder);
    for (name, field, ending) in [
        ("fa", "frozen_down: true", ".lora_down.weight"),
        ("noise", "perturbation: { sigma: 0.05, beta: 0.1 }", ".noise"),
    ] {
        let adapter = format!("type: adapter.lora, rank: 4, {field}");
        let saver = "  save: { type: saver.adapter, adapter: learn, update: optimizer, dtype: f32 }\n";
        let text = document("adamw, learning_rate: 1e-3", (&adapter, "weights: FIXTURE"), saver);
        let (whole, stopped) = (format!("{name}-whole"), format!("{name}-stopped"));
        go(folder, &whole, &text, false, None).unwrap();
        go(folder, &stopped, &text, false, Some((4, 1))).unwrap();
        let saved = state(folder, &stopped, 4);
        let frozen: Vec<&str> = saved.names().filter(|n| n.starts_with("frozen.")).collect();
        assert!(!frozen.is_empty() && frozen.iter().all(|name| name.ends_with(ending)), "{frozen:?}");
        go(folder, &stopped, &text, true, None).unwrap();
        assert!(contents(&state(folder, &whole, STEPS)) == contents(&state(folder, &stopped, STEPS)), "{name}");
        let file = |out: &str| WeightFile::open(folder.join(out).join("checkpoints/t.safetensors")).unwrap();
        assert!(contents(&file(&whole)).0 == contents(&file(&stopped)).0, "{name}");
        let planned = plan_document(&pipe_nodes::registry(), &check(folder, &text)).nodes["optimizer"].plan.disk;
        let size = std::fs::metadata(state(folder, &whole, STEPS).path()).unwrap().len();
        assert!(planned >= size && planned < 2 * size, "{name}: {planned} planned, {size} written");
    }
}

/// Remembers the losses of all steps.
#[derive(Default)]
struct Losses(Mutex<Vec<f64>>);

impl Progress for Losses {
    fn tick(&self, _: &str, _: u64, _: u64) {}
    fn say(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn step(&self, _: &Position, report: &StepReport, _: f64) {
        self.0.lock().unwrap().push(report.loss);
    }
}

/// Savers and validation see the averaged weights; training goes on from those that learn.
#[test]
fn schedule_free_saves_averages_and_trains_on() {
    let tempdir = tempfile::tempdir().unwrap();
    let folder = tempdir.path();
    write_rows(folder);
    let optimizer = "schedule_free_adamw, learning_rate: 0.01";
    let saver = "  save: { type: saver.adapter, adapter: learn, update: optimizer, dtype: f32, every: { steps: 2 } }\n  \
                 validation: { type: logger.validation, loss: loss, batch: rows, every: { steps: 2 } }\n";
    let run = |out: &str, saver: &str| {
        let losses = Arc::new(Losses::default());
        let text = document(optimizer, ("type: adapter.lora, rank: 4", "weights: FIXTURE"), saver);
        let options =
            RunOptions { folder: folder.join(out), resume: false, progress: losses.clone(), stop: StopFlag::default() };
        pipe_core::execute::run(&pipe_nodes::registry(), &check(folder, &text), options).unwrap();
        losses.0.lock().unwrap().clone()
    };
    assert_eq!(run("plain", ""), run("saved", saver), "what is shown leaves no trace");
    let state = state(folder, "saved", STEPS);
    assert!(contents(&state).0 == contents(&self::state(folder, "plain", STEPS)).0);
    let saved = WeightFile::open(folder.join("saved/checkpoints/t.safetensors")).unwrap();
    let mut moved = false;
    for name in saved.names().filter(|name| !name.ends_with(".alpha")) {
        let (y, z) = (state.f32(&format!("param.{name}")).unwrap(), state.f32(&format!("z.{name}")).unwrap());
        // x = y + (1 − 1/β₁)(z − y) with β₁ = 0.9.
        for ((x, y), z) in saved.f32(name).unwrap().iter().zip(&y).zip(&z) {
            let expected = *y as f64 + (1.0 - 1.0 / 0.9) * (*z as f64 - *y as f64);
            assert!((*x as f64 - expected).abs() <= 1e-6 * expected.abs().max(1e-3), "{name}: {x}, not {expected}");
            moved |= x != y;
        }
    }
    assert!(moved, "averages differ from what learns");
    let metadata = &saved.header().metadata;
    assert_eq!(metadata["ss_optimizer"], "schedulefree.adamw_schedulefree.AdamWScheduleFree");
    assert_eq!((metadata["ss_lr_scheduler"].as_str(), metadata["ss_unet_lr"].as_str()), ("constant", "0.01"));
}

/// As above, for whole models.
#[test]
fn schedule_free_saves_averages_of_whole_models() {
    let tempdir = tempfile::tempdir().unwrap();
    let folder = tempdir.path();
    write_rows(folder);
    let saver =
        "  save: { type: saver.checkpoint, model: learn, format: diffusers, dtype: f32, every: { steps: 2 } }\n";
    for (out, saver) in [("plain", ""), ("saved", saver)] {
        let text = document("schedule_free_adamw, learning_rate: 0.01", ADAPTERS[1], saver);
        go(folder, out, &text, false, None).unwrap();
    }
    let state = state(folder, "saved", STEPS);
    assert!(contents(&state).0 == contents(&self::state(folder, "plain", STEPS)).0, "what is saved leaves no trace");
    let saved = WeightFile::open(folder.join("saved/checkpoints/t/unet/diffusion_pytorch_model.safetensors")).unwrap();
    let mut moved = 0;
    for name in saved.names() {
        let of = |what: &str| state.f32(&format!("{what}.unet.{name}")).unwrap();
        for ((x, y), z) in saved.f32(name).unwrap().iter().zip(of("param")).zip(of("z")) {
            let expected = y as f64 + (1.0 - 1.0 / 0.9) * (z as f64 - y as f64);
            assert!((*x as f64 - expected).abs() <= 1e-6 * expected.abs().max(1e-3), "{name}: {x}, not {expected}");
            moved += usize::from(*x != y);
        }
    }
    assert!(moved > 1000, "averages differ from what learns");
}
