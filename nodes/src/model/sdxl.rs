//! `model.sdxl`: the U-Net of Stable Diffusion XL.

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

/// Fields of `model.sdxl`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Checkpoint: a whole model in one file, a Diffusers folder, or the U-Net alone.
    #[schemars(extend("x-path" = "any"))]
    weights: String,
    /// What the model predicts. Default: what the file says (a `v_pred` mark, a Diffusers scheduler), else `epsilon`.
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
pub struct SdxlModel;

const FAMILY: Family = Family::Sdxl;

impl Node for SdxlModel {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "model.sdxl",
        summary: "The U-Net of Stable Diffusion XL, with its size conditions.",
        details: "Podell et al. 2023. Reads CLIP-L and OpenCLIP bigG side by side, bigG's pooled vector, and the original size, crop and target size of each image.",
        example: "unet:\n  type: model.sdxl\n  weights: sd_xl_base_1.0.safetensors",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        common::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let infer = |file: &_| unet::infer(file, FAMILY, config.config.as_ref());
        let full = Network::Unet(UnetConfig::sdxl());
        let Some((network, file)) = common::check_file(cx, &config.weights, FAMILY, full, infer) else {
            return Facts::new();
        };
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
