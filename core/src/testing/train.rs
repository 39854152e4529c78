//! Toy nodes of the training side: adapters and a loss.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::nodes::{Empty, about, bytes, one};
use crate::node::{About, CheckCx, Facts, Node, PlanCx};
use crate::plan::{Category, NodePlan};
use crate::port::{Input, Output, PortType, Rate};
use crate::run::{BuildCx, Built, RunError};

#[derive(Deserialize, Serialize, JsonSchema)]
pub struct LoraConfig {
    /// Rank of the factors. Default 16.
    #[serde(default = "rank")]
    #[schemars(range(min = 1, max = 1024))]
    rank: u32,
    /// Scale; the factors' product is multiplied by `alpha / rank`. Default: the rank.
    #[schemars(extend("exclusiveMinimum" = 0))]
    alpha: Option<f64>,
    /// Part of the factors' inputs that is dropped. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    dropout: f32,
    /// Names of layers to adapt.
    #[serde(default = "targets")]
    #[schemars(length(min = 1))]
    targets: Vec<String>,
}

fn rank() -> u32 {
    16
}

fn targets() -> Vec<String> {
    vec!["attention".into()]
}

/// `adapter.lora`
pub struct Lora;

impl Node for Lora {
    type Config = LoraConfig;
    const ABOUT: About =
        about("adapter.lora", "Low-rank adapter.", "lora:\n  type: adapter.lora\n  model: unet\n  rank: 16\n");
    fn inputs() -> Vec<Input> {
        vec![Input::one("model", &[PortType::Model], Rate::Step, "Model to adapt.")]
    }
    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Trainable, Rate::Setup, "The model with its factors.")]
    }
    fn check(_: &LoraConfig, cx: &mut CheckCx) -> Facts {
        cx.inputs.one("model").map(|model| model.facts.clone()).unwrap_or_default()
    }
    fn plan(config: &LoraConfig, _: &PlanCx) -> NodePlan {
        NodePlan { resident: bytes(Category::Trainable, u64::from(config.rank)), ..NodePlan::default() }
    }
    fn build(_: LoraConfig, cx: &mut BuildCx) -> Result<Built, RunError> {
        Ok(one(cx))
    }
}

/// `adapter.merge`: takes and gives trainables, so that documents can have cycles.
pub struct Merge;

impl Node for Merge {
    type Config = Empty;
    const ABOUT: About =
        about("adapter.merge", "Joins adapters.", "both:\n  type: adapter.merge\n  adapters: [a, b]\n");
    fn inputs() -> Vec<Input> {
        vec![Input::many("adapters", &[PortType::Trainable], Rate::Step, "Adapters to join.")]
    }
    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Trainable, Rate::Setup, "All of them.")]
    }
    fn check(_: &Empty, _: &mut CheckCx) -> Facts {
        Facts::new()
    }
    fn plan(_: &Empty, _: &PlanCx) -> NodePlan {
        NodePlan::default()
    }
    fn build(_: Empty, cx: &mut BuildCx) -> Result<Built, RunError> {
        Ok(one(cx))
    }
}

/// Which noise levels are trained.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(tag = "sampling", rename_all = "snake_case", deny_unknown_fields)]
pub enum Timesteps {
    /// All alike.
    Uniform,
    /// More of the noisy ones.
    Shift {
        /// How many more.
        #[schemars(range(min = 1, max = 10))]
        shift: f64,
    },
}

#[derive(Deserialize, Serialize, JsonSchema)]
pub struct DiffusionConfig {
    /// Limit of the signal-to-noise weight.
    #[schemars(extend("exclusiveMinimum" = 0))]
    min_snr_gamma: Option<f64>,
    /// Offset of the noise. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    noise_offset: f64,
    /// Which noise levels are trained.
    timesteps: Option<Timesteps>,
}

/// `loss.diffusion`
pub struct Diffusion;

impl Node for Diffusion {
    type Config = DiffusionConfig;
    const ABOUT: About = about(
        "loss.diffusion",
        "Mean squared error of the noise.",
        "loss:\n  type: loss.diffusion\n  model: lora\n  batch: cached\n",
    );
    fn inputs() -> Vec<Input> {
        vec![
            Input::one("model", &[PortType::Trainable], Rate::Step, "What learns."),
            Input::many("batch", &[PortType::Batches], Rate::Step, "What it learns from."),
        ]
    }
    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Loss, Rate::Step, "The loss of a step.")]
    }
    fn check(_: &DiffusionConfig, cx: &mut CheckCx) -> Facts {
        let channels = |port: &str| cx.inputs.one(port).and_then(|source| source.facts.u64("latent_channels"));
        if let (Some(model), Some(batch)) = (channels("model"), channels("batch"))
            && model != batch
        {
            let message = format!("the model takes {model} latent channels, the batch has {batch}");
            cx.error("P0401", "batch", message, Some("take the VAE that belongs to the model".into()));
        }
        Facts::new()
    }
    fn plan(_: &DiffusionConfig, cx: &PlanCx) -> NodePlan {
        let step = bytes(Category::Activations, 900 * cx.settings.train.batch_size);
        NodePlan { step, step_flops: 2_000_000_000_000, ..NodePlan::default() }
    }
    fn build(_: DiffusionConfig, cx: &mut BuildCx) -> Result<Built, RunError> {
        Ok(one(cx))
    }
}
