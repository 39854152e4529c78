//! `model.sd2`: the U-Net of Stable Diffusion 2.x.

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

/// Fields of `model.sd2`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Checkpoint: a whole model in one file, a Diffusers folder, or the U-Net alone.
    #[schemars(extend("x-path" = "any"))]
    weights: String,
    /// What the model predicts. Single files do not say, so it must be given for them: `v` for the 768 models, `epsilon` for the base models. Default: what a Diffusers folder says.
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

/// The node type.
pub struct Sd2Model;

const FAMILY: Family = Family::Sd2;

impl Node for Sd2Model {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "model.sd2",
        summary: "The U-Net of Stable Diffusion 2.x, epsilon or v.",
        details: "Rombach et al. 2022, with OpenCLIP ViT-H as text encoder and heads of width 64. The 768 models predict v, the base models ε.",
        example: "unet:\n  type: model.sd2\n  weights: v2-1_768-ema-pruned.safetensors\n  prediction: v",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        common::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let infer = |file: &_| unet::infer(file, FAMILY, config.config.as_ref());
        let full = Network::Unet(UnetConfig::sd2());
        let Some((network, file)) = common::check_file(cx, &config.weights, FAMILY, full, infer) else {
            return Facts::new();
        };
        if let Some(file) = &file
            && config.prediction.is_none()
            && unet::known_prediction(file).is_none()
        {
            let message = "the file does not say whether the model predicts noise or v";
            let help = "set `prediction: v` for a 768 model, `prediction: epsilon` for a base (512) model";
            cx.error("P0403", "weights", message, Some(help.into()));
        }
        let objective = match &file {
            Some(file) => unet::objective(file, config.prediction, config.zero_terminal_snr),
            None => Objective {
                prediction: config.prediction.unwrap_or_default(),
                zero_terminal_snr: config.zero_terminal_snr.unwrap_or(false),
            },
        };
        common::facts(cx, FAMILY, &network, file.as_deref(), &config.memory.clone().into(), objective)
    }

    fn plan(_config: &Config, cx: &PlanCx) -> NodePlan {
        common::plan(cx)
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let objective = |file: &_| unet::objective(file, config.prediction, config.zero_terminal_snr);
        let infer = |file: &_| unet::infer(file, FAMILY, config.config.as_ref());
        common::build_file(cx, &config.weights, FAMILY, &config.memory.clone().into(), objective, infer)
    }
}
