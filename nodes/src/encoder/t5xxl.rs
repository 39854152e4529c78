//! `encoder.t5xxl`: the T5 encoder of SD3 and FLUX.

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::tokenizer::T5Tokenizer;
use pipe_data::weights::{Component, ComponentWeights};
use pipe_networks::TextNetwork;
use pipe_networks::t5::T5Config;
use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{self, Inferred, Length, rows_suffice};
use crate::common::engine::compute_type;
use crate::common::errors;
use crate::common::family;
use crate::common::storage::StorageType;
use crate::common::text::Prompts;

/// Fields of `encoder.t5xxl`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Checkpoint: the encoder alone, a whole model in one file, or a Diffusers folder; fp8 files too.
    #[schemars(extend("x-path" = "any"))]
    weights: String,
    /// Tokens of a caption with padding; longer captions are cut. 512 is usual for FLUX.1 dev, 256 for schnell and SD3. Default 512.
    #[serde(default)]
    #[schemars(range(min = 8, max = 4096))]
    max_tokens: Option<u64>,
    /// Hide padding from attention in T5, and as keys in FLUX, whose blocks otherwise read it; the published models were trained without. Default false.
    #[serde(default)]
    attention_mask: bool,
    /// Type that the weights are kept in; each is cast to the type that is computed in when it is used. `f8_e4m3` rounds
    /// them and leaves out embeddings, norms and biases. Default: the type that is computed in.
    #[serde(default)]
    storage: Option<StorageType>,
}

impl Config {
    fn tokens(&self) -> usize {
        self.max_tokens.unwrap_or(512) as usize
    }
}

const COMPONENT: Component = Component::T5;

/// The node type.
pub struct T5Xxl;

fn infer(file: &ComponentWeights) -> Inferred {
    let config = T5Config::infer(file).map_err(errors::sizes)?;
    rows_suffice(config.vocab, T5Tokenizer::embedded().vocabulary())?;
    Ok(TextNetwork::T5(config))
}

impl Node for T5Xxl {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "encoder.t5xxl",
        summary: "The T5 v1.1 XXL encoder of SD3 and FLUX.1, with its tokenizer.",
        details: "Raffel et al. 2020. f16 overflows in this network: use bf16 or f32. The vocabulary is part of this program.",
        example: "t5:\n  type: encoder.t5xxl\n  weights: t5xxl_fp16.safetensors\n  max_tokens: 512",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        common::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        if compute_type(cx.settings.train.precision, crate::planned_kind(cx.settings)) == pipe_ops::DType::F16 {
            let message = "T5 overflows in f16";
            cx.error("P0403", "", message, Some("set `train.precision: bf16`, or f32".into()));
        }
        let full = TextNetwork::T5(T5Config::xxl());
        let Some((network, _)) = common::check_file(cx, &config.weights, COMPONENT, full, infer) else {
            return Facts::new();
        };
        let length =
            Length { assumed: config.max_tokens.is_none(), ..Length::of(config.tokens(), config.attention_mask) };
        common::facts(cx, Self::ABOUT.type_name, (COMPONENT, &network), family::take(false, 2), length, config.storage)
    }

    fn plan(_config: &Config, cx: &PlanCx) -> NodePlan {
        common::plan(cx)
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let prompts = Prompts::T5 {
            tokenizer: T5Tokenizer::embedded().clone(),
            length: config.tokens(),
            masked: config.attention_mask,
        };
        common::build_file(cx, (&config.weights, config.storage), COMPONENT, |_| family::take(false, 2), prompts, infer)
    }
}
