//! `cacher.memory`: latents and text embeddings kept in memory.

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{BuildCx, Built, RunError};
use schemars::JsonSchema;
use serde::Deserialize;

use super::fill::fill;
use super::store::Store;

/// Fields of `cacher.memory`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Images encoded at once. Default 4.
    #[serde(default = "default_batch")]
    #[schemars(range(min = 1, max = 256))]
    vae_batch_size: u64,
}

pub(super) fn default_batch() -> u64 {
    4
}

/// The node type.
pub struct MemoryCacher;

impl Node for MemoryCacher {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "cacher.memory",
        summary: "Encodes images and captions once and keeps the results in memory.",
        details: "For small data sets. The autoencoder and the text encoder are freed afterwards by the graph. The latent's mean and \
                  variance are kept and a latent is drawn at each use, exactly as without a cache.",
        example: "cached:\n  type: cacher.memory\n  samples: photos\n  vae: vae\n  text: clip",
    };

    fn inputs() -> Vec<Input> {
        super::inputs()
    }

    fn outputs() -> Vec<Output> {
        super::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        super::check(cx, config.vae_batch_size)
    }

    fn plan(config: &Config, cx: &PlanCx) -> NodePlan {
        super::plan(cx, config.vae_batch_size, true)
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let cached = fill(cx, Store::memory(), config.vae_batch_size as usize)?;
        super::built(cx, cached)
    }
}
