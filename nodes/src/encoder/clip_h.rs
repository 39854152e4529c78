//! `encoder.clip_h`: the OpenCLIP ViT-H text encoder of SD 2.x.

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::Component;
use pipe_networks::TextNetwork;
use pipe_networks::clip::{Activation, ClipConfig};
use schemars::JsonSchema;
use serde::Deserialize;

use super::clip::{self, Hints};
use super::common;
use crate::common::family;
use crate::common::storage::StorageType;

/// Fields of `encoder.clip_h`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Checkpoint: a whole model in one file, a Diffusers folder, or the text encoder alone.
    #[schemars(extend("x-path" = "any"))]
    weights: String,
    /// Layer whose output is used, counted from the end of the 23 that SD 2.x uses; 1 is the last. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    clip_skip: u64,
    /// Tokens of a caption that are read, 75, 150 or 225; longer captions are cut. Default 75.
    #[serde(default = "one_window")]
    #[schemars(range(min = 75, max = 225))]
    max_tokens: u64,
    /// Read emphasis such as `(word:1.2)` and `[word]` in captions. Default false.
    #[serde(default)]
    weighted_captions: bool,
    /// Type that the weights are kept in; each is cast to the type that is computed in when it is used. `f8_e4m3` rounds
    /// them and leaves out embeddings, norms and biases. Default: the type that is computed in.
    #[serde(default)]
    storage: Option<StorageType>,
    /// What shapes cannot tell, for reduced models.
    #[serde(default)]
    config: Option<Hints>,
}

fn one() -> u64 {
    1
}
fn one_window() -> u64 {
    75
}

/// OpenCLIP pads with 0.
const PAD: u32 = 0;
const COMPONENT: Component = Component::TextEncoder;

/// The node type.
pub struct ClipH;

impl Node for ClipH {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "encoder.clip_h",
        summary: "The OpenCLIP ViT-H text encoder of SD 2.x.",
        details: "Cherti et al. 2023. SD 2.x reads the states before the last of its 24 layers, through the final norm; that last layer is not loaded.",
        example: "clip_h:\n  type: encoder.clip_h\n  weights: v2-1_768-ema-pruned.safetensors",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        common::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        clip::check_tokens(cx, config.max_tokens);
        let full = TextNetwork::Clip(ClipConfig::vit_h());
        let infer = |file: &_| clip::infer(file, config.config.as_ref(), Activation::Gelu, false);
        let Some((network, _)) = common::check_file(cx, &config.weights, COMPONENT, full, infer) else {
            return Facts::new();
        };
        clip::check_skip(cx, config.clip_skip, &network);
        common::facts(
            cx,
            Self::ABOUT.type_name,
            (COMPONENT, &network),
            family::take(true, config.clip_skip as usize),
            clip::length(config.max_tokens, config.weighted_captions, false),
            config.storage,
        )
    }

    fn plan(_config: &Config, cx: &PlanCx) -> NodePlan {
        common::plan(cx)
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let prompts = clip::prompts(config.max_tokens, PAD, config.weighted_captions, false);
        let take = family::take(true, config.clip_skip as usize);
        let infer = |file: &_| clip::infer(file, config.config.as_ref(), Activation::Gelu, false);
        common::build_file(cx, (&config.weights, config.storage), COMPONENT, |_| take, prompts, infer)
    }
}
