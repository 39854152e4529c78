//! Which layers get an adapter, of which rank and α, and how fast it learns: fields shared by the adapter nodes.

use std::collections::{BTreeMap, HashMap};

use pipe_data::lora_names::{self, LoraTarget, Wanted};
use pipe_data::weights::Component;
use pipe_networks::adapters::Kind;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::size::{ByBlock, Size, Weight};
use crate::common::family;

/// Fields that say what is adapted. Later ones win: `rank`, `conv`, `ranks`, `blocks`, `patterns`. A `false` of `ranks`
/// counts more than a rank of `blocks`; a rate of 0 in `block_rates`, `include` and `exclude` more than all of these.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct Targeting {
    /// Scale numerator α: the adapter's output is multiplied by α/r. Default: the rank.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 1e30))]
    pub alpha: Option<f64>,
    /// U-Nets: also adapt residual blocks and samplers, their 3×3 convolutions with this rank.
    #[serde(default)]
    pub conv: Option<Conv>,
    /// Transformers: also adapt the embedders before the blocks, and SD3's last layer. Default false.
    #[serde(default)]
    pub embedders: bool,
    /// Ranks of the model's layers by type, `false` for none: `{ img_attn: 8, txt_mod: false }`. Such a `false` also
    /// counts in blocks to which `blocks` gives a rank.
    #[serde(default)]
    #[schemars(extend("minProperties" = 1))]
    pub ranks: Option<BTreeMap<String, Size>>,
    /// Ranks by block, `false` for none: `{ down.4: 8, double.0-9: 4 }`, or a list of all blocks. 3×3 convolutions have
    /// their own in `conv`.
    #[serde(default)]
    pub blocks: Option<ByBlock<Size>>,
    /// Ranks of text encoders, `false` for none: `{ clip_l: 8, t5xxl: 4 }`. Default: `rank`.
    #[serde(default)]
    #[schemars(extend("minProperties" = 1))]
    pub text_ranks: Option<BTreeMap<String, Size>>,
    /// Ranks and learning rates by regular expressions; for each, the first that finds itself in a layer's name counts.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub patterns: Option<Vec<Pattern>>,
    /// Only layers in whose name one of these regular expressions finds itself.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub include: Option<Vec<String>>,
    /// No layers in whose name one of these regular expressions finds itself.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub exclude: Option<Vec<String>>,
    /// Multipliers of the learning rate by block: `{ down: { curve: sine, base: 0.25 }, up.0-5: 0.5 }`, or a list of all
    /// blocks. A block with 0 gets no adapter, whatever other fields say.
    #[serde(default)]
    pub block_rates: Option<ByBlock<Weight>>,
    /// LoRA+ (Hayou et al. 2024): the up factors learn so many times faster.
    #[serde(default)]
    pub lora_plus: Option<Plus>,
}

/// Rank and α of 3×3 convolutions.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Conv {
    /// Rank.
    #[schemars(range(min = 1, max = 4096))]
    pub rank: u64,
    /// Scale numerator α. Default: this rank.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 1000000.0))]
    pub alpha: Option<f64>,
    /// Ranks of the 3×3 convolutions by block, as in the adapter's `blocks`.
    #[serde(default)]
    pub blocks: Option<ByBlock<Size>>,
}

/// What a regular expression sets.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Pattern {
    /// Regular expression, searched in the layer's name in files (`lora_unet_…`) and in its path in the model.
    #[serde(rename = "match")]
    pub expression: String,
    /// Rank, `false` for no adapter. Default: as without this pattern.
    #[serde(default)]
    pub rank: Option<Size>,
    /// Learning rate of these layers, in place of the optimizer's. Default: as without this pattern.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub learning_rate: Option<f64>,
}

/// LoRA+ ratios.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Plus {
    /// One for all parts.
    All(#[schemars(range(min = 0.001, max = 10000.0))] f64),
    /// By part.
    Parts(PlusParts),
}

/// LoRA+ ratios by part.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1))]
pub struct PlusParts {
    /// Of the model's adapters. Default 1.
    #[serde(default)]
    #[schemars(range(min = 0.001, max = 10000.0))]
    pub model: Option<f64>,
    /// Of the text encoders' adapters. Default 1.
    #[serde(default)]
    #[schemars(range(min = 0.001, max = 10000.0))]
    pub text: Option<f64>,
}

impl Plus {
    /// Ratios of the model and the text encoders.
    pub(super) fn ratios(self) -> [f64; 2] {
        match self {
            Plus::All(ratio) => [ratio; 2],
            Plus::Parts(PlusParts { model, text }) => [model.unwrap_or(1.0), text.unwrap_or(1.0)],
        }
    }
}

/// Something wrong with a field.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Its code.
    pub code: &'static str,
    /// Path of the field.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl Fault {
    /// An option without effect.
    pub fn idle(field: &str, message: String, help: Option<String>) -> Self {
        Fault { code: "P0402", field: field.into(), message, help }
    }
    /// A value that does not fit.
    pub fn wrong(field: &str, message: String, help: Option<String>) -> Self {
        Fault { code: "P0403", field: field.into(), message, help }
    }
}

/// Ranks and kinds for [`Targeting::resolve`].
pub struct Plan<'a> {
    /// Rank of layers that nothing else is said of.
    pub rank: u64,
    /// Whether the document gives that rank.
    pub given: bool,
    /// Every rank must be a multiple of this.
    pub unit: u64,
    /// Kind of adapter of a layer of this component.
    pub kind: &'a dyn Fn(&LoraTarget, Component) -> Kind,
}

/// The layers of a part with the shapes of their weights.
pub fn layers(parts: &Parts, component: Component, wanted: Wanted) -> Vec<(LoraTarget, Vec<usize>)> {
    let shapes = parts.components().into_iter().find(|(c, _)| *c == component).map(|(_, s)| s).unwrap_or_default();
    let by_name: HashMap<&str, &Vec<usize>> = shapes.iter().map(|(n, s)| (n.as_str(), s)).collect();
    let named = shapes.iter().map(|(n, s)| (n.as_str(), s.as_slice()));
    let with_shape = |layer: LoraTarget| {
        let shape = by_name.get(format!("{}.weight", layer.path).as_str())?.to_vec();
        Some((layer, shape))
    };
    lora_names::targets(parts.family, component, named, wanted).into_iter().filter_map(with_shape).collect()
}

/// The name that settings have for a text encoder of a family.
pub fn text_name(parts: &Parts, component: Component) -> &'static str {
    family::encoder_type(parts.family, component).trim_start_matches("encoder.")
}

impl Targeting {
    /// Layers wanted besides the usual ones.
    pub fn wanted(&self) -> Wanted {
        Wanted { conv: self.conv.is_some(), embedders: self.embedders }
    }
    /// Every field that gives a rank, except `rank` and `conv.rank`, with what it gives.
    pub(super) fn sizes(&self) -> Vec<(String, Size)> {
        let of_blocks = |field: &str, blocks: Option<&ByBlock<Size>>| -> Vec<(String, Size)> {
            match blocks {
                Some(ByBlock::Some(map)) => map.iter().map(|(key, size)| (format!("{field}.{key}"), *size)).collect(),
                Some(ByBlock::All(list)) => {
                    list.iter().enumerate().map(|(i, size)| (format!("{field}.{i}"), *size)).collect()
                }
                None => Vec::new(),
            }
        };
        let mut list = of_blocks("blocks", self.blocks.as_ref());
        list.extend(of_blocks("conv.blocks", self.conv.as_ref().and_then(|conv| conv.blocks.as_ref())));
        for (field, sizes) in [("ranks", &self.ranks), ("text_ranks", &self.text_ranks)] {
            list.extend(sizes.iter().flatten().map(|(name, size)| (format!("{field}.{name}"), *size)));
        }
        let patterns = self.patterns.iter().flatten().enumerate();
        list.extend(patterns.filter_map(|(i, pattern)| Some((format!("patterns.{i}.rank"), pattern.rank?))));
        list
    }

    /// Every field that gives an α.
    pub(super) fn alphas(&self) -> Vec<String> {
        let conv = self.conv.as_ref().and_then(|conv| conv.alpha);
        let mut list: Vec<String> = self.alpha.iter().map(|_| "alpha".to_owned()).collect();
        list.extend(conv.iter().map(|_| "conv.alpha".to_owned()));
        let own = |(field, size): (String, Size)| size.get()?.alpha.map(|_| format!("{field}.alpha"));
        list.extend(self.sizes().into_iter().filter_map(own));
        list
    }
}
