//! `adapter.lora`: low-rank adapters on a model's linear layers and convolutions.

use pipe_core::node::About;
use pipe_data::lora_names::{Group, LoraTarget, Wanted};
use pipe_data::weights::{Component, Family};
use pipe_networks::Dropouts;
use pipe_networks::adapters::{Kind, Target};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::blocks::Blocks;
use super::common::{Common, Recipe, adapter_node, describe, dropout_args, idle};
use super::extras::{Extras, norm_targets};
use super::file::AdapterFile;
use super::layer_rates::LayerRates;
use super::targeting::{Fault, Plan, Targeting, layers};
use crate::common::family;
use crate::common::trainable::AdapterAbout;

/// Fields of `adapter.lora`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Rank r of linear layers and 1×1 convolutions, or `from_file`: modules, ranks and α of `weights`; rates (`lora_plus`,
    /// `block_rates`, those of `patterns`) and dropouts stay the document's. Default 16.
    #[serde(default)]
    rank: Option<Rank>,
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
    /// GGPO, gradient-guided perturbation (sd-scripts, experimental): in training each pass adds normal noise to the weights of
    /// the adapted layers. The noise is as large as the weights and drawn on the CPU, which takes long with large models.
    #[serde(default)]
    perturbation: Option<Perturbation>,
    #[serde(flatten)]
    extras: Extras,
    #[serde(flatten)]
    targeting: Targeting,
    #[serde(flatten)]
    common: Common,
}

/// Strength of the noise on a row of a weight, which has `n` rows: `(σ·c + β·g²)/√n`, with the row's length c, mean length
/// of the base's rows and the adapter's row together, and the length g of the last step's gradient.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub struct Perturbation {
    /// σ, of the rows' lengths.
    #[schemars(range(min = 0.0, max = 100.0))]
    sigma: f64,
    /// β, of the squared gradients.
    #[schemars(range(min = 0.0, max = 1000000.0))]
    beta: f64,
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

    /// Modules and ranks of a file, and what is wrong with the fields beside it.
    fn file_targets(&self, parts: &Parts, file: &AdapterFile) -> (Vec<Target>, Vec<Fault>) {
        let (all, denoiser) = (Wanted { conv: true, embedders: true }, parts.family.denoiser());
        let mut found = Vec::new();
        let mut own = Vec::new();
        for (component, _) in parts.components() {
            for (layer, weight) in layers(parts, component, all) {
                if component == denoiser {
                    own.push(layer.clone());
                }
                let mut target = Target::lora(family::part(component), &layer.path, &layer.name, &weight, 1, 1.0);
                target.kind = self.kind(parts, &layer, component);
                let rank = target.rank_in_file(|key| file.shape(key).map(<[usize]>::to_vec));
                if let Some(rank) = rank.filter(|r| *r > 0) {
                    (target.rank, target.alpha) = (rank, rank as f32);
                    found.push((component, layer, target));
                }
            }
        }
        let mut faults = Vec::new();
        let blocks = Blocks::of(parts.family, &own);
        let kept: Vec<&LoraTarget> = found.iter().filter(|(c, ..)| *c == denoiser).map(|(_, layer, _)| layer).collect();
        let mut rates = LayerRates::new(&self.targeting, &blocks, &kept, &mut faults);
        let mut targets = Vec::new();
        let mut off = None;
        for (component, layer, mut target) in found.iter().cloned() {
            let model = component == denoiser;
            let rate = rates.of(&layer, model, blocks.place(&layer).filter(|_| model));
            rates.learns(&rate, model);
            if rate.off {
                off.get_or_insert(layer.name);
            } else {
                target.rate = rate.rate;
            }
            targets.push(target);
        }
        if let Some(name) = off {
            let message = format!("a rate of 0 would leave out `{name}`, which the file adapts");
            faults.push(Fault::wrong("block_rates", message, Some("give a rank, or a rate above 0".into())));
        }
        if !targets.is_empty() {
            rates.finish(" that the file adapts", &mut faults);
        }
        let there = |norm: &Target| norm.rank_in_file(|key| file.shape(key).map(<[usize]>::to_vec)).is_some();
        targets.extend(norm_targets(parts, true).into_iter().filter(there));
        (targets, faults)
    }

    /// Layers in parts that `split_qkv` finds among the targets, or that it has no effect.
    fn idle_split(&self, parts: &Parts, targets: &[Target]) -> Option<Fault> {
        let split = |t: &Target| matches!(&t.kind, Kind::Lora { parts, .. } if !parts.is_empty());
        if !self.split_qkv || targets.iter().any(split) {
            return None;
        }
        let message = match parts.family {
            Family::Flux | Family::Sd3 if targets.is_empty() => return None,
            Family::Flux | Family::Sd3 => {
                "`split_qkv` has no effect: no layer that joins several is adapted".to_owned()
            }
            family => format!("`split_qkv` has no effect: it splits layers of FLUX and SD3, not of {family}"),
        };
        Some(Fault::idle("split_qkv", message, Some("leave it out".into())))
    }
}

impl Recipe for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn resolve(&self, parts: &Parts, start: Option<&AdapterFile>) -> (Vec<Target>, Vec<Fault>) {
        let mut faults = idle(&self.targeting, &self.common, parts);
        if self.frozen_down && (self.targeting.lora_plus.is_some() || self.scale_weight_norms.is_some()) {
            let field = if self.targeting.lora_plus.is_some() { "lora_plus" } else { "scale_weight_norms" };
            let message = format!("`{field}` does not go with `frozen_down`: it changes the down factors' share");
            faults.push(Fault::wrong(field, message, None));
        }
        if self.perturbation() == Some([0.0; 2]) {
            let message = "`perturbation` has no effect with `sigma` and `beta` at 0".to_owned();
            faults.push(Fault::idle("perturbation", message, Some("leave it out".into())));
        }
        let mut extras = self.extras;
        if extras.scalar && self.perturbation.is_some() {
            let message = "`scalar` does not go with `perturbation`, whose noise looks at the factors alone".to_owned();
            faults.push(Fault::wrong("scalar", message, Some("leave one of them out".into())));
        }
        let (mut targets, more) = match self.rank {
            Some(Rank::Of(FromFile::FromFile)) => {
                let t = &self.targeting;
                let mut fields: Vec<String> = [
                    ("conv", t.conv.is_some()),
                    ("embedders", t.embedders),
                    ("ranks", t.ranks.is_some()),
                    ("blocks", t.blocks.is_some()),
                    ("text_ranks", t.text_ranks.is_some()),
                    ("include", t.include.is_some()),
                    ("exclude", t.exclude.is_some()),
                    ("norms", self.extras.norms),
                ]
                .into_iter()
                .filter(|(_, set)| *set)
                .map(|(field, _)| field.to_owned())
                .collect();
                let patterns = t.patterns.iter().flatten().enumerate();
                fields.extend(patterns.filter(|(_, p)| p.rank.is_some()).map(|(i, _)| format!("patterns.{i}.rank")));
                fields.retain(|field| faults.iter().all(|fault| fault.field != *field));
                for field in fields {
                    let message = format!("`{field}` has no effect beside `rank: from_file`");
                    faults.push(Fault::idle(&field, message, Some("leave it out, or give a rank".into())));
                }
                if self.common.weights.is_none() {
                    let message = "`rank: from_file` needs `weights`".to_owned();
                    faults.push(Fault::wrong("rank", message, Some("name the file, or give a rank".into())));
                }
                extras.norms = false;
                start.map(|file| self.file_targets(parts, file)).unwrap_or_default()
            }
            rank => {
                let number = match rank {
                    Some(Rank::Number(rank)) => rank,
                    _ => 16,
                };
                let kind = |layer: &LoraTarget, component| self.kind(parts, layer, component);
                self.targeting.resolve(parts, &Plan { rank: number, given: rank.is_some(), unit: 1, kind: &kind })
            }
        };
        faults.extend(more);
        faults.extend(self.idle_split(parts, &targets));
        faults.extend(extras.apply(parts, (&self.targeting, &self.common), &mut targets));
        (targets, faults)
    }

    fn own_ranks(&self) -> bool {
        !matches!(self.rank, Some(Rank::Of(_)))
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
            Some(Rank::Number(rank)) => rank,
            None => 16,
            // The largest stands for all.
            Some(Rank::Of(_)) => targets.iter().map(|t| t.rank as u64).max().unwrap_or(0),
        };
        let module = match self.frozen_down {
            true => Some("networks.lora_fa"),
            false => self.extras.any().then_some("lycoris.kohya"),
        };
        let mut about = describe(module, rank, &self.targeting, &self.common, targets);
        if module == Some("lycoris.kohya") {
            about.args.insert("algo".into(), "lora".into());
        }
        self.extras.describe(&mut about);
        dropout_args(&mut about, self.dropouts());
        about.norm_limit = self.scale_weight_norms;
        for (name, value) in ["ggpo_sigma", "ggpo_beta"].into_iter().zip(self.perturbation().into_iter().flatten()) {
            about.args.insert(name.into(), value.to_string());
        }
        about
    }

    fn norm_limit(&self) -> Option<f64> {
        self.scale_weight_norms
    }

    fn perturbation(&self) -> Option<[f64; 2]> {
        self.perturbation.map(|noise| [noise.sigma, noise.beta])
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
