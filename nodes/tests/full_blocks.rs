//! Full fine-tuning by block: rates of their own, blocks that stay as they are, and what the plan says of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pipe_core::check::{Checked, check_text};
use pipe_core::document::Syntax;
use pipe_core::execute::{RunOptions, Status, run};
use pipe_core::plan::{Category, plan_document};
use pipe_core::run::{Progress, StopFlag};
use pipe_data::lora_names::{Group, weight_blocks};
use pipe_data::weights::{Family, WeightFile};

struct Quiet;

impl Progress for Quiet {
    fn tick(&self, _: &str, _: u64, _: u64) {}
    fn say(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}

fn fixture(path: &str) -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/fixtures").join(path)
}

fn document(model: &str, weights: &str, replay: &str, full: &str, optimizer: &str) -> String {
    let loss = if model == "sdxl" { "diffusion" } else { "flow" };
    format!(
        "version: 1\nname: case\ntrain: {{ device: cpu, steps: 1, save_state: {{ steps: 100 }} }}\nnodes:\n  \
         rows: {{ type: loader.replay, path: {} }}\n  model: {{ type: model.{model}, weights: {} }}\n  \
         learn: {{ type: adapter.full, model: model, {full} }}\n  loss: {{ type: loss.{loss}, model: learn, batch: rows }}\n  \
         optimizer: {{ loss: loss, {optimizer} }}\n",
        fixture(replay).join("replay.safetensors").display(),
        fixture(weights).display(),
    )
}

fn look(folder: &Path, text: &str) -> Checked {
    check_text(&pipe_nodes::registry(), text, &folder.join("run.yaml"), Syntax::Yaml, &[])
}

/// Runs one step; gives the state after it.
fn state(folder: &Path, text: &str) -> WeightFile {
    let checked = look(folder, text);
    let format = pipe_core::diagnostic::Format::Concise;
    assert!(checked.ok(), "{}", pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), format, false));
    let options =
        RunOptions { folder: folder.join("out"), resume: false, progress: Arc::new(Quiet), stop: StopFlag::default() };
    assert_eq!(run(&pipe_nodes::registry(), &checked, options).unwrap().status, Status::Finished);
    let state = WeightFile::open(folder.join("out/state/step-00000001/state.safetensors")).unwrap();
    // The plan knows what learns.
    let plan = plan_document(&pipe_nodes::registry(), &checked);
    let values: usize = state.names().filter(|n| n.starts_with("param.")).map(|n| state.f32(n).unwrap().len()).sum();
    let groups = &plan.nodes["optimizer"].plan.groups;
    assert_eq!(groups.iter().map(|g| g.values).sum::<u64>(), values as u64);
    let train = plan.phases.iter().find(|phase| phase.name == "train").unwrap();
    assert_eq!(train.bytes[&Category::Gradients], 4 * values as u64);
    state
}

/// AdamW's first step moves each weight by the rate of its block, whatever the gradient.
#[test]
fn rates_of_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let rates: Vec<f64> = (0..23).map(|b| [0.0, 1e-4, 3e-4][b % 3]).collect();
    let full = format!("block_learning_rates: {rates:?}");
    let adamw = "type: optimizer.adamw, weight_decay: 0.0, eps: 1e-30";
    let after = state(folder.path(), &document("sdxl", "sdxl_unet", "lora_trajectory_sdxl", &full, adamw));
    let file = ["unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors"];
    let file = file.iter().map(|name| fixture("sdxl_unet").join(name)).find(|path| path.exists()).unwrap();
    let before = WeightFile::open(file).unwrap();
    let names: Vec<&str> = before.names().collect();
    let places = weight_blocks(Family::Sdxl, names.iter().copied());
    assert_eq!(places.len(), names.len(), "SDXL has no weight outside its blocks");
    let (mut still, mut moving) = (0, 0);
    for name in names {
        let (_, block) = places[name];
        let key = format!("param.unet.{name}");
        if rates[block] == 0.0 {
            assert!(after.info(&key).is_none(), "{name} stays");
            still += 1;
            continue;
        }
        let (a, b) = (before.f32(name).unwrap(), after.f32(&key).unwrap());
        let mut moved: Vec<f64> = a.iter().zip(&b).map(|(a, b)| (a - b).abs() as f64).filter(|d| *d > 0.0).collect();
        moved.sort_by(f64::total_cmp);
        let middle = moved.get(moved.len() / 2).copied().unwrap_or(rates[block]);
        assert!((middle / rates[block] - 1.0).abs() < 2e-2, "{name}: {middle}, not {}", rates[block]);
        moving += 1;
    }
    assert!(still > 10 && moving > 10, "{still} and {moving}");
}

/// Blocks that are not named follow the optimizer's rate.
#[test]
fn a_table_of_rates() {
    let folder = tempfile::tempdir().unwrap();
    let full = "block_learning_rates: { mid: 0, up.0: 3e-4 }";
    let adamw = "type: optimizer.adamw, learning_rate: 1e-4";
    let text = document("sdxl", "sdxl_unet", "lora_trajectory_sdxl", full, adamw);
    let plan = plan_document(&pipe_nodes::registry(), &look(folder.path(), &text));
    let groups: Vec<(&str, Option<f64>)> =
        plan.nodes["optimizer"].plan.groups.iter().map(|g| (g.name.as_str(), g.rate)).collect();
    assert_eq!(groups, [("unet", Some(1e-4)), ("unet_block13", Some(3e-4))]);
    let after = state(folder.path(), &text);
    assert!(after.names().all(|name| !name.contains("mid_block")));
}

/// The last blocks of SD3 stay; without them everything learns.
#[test]
fn the_last_blocks_stay() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        |full: &str| document("sd3", "sd3", "lora_trajectory_sd3", full, "type: optimizer.adamw, learning_rate: 1e-4");
    let all = state(folder.path(), &text(""));
    let some = state(tempfile::tempdir().unwrap().path(), &text("freeze_last_blocks: 1"));
    let params = |file: &WeightFile| -> Vec<String> {
        file.names().filter_map(|n| Some(n.strip_prefix("param.transformer.")?.to_owned())).collect()
    };
    let (all, some) = (params(&all), params(&some));
    let blocks = weight_blocks(Family::Sd3, all.iter().map(String::as_str));
    let last = blocks.values().map(|(_, block)| *block).max().unwrap();
    assert!(last > 0);
    for name in &all {
        let frozen = blocks.get(name.as_str()) == Some(&(Group::Joint, last));
        assert_eq!(some.contains(name), !frozen, "{name}");
    }
}

#[test]
fn what_has_no_effect_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (full, optimizer, code, says) in [
        ("freeze_last_blocks: 1", "type: optimizer.adamw", "P0402", "no effect on a U-Net"),
        ("block_learning_rates: {}", "type: optimizer.adamw", "P0402", "names no block"),
        ("block_learning_rates: [1e-4]", "type: optimizer.adamw", "P0403", "the list has 1 entries"),
        ("block_learning_rates: { left: 1e-4 }", "type: optimizer.adamw", "P0403", "no blocks called `left`"),
        ("block_learning_rates: { mid: 1e-4 }", "type: optimizer.adafactor", "P0402", "other rates have no effect"),
        ("block_learning_rates: { mid: 0.5 }", "type: optimizer.prodigy", "P0402", "one rate for all groups"),
    ] {
        let text = document("sdxl", "sdxl_unet", "lora_trajectory_sdxl", full, optimizer);
        let checked = look(folder.path(), &text);
        let faults: Vec<_> = checked.diagnostics.iter().map(|d| (d.code, d.message.clone())).collect();
        assert!(faults.iter().any(|(c, m)| *c == code && m.contains(says)), "{full}: {faults:?}");
    }
    let list = format!("block_learning_rates: {:?}", [0.0; 23]);
    let text = document("sdxl", "sdxl_unet", "lora_trajectory_sdxl", &list, "type: optimizer.adamw");
    assert!(look(folder.path(), &text).diagnostics.iter().any(|d| d.message.contains("no weight is left to learn")));
}
