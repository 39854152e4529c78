//! `optimizer.adamw`: AdamW, with gradient clipping and a learning-rate schedule.

use std::sync::Arc;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, Position, RunError};
use pipe_core::settings::Settings;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::estimate;
use super::schedule::Schedule;
use super::stepper::Stepper;
use crate::common::plain_value;
use crate::loss::{Loss, LossProgram};

/// Fields of `optimizer.adamw`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Config {
    /// Learning rate η. Default 1e-4.
    #[serde(default = "default_rate")]
    #[schemars(range(min = 0.0, max = 10.0))]
    learning_rate: f64,
    /// Learning rate of the text encoder. Default: `learning_rate`.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 10.0))]
    text_encoder_learning_rate: Option<f64>,
    /// Decay rates β₁ and β₂ of the moments. Default `[0.9, 0.999]`.
    #[serde(default = "default_betas")]
    #[schemars(inner(range(min = 0.0, max = 0.999999)))]
    betas: [f64; 2],
    /// ε added to the root of the second moment. Default 1e-8.
    #[serde(default = "default_eps")]
    #[schemars(range(min = 1e-30, max = 1.0))]
    eps: f64,
    /// Decoupled weight decay λ. Default 0.01.
    #[serde(default = "default_decay")]
    #[schemars(range(min = 0.0, max = 10.0))]
    weight_decay: f64,
    /// Largest global L2 norm of the gradients; larger ones are scaled down. `false` turns it off. Default 1.0.
    #[serde(default)]
    max_grad_norm: Limit,
    /// Learning rate over time. Default constant.
    #[serde(default)]
    schedule: Schedule,
}

/// A number, or `false` for none.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
enum Limit {
    /// The limit.
    At(#[schemars(range(min = 0.000001))] f64),
    /// No limit.
    Off(False),
}

/// The value `false`.
#[derive(Clone, Copy, Debug)]
struct False;

impl Serialize for False {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bool(false)
    }
}

impl<'de> Deserialize<'de> for False {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match bool::deserialize(d)? {
            false => Ok(False),
            true => Err(serde::de::Error::custom("`true` is no limit; give a number")),
        }
    }
}

impl JsonSchema for False {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "False".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "boolean", "const": false })
    }
}

impl Default for Limit {
    fn default() -> Self {
        Limit::At(1.0)
    }
}

fn default_rate() -> f64 {
    1e-4
}
fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}
fn default_eps() -> f64 {
    1e-8
}
fn default_decay() -> f64 {
    0.01
}

/// Hyper-parameters during a run.
#[derive(Clone, Debug)]
pub struct Hyper {
    /// η.
    pub learning_rate: f64,
    /// η of the text encoder.
    pub text_encoder_learning_rate: Option<f64>,
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε.
    pub eps: f64,
    /// λ.
    pub weight_decay: f64,
    /// Largest gradient norm.
    pub max_grad_norm: Option<f64>,
    /// Learning rate over time.
    pub schedule: Schedule,
}

impl Hyper {
    /// Learning rate of a parameter group.
    pub fn rate(&self, group: &str) -> f64 {
        match (group, self.text_encoder_learning_rate) {
            ("text_encoder", Some(rate)) => rate,
            _ => self.learning_rate,
        }
    }
}

/// The value of an `Update` port: what loggers and savers may ask of the optimizer.
#[derive(Clone)]
pub struct Update {
    /// The loss that is minimised.
    pub loss: Arc<dyn LossProgram>,
    /// Hyper-parameters.
    pub hyper: Hyper,
}

plain_value!(Update);

/// The node type.
pub struct AdamWOptimizer;

impl Config {
    fn hyper(&self) -> Hyper {
        Hyper {
            learning_rate: self.learning_rate,
            text_encoder_learning_rate: self.text_encoder_learning_rate,
            beta1: self.betas[0],
            beta2: self.betas[1],
            eps: self.eps,
            weight_decay: self.weight_decay,
            max_grad_norm: match self.max_grad_norm {
                Limit::At(n) => Some(n),
                Limit::Off(_) => None,
            },
            schedule: self.schedule.clone(),
        }
    }
}

/// Optimizer steps of an epoch and of the run.
pub fn steps(settings: &Settings, batches: u64) -> (u64, u64) {
    let per_epoch = batches.div_ceil(settings.train.accumulate.max(1)).max(1);
    let total = match (settings.train.steps, settings.train.epochs) {
        (Some(steps), _) => steps,
        (None, Some(epochs)) => epochs * per_epoch,
        (None, None) => 1600,
    };
    (per_epoch, total)
}

impl Node for AdamWOptimizer {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "optimizer.adamw",
        summary: "AdamW with global-norm clipping and a learning-rate schedule; drives the run.",
        details: "Loshchilov and Hutter 2019, in the order PyTorch applies it; moments are f32. Gradients of `train.accumulate` \
                  forward passes are averaged; the last step of an epoch averages over the passes it has.",
        example: "adamw:\n  type: optimizer.adamw\n  loss: loss\n  learning_rate: 1e-4\n  schedule:\n    type: cosine\n    warmup:\n      ratio: 0.05",
    };

    fn inputs() -> Vec<Input> {
        vec![Input::one("loss", &[PortType::Loss], Rate::Step, "Loss to minimise.")]
    }

    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Update, Rate::Setup, "The optimizer's steps.")]
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let Some(loss) = cx.inputs.one("loss").cloned() else { return Facts::new() };
        if config.text_encoder_learning_rate.is_some() && loss.facts.get("trains_text").is_none() {
            cx.error(
                "P0402",
                "text_encoder_learning_rate",
                "no text encoder is trained, so this rate has no effect",
                Some("give the adapter the text encoder (`text: …`), or leave the rate out".into()),
            );
        }
        let (per_epoch, total) = steps(cx.settings, loss.facts.u64("batches").unwrap_or(1));
        let warmup = config.schedule.warmup(total);
        if warmup >= total && warmup > 0 {
            let message = format!("the warm-up of {warmup} steps is not shorter than the run of {total}");
            cx.error("P0403", "schedule.warmup", message, None);
        }
        Facts::new().with("steps", total).with("steps_per_epoch", per_epoch)
    }

    fn plan(config: &Config, cx: &PlanCx) -> NodePlan {
        let Some(loss) = cx.inputs.one("loss") else { return NodePlan::default() };
        let (per_epoch, total) = steps(cx.settings, loss.facts.u64("batches").unwrap_or(1));
        let mut plan = estimate::step(cx.settings, &loss.facts);
        estimate::states(cx.settings, &loss.facts, total, &mut plan);
        plan.steps = Some(total);
        plan.epochs = Some(total as f64 / per_epoch as f64);
        plan.notes.push(format!(
            "learning rate {} ({}, warm-up {} steps), {per_epoch} steps an epoch",
            config.learning_rate,
            config.schedule.name(total),
            config.schedule.warmup(total)
        ));
        plan
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let loss = cx.one::<Loss>("loss")?.0.clone();
        let (steps_per_epoch, total_steps) = steps(cx.settings, loss.source().per_epoch());
        let position = Position { step: 0, total_steps, steps_per_epoch };
        let hyper = config.hyper();
        let update = Update { loss: loss.clone(), hyper: hyper.clone() };
        let stepper = Stepper::new(loss, hyper, cx.settings.seed, cx.settings.train.accumulate, position);
        Ok(Built { outputs: vec![Arc::new(update)], driver: Some(Box::new(stepper)), ..Default::default() })
    }
}
