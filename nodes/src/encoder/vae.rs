//! `encoder.vae`: the image autoencoder.

use std::sync::Arc;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::{Bytes, Category, NodePlan};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::{Component, ComponentWeights, Family, detect_set};
use pipe_networks::vae::VaeConfig;
use pipe_ops::DType;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::common::autoencoder::Autoencoder;
use crate::common::engine::Engine;
use crate::common::errors;
use crate::common::family;
use crate::common::latents_fit::ScaleFrom;
use crate::common::weights_source::{self, Source};

/// Fields of `encoder.vae`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(extend("x-one-of" = ["weights", "init"]))]
pub struct Config {
    /// Checkpoint: a whole model in one file, a Diffusers folder, or the autoencoder alone in either naming.
    #[serde(default)]
    #[schemars(extend("x-path" = "any"))]
    weights: Option<String>,
    /// Random weights of this size, to be trained from nothing.
    #[serde(default)]
    init: Option<Init>,
    /// Latent scale. Default: from the Diffusers `config.json`, else that of the model in the file, else 0.18215 for 4 channels and 0.3611 for 16.
    #[serde(default)]
    #[schemars(range(min = 0.000001))]
    scaling_factor: Option<f64>,
    /// Latent shift. Default where `scaling_factor` is left out: from the Diffusers `config.json`, else that of the model in the file, else 0 for 4 channels and 0.1159 for 16. Default beside a `scaling_factor`: that of the models with this scale, else 0.
    #[serde(default)]
    shift_factor: Option<f64>,
    /// What shapes cannot tell, for reduced models.
    #[serde(default)]
    config: Option<Hints>,
}

/// Sizes of a new autoencoder.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
struct Init {
    /// Channels of each level, from full resolution down; each further level halves the size.
    #[schemars(length(min = 1, max = 6))]
    widths: Vec<u64>,
    /// Residual blocks of a level. Default 2.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 8))]
    layers: u64,
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
fn thirty_two() -> u64 {
    32
}

/// What shapes cannot tell.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
struct Hints {
    /// Groups of the group norms. Default: from `config.json`, else 32.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1024))]
    norm_groups: Option<u64>,
}

/// An opened description of the autoencoder.
struct Found {
    config: VaeConfig,
    scale: f64,
    shift: f64,
    /// Where they come from; nothing for a file that is not there yet.
    from: Option<ScaleFrom>,
    /// A scale that no model has is told without its shift.
    shiftless: bool,
    /// It stands in for a file whose name does not tell the number of channels.
    guessed: bool,
}

impl Config {
    fn of_init(&self, init: &Init) -> Result<Found, String> {
        let groups = init.norm_groups as usize;
        let widths: Vec<usize> = init.widths.iter().map(|&w| w as usize).collect();
        if let Some(w) = widths.iter().find(|w| **w == 0 || !w.is_multiple_of(groups)) {
            return Err(format!("{w} channels cannot be normalised in {groups} groups"));
        }
        let latent = init.latent_channels as usize;
        let config =
            VaeConfig { widths, layers: init.layers as usize, latent, quant: latent == 4, groups, attention: true };
        Ok(self.with_scale(config, [None; 2], None))
    }

    fn of_file(&self, file: &ComponentWeights) -> Result<Found, (&'static str, String)> {
        let json = file.config.as_ref();
        let own = self.config.as_ref().and_then(|c| c.norm_groups.map(|n| n as usize));
        let groups = own.or(weights_source::config_usize(json, "norm_num_groups")?);
        let config = VaeConfig::infer(file, groups).map_err(errors::sizes)?;
        let family = detect_set(file.set()).architecture.family();
        let known = |key: &str| weights_source::config_number(json, key);
        Ok(self.with_scale(config, [known("scaling_factor")?, known("shift_factor")?], family))
    }

    /// With scale and shift: the document's, else those of the file, else its family's.
    fn with_scale(&self, config: VaeConfig, known: [Option<f64>; 2], family: Option<Family>) -> Found {
        let by_channels = if config.latent == 16 { Family::Flux } else { Family::Sd1 };
        let usual = family::latent_scale(family.unwrap_or(by_channels));
        let (scale, shift, from) = match (self.scaling_factor, known[0]) {
            (Some(scale), _) => (scale, family::shift_of_scale(scale).or(known[1]), ScaleFrom::Document),
            // A configuration without shift has none.
            (None, Some(scale)) => (scale, known[1].or(Some(0.0)), ScaleFrom::Config),
            (None, None) => (usual.0, known[1].or(Some(usual.1)), family.map_or(ScaleFrom::Assumed, ScaleFrom::Model)),
        };
        let shift = self.shift_factor.or(shift);
        let shiftless = shift.is_none() && usual.1 != 0.0;
        Found { scale, shift: shift.unwrap_or(0.0), from: Some(from), shiftless, guessed: false, config }
    }

    /// The usual autoencoder, where the file is not there yet.
    fn stand_in(&self, path: &str) -> Found {
        // Names of 16-channel autoencoders: FLUX's `ae`, SD3's.
        let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
        let sixteen =
            name.starts_with("ae") || name.contains("sd3") || name.contains("flux") || name.contains("lumina");
        let mut found = self.with_scale(VaeConfig::standard(if sixteen { 16 } else { 4 }), [None; 2], None);
        found.from = found.from.filter(|from| *from == ScaleFrom::Document);
        let four = ["sd1", "sd_1", "sd-1", "sd2", "v1-", "v2-", "xl"];
        found.guessed = !sixteen && !four.iter().any(|part| name.contains(part));
        found
    }
}

/// The node type.
pub struct VaeEncoder;

impl Node for VaeEncoder {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "encoder.vae",
        summary: "The autoencoder between images and latents (SD 1.x to SDXL with 4 channels, SD3 and FLUX with 16).",
        details: "AutoencoderKL of Rombach et al. 2022. It runs in f32 on every device: f16 overflows in SDXL's. \
                  Latents are `(raw − shift_factor)·scaling_factor`.",
        example: "vae:\n  type: encoder.vae\n  weights: sd15.safetensors",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Vae, Rate::Setup, "The autoencoder.")]
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let found = match (&config.weights, &config.init) {
            (Some(path), None) => {
                let sizes = |file: &ComponentWeights| {
                    let found = config.of_file(file)?;
                    let shapes = found.config.shapes();
                    Ok((found, shapes))
                };
                let full = || config.stand_in(path);
                match weights_source::sizes_for_check(cx, path, Component::Vae, full, sizes) {
                    Some((found, _)) => found,
                    None => return Facts::new(),
                }
            }
            (None, Some(init)) => {
                if config.config.is_some() {
                    cx.error("P0402", "config", "`config` has no effect beside `init`", None);
                }
                match config.of_init(init) {
                    Ok(found) => found,
                    Err(why) => {
                        cx.error("P0403", "init", why, None);
                        return Facts::new();
                    }
                }
            }
            _ => return Facts::new(),
        };
        if found.shiftless {
            let message = format!("the shift beside a scale of {} is taken as 0", found.scale);
            let help = "latents of 16 channels are usually shifted: say `shift_factor: 0` if these are not";
            cx.warn("P0401", "scaling_factor", message, Some(help.into()));
        }
        let facts = if found.guessed { Facts::new().with("guessed", true) } else { Facts::new() };
        facts
            .with("latent_channels", found.config.latent as u64)
            .with("factor", found.config.factor() as u64)
            .with("scale", found.scale)
            .with("shift", found.shift)
            .with("scale_from", found.from.map_or("", ScaleFrom::id))
            .with("vae", serde_json::to_value(&found.config).unwrap_or_default())
    }

    fn plan(_config: &Config, cx: &PlanCx) -> NodePlan {
        let Some(vae) = cx.facts.get("vae").and_then(|v| serde_json::from_value::<VaeConfig>(v.clone()).ok()) else {
            return NodePlan::default();
        };
        let bytes = weights_source::bytes(&vae.shapes(), DType::F32);
        NodePlan { resident: vec![Bytes { category: Category::Weights, bytes }], ..Default::default() }
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let engine = Engine::open(cx.settings)?;
        let (found, source) = match (&config.weights, &config.init) {
            (Some(path), _) => {
                let path = cx.path(path);
                let file =
                    ComponentWeights::open(&path, Component::Vae).map_err(|e| errors::file_error(&e, "weights"))?;
                let found = config.of_file(&file).map_err(|(code, why)| RunError::new(code, why).at("weights"))?;
                (found, Source::File { path, node: cx.name.to_owned() })
            }
            (None, Some(init)) => {
                let found = config.of_init(init).map_err(|why| RunError::new("P0403", why).at("init"))?;
                (found, Source::Random { seed: init.seed })
            }
            (None, None) => return Err(RunError::new("P0301", "neither `weights` nor `init` is given")),
        };
        let vae: Arc<Autoencoder> =
            Autoencoder::new(found.config, found.scale as f32, found.shift as f32, source, engine)?;
        let content = Some(vae.fingerprint.clone());
        Ok(Built { outputs: vec![vae], content, ..Default::default() })
    }
}
