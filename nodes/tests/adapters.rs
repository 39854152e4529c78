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
        (
            "loha_tucker",
            "type: adapter.loha, rank: 2, conv: { rank: 2 }, tucker: true",
            "lycoris.kohya",
            "\"use_tucker\": \"True\"",
        ),
        (
            "lokr_tucker",
            "type: adapter.lokr, rank: 2, conv: { rank: 2 }, tucker: true",
            "lycoris.kohya",
            "\"use_tucker\": \"True\"",
        ),
        ("lokr", "type: adapter.lokr, rank: 2, conv: { rank: 2 }", "lycoris.kohya", "\"algo\": \"lokr\""),
        (
            "lokr_both",
            "type: adapter.lokr, rank: 1, conv: { rank: 1 }, decompose_both: true, factor: 3",
            "lycoris.kohya",
            "\"factor\": \"3\"",
        ),
        ("dora", "type: adapter.dora, rank: 2, conv: { rank: 2 }", "lycoris.kohya", "\"dora_wd\": \"True\""),
        (
            "loha_more",
            "type: adapter.loha, rank: 2, conv: { rank: 2 }, scalar: true",
            "lycoris.kohya",
            "\"use_scalar\": \"True\"",
        ),
        (
            "lokr_more",
            "type: adapter.lokr, rank: 2, conv: { rank: 2 }, scalar: true",
            "lycoris.kohya",
            "\"use_scalar\": \"True\"",
        ),
        (
            "locon_more",
            "type: adapter.lora, rank: from_file, scalar: true",
            "lycoris.kohya",
            "\"use_scalar\": \"True\"",
        ),
        (
            "glora",
            "type: adapter.glora, rank: 2, conv: { rank: 2 }, scalar: true",
            "lycoris.kohya",
            "\"algo\": \"glora\"",
        ),
        ("ia3", "type: adapter.ia3, layers: all", "lycoris.kohya", "\"algo\": \"ia3\""),
        ("diag_oft", "type: adapter.diag_oft, layers: all", "lycoris.kohya", "\"algo\": \"diag-oft\""),
        (
            "diag_oft_rescaled",
            "type: adapter.diag_oft, layers: all, rescaled: true",
            "lycoris.kohya",
            "\"rescaled\": \"True\"",
        ),
        (
            "boft",
            "type: adapter.boft, layers: all, block_size: 10, rescaled: true",
            "lycoris.kohya",
            "\"algo\": \"boft\"",
        ),
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
        (
            format!(
                "type: adapter.lora, rank: from_file, patterns: [{{ match: lora, learning_rate: 1e-3 }}], weights: {}",
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
        (steps, saved(folder.path()).header().metadata.get("ss_network_args").cloned().unwrap_or_default())
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
    let text = document(4, "type: adapter.lora, rank: 4", "learning_rate: 0.01, warmup_steps: 4");
    let steps = train(folder.path(), &text.replace("optimizer.adamw", "optimizer.schedule_free_adamw"));
    for (step, rate) in steps.iter().zip([0.0025, 0.005, 0.0075, 0.01]) {
        let found = step.as_object().unwrap().iter().find(|(name, _)| name.starts_with("lr")).unwrap();
        near(found.1.as_f64().unwrap(), rate, 1e-6, found.0);
    }
}

/// rs_lora: the file has α·√r, so that a reader that knows α/r alone computes the same; and so it is read again. Norms are
/// in the same file.
#[test]
fn scales_by_roots_for_every_reader() {
    for kind in ["lora", "loha", "lokr", "dora", "glora"] {
        let folder = tempfile::tempdir().unwrap();
        let adapter = format!("type: adapter.{kind}, rank: 4, alpha: 3, rs_lora: true, norms: true");
        // After one step at this rate a change of scale shows.
        let learnt = losses(&train(folder.path(), &document(2, &adapter, "learning_rate: 3e-2, weight_decay: 0.0")));
        let file = saved(folder.path());
        let alphas: Vec<f32> =
            file.names().filter(|n| n.ends_with(".alpha")).map(|n| file.f32(n).unwrap()[0]).collect();
        assert!(alphas.len() > 100 && alphas.iter().all(|a| (a / 6.0 - 1.0).abs() < 1e-6 || *a == 4.0), "{kind}");
        assert!(file.names().any(|n| n.ends_with(".w_norm")), "{kind}");
        let metadata = &file.header().metadata;
        assert!(metadata["ss_network_args"].contains("\"rs_lora\": \"True\""));
        let again = |adapter: String| {
            let folder = tempfile::tempdir().unwrap();
            losses(&train(folder.path(), &document(3, &adapter, "learning_rate: 0.0")))
        };
        let path = file.path().display().to_string();
        let own = again(format!("type: adapter.{kind}, rank: 4, norms: true, weights: {path}"));
        let merged = again(format!("type: adapter.lora, rank: 2, base_weights: [{{ path: {path} }}]"));
        for k in 0..3 {
            near(merged[k], own[k], 3e-5, kind);
        }
        // In the second step of training the file's weights were one step away.
        assert!((learnt[1] / own[1] - 1.0).abs() > 1e-6, "{kind} learns");
        if kind == "lora" {
            let found = again(format!("type: adapter.lora, rank: from_file, weights: {path}"));
            near(found[1], own[1], 1e-6, "norms of the file");
        }
    }
}

/// LyCORIS' `full` with its norms: whole weights learn, from the base on.
#[test]
fn whole_layers_and_norms_as_differences() {
    let folder = tempfile::tempdir().unwrap();
    let reference = WeightFile::open(fixture("lycoris/full.safetensors")).unwrap();
    let optimizer = "learning_rate: 1e-3, weight_decay: 0.0";
    let steps = train(folder.path(), &document(20, "type: adapter.diff, layers: all, norms: true", optimizer));
    let (wanted, norms) = (reference.f32("losses").unwrap(), reference.f32("grad_norms").unwrap());
    for (k, step) in steps.iter().enumerate() {
        near(step["loss"].as_f64().unwrap(), wanted[k] as f64, 2e-5, &format!("loss of step {k}"));
        near(step["grad_norm"].as_f64().unwrap(), norms[k] as f64, 1e-3, &format!("norm of step {k}"));
    }
    let ours = saved(folder.path());
    assert_eq!(ours.names().len() as i64, reference.i64("count").unwrap()[0]);
    assert!(ours.names().all(|name| !name.ends_with(".alpha")));
    let (mut off, mut moved) = (0.0f64, 0.0f64);
    for name in reference.names().filter_map(|name| name.strip_prefix("final.")) {
        let (now, last) = (ours.f32(name).unwrap(), reference.f32(&format!("final.{name}")).unwrap());
        assert_eq!(ours.info(name).unwrap().shape, reference.info(&format!("final.{name}")).unwrap().shape, "{name}");
        for (a, b) in now.iter().zip(&last) {
            off += ((a - b) as f64).powi(2);
            moved += (*b as f64).powi(2);
        }
    }
    assert!(moved > 0.0 && (off / moved).sqrt() < 1e-3, "off by {:.2e}", (off / moved).sqrt());
    let arguments = &ours.header().metadata["ss_network_args"];
    assert!(arguments.contains("\"algo\": \"full\"") && arguments.contains("\"train_norm\": \"True\""), "{arguments}");

    // The file goes on where it ended; without the adapter the base is as it was.
    let path = ours.path().display();
    let still = "learning_rate: 0.0";
    let again = format!("type: adapter.diff, layers: all, norms: true, weights: {path}");
    let run = |adapter: &str| losses(&train(tempfile::tempdir().unwrap().path(), &document(1, adapter, still)))[0];
    let (fresh, trained) = (run("type: adapter.diff"), run(&again));
    near(fresh, wanted[0] as f64, 2e-5, "nothing learnt");
    assert!(trained < fresh);
    let dropped = run(&format!("{again}, module_dropout: 0.9"));
    assert!(dropped != trained && dropped != fresh);
}

/// A LoRA file's layers by their paths in Diffusers' U-Net, in a spelling of PEFT or of Diffusers.
fn respelled(folder: &Path, [down, up, before]: [&str; 3], metadata: &BTreeMap<String, String>, alpha: bool) -> String {
    use pipe_data::lora_names::{Wanted, targets};
    use pipe_data::weights::{Component, Family};
    let unet = WeightFile::open(fixture("diffusers_dir/unet/diffusion_pytorch_model.safetensors")).unwrap();
    let shapes = unet.names().map(|name| (name, unet.info(name).unwrap().shape.clone()));
    let file = WeightFile::open(init()).unwrap();
    let mut tensors = Vec::new();
    for target in targets(Family::Sd1, Component::Unet, shapes, Wanted::default()) {
        for (from, to) in [("lora_down.weight", down), ("lora_up.weight", up), ("alpha", ".alpha")] {
            let name = format!("{}.{from}", target.name);
            if to != ".alpha" || alpha {
                let shape = file.info(&name).unwrap().shape.clone();
                let to = format!("{before}{}{to}", target.path);
                tensors.push(TensorOut::f32(to, DType::F32, shape, file.f32(&name).unwrap()));
            }
        }
    }
    let path = folder.join("spelled.safetensors");
    write_safetensors(&path, tensors, metadata).unwrap();
    path.display().to_string()
}

/// Files of PEFT and of Diffusers, with α of their own, in the metadata, or nowhere (then it is the rank).
#[test]
fn files_in_other_spellings() {
    let run = |adapter: &str| {
        let text = document(2, &format!("type: adapter.lora, {adapter}"), "learning_rate: 1e-3");
        let folder = tempfile::tempdir().unwrap();
        let losses = losses(&train(folder.path(), &text));
        (losses, saved(folder.path()).names().map(String::from).collect::<Vec<_>>())
    };
    let kohya = run(&format!("rank: 4, weights: {}", init()));
    let folder = tempfile::tempdir().unwrap();
    let told =
        BTreeMap::from([("lora_adapter_metadata".to_owned(), r#"{"unet.r": 4, "unet.lora_alpha": 2}"#.to_owned())]);
    let peft = [".lora_A.weight", ".lora_B.weight", "unet."];
    let in_metadata = run(&format!("rank: 4, weights: {}", respelled(folder.path(), peft, &told, false)));
    assert_eq!(in_metadata, kohya);
    let bare = [".lora_A.default.weight", ".lora_B.default.weight", "base_model.model."];
    let path = respelled(folder.path(), bare, &BTreeMap::new(), true);
    assert_eq!(run(&format!("rank: from_file, weights: {path}")).0, kohya.0);
    let old = [".lora.down.weight", ".lora.up.weight", "unet."];
    let path = respelled(folder.path(), old, &BTreeMap::new(), false);
    let doubled = run(&format!("rank: 4, weights: {path}")).0;
    let twice = run(&format!("rank: 4, base_weights: [{{ path: {}, multiplier: 2 }}]", init())).0;
    near(doubled[0], twice[0], 2e-5, "α is the rank, twice that of the file");
    let merged = run(&format!("rank: 4, base_weights: [{{ path: {path} }}]")).0;
    near(merged[0], twice[0], 2e-5, "merged as well");
}

/// Diffusers keeps FLUX's joined matrices apart; its files are read into the joined ones.
#[test]
fn apart_in_the_file_and_joined_in_the_model() {
    let kohya = fixture("lora_trajectory_flux/init.safetensors").display().to_string();
    let file = WeightFile::open(&kohya).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = Vec::new();
    let (double, single) = ("transformer.transformer_blocks", "transformer.single_transformer_blocks");
    for name in file.names().filter_map(|name| name.strip_suffix(".alpha")) {
        let name = name.strip_prefix("lora_unet_").unwrap();
        let (list, rest) = name.split_once("_blocks_").unwrap();
        let (block, layer) = rest.split_once('_').unwrap();
        let parts: Vec<&str> = match layer {
            "img_attn_qkv" => vec!["attn.to_q", "attn.to_k", "attn.to_v"],
            "txt_attn_qkv" => vec!["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
            "img_attn_proj" => vec!["attn.to_out.0"],
            "txt_attn_proj" => vec!["attn.to_add_out"],
            "img_mlp_0" => vec!["ff.net.0.proj"],
            "img_mlp_2" => vec!["ff.net.2"],
            "txt_mlp_0" => vec!["ff_context.net.0.proj"],
            "txt_mlp_2" => vec!["ff_context.net.2"],
            "img_mod_lin" => vec!["norm1.linear"],
            "txt_mod_lin" => vec!["norm1_context.linear"],
            "linear1" => vec!["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"],
            "linear2" => vec!["proj_out"],
            "modulation_lin" => vec!["norm.linear"],
            other => panic!("{other}"),
        };
        let get = |ending: &str| {
            let name = format!("lora_unet_{name}.{ending}");
            (file.f32(&name).unwrap(), file.info(&name).unwrap().shape.clone())
        };
        let ((down, down_shape), (up, up_shape), (alpha, _)) =
            (get("lora_down.weight"), get("lora_up.weight"), get("alpha"));
        let (width, rank) = (down_shape[1], up_shape[1]);
        let mut row = 0;
        for (i, part) in parts.iter().enumerate() {
            // The first three are as wide as the stream, the last has what is left.
            let rows = if i < 3 && parts.len() > 1 { width } else { up_shape[0] - row };
            let place = format!("{}.{block}.{part}", if list == "double" { double } else { single });
            let own = up[row * rank..(row + rows) * rank].to_vec();
            // Parts may have other scales; here every second one is twice as strong and half as large.
            let factor = if i % 2 == 1 { 2.0 } else { 1.0 };
            let halved: Vec<f32> = own.iter().map(|x| x / factor).collect();
            tensors.push(TensorOut::f32(
                format!("{place}.lora_A.weight"),
                DType::F32,
                down_shape.clone(),
                down.clone(),
            ));
            tensors.push(TensorOut::f32(format!("{place}.lora_B.weight"), DType::F32, [rows, rank], halved));
            tensors.push(TensorOut::f32(format!("{place}.alpha"), DType::F32, [1], vec![alpha[0] * factor]));
            row += rows;
        }
    }
    let path = folder.path().join("flux.safetensors");
    write_safetensors(&path, tensors, &BTreeMap::new()).unwrap();
    let run = |adapter: &str| {
        let text = format!(
            "version: 1\nname: case\ntrain: {{ device: cpu, steps: 3, batch_size: 2 }}\nnodes:\n  \
             rows: {{ type: loader.replay, path: {} }}\n  model: {{ type: model.flux, weights: {} }}\n  \
             learn: {{ model: model, type: adapter.lora, {adapter} }}\n  loss: {{ type: loss.flow, model: learn, batch: rows }}\n  \
             adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: 0.0 }}\n  \
             metrics: {{ type: logger.metrics, update: adamw }}\n",
            fixture("lora_trajectory_flux/replay.safetensors").display(),
            fixture("flux").display(),
        );
        losses(&train(tempfile::tempdir().unwrap().path(), &text))
    };
    let path = path.display();
    let joined = run(&format!("rank: 2, weights: {kohya}"));
    for adapter in [
        format!("rank: from_file, weights: {path}"),
        format!("rank: 2, split_qkv: true, weights: {path}"),
        format!("rank: 2, base_weights: [{{ path: {path} }}]"),
    ] {
        for (found, wanted) in run(&adapter).iter().zip(&joined) {
            near(*found, *wanted, 2e-5, &adapter);
        }
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
