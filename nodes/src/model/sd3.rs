//! `model.sd3`: the transformer of Stable Diffusion 3 and 3.5.

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::{ComponentWeights, Family};
use pipe_networks::Network;
use pipe_networks::mmdit::MmditConfig;
use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{self, Checkpointing, Inferred, Objective};
use crate::common::errors;
use crate::common::weights_source::config_usize;

/// Fields of `model.sd3`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Checkpoint: a single file with or without encoders, or a Diffusers folder.
    #[schemars(extend("x-path" = "any"))]
    weights: String,
    /// What is kept for the backward pass. Default `none`: everything.
    #[serde(default)]
    checkpointing: Checkpointing,
    /// What shapes cannot tell, for reduced models.
    #[serde(default)]
    config: Option<Hints>,
}

/// What shapes cannot tell.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
struct Hints {
    /// Attention heads. Default: from `config.json` or the norms' widths, else heads of width 64.
    #[serde(default)]
    #[schemars(range(min = 1, max = 256))]
    heads: Option<u64>,
}

/// The node type.
pub struct Sd3Model;

const FAMILY: Family = Family::Sd3;

impl Config {
    fn infer(&self, file: &ComponentWeights) -> Inferred {
        let own = self.config.as_ref().and_then(|c| c.heads).map(|n| n as usize);
        let heads = own.or(config_usize(file.config.as_ref(), "num_attention_heads")?);
        MmditConfig::infer(file, heads).map(Network::Mmdit).map_err(errors::sizes)
    }
}

impl Node for Sd3Model {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "model.sd3",
        summary: "The transformer (MMDiT) of Stable Diffusion 3 and 3.5, Medium and Large.",
        details: "Esser et al. 2024. Which of the three it is is read from the weights. Text comes from any of CLIP-L, OpenCLIP bigG and T5-XXL; missing ones count as zeros.",
        example: "sd3:\n  type: model.sd3\n  weights: sd3_medium.safetensors\n  checkpointing: blocks",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        common::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let full = Network::Mmdit(MmditConfig::sd3_medium());
        let infer = |file: &_| config.infer(file);
        let Some((network, file)) = common::check_file(cx, &config.weights, FAMILY, full, infer) else {
            return Facts::new();
        };
        common::facts(FAMILY, &network, file.as_deref(), config.checkpointing, Objective::default())
    }

    fn plan(_config: &Config, cx: &PlanCx) -> NodePlan {
        common::plan(cx)
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let infer = |file: &_| config.infer(file);
        common::build_file(cx, &config.weights, FAMILY, config.checkpointing, |_| Objective::default(), infer)
    }
}
