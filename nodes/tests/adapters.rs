//! Adapters through documents: every kind starts from a file, trains 20 steps as its reference did and saves what that
//! saved; and the options of `adapter.lora` do what they say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pipe_core::document::Syntax;
use pipe_core::execute::{RunOptions, Status, run};
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

/// Runs a document; gives the metrics of each step.
fn train(folder: &Path, text: &str) -> Vec<serde_json::Value> {
    let registry = pipe_nodes::registry();
    let checked = pipe_core::check::check_text(&registry, text, &folder.join("run.yaml"), Syntax::Yaml, &[]);
    let format = pipe_core::diagnostic::Format::Concise;
    assert!(checked.ok(), "{}", pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), format, false));
    let options =
        RunOptions { folder: folder.join("out"), resume: false, progress: Arc::new(Quiet), stop: StopFlag::default() };
    let outcome = run(&registry, &checked, options).unwrap();
    assert_eq!(outcome.status, Status::Finished);
    let metrics = std::fs::read_to_string(folder.join("out/metrics.jsonl")).unwrap();
    metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn losses(metrics: &[serde_json::Value]) -> Vec<f64> {
    metrics.iter().map(|m| m["loss"].as_f64().unwrap()).collect()
}

fn document(steps: u64, adapter: &str, optimizer: &str) -> String {
    format!(
        "version: 1\nname: case\ntrain: {{ device: cpu, steps: {steps}, batch_size: 2 }}\nnodes:\n  \
         rows: {{ type: loader.replay, path: {} }}\n  \
         unet: {{ type: model.sd1, weights: {} }}\n  \
         learn: {{ model: unet, {adapter} }}\n  \
         loss: {{ type: loss.diffusion, model: learn, batch: rows }}\n  \
         adamw: {{ type: optimizer.adamw, loss: loss, {optimizer} }}\n  \
         metrics: {{ type: logger.metrics, update: adamw }}\n  \
         save: {{ type: saver.adapter, adapter: learn, update: adamw, dtype: f32 }}\n",
        fixture("lora_trajectory/replay.safetensors").display(),
        fixture("diffusers_dir").display(),
    )
}

fn saved(folder: &Path) -> WeightFile {
    WeightFile::open(folder.join("out/checkpoints/case.safetensors")).unwrap()
}

/// Off by no more than this share.
fn near(a: f64, b: f64, share: f64, what: &str) {
    assert!((a / b - 1.0).abs() < share, "{what}: {a}, not {b}");
}

#[test]
fn twenty_steps_of_every_kind() {
    for (name, adapter, module, argument) in [
        ("loha", "type: adapter.loha, rank: 2, conv: { rank: 2 }", "lycoris.kohya", "\"algo\": \"loha\""),
        ("lokr", "type: adapter.lokr, rank: 2, conv: { rank: 2 }", "lycoris.kohya", "\"algo\": \"lokr\""),
        (
            "lokr_both",
            "type: adapter.lokr, rank: 1, conv: { rank: 1 }, decompose_both: true, factor: 3",
            "lycoris.kohya",
            "\"factor\": \"3\"",
        ),
        ("dora", "type: adapter.dora, rank: 2, conv: { rank: 2 }", "lycoris.kohya", "\"dora_wd\": \"True\""),
        ("oft", "type: adapter.oft, blocks: 2, layers: all", "networks.oft", "\"enable_conv\": \"True\""),
        (
            "lora_fa",
            "type: adapter.lora, frozen_down: true, rank: 2, conv: { rank: 2 }",
            "networks.lora_fa",
            "\"conv_dim\": \"2\"",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let reference = WeightFile::open(fixture(&format!("lycoris/{name}.safetensors"))).unwrap();
        let start = folder.path().join("start.safetensors");
        let tensors = reference.names().filter_map(|n| {
            let shape = reference.info(n).unwrap().shape.clone();
            Some(TensorOut::f32(n.strip_prefix("init.")?, DType::F32, shape, reference.f32(n).unwrap()))
        });
        write_safetensors(&start, tensors, &BTreeMap::new()).unwrap();
        let text = document(20, &format!("{adapter}, weights: {}", start.display()), "learning_rate: 1e-3");
        let steps = train(folder.path(), &text);
        let (wanted, norms) = (reference.f32("losses").unwrap(), reference.f32("grad_norms").unwrap());
        for (k, step) in steps.iter().enumerate() {
            near(step["loss"].as_f64().unwrap(), wanted[k] as f64, 2e-5, &format!("{name}: loss of step {k}"));
            near(step["grad_norm"].as_f64().unwrap(), norms[k] as f64, 1e-3, &format!("{name}: norm of step {k}"));
        }
        let ours = saved(folder.path());
        let mut keys: Vec<&str> = ours.names().collect();
        keys.sort_unstable();
        let mut theirs: Vec<&str> = reference.names().filter_map(|n| n.strip_prefix("init.")).collect();
        theirs.sort_unstable();
        assert_eq!(keys, theirs, "{name}");
        let (mut off, mut moved) = (0.0f64, 0.0f64);
        for key in keys {
            let Ok(last) = reference.f32(&format!("final.{key}")) else { continue };
            let (now, first) = (ours.f32(key).unwrap(), reference.f32(&format!("init.{key}")).unwrap());
            for ((a, b), c) in now.iter().zip(&last).zip(&first) {
                off += ((a - b) as f64).powi(2);
                moved += ((b - c) as f64).powi(2);
            }
        }
        assert!(moved > 0.0 && (off / moved).sqrt() < 1e-3, "{name}: off by {:.2e}", (off / moved).sqrt());
        let metadata = &ours.header().metadata;
        assert_eq!(metadata["ss_network_module"], module);
        assert!(metadata["ss_network_args"].contains(argument), "{}", metadata["ss_network_args"]);
    }
}

fn init() -> String {
    fixture("lora_trajectory/init.safetensors").display().to_string()
}

/// Modules, ranks and α of a file; and rates by pattern in place of the optimizer's.
#[test]
fn ranks_of_the_file_and_rates_of_patterns() {
    let wanted = WeightFile::open(fixture("lora_trajectory/losses.safetensors")).unwrap().f32("losses").unwrap();
    for (adapter, optimizer) in [
        (format!("type: adapter.lora, rank: from_file, weights: {}", init()), "learning_rate: 1e-3"),
        (
            format!(
                "type: adapter.lora, rank: 4, patterns: [{{ match: lora, learning_rate: 1e-3 }}], weights: {}",
                init()
            ),
            "max_grad_norm: 1.0",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for (k, loss) in losses(&train(folder.path(), &document(6, &adapter, optimizer))).into_iter().enumerate() {
            near(loss, wanted[k] as f64, 2e-5, &format!("{adapter}: step {k}"));
        }
    }
}

/// A merged file and the same file as the adapter give the same losses while nothing moves.
#[test]
fn merged_files_are_part_of_the_base() {
    let run = |adapter: String| {
        let folder = tempfile::tempdir().unwrap();
        losses(&train(folder.path(), &document(3, &adapter, "learning_rate: 0.0")))
    };
    let as_adapter = run(format!("type: adapter.lora, rank: 4, weights: {}", init()));
    let plain = run("type: adapter.lora, rank: 4".into());
    let merged = run(format!("type: adapter.lora, rank: 4, base_weights: [{{ path: {} }}]", init()));
    let half = format!("{{ path: {}, multiplier: 0.5 }}", init());
    let halves = run(format!("type: adapter.dora, rank: 4, base_weights: [{half}, {half}]"));
    for k in 0..3 {
        near(merged[k], as_adapter[k], 2e-5, "merged");
        near(halves[k], as_adapter[k], 2e-5, "two halves under a DoRA");
        assert!((plain[k] / merged[k] - 1.0).abs() > 1e-3, "the file changes something");
    }
}

/// How far AdamW's first step moves each tensor: by its learning rate, whatever the gradient.
fn first_step(adapter: &str) -> BTreeMap<String, f64> {
    let folder = tempfile::tempdir().unwrap();
    let adapter = format!("type: adapter.lora, rank: 4, {adapter}weights: {}", init());
    train(folder.path(), &document(1, &adapter, "learning_rate: 1e-4, weight_decay: 0.0, eps: 1e-30"));
    let (before, after) = (WeightFile::open(init()).unwrap(), saved(folder.path()));
    let moved = |name: &str| {
        let (a, b) = (before.f32(name).unwrap(), after.f32(name).unwrap());
        let mut moved: Vec<f64> = a.iter().zip(&b).map(|(a, b)| (a - b).abs() as f64).collect();
        moved.sort_by(f64::total_cmp);
        moved[moved.len() / 2]
    };
    after.names().filter(|n| !n.ends_with(".alpha")).map(|n| (n.to_owned(), moved(n))).collect()
}

#[test]
fn rates_by_factor_and_block() {
    for (name, moved) in first_step("lora_plus: 16, block_rates: { mid: 0.5, up: { curve: zeros, base: 2.0 } }, ") {
        let block = match &name {
            n if n.contains("mid_block") => 0.5,
            n if n.contains("up_blocks") => 2.0,
            _ => 1.0,
        };
        let factor = if name.contains("lora_up") { 16.0 } else { 1.0 };
        near(moved, 1e-4 * block * factor, 2e-2, &name);
    }
}

#[test]
fn ranks_by_type_block_and_pattern() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = "type: adapter.lora, rank: 4, alpha: 3, conv: { rank: 2, blocks: { up.3-11: false } }, \
                   ranks: { cross_attn: 5, mlp: false }, blocks: { mid: { rank: 6, alpha: 1 }, down.0-2: false }, \
                   patterns: [{ match: 'mid.*to_q', rank: 7 }], exclude: ['resnets\\.1\\.conv2']";
    train(folder.path(), &document(1, adapter, "learning_rate: 1e-4"));
    let file = saved(folder.path());
    let size = |layer: &str| {
        let rank = file.info(&format!("lora_unet_{layer}.lora_down.weight")).map(|t| t.shape[0])?;
        Some((rank, file.f32(&format!("lora_unet_{layer}.alpha")).unwrap()[0]))
    };
    for (layer, wanted) in [
        ("down_blocks_1_attentions_0_proj_in", Some((4, 3.0))),
        ("down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", Some((5, 3.0))),
        ("down_blocks_1_attentions_0_transformer_blocks_0_ff_net_2", None),
        // A type that is left out stays out; a block's rank counts more than a type's.
        ("mid_block_attentions_0_transformer_blocks_0_ff_net_2", None),
        ("mid_block_attentions_0_transformer_blocks_0_attn2_to_k", Some((6, 1.0))),
        ("mid_block_attentions_0_transformer_blocks_0_attn2_to_q", Some((7, 3.0))),
        ("down_blocks_0_attentions_0_proj_in", None),
        ("down_blocks_0_resnets_0_conv1", Some((2, 2.0))),
        ("down_blocks_1_resnets_1_conv2", None),
        ("up_blocks_0_resnets_0_conv1", Some((2, 2.0))),
        ("up_blocks_1_resnets_0_conv1", None),
        ("up_blocks_1_resnets_0_time_emb_proj", Some((4, 3.0))),
    ] {
        assert_eq!(size(layer), wanted, "{layer}");
    }
}

#[test]
fn norms_stay_below_their_limit() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = format!("type: adapter.lora, rank: 4, scale_weight_norms: 0.3, weights: {}", init());
    let steps = train(folder.path(), &document(2, &adapter, "learning_rate: 1e-4"));
    assert!(steps[0]["norms_scaled"].as_f64().unwrap() > 0.0);
    assert!(steps.iter().all(|s| s["norm_largest"].as_f64().unwrap() <= 0.3 * (1.0 + 1e-6)));
    let file = saved(folder.path());
    for name in file.names().filter_map(|n| n.strip_suffix(".alpha")) {
        let (down, up) = (
            file.f32(&format!("{name}.lora_down.weight")).unwrap(),
            file.f32(&format!("{name}.lora_up.weight")).unwrap(),
        );
        let (width, out) = (down.len() / 4, up.len() / 4);
        let scale = file.f32(&format!("{name}.alpha")).unwrap()[0] as f64 / 4.0;
        let value = |o: usize, i: usize| (0..4).map(|r| up[o * 4 + r] as f64 * down[r * width + i] as f64).sum::<f64>();
        let square: f64 =
            (0..out).flat_map(|o| (0..width).map(move |i| (o, i))).map(|(o, i)| value(o, i).powi(2)).sum();
        assert!(scale * square.sqrt() <= 0.3 * (1.0 + 1e-5), "{name}: {}", scale * square.sqrt());
    }
}

/// FLUX: what parts of joined layers learnt is the same LoRA to a reader that knows nothing of parts.
#[test]
fn split_layers_are_saved_for_every_reader() {
    let document = |adapter: &str, rate: &str| {
        format!(
            "version: 1\nname: case\ntrain: {{ device: cpu, steps: 3, batch_size: 2 }}\nnodes:\n  \
             rows: {{ type: loader.replay, path: {} }}\n  model: {{ type: model.flux, weights: {} }}\n  \
             learn: {{ model: model, {adapter} }}\n  loss: {{ type: loss.flow, model: learn, batch: rows }}\n  \
             adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: {rate} }}\n  \
             metrics: {{ type: logger.metrics, update: adamw }}\n  \
             save: {{ type: saver.adapter, adapter: learn, update: adamw, dtype: f32 }}\n",
            fixture("lora_trajectory_flux/replay.safetensors").display(),
            fixture("flux").display(),
        )
    };
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), &document("type: adapter.lora, rank: 2, alpha: 1, split_qkv: true", "1e-2"));
    let file = saved(folder.path());
    let joined = "lora_unet_double_blocks_0_img_attn_qkv";
    assert_eq!(file.info(&format!("{joined}.lora_down.weight")).unwrap().shape[0], 6);
    assert_eq!(file.f32(&format!("{joined}.alpha")).unwrap(), [3.0]);
    let path = file.path().display().to_string();
    let again = |adapter: String| {
        let folder = tempfile::tempdir().unwrap();
        losses(&train(folder.path(), &document(&adapter, "0.0")))
    };
    let split = again(format!("type: adapter.lora, rank: 2, split_qkv: true, weights: {path}"));
    let plain = again(format!("type: adapter.lora, rank: from_file, weights: {path}"));
    let base = again("type: adapter.lora, rank: 2".into());
    for k in 0..3 {
        near(split[k], plain[k], 1e-5, "split");
        assert!((base[k] / plain[k] - 1.0).abs() > 1e-4, "it learnt something");
    }
}

/// GGPO: the first step is as without noise, the following ones are not, and a second run draws the same.
#[test]
fn noise_begins_with_the_second_step() {
    let run = |more: &str| {
        let folder = tempfile::tempdir().unwrap();
        let adapter = format!("type: adapter.lora, {more}rank: 4, weights: {}", init());
        let steps = losses(&train(folder.path(), &document(3, &adapter, "learning_rate: 1e-4")));
        (steps, saved(folder.path()).header().metadata["ss_network_args"].clone())
    };
    let (plain, _) = run("");
    let (noisy, args) = run("perturbation: { sigma: 0.1, beta: 0.1 }, ");
    assert_eq!(plain[0], noisy[0]);
    for k in 1..3 {
        let off = (plain[k] / noisy[k] - 1.0).abs();
        assert!(off > 1e-4 && off < 0.5, "step {k}: {} and {}", plain[k], noisy[k]);
    }
    assert_eq!(noisy, run("perturbation: { sigma: 0.1, beta: 0.1 }, ").0);
    assert!(args.contains("\"ggpo_sigma\": \"0.1\""), "{args}");
}

/// Of a file's modules the rates can be set, not the ranks.
#[test]
fn rates_beside_the_ranks_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = format!(
        "type: adapter.lora, rank: from_file, lora_plus: 16, block_rates: {{ mid: 0.5 }}, \
         patterns: [{{ match: up_blocks, learning_rate: 3e-4 }}], weights: {}",
        init()
    );
    train(folder.path(), &document(1, &adapter, "learning_rate: 1e-4, weight_decay: 0.0, eps: 1e-30"));
    let (before, after) = (WeightFile::open(init()).unwrap(), saved(folder.path()));
    for name in after.names().filter(|n| !n.ends_with(".alpha")) {
        let (a, b) = (before.f32(name).unwrap(), after.f32(name).unwrap());
        let mut moved: Vec<f64> = a.iter().zip(&b).map(|(a, b)| (a - b).abs() as f64).collect();
        moved.sort_by(f64::total_cmp);
        let rate = match name {
            n if n.contains("mid_block") => 0.5e-4,
            n if n.contains("up_blocks") => 3e-4,
            _ => 1e-4,
        };
        let factor = if name.contains("lora_up") { 16.0 } else { 1.0 };
        near(moved[moved.len() / 2], rate * factor, 2e-2, name);
    }
}

/// Metrics have the rate that an optimizer used, its own warm-up included.
#[test]
fn metrics_have_the_rate_of_the_step() {
    let folder = tempfile::tempdir().unwrap();
    let text = document(3, "type: adapter.lora, rank: 4", "learning_rate: 0.01, warmup_steps: 4");
    let steps = train(folder.path(), &text.replace("optimizer.adamw", "optimizer.schedule_free_adamw"));
    for (step, rate) in steps.iter().zip([0.0025, 0.005, 0.0075]) {
        let found = step.as_object().unwrap().iter().find(|(name, _)| name.starts_with("lr")).unwrap();
        near(found.1.as_f64().unwrap(), rate, 1e-6, found.0);
    }
}

/// DyLoRA saves a LoRA of the full rank.
#[test]
fn dylora_is_a_lora_in_its_file() {
    for algorithm in ["published", "sd_scripts"] {
        let folder = tempfile::tempdir().unwrap();
        let adapter = format!("type: adapter.dylora, rank: 4, unit: 2, algorithm: {algorithm}");
        train(folder.path(), &document(6, &adapter, "learning_rate: 1e-3"));
        let file = saved(folder.path());
        assert_eq!(file.names().len(), 3 * 192);
        let up = file.f32("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight").unwrap();
        assert!(up.iter().any(|x| *x != 0.0));
        assert_eq!(file.header().metadata["ss_network_module"], "networks.dylora");
    }
}
