//! `adapter.dora`: weight-decomposed low-rank adapters.

use pipe_core::node::About;
use pipe_data::lora_names::LoraTarget;
use pipe_data::weights::Component;
use pipe_networks::Dropouts;
use pipe_networks::adapters::{Kind, Target};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::common::{Common, Recipe, adapter_node, describe, dropout_args, idle};
use super::extras::Ranked;
use super::file::AdapterFile;
use super::targeting::{Fault, Plan, Targeting};
use crate::common::trainable::AdapterAbout;

/// Fields of `adapter.dora`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    #[serde(flatten)]
    ranked: Ranked,
    #[serde(flatten)]
    targeting: Targeting,
    #[serde(flatten)]
    common: Common,
}

/// The node type.
pub struct Dora;

impl Recipe for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn resolve(&self, parts: &Parts, _start: Option<&AdapterFile>) -> (Vec<Target>, Vec<Fault>) {
        let mut faults = idle(&self.targeting, &self.common, parts);
        let kind = |_: &LoraTarget, _: Component| Kind::Decomposed;
        let plan = Plan { rank: self.ranked.rank(), given: self.ranked.rank.is_some(), unit: 1, kind: &kind };
        let (mut targets, more) = self.targeting.resolve(parts, &plan);
        faults.extend(more);
        faults.extend(self.ranked.extras.apply(parts, (&self.targeting, &self.common), &mut targets));
        (targets, faults)
    }

    fn dropouts(&self) -> Dropouts {
        Dropouts { module: self.common.module_dropout as f32, neuron: 0.0, rank: self.ranked.rank_dropout as f32 }
    }

    fn about(&self, _parts: &Parts, targets: &[Target]) -> AdapterAbout {
        let mut about = describe(Some("lycoris.kohya"), self.ranked.rank(), &self.targeting, &self.common, targets);
        about.args.insert("algo".into(), "lora".into());
        about.args.insert("dora_wd".into(), "True".into());
        self.ranked.extras.describe(&mut about);
        dropout_args(&mut about, self.dropouts());
        about
    }
}

adapter_node!(
    Dora,
    text: true,
    About {
        type_name: "adapter.dora",
        summary: "DoRA: a LoRA on the direction of each weight row, with the row's length learnt apart.",
        details: "Liu et al. 2024, in LyCORIS' form and files: `W' = m·(W + ΔW)/‖W + ΔW‖` for each row, `ΔW = (α/r)·up·down`. `m` starts as the \
                  norms of W's rows, `up` at zero; the gradient goes through the norm.",
        example: "dora:\n  type: adapter.dora\n  model: unet\n  rank: 16\n  alpha: 16",
    }
);
