//! `adapter.dylora`: LoRA that is good at every rank.

use pipe_core::node::About;
use pipe_data::lora_names::LoraTarget;
use pipe_data::weights::Component;
use pipe_networks::Dropouts;
use pipe_networks::adapters::{Kind, Target};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::common::{Common, Recipe, adapter_node, describe, dropout_args, idle};
use super::file::AdapterFile;
use super::targeting::{Fault, Plan, Targeting};
use crate::common::trainable::AdapterAbout;

/// Fields of `adapter.dylora`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Rank r. Default 16.
    #[serde(default)]
    #[schemars(range(min = 1, max = 4096))]
    rank: Option<u64>,
    /// Ranks that learn together; every rank is a multiple of it. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 4096))]
    unit: u64,
    /// Whose algorithm: `published`, or `sd_scripts`, where ranks above the drawn one are not cut off and each layer draws
    /// by itself. Default `published`.
    #[serde(default)]
    algorithm: Algorithm,
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

fn one() -> u64 {
    1
}

/// Whose algorithm.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Algorithm {
    /// The paper's.
    #[default]
    Published,
    /// sd-scripts'.
    SdScripts,
}

/// The node type.
pub struct Dylora;

impl Recipe for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn resolve(&self, parts: &Parts, _start: Option<&AdapterFile>) -> (Vec<Target>, Vec<Fault>) {
        let mut faults = idle(&self.targeting, &self.common, parts);
        let kind = |_: &LoraTarget, _: Component| Kind::Nested {
            unit: self.unit as usize,
            compat: matches!(self.algorithm, Algorithm::SdScripts),
        };
        let plan = Plan { rank: self.rank(), given: self.rank.is_some(), unit: self.unit, kind: &kind };
        let (targets, more) = self.targeting.resolve(parts, &plan);
        faults.extend(more);
        let one = |target: &Target| target.rank as u64 == self.unit;
        if matches!(self.algorithm, Algorithm::SdScripts) && !targets.is_empty() && targets.iter().all(one) {
            let message =
                "`algorithm` has no effect: `unit` is the whole rank, so that there is one to draw".to_owned();
            faults.push(Fault::idle("algorithm", message, Some("leave it out, or take a smaller `unit`".into())));
        }
        let whole = faults.is_empty();
        (if whole { targets } else { Vec::new() }, faults)
    }

    fn dropouts(&self) -> Dropouts {
        Dropouts { module: self.common.module_dropout as f32, neuron: 0.0, rank: 0.0 }
    }

    fn about(&self, _parts: &Parts, targets: &[Target]) -> AdapterAbout {
        let mut about = describe(Some("networks.dylora"), self.rank(), &self.targeting, &self.common, targets);
        about.args.insert("unit".into(), self.unit.to_string());
        dropout_args(&mut about, self.dropouts());
        about
    }
}

adapter_node!(
    Dylora,
    text: true,
    About {
        type_name: "adapter.dylora",
        summary: "DyLoRA: a LoRA whose first ranks work by themselves, so that any rank can be cut from it afterwards.",
        details: "Valipour et al. 2023. Each pass draws a rank b, a multiple of `unit`: the first b ranks act with the scale α/b, and the last \
                  `unit` of them learn. Saved as a LoRA of the full rank; cut off, a file keeps its α. Previews use all ranks.",
        example: "dylora:\n  type: adapter.dylora\n  model: unet\n  rank: 16\n  unit: 4",
    }
);
