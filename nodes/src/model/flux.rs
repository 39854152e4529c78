//! `model.flux`: the transformer of FLUX.1.

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::{ComponentWeights, Family};
use pipe_networks::Network;
use pipe_networks::flux::FluxConfig;
use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{self, Inferred, Objective};
use super::memory::BlockMemory;
use crate::common::errors;
use crate::common::weights_source::config_triple;

/// Fields of `model.flux`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Checkpoint: the authors' single file, an all-in-one file, or a Diffusers folder; fp8 files too.
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
    /// Rotary dimensions of a head for each of the three position axes. Default: from `config.json`, else 16, 56, 56.
    #[serde(default)]
    #[schemars(length(min = 3, max = 3))]
    axes: Option<Vec<u64>>,
}

/// The node type.
pub struct FluxModel;

const FAMILY: Family = Family::Flux;

impl Config {
    fn infer(&self, file: &ComponentWeights) -> Inferred {
        let own = self.config.as_ref().and_then(|c| c.axes.as_ref());
        let axes = match own.and_then(|axes| <[u64; 3]>::try_from(axes.as_slice()).ok()) {
            Some(axes) => Some(axes.map(|n| n as usize)),
            None => config_triple(file.config.as_ref(), "axes_dims_rope")?,
        };
        FluxConfig::infer(file, axes).map(Network::Flux).map_err(errors::sizes)
    }
}

impl Node for FluxModel {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "model.flux",
        summary: "The transformer of FLUX.1 dev and schnell.",
        details: "Black Forest Labs 2024. Whether the guidance scale is an input (dev) and how many blocks there are is read from the weights. Text comes from T5-XXL and the pooled vector of CLIP-L.",
        example: "flux:\n  type: model.flux\n  weights: flux1-dev.safetensors\n  checkpointing: blocks",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        common::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let full = Network::Flux(FluxConfig::dev());
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
