//! What an adapter file tells of itself: rank and alpha from its tensors, training from its `ss_*` metadata.

use std::collections::{BTreeMap, BTreeSet};

use pipe_data::weights::WeightSet;
use serde::Serialize;

/// The summary of an adapter.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Wrapped layers.
    pub modules: usize,
    /// Their ranks, ascending.
    pub ranks: Vec<usize>,
    /// Their alphas, ascending.
    pub alphas: Vec<f32>,
    /// What it was trained on, as its metadata say.
    pub base: Option<String>,
    /// Other facts of its training, in reading order.
    pub training: Vec<(&'static str, String)>,
}

/// Endings of the factor whose first size is the rank.
const DOWN: [&str; 5] =
    [".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight", "_lora.down.weight"];

/// Metadata keys worth a line, with their names.
const TRAINING: [(&str, &str); 14] = [
    ("modelspec.title", "title"),
    ("ss_output_name", "output name"),
    ("ss_network_module", "module"),
    ("ss_network_dim", "rank as trained"),
    ("ss_network_alpha", "alpha as trained"),
    ("ss_resolution", "resolution"),
    ("ss_num_train_images", "images"),
    ("ss_epoch", "epochs"),
    ("ss_steps", "steps"),
    ("ss_learning_rate", "learning rate"),
    ("ss_unet_lr", "U-Net learning rate"),
    ("ss_text_encoder_lr", "text encoder learning rate"),
    ("ss_optimizer", "optimizer"),
    ("ss_training_comment", "comment"),
];

/// Sums up an adapter.
pub fn summary(set: &WeightSet, metadata: &BTreeMap<String, String>) -> Summary {
    let down = |name: &&str| DOWN.iter().any(|ending| name.ends_with(ending));
    let factors: Vec<usize> =
        set.names().filter(down).filter_map(|name| set.info(name)?.shape.first().copied()).collect();
    let alphas = set.names().filter(|name| name.ends_with(".alpha"));
    let mut alphas: Vec<f32> = alphas.filter_map(|name| set.f32(name).ok()?.first().copied()).collect();
    alphas.sort_by(f32::total_cmp);
    alphas.dedup();
    let known = |key: &str| metadata.get(key).filter(|text| !text.is_empty() && *text != "None").cloned();
    let base = ["ss_sd_model_name", "modelspec.architecture", "ss_base_model_version"].into_iter();
    let base: Vec<String> = base.filter_map(known).collect();
    Summary {
        modules: factors.len(),
        ranks: factors.iter().copied().collect::<BTreeSet<_>>().into_iter().collect(),
        alphas,
        base: (!base.is_empty()).then(|| base.join(", ")),
        training: TRAINING.iter().filter_map(|(key, name)| Some((*name, known(key)?))).collect(),
    }
}
