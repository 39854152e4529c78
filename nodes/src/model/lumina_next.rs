//! `model.lumina_next`: the transformer of Lumina-Next.

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::{ComponentWeights, Family};
use pipe_networks::Network;
use pipe_networks::lumina_next::LuminaNextConfig;
use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{self, Inferred, Objective};
use super::memory::BlockMemory;
use crate::common::errors;

/// Fields of `model.lumina_next`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Checkpoint: the authors' file or a Diffusers folder.
    #[schemars(extend("x-path" = "any"))]
    weights: String,
    #[serde(flatten)]
    memory: BlockMemory,
}

/// The node type.
pub struct LuminaNextModel;

const FAMILY: Family = Family::LuminaNext;

impl Config {
    fn infer(&self, file: &ComponentWeights) -> Inferred {
        LuminaNextConfig::infer(file).map(Network::LuminaNext).map_err(errors::sizes)
    }
}

impl Node for LuminaNextModel {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "model.lumina_next",
        summary: "The transformer of Lumina-Next-T2I and -SFT.",
        details: "Zhuo et al. 2024. Text comes from Gemma-1-2B through cross-attention, latents from the SDXL autoencoder.",
        example: "lumina_next:\n  type: model.lumina_next\n  weights: consolidated.00-of-01.safetensors\n  checkpointing: blocks",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        common::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let full = Network::LuminaNext(LuminaNextConfig::t2i_2b());
        let infer = |file: &_| config.infer(file);
        let Some((network, file)) = common::check_file(cx, &config.weights, FAMILY, full, infer) else {
            return Facts::new();
        };
        common::facts(cx, FAMILY, &network, file.as_deref(), &config.memory, Objective::default())
    }

    fn plan(_config: &Config, cx: &PlanCx) -> NodePlan {
        common::plan(cx)
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let infer = |file: &_| config.infer(file);
        common::build_file(cx, &config.weights, FAMILY, &config.memory, |_| Objective::default(), infer)
    }
}
