//! The keys that a LoRA of each flow family carries beside those of every adapter: the specification's §9.4 and §9.6, key
//! by key. Those of SD 1.x, and of images, are held by `tests/e2e/train.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pipe_core::document::Syntax;
use pipe_core::execute::{RunOptions, run};
use pipe_core::run::{Progress, StopFlag};
use pipe_data::metadata::ALWAYS;
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

/// Metadata of a LoRA after one step; `nodes` are the model `model` and other nodes, `text` the encoders that learn.
fn metadata(folder: &Path, rows: &str, nodes: &str, text: &str) -> BTreeMap<String, String> {
    let text = format!(
        "version: 1\nname: told\ntrain: {{ device: cpu, steps: 1, batch_size: 2 }}\nnodes:\n  \
         rows: {{ type: loader.replay, path: {} }}\n{nodes}  \
         learn: {{ type: adapter.lora, model: model, rank: 2{text} }}\n  \
         loss: {{ type: loss.flow, model: learn, batch: rows }}\n  \
         steps: {{ type: optimizer.adamw, loss: loss }}\n  \
         save: {{ type: saver.adapter, adapter: learn, update: steps }}\n",
        fixture(&format!("{rows}/replay.safetensors")).display()
    );
    let registry = pipe_nodes::registry();
    let checked = pipe_core::check::check_text(&registry, &text, &folder.join("run.yaml"), Syntax::Yaml, &[]);
    let format = pipe_core::diagnostic::Format::Concise;
    assert!(checked.ok(), "{}", pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), format, false));
    let (progress, stop) = (Arc::new(Quiet), StopFlag::default());
    run(&registry, &checked, RunOptions { folder: folder.join("out"), resume: false, progress, stop }).unwrap();
    let file = WeightFile::open(folder.join("out/checkpoints/told.safetensors")).unwrap();
    file.header().metadata.clone().into_iter().collect()
}

/// What sd-scripts adds for the weighting of timesteps, for all three.
const WEIGHTING: [&str; 4] = ["weighting_scheme", "logit_mean", "logit_std", "mode_scale"];
/// What it adds for FLUX and Lumina; of SD3 it is ours alone.
const SAMPLING: [&str; 4] = ["timestep_sampling", "sigmoid_scale", "model_prediction_type", "discrete_flow_shift"];
/// What files say of a base model and of images, whatever the family.
const DATA: &str = "network_args sd_model_name sd_model_hash new_sd_model_hash batch_size_per_device total_batch_size \
    resolution dataset_dirs reg_dataset_dirs tag_frequency bucket_info";
/// Modelspec of a LoRA, without `prediction_type`: none of these predicts noise.
const SPEC: &str = "sai_model_spec architecture implementation title resolution date implementation_version";

#[test]
fn flow_families_say_what_theirs_look_for() {
    for (rows, model, own, spec) in [
        (
            "lora_trajectory_sd3",
            "sd3, weights: F/sd3, config: { heads: 2 }",
            "apply_lg_attn_mask apply_t5_attn_mask",
            "stable-diffusion-3-medium",
        ),
        (
            "lora_trajectory_sd35m",
            "sd3, weights: F/sd35m",
            "apply_lg_attn_mask apply_t5_attn_mask",
            "stable-diffusion-3-5-medium",
        ),
        ("lora_trajectory_flux", "flux, weights: F/flux", "model_type apply_t5_attn_mask guidance_scale", "flux-1-dev"),
        (
            "lora_trajectory_flux_schnell",
            "flux, weights: F/flux_schnell",
            "model_type apply_t5_attn_mask guidance_scale",
            "flux-1-schnell",
        ),
        ("lora_trajectory_lumina2", "lumina2, weights: F/lumina2/diffusion_pytorch_model.safetensors", "", "lumina-2"),
        (
            "lora_trajectory_lumina_next",
            "lumina_next, weights: F/lumina_next/diffusion_pytorch_model.safetensors",
            "",
            "lumina-next",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let nodes =
            format!("  model: {{ type: model.{} }}\n", model.replace("F/", &format!("{}/", fixture("").display())));
        let found = metadata(folder.path(), rows, &nodes, "");
        let of = |prefix: &str| -> BTreeSet<&str> { found.keys().filter_map(|key| key.strip_prefix(prefix)).collect() };
        let always: BTreeSet<&str> = ALWAYS.iter().map(|(key, _)| key.strip_prefix("ss_").unwrap()).collect();
        let ss = of("ss_");
        assert!(always.is_subset(&ss), "{rows}: {:?}", always.difference(&ss));
        let data: BTreeSet<&str> = DATA.split_whitespace().collect();
        let beside: BTreeSet<&str> =
            ss.iter().copied().filter(|key| !always.contains(key) && !data.contains(key)).collect();
        let expected: BTreeSet<&str> = own.split_whitespace().chain(WEIGHTING).chain(SAMPLING).collect();
        assert_eq!(beside, expected, "{rows}");
        let wanted: BTreeSet<&str> = SPEC.split_whitespace().collect();
        assert_eq!(of("modelspec."), wanted, "{rows}");
        assert_eq!(found["modelspec.architecture"], format!("{spec}/lora"));
        assert_eq!(of("sshs_"), BTreeSet::from(["model_hash", "legacy_hash"]));
    }
}

/// SD3's encoders with a table of their published numbers of rows.
fn encoders(folder: &Path) {
    for (name, rows) in [("clip_l", 49408), ("clip_g", 49408), ("t5", 32128)] {
        let file = WeightFile::open(fixture(&format!("lora_trajectory_text_sd3/{name}.safetensors"))).unwrap();
        let tensors = file.names().map(|tensor| {
            let (mut shape, mut values) = (file.info(tensor).unwrap().shape.clone(), file.f32(tensor).unwrap());
            if tensor == "shared.weight" || tensor.ends_with("token_embedding.weight") {
                values = values.iter().copied().cycle().take(rows * shape[1]).collect();
                shape[0] = rows;
            }
            TensorOut::f32(tensor, DType::F32, shape, values)
        });
        write_safetensors(folder.join(format!("{name}.safetensors")), tensors, &BTreeMap::new()).unwrap();
    }
}

/// Whether padding is hidden, as the encoders are told.
#[test]
fn masks_of_sd3_are_told() {
    for (clip_l, clip_g, t5) in
        [(false, false, true), (true, false, false), (false, true, false), (false, false, false)]
    {
        let folder = tempfile::tempdir().unwrap();
        encoders(folder.path());
        let nodes = format!(
            "  model: {{ type: model.sd3, weights: {}, config: {{ heads: 2 }} }}\n  \
             clip_l: {{ type: encoder.clip_l, family: sd3, config: {{ heads: 2 }}, weights: clip_l.safetensors, attention_mask: {clip_l} }}\n  \
             clip_g: {{ type: encoder.clip_g, config: {{ heads: 2 }}, weights: clip_g.safetensors, attention_mask: {clip_g} }}\n  \
             t5: {{ type: encoder.t5xxl, max_tokens: 24, weights: t5.safetensors, attention_mask: {t5} }}\n",
            fixture("sd3").display()
        );
        let found = metadata(folder.path(), "lora_trajectory_text_sd3", &nodes, ", text: [clip_l, clip_g, t5]");
        let word = |is: bool| if is { "True" } else { "False" };
        assert_eq!(found["ss_apply_lg_attn_mask"], word(clip_l || clip_g));
        assert_eq!(found["ss_apply_t5_attn_mask"], word(t5));
    }
}
