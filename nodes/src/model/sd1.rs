//! `model.sd1`: the U-Net of Stable Diffusion 1.x, at any size.

use std::sync::Arc;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx, Value};
use pipe_core::plan::{Bytes, Category, NodePlan};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::{Component, ComponentWeights, Layout};
use pipe_networks::Weights;
use pipe_networks::pass::Policy;
use pipe_networks::unet::{UnetConfig, UnetHints};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::engine::{Engine, compute_type};
use crate::common::errors;
use crate::common::lazy::Lazy;
use crate::common::weights_source::{self, Source};

/// Fields of `model.sd1`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(extend("x-one-of" = ["weights", "init"]))]
pub struct Config {
    /// Checkpoint: a whole model in one file, a Diffusers folder, or the U-Net alone.
    #[serde(default)]
    weights: Option<String>,
    /// Random weights of this size, to be trained from nothing.
    #[serde(default)]
    init: Option<Init>,
    /// What the model predicts. Default `epsilon`.
    #[serde(default)]
    prediction: Prediction,
    /// What is kept for the backward pass. Default `none`: everything.
    #[serde(default)]
    checkpointing: Checkpointing,
    /// What shapes cannot tell, for reduced models.
    #[serde(default)]
    config: Option<Hints>,
}

/// What the network predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise ε.
    #[default]
    Epsilon,
    /// The velocity `√ᾱ·ε − √(1−ᾱ)·x0` (Salimans and Ho 2022).
    V,
}

/// Gradient checkpointing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Checkpointing {
    /// Every activation is kept: fastest.
    #[default]
    None,
    /// Each block is computed again in the backward pass: less memory, about a third more time.
    Blocks,
}

/// Sizes of a new U-Net.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
struct Init {
    /// Channels of each level, from full resolution down.
    #[schemars(length(min = 1, max = 6))]
    widths: Vec<u64>,
    /// Whether each level has attention. Default: all but the last.
    #[serde(default)]
    attention: Option<Vec<bool>>,
    /// Residual blocks of a level. Default 2.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 8))]
    layers: u64,
    /// Attention heads of every level. Default 8.
    #[serde(default = "eight")]
    #[schemars(range(min = 1, max = 64))]
    heads: u64,
    /// Width of the text embeddings.
    #[schemars(range(min = 8, max = 8192))]
    context_dim: u64,
    /// Channels of the latent. Default 4.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = 64))]
    latent_channels: u64,
    /// Groups of the group norms. Default 32.
    #[serde(default = "thirty_two")]
    #[schemars(range(min = 1, max = 1024))]
    norm_groups: u64,
    /// Seed of the weights. Default 0.
    #[serde(default)]
    seed: u64,
}

fn two() -> u64 {
    2
}
fn four() -> u64 {
    4
}
fn eight() -> u64 {
    8
}
fn thirty_two() -> u64 {
    32
}

/// What shapes cannot tell.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
struct Hints {
    /// Attention heads of every level. Default: from `config.json`, else 8.
    #[serde(default)]
    #[schemars(range(min = 1, max = 64))]
    heads: Option<u64>,
    /// Groups of the group norms. Default: from `config.json`, else 32.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1024))]
    norm_groups: Option<u64>,
}

/// A U-Net on an edge.
pub struct Sd1 {
    /// Sizes.
    pub config: UnetConfig,
    /// What it predicts.
    pub prediction: Prediction,
    /// What is kept for backward.
    pub policy: Policy,
    /// Where the weights come from.
    pub source: Source,
    /// Layout of the file they come from.
    pub layout: Option<Layout>,
    /// Weights, loaded on demand, in the compute type.
    pub weights: Lazy<Weights>,
    /// Device.
    pub engine: Engine,
}

impl Value for Sd1 {
    fn unload(&self) {
        self.weights.unload();
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// The node type.
pub struct Sd1Model;

impl Config {
    fn of_init(init: &Init) -> Result<UnetConfig, String> {
        let widths: Vec<usize> = init.widths.iter().map(|&w| w as usize).collect();
        let (groups, heads, levels) = (init.norm_groups as usize, init.heads as usize, widths.len());
        if let Some(w) = widths.iter().find(|w| **w == 0 || !w.is_multiple_of(groups) || !w.is_multiple_of(heads)) {
            return Err(format!("{w} channels cannot be split into {groups} groups and {heads} heads"));
        }
        let depth = match &init.attention {
            Some(list) if list.len() != levels => {
                return Err(format!("`attention` has {} entries for {levels} levels", list.len()));
            }
            Some(list) => list.iter().map(|&a| a as usize).collect(),
            None => (0..levels).map(|i| (i + 1 < levels) as usize).collect(),
        };
        Ok(UnetConfig {
            channels: init.latent_channels as usize,
            time: 4 * widths[0],
            heads: vec![heads; levels],
            widths,
            layers: init.layers as usize,
            depth,
            mid_depth: 1,
            context: init.context_dim as usize,
            groups,
            linear_projection: false,
        })
    }

    fn of_file(&self, file: &ComponentWeights) -> Result<UnetConfig, String> {
        let json = file.config.as_ref();
        let own = self.config.as_ref();
        // Diffusers calls the number of heads `attention_head_dim` in SD 1.x and 2.x folders.
        let heads = json.and_then(|j| j.get("attention_head_dim")).and_then(|h| match h {
            serde_json::Value::Array(list) => list.iter().map(|n| n.as_u64().map(|n| n as usize)).collect(),
            other => other.as_u64().map(|n| vec![n as usize]),
        });
        let hints = UnetHints {
            heads: own.and_then(|c| c.heads.map(|n| vec![n as usize])).or(heads),
            head_dim: None,
            groups: own
                .and_then(|c| c.norm_groups.map(|n| n as usize))
                .or_else(|| weights_source::config_usize(json, "norm_num_groups")),
        };
        UnetConfig::infer(|n| file.shape(n), &hints)
    }
}

impl Node for Sd1Model {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "model.sd1",
        summary: "The U-Net of Stable Diffusion 1.x, at any size.",
        details: "Rombach et al. 2022. Sizes are read from the weights' shapes; `config` sets what shapes cannot tell. \
                  `init` makes a new U-Net with random weights instead, for training from nothing.",
        example: "unet:\n  type: model.sd1\n  weights: sd15.safetensors",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Model, Rate::Setup, "The U-Net.")]
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        if let Some((message, help)) = crate::common::engine::check_device(cx.settings) {
            cx.error("P0904", "/train.device", message, Some(help));
        }
        let found = match (&config.weights, &config.init) {
            (Some(path), None) => {
                let Some(file) = weights_source::open_for_check(cx, path, Component::Unet) else { return Facts::new() };
                if let Some(what) = wrong_family(&file) {
                    let message = format!("the file is {what}, not a Stable Diffusion 1.x U-Net");
                    cx.error("P0401", "weights", message, Some(format!("`pipe inspect {path}` shows what it holds")));
                    return Facts::new();
                }
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
            Ok(unet) => Facts::new()
                .with("architecture", "sd1")
                .with("latent_channels", unet.channels as u64)
                .with("context_dim", unet.context as u64)
                .with("prediction", serde_json::to_value(config.prediction).unwrap_or_default())
                .with("checkpointing", serde_json::to_value(config.checkpointing).unwrap_or_default())
                .with("random", config.init.is_some())
                .with("unet", serde_json::to_value(&unet).unwrap_or_default()),
            Err((code, field, why)) => {
                cx.error(code, field, why, None);
                Facts::new()
            }
        }
    }

    fn plan(_config: &Config, cx: &PlanCx) -> NodePlan {
        let Some(unet) = cx.facts.get("unet").and_then(|v| serde_json::from_value::<UnetConfig>(v.clone()).ok()) else {
            return NodePlan::default();
        };
        let dtype = compute_type(cx.settings.train.precision, crate::planned_kind(cx.settings));
        let shapes = unet.shapes();
        let parameters: usize = shapes.iter().map(|(_, s)| s.iter().product::<usize>()).sum();
        NodePlan {
            resident: vec![Bytes { category: Category::Weights, bytes: weights_source::bytes(&shapes, dtype) }],
            notes: vec![format!("U-Net with {parameters} parameters in {} tensors", shapes.len())],
            ..Default::default()
        }
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let engine = Engine::open(cx.settings)?;
        let (unet, source, layout) = match (&config.weights, &config.init) {
            (Some(path), _) => {
                let path = cx.path(path);
                let file =
                    ComponentWeights::open(&path, Component::Unet).map_err(|e| errors::file_error(&e, "weights"))?;
                let unet = config.of_file(&file).map_err(|why| RunError::new("P0305", why).at("weights"))?;
                (unet, Source::File(path), Some(file.layout))
            }
            (None, Some(init)) => {
                let unet = Config::of_init(init).map_err(|why| RunError::new("P0403", why).at("init"))?;
                (unet, Source::Random { seed: init.seed }, None)
            }
            (None, None) => return Err(RunError::new("P0301", "neither `weights` nor `init` is given")),
        };
        let (load, shapes, load_engine) = (source.clone(), unet.shapes(), engine.clone());
        let weights = Lazy::new(move || load.load(Component::Unet, &shapes, &load_engine.cx(), load_engine.compute));
        let policy = match config.checkpointing {
            Checkpointing::None => Policy::Keep,
            Checkpointing::Blocks => Policy::Recompute,
        };
        let content = source.fingerprint(Component::Unet)?;
        let model = Sd1 { config: unet, prediction: config.prediction, policy, source, layout, weights, engine };
        Ok(Built { outputs: vec![Arc::new(model)], content: Some(content), ..Default::default() })
    }
}

/// What a U-Net of another family is, by its weights' shapes.
fn wrong_family(file: &ComponentWeights) -> Option<String> {
    if file.shape("add_embedding.linear_1.weight").is_some() {
        return Some("an SDXL model".into());
    }
    let context = file.shape("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")?;
    if context.get(1) == Some(&1024) {
        return Some("a Stable Diffusion 2.x model".into());
    }
    match file.shape("conv_in.weight")?.get(1) {
        Some(9) => Some("an inpainting model (9 input channels)".into()),
        Some(8) => Some("an instruct-pix2pix model (8 input channels)".into()),
        _ => None,
    }
}
