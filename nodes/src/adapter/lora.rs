//! `adapter.lora`: low-rank adapters on a model's linear layers and convolutions.

use pipe_core::node::About;
use pipe_data::lora_names::{Group, LoraTarget};
use pipe_data::weights::{Component, Family, Header};
use pipe_networks::Dropouts;
use pipe_networks::adapters::{Kind, Target};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::common::{Common, Recipe, adapter_node, describe, dropout_args, idle};
use super::targeting::{Conv, Fault, Plan, Targeting};
use crate::common::trainable::AdapterAbout;

/// Fields of `adapter.lora`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Rank r of linear layers and 1×1 convolutions, or `from_file`: modules, ranks and α of `weights`; rates (`lora_plus`,
    /// `block_rates`, those of `patterns`) and dropouts stay the document's. Default 16.
    #[serde(default)]
    rank: Rank,
    /// Probability of zeroing a rank-space activation (neuron dropout). Default 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.99))]
    dropout: f64,
    /// Probability of leaving a rank out for a sample. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.99))]
    rank_dropout: f64,
    /// LoRA-FA (Zhang et al. 2023): the down factors stay as they start, which saves half of the optimizer's state.
    /// Default false.
    #[serde(default)]
    frozen_down: bool,
    /// SD3 and FLUX: query, key and value (and FLUX's feed-forward) of a joined layer get a pair of factors each. Saved as
    /// one pair that every program reads. Default false.
    #[serde(default)]
    split_qkv: bool,
    /// Longest ΔW (Frobenius norm): longer ones are scaled down after each step.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 1000000.0))]
    scale_weight_norms: Option<f64>,
    #[serde(flatten)]
    targeting: Targeting,
    #[serde(flatten)]
    common: Common,
}

/// A number, or that of the file.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Rank {
    /// The rank.
    Number(#[schemars(range(min = 1, max = 4096))] u64),
    /// The file's.
    Of(FromFile),
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum FromFile {
    /// Modules and ranks are those of `weights`.
    FromFile,
}

impl Default for Rank {
    fn default() -> Self {
        Rank::Number(16)
    }
}

/// The node type.
pub struct Lora;

/// Rows of the parts that a joined layer consists of.
pub fn parts_of(family: Family, layer: &LoraTarget) -> Vec<usize> {
    let thirds = || vec![layer.outputs / 3; 3];
    match (family, layer.group) {
        (Family::Flux, Group::Double) if layer.path.ends_with(".qkv") => thirds(),
        (Family::Sd3, Group::Joint) if layer.path.ends_with(".qkv") => thirds(),
        (Family::Flux, Group::Single) if layer.path.ends_with(".linear1") && layer.outputs > 3 * layer.inputs => {
            vec![layer.inputs, layer.inputs, layer.inputs, layer.outputs - 3 * layer.inputs]
        }
        _ => Vec::new(),
    }
}

impl Config {
    fn kind(&self, parts: &Parts, layer: &LoraTarget, component: Component) -> Kind {
        let split = self.split_qkv && component == parts.family.denoiser();
        let parts = if split { parts_of(parts.family, layer) } else { Vec::new() };
        Kind::Lora { frozen_down: self.frozen_down, parts }
    }

    /// Modules and ranks of a file, with the rates that the fields give them.
    fn file_targets(&self, parts: &Parts, header: &Header) -> (Vec<Target>, Vec<Fault>) {
        let everywhere = Some(Conv { rank: 1, alpha: None, blocks: None });
        let all = Targeting { conv: everywhere, embedders: true, ..self.targeting.clone() };
        let kind = |layer: &LoraTarget, component| self.kind(parts, layer, component);
        let (targets, faults) = all.resolve(parts, &Plan { rank: 1, kind: &kind });
        let in_file = |mut target: Target| {
            let rank = target.rank_in_file(|key| header.tensors.get(key).map(|t| t.shape.clone()));
            let rank = rank.filter(|rank| *rank > 0)?;
            (target.rank, target.alpha) = (rank, rank as f32);
            Some(target)
        };
        (targets.into_iter().filter_map(in_file).collect(), faults)
    }
}

impl Recipe for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn resolve(&self, parts: &Parts, start: Option<&Header>) -> (Vec<Target>, Vec<Fault>) {
        let mut faults = idle(&self.targeting, &self.common, parts);
        if self.split_qkv && !matches!(parts.family, Family::Flux | Family::Sd3) {
            let message = format!("`split_qkv` has no effect: {} has no layers that join several", parts.family);
            faults.push(Fault::idle("split_qkv", message, Some("leave it out".into())));
        }
        if self.frozen_down && (self.targeting.lora_plus.is_some() || self.scale_weight_norms.is_some()) {
            let field = if self.targeting.lora_plus.is_some() { "lora_plus" } else { "scale_weight_norms" };
            let message = format!("`{field}` does not go with `frozen_down`: it changes the down factors' share");
            faults.push(Fault::wrong(field, message, None));
        }
        let rank = match self.rank {
            Rank::Number(rank) => rank,
            Rank::Of(FromFile::FromFile) => {
                let t = &self.targeting;
                for (field, set) in [
                    ("conv", t.conv.is_some()),
                    ("embedders", t.embedders),
                    ("ranks", t.ranks.is_some()),
                    ("blocks", t.blocks.is_some()),
                    ("text_ranks", t.text_ranks.is_some()),
                    ("include", t.include.is_some()),
                    ("exclude", t.exclude.is_some()),
                ] {
                    if set {
                        let message = format!("`{field}` has no effect beside `rank: from_file`");
                        faults.push(Fault::idle(field, message, Some("leave it out, or give a rank".into())));
                    }
                }
                let ranks = t.patterns.iter().flatten().enumerate().filter(|(_, pattern)| pattern.rank.is_some());
                for (i, _) in ranks {
                    let message = "a pattern's `rank` has no effect beside `rank: from_file`".to_owned();
                    faults.push(Fault::idle(&format!("patterns.{i}.rank"), message, Some("leave it out".into())));
                }
                if self.common.weights.is_none() {
                    let message = "`rank: from_file` needs `weights`".to_owned();
                    faults.push(Fault::wrong("rank", message, Some("name the file, or give a rank".into())));
                }
                let (targets, more) = start.map(|header| self.file_targets(parts, header)).unwrap_or_default();
                faults.extend(more);
                return (targets, faults);
            }
        };
        let kind = |layer: &LoraTarget, component| self.kind(parts, layer, component);
        let (targets, more) = self.targeting.resolve(parts, &Plan { rank, kind: &kind });
        faults.extend(more);
        (targets, faults)
    }

    fn dropouts(&self) -> Dropouts {
        Dropouts {
            module: self.common.module_dropout as f32,
            neuron: self.dropout as f32,
            rank: self.rank_dropout as f32,
        }
    }

    fn about(&self, _parts: &Parts, targets: &[Target]) -> AdapterAbout {
        let rank = match self.rank {
            Rank::Number(rank) => rank,
            // The largest stands for all.
            Rank::Of(_) => targets.iter().map(|t| t.rank as u64).max().unwrap_or(0),
        };
        let module = self.frozen_down.then_some("networks.lora_fa");
        let mut about = describe(module, rank, &self.targeting, targets);
        dropout_args(&mut about, self.dropouts());
        about.norm_limit = self.scale_weight_norms;
        about
    }

    fn norm_limit(&self) -> Option<f64> {
        self.scale_weight_norms
    }
}

adapter_node!(
    Lora,
    text: true,
    About {
        type_name: "adapter.lora",
        summary: "Low-rank adapters (LoRA) on a model's attention, feed-forward and, if asked, convolution layers.",
        details: "Hu et al. 2022: `y = W·x + (α/r)·up(down(x))`. The base stays frozen and gets no weight gradient. In a U-Net all \
                  linear layers and 1×1 convolutions of the transformers are adapted, with `conv` the residual blocks and samplers \
                  too; in a transformer (SD3, FLUX, Lumina) the matrices of its blocks; with `text` the text encoders' attention and \
                  MLPs as well. `down` starts uniform in ±1/√fan_in, `up` at zero. Ranks may differ by type of layer (`ranks`), by \
                  block (`blocks`), by regular expression (`patterns`) and for text encoders (`text_ranks`); where several speak of \
                  a layer, the later of these counts.",
        example: "lora:\n  type: adapter.lora\n  model: unet\n  rank: 16\n  alpha: 16",
    }
);
