//! `encoder.clip_l`: the CLIP text encoder of SD 1.x.

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::{Bytes, Category, NodePlan};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::{Component, ComponentWeights};
use pipe_networks::clip::{ClipConfig, WINDOW};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::common::engine::{Engine, compute_type};
use crate::common::errors;
use crate::common::text::TextEncoder;
use crate::common::weights_source::{self, Source};

/// Fields of `encoder.clip_l`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(extend("x-one-of" = ["weights", "init"]))]
pub struct Config {
    /// Checkpoint: a whole model in one file, a Diffusers folder, or the text encoder alone.
    #[serde(default)]
    weights: Option<String>,
    /// Random weights of this size, to be trained from nothing.
    #[serde(default)]
    init: Option<Init>,
    /// Layer whose output is used, counted from the end: 1 is the last, 2 the one before. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    clip_skip: u64,
    /// What shapes cannot tell, for reduced models.
    #[serde(default)]
    config: Option<Hints>,
}

/// Sizes of a new text encoder.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
struct Init {
    /// Width of the embeddings.
    #[schemars(range(min = 8, max = 4096))]
    width: u64,
    /// Layers.
    #[schemars(range(min = 1, max = 64))]
    layers: u64,
    /// Attention heads.
    #[schemars(range(min = 1, max = 64))]
    heads: u64,
    /// Seed of the weights. Default 0.
    #[serde(default)]
    seed: u64,
}

/// What shapes cannot tell.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
struct Hints {
    /// Attention heads. Default: from `config.json`, else heads of width 64.
    #[serde(default)]
    #[schemars(range(min = 1, max = 64))]
    heads: Option<u64>,
}

fn one() -> u64 {
    1
}

/// Rows of CLIP's token table.
const VOCABULARY: usize = 49408;

/// The node type.
pub struct ClipL;

impl Config {
    fn of_init(init: &Init) -> Result<ClipConfig, String> {
        let (width, heads) = (init.width as usize, init.heads as usize);
        if !width.is_multiple_of(heads) {
            return Err(format!("width {width} cannot be split into {heads} heads"));
        }
        let layers = init.layers as usize;
        Ok(ClipConfig { width, layers, heads, mlp: 4 * width, vocab: VOCABULARY, positions: WINDOW })
    }

    fn of_file(&self, file: &ComponentWeights) -> Result<ClipConfig, String> {
        let heads = self
            .config
            .as_ref()
            .and_then(|c| c.heads.map(|n| n as usize))
            .or_else(|| weights_source::config_usize(file.config.as_ref(), "num_attention_heads"));
        let config = ClipConfig::infer(|n| file.shape(n), heads)?;
        if config.positions < WINDOW {
            return Err(format!("the text encoder has {} positions, {WINDOW} are needed", config.positions));
        }
        if config.vocab < VOCABULARY {
            return Err(format!("the token table has {} rows, CLIP's vocabulary has {VOCABULARY}", config.vocab));
        }
        Ok(config)
    }
}

impl Node for ClipL {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "encoder.clip_l",
        summary: "The CLIP ViT-L text encoder of SD 1.x, with its tokenizer.",
        details: "Radford et al. 2021. Captions are tokenized by CLIP's byte-pair encoding to one window of 77 tokens, longer ones \
                  are cut. The hidden states pass the final norm at every `clip_skip`.",
        example: "clip:\n  type: encoder.clip_l\n  weights: sd15.safetensors",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::TextEncoder, Rate::Setup, "The text encoder.")]
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let found = match (&config.weights, &config.init) {
            (Some(path), None) => {
                let Some(file) = weights_source::open_for_check(cx, path, Component::TextEncoder) else {
                    return Facts::new();
                };
                match config.of_file(&file) {
                    Ok(found) if !weights_source::verify_for_check(cx, &file, &found.shapes()) => return Facts::new(),
                    other => other.map_err(|why| ("P0305", "weights", why)),
                }
            }
            (None, Some(init)) => {
                if config.config.is_some() {
                    cx.error("P0402", "config", "`config` has no effect beside `init`", None);
                }
                Config::of_init(init).map_err(|why| ("P0403", "init", why))
            }
            _ => return Facts::new(),
        };
        match found {
            Ok(clip) => {
                if config.clip_skip as usize > clip.layers {
                    let message =
                        format!("`clip_skip` is {}, the text encoder has {} layers", config.clip_skip, clip.layers);
                    cx.error("P0403", "clip_skip", message, None);
                }
                Facts::new()
                    .with("context_dim", clip.width as u64)
                    .with("clip_skip", config.clip_skip)
                    .with("clip", serde_json::to_value(&clip).unwrap_or_default())
            }
            Err((code, field, why)) => {
                cx.error(code, field, why, None);
                Facts::new()
            }
        }
    }

    fn plan(_config: &Config, cx: &PlanCx) -> NodePlan {
        let Some(clip) = cx.facts.get("clip").and_then(|v| serde_json::from_value::<ClipConfig>(v.clone()).ok()) else {
            return NodePlan::default();
        };
        let dtype = compute_type(cx.settings.train.precision, crate::planned_kind(cx.settings));
        let bytes = weights_source::bytes(&clip.shapes(), dtype);
        NodePlan { resident: vec![Bytes { category: Category::Weights, bytes }], ..Default::default() }
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let engine = Engine::open(cx.settings)?;
        let (clip, source) = match (&config.weights, &config.init) {
            (Some(path), _) => {
                let path = cx.path(path);
                let file = ComponentWeights::open(&path, Component::TextEncoder)
                    .map_err(|e| errors::file_error(&e, "weights"))?;
                let clip = config.of_file(&file).map_err(|why| RunError::new("P0305", why).at("weights"))?;
                (clip, Source::File(path))
            }
            (None, Some(init)) => {
                let clip = Config::of_init(init).map_err(|why| RunError::new("P0403", why).at("init"))?;
                (clip, Source::Random { seed: init.seed })
            }
            (None, None) => return Err(RunError::new("P0301", "neither `weights` nor `init` is given")),
        };
        let text = TextEncoder::new(clip, config.clip_skip as usize, source, engine)?;
        let content = Some(text.fingerprint.clone());
        Ok(Built { outputs: vec![text], content, ..Default::default() })
    }
}
