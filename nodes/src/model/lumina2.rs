//! `model.lumina2`: the transformer of Lumina-Image-2.0.

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::{ComponentWeights, Family};
use pipe_networks::Network;
use pipe_networks::lumina2::Lumina2Config;
use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{self, Inferred, Objective};
use super::memory::BlockMemory;
use crate::common::errors;
use crate::common::weights_source::config_triple;

/// Fields of `model.lumina2`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Checkpoint: the authors' single file, an all-in-one file, or a Diffusers folder.
    #[schemars(extend("x-path" = "any"))]
    weights: String,
    #[serde(flatten)]
    memory: BlockMemory,
    /// What shapes cannot tell, for reduced models.
    #[serde(default)]
    config: Option<Hints>,
}

/// What shapes cannot tell.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
struct Hints {
    /// Rotary dimensions of a head for each of the three position axes. Default: from `config.json`, else three equal parts.
    #[serde(default)]
    #[schemars(length(min = 3, max = 3))]
    axes: Option<Vec<u64>>,
}

/// The node type.
pub struct Lumina2Model;

const FAMILY: Family = Family::Lumina2;

impl Config {
    fn infer(&self, file: &ComponentWeights) -> Inferred {
        let own = self.config.as_ref().and_then(|c| c.axes.as_ref());
        let axes = match own.and_then(|axes| <[u64; 3]>::try_from(axes.as_slice()).ok()) {
            Some(axes) => Some(axes.map(|n| n as usize)),
            None => config_triple(file.config.as_ref(), "axes_dim_rope")?,
        };
        Lumina2Config::infer(file, axes).map(Network::Lumina2).map_err(errors::sizes)
    }
}

impl Node for Lumina2Model {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "model.lumina2",
        summary: "The transformer of Lumina-Image-2.0.",
        details: "Qin et al. 2025. Text comes from Gemma-2-2B, latents from the FLUX autoencoder.",
        example: "lumina2:\n  type: model.lumina2\n  weights: lumina_2_model_bf16.safetensors\n  checkpointing: blocks",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        common::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let full = Network::Lumina2(Lumina2Config::image_2_0());
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
