//! `model.sd1`: the U-Net of Stable Diffusion 1.x, at any size.

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::Family;
use pipe_networks::Network;
use pipe_networks::unet::UnetConfig;
use pipe_train::ddpm::Prediction;
use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{self, Objective};
use super::memory::Memory;
use super::unet::{self, Hints};
use crate::common::weights_source::Source;

/// Fields of `model.sd1`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(extend("x-one-of" = ["weights", "init"]))]
pub struct Config {
    /// Checkpoint: a whole model in one file, a Diffusers folder, or the U-Net alone.
    #[serde(default)]
    #[schemars(extend("x-path" = "any"))]
    weights: Option<String>,
    /// Random weights of this size, to be trained from nothing.
    #[serde(default)]
    init: Option<Init>,
    /// What the model predicts. Default: what the file says, else `epsilon`.
    #[serde(default)]
    prediction: Option<Prediction>,
    /// Train with a schedule that ends in pure noise (Lin et al. 2024); for v models. Default: what the file says, else false.
    #[serde(default)]
    zero_terminal_snr: Option<bool>,
    #[serde(flatten)]
    memory: Memory,
    /// What shapes cannot tell, for reduced models.
    #[serde(default)]
    config: Option<Hints>,
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

impl Init {
    fn network(&self) -> Result<Network, String> {
        let widths: Vec<usize> = self.widths.iter().map(|&w| w as usize).collect();
        let (groups, heads, levels) = (self.norm_groups as usize, self.heads as usize, widths.len());
        if let Some(w) = widths.iter().find(|w| **w == 0 || !w.is_multiple_of(groups) || !w.is_multiple_of(heads)) {
            return Err(format!("{w} channels cannot be split into {groups} groups and {heads} heads"));
        }
        let depth = match &self.attention {
            Some(list) if list.len() != levels => {
                return Err(format!("`attention` has {} entries for {levels} levels", list.len()));
            }
            Some(list) => list.iter().map(|&a| a as usize).collect(),
            None => (0..levels).map(|i| (i + 1 < levels) as usize).collect(),
        };
        Ok(Network::Unet(UnetConfig {
            channels: self.latent_channels as usize,
            time: 4 * widths[0],
            heads: vec![heads; levels],
            widths,
            layers: self.layers as usize,
            depth,
            mid_depth: 1,
            context: self.context_dim as usize,
            groups,
            linear_projection: false,
            sizes: None,
        }))
    }
}

/// The node type.
pub struct Sd1Model;

const FAMILY: Family = Family::Sd1;

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
        common::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        match (&config.weights, &config.init) {
            (Some(path), None) => {
                let infer = |file: &_| unet::infer(file, FAMILY, config.config.as_ref());
                let full = Network::Unet(UnetConfig::sd15());
                let Some((network, file)) = common::check_file(cx, path, FAMILY, full, infer) else {
                    return Facts::new();
                };
                let objective = match &file {
                    Some(file) => unet::objective(file, config.prediction, config.zero_terminal_snr),
                    None => config.objective(),
                };
                common::facts(cx, FAMILY, &network, file.as_deref(), &config.memory.clone().into(), objective)
            }
            (None, Some(init)) => {
                common::check_settings(cx);
                if config.config.is_some() {
                    cx.error("P0402", "config", "`config` has no effect beside `init`", None);
                }
                match init.network() {
                    Ok(network) => {
                        common::facts(cx, FAMILY, &network, None, &config.memory.clone().into(), config.objective())
                    }
                    Err(why) => {
                        cx.error("P0403", "init", why, None);
                        Facts::new()
                    }
                }
            }
            _ => Facts::new(),
        }
    }

    fn plan(_config: &Config, cx: &PlanCx) -> NodePlan {
        common::plan(cx)
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        match (&config.weights, &config.init) {
            (Some(path), _) => {
                let objective = |file: &_| unet::objective(file, config.prediction, config.zero_terminal_snr);
                let infer = |file: &_| unet::infer(file, FAMILY, config.config.as_ref());
                common::build_file(cx, path, FAMILY, &config.memory.clone().into(), objective, infer)
            }
            (None, Some(init)) => {
                let network = init.network().map_err(|why| RunError::new("P0403", why).at("init"))?;
                let source = Source::Random { seed: init.seed };
                common::build(cx, FAMILY, network, &config.memory.clone().into(), config.objective(), source, None)
            }
            (None, None) => Err(RunError::new("P0301", "neither `weights` nor `init` is given")),
        }
    }
}

impl Config {
    /// Where no file says anything.
    fn objective(&self) -> Objective {
        Objective {
            prediction: self.prediction.unwrap_or_default(),
            zero_terminal_snr: self.zero_terminal_snr.unwrap_or(false),
        }
    }
}
