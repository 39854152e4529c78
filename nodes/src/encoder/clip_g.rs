//! `encoder.clip_g`: the OpenCLIP ViT-bigG text encoder of SDXL and SD3.

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

/// Fields of `encoder.clip_g`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Checkpoint: a whole model in one file, a Diffusers folder, or the text encoder alone.
    #[schemars(extend("x-path" = "any"))]
    weights: String,
    /// Tokens of a caption that are read, 75, 150 or 225; longer captions are cut. Default 75. SDXL only.
    #[serde(default = "one_window")]
    #[schemars(range(min = 75, max = 225))]
    max_tokens: u64,
    /// Read emphasis such as `(word:1.2)` and `[word]` in captions. Default false. SDXL only.
    #[serde(default)]
    weighted_captions: bool,
    /// SD3: hide padding from attention in this encoder; the published models were trained without. Default false.
    #[serde(default)]
    attention_mask: bool,
    /// Type that the weights are kept in; each is cast to the type that is computed in when it is used. `f8_e4m3` rounds
    /// them and leaves out embeddings, norms and biases. Default: the type that is computed in.
    #[serde(default)]
    storage: Option<StorageType>,
    /// What shapes cannot tell, for reduced models.
    #[serde(default)]
    config: Option<Hints>,
}

fn one_window() -> u64 {
    75
}

/// OpenCLIP pads with 0.
const PAD: u32 = 0;
const COMPONENT: Component = Component::ClipG;

/// The node type.
pub struct ClipG;

impl Node for ClipG {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "encoder.clip_g",
        summary: "The OpenCLIP ViT-bigG text encoder of SDXL and SD3.",
        details: "Cherti et al. 2023. Gives the states before the last layer, without norm, and the projected pooled vector. The projection is read right from single files and from Diffusers folders, which store it transposed to each other.",
        example: "clip_g:\n  type: encoder.clip_g\n  weights: sd_xl_base_1.0.safetensors",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        common::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        clip::check_tokens(cx, config.max_tokens);
        let full = TextNetwork::Clip(ClipConfig::vit_big_g());
        let infer = |file: &_| clip::infer(file, config.config.as_ref(), Activation::Gelu, true);
        let Some((network, _)) = common::check_file(cx, &config.weights, COMPONENT, full, infer) else {
            return Facts::new();
        };
        common::facts(
            cx,
            Self::ABOUT.type_name,
            (COMPONENT, &network),
            family::take(false, 2),
            clip::length(config.max_tokens, config.weighted_captions, config.attention_mask),
            config.storage,
        )
    }

    fn plan(_config: &Config, cx: &PlanCx) -> NodePlan {
        common::plan(cx)
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let prompts = clip::prompts(config.max_tokens, PAD, config.weighted_captions, config.attention_mask);
        let take = family::take(false, 2);
        let infer = |file: &_| clip::infer(file, config.config.as_ref(), Activation::Gelu, true);
        common::build_file(cx, (&config.weights, config.storage), COMPONENT, |_| take, prompts, infer)
    }
}
