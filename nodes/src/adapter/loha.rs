//! `adapter.loha`: Hadamard products of low-rank matrices.

use pipe_core::node::About;
use pipe_data::lora_names::LoraTarget;
use pipe_data::weights::Component;
use pipe_networks::Dropouts;
use pipe_networks::adapters::{Kind, Target};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::common::{Common, Recipe, adapter_node, coreless, describe, dropout_args, idle};
use super::extras::Ranked;
use super::file::AdapterFile;
use super::targeting::{Fault, Plan, Targeting};
use crate::common::trainable::AdapterAbout;

/// Fields of `adapter.loha`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    #[serde(flatten)]
    ranked: Ranked,
    /// 3×3 convolutions: both products have a core of `rank × rank` kernels (LyCORIS' `use_tucker`), which takes fewer values. Default false.
    #[serde(default)]
    tucker: bool,
    #[serde(flatten)]
    targeting: Targeting,
    #[serde(flatten)]
    common: Common,
}

/// The node type.
pub struct Loha;

impl Recipe for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn resolve(&self, parts: &Parts, _start: Option<&AdapterFile>) -> (Vec<Target>, Vec<Fault>) {
        let mut faults = idle(&self.targeting, &self.common, parts);
        let kind = |_: &LoraTarget, _: Component| Kind::Hadamard { tucker: self.tucker };
        let plan = Plan { rank: self.ranked.rank(), given: self.ranked.rank.is_some(), unit: 1, kind: &kind };
        let (mut targets, more) = self.targeting.resolve(parts, &plan);
        faults.extend(more);
        faults.extend(coreless(self.tucker, &targets));
        faults.extend(self.ranked.extras.apply(parts, (&self.targeting, &self.common), &mut targets));
        (targets, faults)
    }

    fn dropouts(&self) -> Dropouts {
        Dropouts { module: self.common.module_dropout as f32, neuron: 0.0, rank: self.ranked.rank_dropout as f32 }
    }

    fn about(&self, _parts: &Parts, targets: &[Target]) -> AdapterAbout {
        let mut about = describe(Some("lycoris.kohya"), self.ranked.rank(), &self.targeting, &self.common, targets);
        about.args.insert("algo".into(), "loha".into());
        if self.tucker {
            about.args.insert("use_tucker".into(), "True".into());
        }
        self.ranked.extras.describe(&mut about);
        dropout_args(&mut about, self.dropouts());
        about
    }
}

adapter_node!(
    Loha,
    text: true,
    About {
        type_name: "adapter.loha",
        summary: "LoHa: the change of each layer is the elementwise product of two low-rank matrices.",
        details: "Hyeon-Woo et al. 2022, in LyCORIS' form and files: `ΔW = (α/r)·(w1a·w1b) ⊙ (w2a·w2b)`, whose rank may be r². `w2a` starts at \
                  zero. ΔW is built for each layer and pass, which takes more memory than a LoRA.",
        example: "loha:\n  type: adapter.loha\n  model: unet\n  rank: 8\n  alpha: 4",
    }
);
