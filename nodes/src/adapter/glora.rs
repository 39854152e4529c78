//! `adapter.glora`: generalised LoRA.

use pipe_core::node::About;
use pipe_data::lora_names::LoraTarget;
use pipe_data::weights::Component;
use pipe_networks::Dropouts;
use pipe_networks::adapters::{Kind, Target};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::common::{Common, Recipe, adapter_node, describe, dropout_args, idle};
use super::extras::Extras;
use super::file::AdapterFile;
use super::targeting::{Fault, Plan, Targeting};
use crate::common::trainable::AdapterAbout;

/// Fields of `adapter.glora`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Rank r of both products. Default 16.
    #[serde(default)]
    #[schemars(range(min = 1, max = 4096))]
    rank: Option<u64>,
    #[serde(flatten)]
    extras: Extras,
    #[serde(flatten)]
    targeting: Targeting,
    #[serde(flatten)]
    common: Common,
}

impl Config {
    fn rank(&self) -> u64 {
        self.rank.unwrap_or(16)
    }
}

/// The node type.
pub struct Glora;

impl Recipe for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn resolve(&self, parts: &Parts, _start: Option<&AdapterFile>) -> (Vec<Target>, Vec<Fault>) {
        let mut faults = idle(&self.targeting, &self.common, parts);
        let kind = |_: &LoraTarget, _: Component| Kind::General;
        let plan = Plan { rank: self.rank(), given: self.rank.is_some(), unit: 1, kind: &kind };
        let (mut targets, more) = self.targeting.resolve(parts, &plan);
        faults.extend(more);
        faults.extend(self.extras.apply(parts, (&self.targeting, &self.common), &mut targets));
        (targets, faults)
    }

    fn dropouts(&self) -> Dropouts {
        Dropouts { module: self.common.module_dropout as f32, neuron: 0.0, rank: 0.0 }
    }

    fn about(&self, _parts: &Parts, targets: &[Target]) -> AdapterAbout {
        let mut about = describe(Some("lycoris.kohya"), self.rank(), &self.targeting, &self.common, targets);
        about.args.insert("algo".into(), "glora".into());
        self.extras.describe(&mut about);
        dropout_args(&mut about, self.dropouts());
        about
    }
}

adapter_node!(
    Glora,
    text: true,
    About {
        type_name: "adapter.glora",
        summary: "GLoRA: the change of each layer is a low-rank product, and another one that its weight is multiplied by.",
        details: "Chavan et al. 2023, in LyCORIS' form and files: `ΔW = (α/r)·(W·a1·a2 + b1·b2)`, so `y = W·(x + (α/r)·a1·a2·x) + \
                  (α/r)·b1·b2·x`. `a2` and `b2` start at zero. Twice as large as a LoRA of its rank.",
        example: "glora:\n  type: adapter.glora\n  model: unet\n  rank: 8\n  alpha: 8",
    }
);
