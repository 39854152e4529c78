//! What an adapter file tells of itself: rank and alpha from its tensors, training from its `ss_*` metadata.

use std::collections::{BTreeMap, BTreeSet};

use pipe_data::weights::WeightSet;
use serde::Serialize;

/// The summary of an adapter.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Wrapped layers.
    pub modules: usize,
    /// Their ranks, ascending; empty where no layer has one.
    pub ranks: Vec<usize>,
    /// Blocks of rotations of a layer, ascending.
    pub blocks: Vec<usize>,
    /// Layers whose factors are whole, so that they have no rank.
    pub whole: usize,
    /// Their alphas, ascending.
    pub alphas: Vec<f32>,
    /// What it was trained on, as its metadata say.
    pub base: Option<String>,
    /// Other facts of its training, in reading order.
    pub training: Vec<(&'static str, String)>,
}

/// What a tensor of an adapter says of its layer.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    /// Its first size is the rank.
    Rank,
    /// Its third size from the last is the number of rotations.
    Blocks,
    /// That the layer is there.
    Layer,
}

/// Endings of tensors after the name of their layer.
const ENDINGS: [(&str, Says); 27] = [
    (".lora_down.weight", Says::Rank),
    (".lora_A.weight", Says::Rank),
    (".lora_A.default.weight", Says::Rank),
    (".lora.down.weight", Says::Rank),
    ("_lora.down.weight", Says::Rank),
    (".hada_w1_b", Says::Rank),
    (".lokr_w1_b", Says::Rank),
    (".lokr_w2_b", Says::Rank),
    (".oft_blocks", Says::Blocks),
    (".oft_diag", Says::Blocks),
    (".lora_up.weight", Says::Layer),
    (".lora_B.weight", Says::Layer),
    (".lora_B.default.weight", Says::Layer),
    (".lora.up.weight", Says::Layer),
    ("_lora.up.weight", Says::Layer),
    (".hada_w1_a", Says::Layer),
    (".lokr_w1", Says::Layer),
    (".lokr_w1_a", Says::Layer),
    (".lokr_w2", Says::Layer),
    (".lokr_w2_a", Says::Layer),
    (".b2.weight", Says::Rank),
    (".a1.weight", Says::Layer),
    (".b1.weight", Says::Layer),
    (".on_input", Says::Layer),
    (".diff", Says::Layer),
    (".w_norm", Says::Layer),
    (".dora_scale", Says::Layer),
];

/// The layer of a tensor, and what it says of it.
fn read(name: &str) -> Option<(&str, Says)> {
    // Rotations of the parts of a joined layer are numbered.
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit()).strip_suffix('.').unwrap_or(name);
    ENDINGS.iter().find_map(|(ending, says)| Some((name.strip_suffix(ending)?, *says)))
}

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

/// What its tensors cannot tell and its metadata do: that it was trained to be cut to smaller ranks.
pub fn note(metadata: &BTreeMap<String, String>) -> Option<String> {
    let module = metadata.get("ss_network_module")?;
    module.contains("dylora").then(|| "trained as a DyLoRA: any smaller rank can be cut from it".to_owned())
}

/// Sums up an adapter.
pub fn summary(set: &WeightSet, metadata: &BTreeMap<String, String>) -> Summary {
    let mut layers: BTreeMap<&str, bool> = BTreeMap::new();
    let (mut ranks, mut blocks) = (BTreeSet::new(), BTreeSet::new());
    for (name, (layer, says)) in set.names().filter_map(|name| Some((name, read(name)?))) {
        let measured = layers.entry(layer).or_default();
        // BOFT has blocks for each of several stages.
        let size = |info: &pipe_data::weights::TensorInfo| match says {
            Says::Blocks => info.shape.iter().rev().nth(2).copied(),
            _ => info.shape.first().copied(),
        };
        match (says, set.info(name).and_then(size)) {
            (Says::Rank, Some(rank)) => drop(ranks.insert(rank)),
            (Says::Blocks, Some(count)) => drop(blocks.insert(count)),
            _ => continue,
        }
        *measured = true;
    }
    let alphas = set.names().filter(|name| name.ends_with(".alpha"));
    let mut alphas: Vec<f32> = alphas.filter_map(|name| set.f32(name).ok()?.first().copied()).collect();
    alphas.sort_by(f32::total_cmp);
    alphas.dedup();
    let known = |key: &str| metadata.get(key).filter(|text| !text.is_empty() && *text != "None").cloned();
    let base = ["ss_sd_model_name", "modelspec.architecture", "ss_base_model_version"].into_iter();
    let base: Vec<String> = base.filter_map(known).collect();
    Summary {
        modules: layers.len(),
        ranks: ranks.into_iter().collect(),
        blocks: blocks.into_iter().collect(),
        whole: layers.values().filter(|measured| !**measured).count(),
        alphas,
        base: (!base.is_empty()).then(|| base.join(", ")),
        training: TRAINING.iter().filter_map(|(key, name)| Some((*name, known(key)?))).collect(),
    }
}
