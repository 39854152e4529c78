//! `encoder.clip_l`: the CLIP ViT-L text encoder of SD 1.x, SDXL, SD3 and FLUX.

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::{Component, ComponentWeights, Family, detect_set};
use pipe_networks::TextNetwork;
use pipe_networks::clip::{Activation, ClipConfig, EOS, Take, WINDOW};
use schemars::JsonSchema;
use serde::Deserialize;

use super::clip::{self, Hints};
use super::common;
use crate::common::family;
use crate::common::storage::StorageType;
use crate::common::weights_source::Source;

/// Fields of `encoder.clip_l`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(extend("x-one-of" = ["weights", "init"]))]
pub struct Config {
    /// Checkpoint: a whole model in one file, a Diffusers folder, or the text encoder alone.
    #[serde(default)]
    #[schemars(extend("x-path" = "any"))]
    weights: Option<String>,
    /// Random weights of this size, to be trained from nothing.
    #[serde(default)]
    init: Option<Init>,
    /// Family of models it encodes for: which states are read. Default: the checkpoint's; `sd1` with `init`, `flux` for an encoder alone.
    #[serde(default)]
    family: Option<For>,
    /// SD 1.x: layer whose output is used, counted from the end; 1 is the last, 2 the one before. Default 1.
    #[serde(default)]
    #[schemars(range(min = 1, max = 64))]
    clip_skip: Option<u64>,
    /// SD 1.x and SDXL: tokens of a caption that are read, 75, 150 or 225; longer captions are cut. Default 75.
    #[serde(default = "one_window")]
    #[schemars(range(min = 75, max = 225))]
    max_tokens: u64,
    /// SD 1.x and SDXL: read emphasis such as `(word:1.2)` and `[word]` in captions. Default false.
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

/// A family with this encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum For {
    /// Stable Diffusion 1.x.
    Sd1,
    /// Stable Diffusion XL.
    Sdxl,
    /// Stable Diffusion 3 and 3.5.
    Sd3,
    /// FLUX.1.
    Flux,
}

impl For {
    fn family(self) -> Family {
        match self {
            For::Sd1 => Family::Sd1,
            For::Sdxl => Family::Sdxl,
            For::Sd3 => Family::Sd3,
            For::Flux => Family::Flux,
        }
    }
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

fn one_window() -> u64 {
    75
}

/// Rows of CLIP's token table.
const VOCABULARY: usize = 49408;
const COMPONENT: Component = Component::TextEncoder;

impl Init {
    fn network(&self) -> Result<TextNetwork, String> {
        let (width, heads) = (self.width as usize, self.heads as usize);
        if !width.is_multiple_of(heads) {
            return Err(format!("width {width} cannot be split into {heads} heads"));
        }
        Ok(TextNetwork::Clip(ClipConfig {
            width,
            layers: self.layers as usize,
            heads,
            mlp: 4 * width,
            vocab: VOCABULARY,
            positions: WINDOW,
            activation: Activation::QuickGelu,
            projection: None,
            eos: EOS,
        }))
    }
}

impl Config {
    /// The family it encodes for: given, of the checkpoint, or by what the file is.
    fn target(&self, file: Option<&ComponentWeights>) -> For {
        if let Some(family) = self.family {
            return family;
        }
        let Some(file) = file else { return For::Sd1 };
        match detect_set(file.set()).architecture.family().or_else(|| pipeline_family(file)) {
            Some(Family::Sdxl) => For::Sdxl,
            Some(Family::Sd3) => For::Sd3,
            Some(Family::Flux) => For::Flux,
            Some(_) => For::Sd1,
            None if file.layout == pipe_data::weights::Layout::SingleFileLdm => For::Sd1,
            None => For::Flux,
        }
    }
    /// Where the file is not there yet: any family that the other fields allow.
    fn stand_in(&self) -> For {
        self.family.unwrap_or(if self.clip_skip.is_some() { For::Sd1 } else { For::Sdxl })
    }
    fn take(&self, target: For) -> Take {
        family::take(target == For::Sd1, self.clip_skip.unwrap_or(1) as usize)
    }
    fn infer(&self, file: &ComponentWeights) -> common::Inferred {
        clip::infer(file, self.config.as_ref(), Activation::QuickGelu, false)
    }

    fn check(&self, cx: &mut CheckCx, network: &TextNetwork, target: For) {
        clip::check_tokens(cx, self.max_tokens);
        if let Some(skip) = self.clip_skip {
            if target != For::Sd1 {
                let message = "`clip_skip` has no effect: this family reads the layer before the last";
                cx.error("P0402", "clip_skip", message, Some("leave it out, or set `family: sd1`".into()));
            } else {
                clip::check_skip(cx, skip, network);
            }
        }
        if self.attention_mask && target != For::Sd3 {
            let message = "`attention_mask` has no effect: only SD3 can be trained with padding hidden from CLIP";
            cx.error("P0402", "attention_mask", message, Some("leave it out, or set `family: sd3`".into()));
        }
        if matches!(target, For::Sd3 | For::Flux) {
            for (field, set) in [("max_tokens", self.max_tokens != 75), ("weighted_captions", self.weighted_captions)] {
                if set {
                    let message = format!("`{field}` has no effect: SD3 and FLUX read one plain window");
                    cx.error("P0402", field, message, None);
                }
            }
        }
    }
}

/// The family of the Diffusers pipeline that holds a file.
fn pipeline_family(file: &ComponentWeights) -> Option<Family> {
    let folder = file.set().path().ancestors().take(3).find(|f| f.join("model_index.json").is_file())?;
    let text = std::fs::read_to_string(folder.join("model_index.json")).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    let class = json.get("_class_name")?.as_str()?;
    Family::ALL.into_iter().find(|f| f.pipeline() == class)
}

/// The node type.
pub struct ClipL;

impl Node for ClipL {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "encoder.clip_l",
        summary: "The CLIP ViT-L text encoder of SD 1.x, SDXL, SD3 and FLUX.1, with its tokenizer.",
        details: "Radford et al. 2021. For SD 1.x the hidden states pass the final norm at every `clip_skip`. For the other families \
                  they are those before the last layer, without norm, and the pooled vector is the last layer's state at the end \
                  token. Captions are tokenized by CLIP's byte-pair encoding.",
        example: "clip:\n  type: encoder.clip_l\n  weights: sd15.safetensors",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        common::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let mut assumed = false;
        let (network, target) = match (&config.weights, &config.init) {
            (Some(path), None) => {
                let full = TextNetwork::Clip(ClipConfig::vit_l());
                let infer = |file: &_| config.infer(file);
                let Some((network, file)) = common::check_file(cx, path, COMPONENT, full, infer) else {
                    return Facts::new();
                };
                assumed = file.is_none() && config.family.is_none();
                let target = if file.is_none() { config.stand_in() } else { config.target(file.as_deref()) };
                (network, target)
            }
            (None, Some(init)) => {
                if config.config.is_some() {
                    cx.error("P0402", "config", "`config` has no effect beside `init`", None);
                }
                match init.network() {
                    Ok(network) => (network, config.target(None)),
                    Err(why) => {
                        cx.error("P0403", "init", why, None);
                        return Facts::new();
                    }
                }
            }
            _ => return Facts::new(),
        };
        config.check(cx, &network, target);
        let length = clip::length(config.max_tokens, config.weighted_captions, config.attention_mask);
        common::facts(
            cx,
            Self::ABOUT.type_name,
            (COMPONENT, &network),
            config.take(target),
            common::Length { assumed, told: config.family.map(For::family), ..length },
            config.storage,
        )
    }

    fn plan(_config: &Config, cx: &PlanCx) -> NodePlan {
        common::plan(cx)
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let prompts = clip::prompts(config.max_tokens, EOS, config.weighted_captions, config.attention_mask);
        match (&config.weights, &config.init) {
            (Some(path), _) => {
                let take = |file: &_| config.take(config.target(Some(file)));
                common::build_file(cx, (path, config.storage), COMPONENT, take, prompts, |file| config.infer(file))
            }
            (None, Some(init)) => {
                let network = init.network().map_err(|why| RunError::new("P0403", why).at("init"))?;
                let source = Source::Random { seed: init.seed };
                common::build(
                    cx,
                    COMPONENT,
                    network,
                    config.take(config.target(None)),
                    prompts,
                    (source, config.storage),
                )
            }
            (None, None) => Err(RunError::new("P0301", "neither `weights` nor `init` is given")),
        }
    }
}
