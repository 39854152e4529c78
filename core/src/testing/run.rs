//! Toy nodes that act: optimizers that drive, and listeners that save, preview and log.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::nodes::{Empty, about, bytes, toy, toy_named};
use super::note;
use crate::folder::atomic_write;
use crate::node::{About, CheckCx, Facts, Node, PlanCx, SharedValue};
use crate::plan::{Category, NodePlan};
use crate::port::{Input, Output, PortType, Rate};
use crate::run::{
    Artifact, BuildCx, Built, Driver, EventCx, Listener, Moment, Position, RunError, StepReport, StopFlag,
};
use crate::settings::Every;

/// Learning rate over time.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum LearningSchedule {
    /// Always the same.
    Constant,
    /// Falls along a cosine.
    Cosine {
        /// Rise at the start.
        warmup: Option<Warmup>,
        /// Last learning rate, as a part of the first. Default 0.
        #[serde(default)]
        #[schemars(range(min = 0, max = 1))]
        floor: f64,
    },
    /// Falls along a line.
    Linear(Warmup),
}

/// `steps` or `ratio`.
#[derive(Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-one-of" = ["steps", "ratio"]))]
pub struct Warmup {
    /// Optimizer steps.
    steps: Option<u64>,
    /// Part of the run.
    #[schemars(range(min = 0, max = 1))]
    ratio: Option<f64>,
}

/// A number or `false`.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Clip {
    /// Off.
    Off(#[schemars(extend("const" = false))] bool),
    /// Largest norm.
    Norm(#[schemars(extend("exclusiveMinimum" = 0))] f64),
}

#[derive(Deserialize, Serialize, JsonSchema)]
pub struct AdamWConfig {
    /// Learning rate.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    learning_rate: f64,
    /// Decay of the two moments. Default 0.9 and 0.999.
    betas: Option<(f64, f64)>,
    /// Weight decay. Default 0.01.
    #[serde(default)]
    #[schemars(range(min = 0))]
    weight_decay: Option<f64>,
    /// Largest norm of the gradient, or `false`. Default 1.
    max_grad_norm: Option<Clip>,
    /// Learning rate over time.
    schedule: Option<LearningSchedule>,
}

const LOSS_INPUT: Input = Input::one("loss", &[PortType::Loss], Rate::Step, "What is made smaller.");

/// `optimizer.adamw`
pub struct AdamW;

impl Node for AdamW {
    type Config = AdamWConfig;
    const ABOUT: About =
        about("optimizer.adamw", "AdamW.", "adamw:\n  type: optimizer.adamw\n  loss: loss\n  learning_rate: 1e-4\n");
    fn inputs() -> Vec<Input> {
        vec![LOSS_INPUT]
    }
    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Update, Rate::Step, "The step.")]
    }
    fn check(_: &AdamWConfig, _: &mut CheckCx) -> Facts {
        Facts::new()
    }
    fn plan(_: &AdamWConfig, cx: &PlanCx) -> NodePlan {
        let resident = bytes(Category::OptimizerState, 16);
        NodePlan {
            resident,
            step: bytes(Category::Gradients, 8),
            steps: cx.settings.train.steps,
            ..NodePlan::default()
        }
    }
    fn build(config: AdamWConfig, cx: &mut BuildCx) -> Result<Built, RunError> {
        drive(cx, config.learning_rate, FaultyConfig::default())
    }
}

#[derive(Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct FaultyConfig {
    /// Fails in this step.
    fail_at: Option<u64>,
    /// Gives no finite loss in this step.
    nan_at: Option<u64>,
    /// Behaves as if Ctrl-C was pressed within this step.
    interrupt_at: Option<u64>,
    /// Keeps its numbers until they are read.
    defer: bool,
}

/// `optimizer.faulty`
pub struct Faulty;

impl Node for Faulty {
    type Config = FaultyConfig;
    const ABOUT: About =
        about("optimizer.faulty", "An optimizer that fails.", "bad:\n  type: optimizer.faulty\n  loss: loss\n");
    fn inputs() -> Vec<Input> {
        vec![LOSS_INPUT]
    }
    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Update, Rate::Step, "The step.")]
    }
    fn check(_: &FaultyConfig, _: &mut CheckCx) -> Facts {
        Facts::new()
    }
    fn plan(_: &FaultyConfig, _: &PlanCx) -> NodePlan {
        NodePlan::default()
    }
    fn build(config: FaultyConfig, cx: &mut BuildCx) -> Result<Built, RunError> {
        drive(cx, 0.1, config)
    }
}

fn drive(cx: &BuildCx, rate: f64, faults: FaultyConfig) -> Result<Built, RunError> {
    let total_steps = cx.settings.train.steps.unwrap_or(10);
    let position = Position { step: 0, total_steps, steps_per_epoch: 4 };
    let driver = ToyDriver { position, weight: 1.0, rate, seed: cx.settings.seed, faults, unread: Vec::new() };
    Ok(Built { outputs: vec![toy(cx)], driver: Some(Box::new(driver)), ..Default::default() })
}

struct ToyDriver {
    position: Position,
    weight: f64,
    rate: f64,
    seed: u64,
    faults: FaultyConfig,
    unread: Vec<StepReport>,
}

impl Driver for ToyDriver {
    fn position(&self) -> Position {
        self.position
    }
    fn step(&mut self, stop: &StopFlag, read: bool) -> Result<Vec<StepReport>, RunError> {
        let next = self.position.step + 1;
        if self.faults.interrupt_at == Some(next) {
            stop.set();
            return Err(RunError::interrupted());
        }
        if self.faults.fail_at == Some(next) {
            return Err(RunError::new("P0905", "out of memory"));
        }
        let noise = (self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(next * 1_442_695) >> 33) as f64;
        self.weight = self.weight * (1.0 - self.rate) + noise / f64::from(u32::MAX);
        self.position.step = next;
        let loss = if self.faults.nan_at == Some(next) { f64::NAN } else { self.weight };
        self.unread.push(StepReport { step: next, loss, values: vec![("lr".into(), self.rate)], samples: 2 });
        if read || !self.faults.defer { self.settle() } else { Ok(Vec::new()) }
    }
    fn settle(&mut self) -> Result<Vec<StepReport>, RunError> {
        Ok(std::mem::take(&mut self.unread))
    }
    fn save_state(&mut self, dir: &Path) -> Result<(), RunError> {
        let text = format!("{} {}", self.position.step, self.weight.to_bits());
        fs::write(dir.join("driver.txt"), text).map_err(|error| RunError::io("write", dir, &error))
    }
    fn load_state(&mut self, dir: &Path) -> Result<(), RunError> {
        let damaged = || RunError::new("P0909", "the driver's state is damaged");
        let text = fs::read_to_string(dir.join("driver.txt")).map_err(|_| damaged())?;
        let (step, bits) = text.split_once(' ').ok_or_else(damaged)?;
        self.position.step = step.parse().map_err(|_| damaged())?;
        self.weight = f64::from_bits(bits.parse().map_err(|_| damaged())?);
        Ok(())
    }
    fn describe(&self) -> Vec<(String, String)> {
        vec![("parameters".into(), "1".into())]
    }
}

/// A listener from a closure.
struct Hear<F>(u32, F);

impl<F: FnMut(&mut EventCx) -> Result<(), RunError> + Send> Listener for Hear<F> {
    fn priority(&self) -> u32 {
        self.0
    }
    fn looks(&self, _: Moment, _: Position) -> bool {
        self.0 < 20
    }
    fn on(&mut self, cx: &mut EventCx) -> Result<(), RunError> {
        (self.1)(cx)
    }
}

fn listen(priority: u32, on: impl FnMut(&mut EventCx) -> Result<(), RunError> + Send + 'static) -> Built {
    Built { listener: Some(Box::new(Hear(priority, on))), ..Built::default() }
}

#[derive(Deserialize, Serialize, JsonSchema)]
pub struct SaveConfig {
    /// Where to write. Default `checkpoints`.
    path: Option<String>,
    /// When.
    #[serde(default)]
    every: Option<Every>,
}

/// `saver.adapter`
pub struct SaveAdapter;

impl Node for SaveAdapter {
    type Config = SaveConfig;
    const ABOUT: About = about("saver.adapter", "Saves an adapter.", "save:\n  type: saver.adapter\n  adapter: lora\n");
    fn inputs() -> Vec<Input> {
        vec![Input::one("adapter", &[PortType::Trainable], Rate::Event, "What to save.")]
    }
    fn outputs() -> Vec<Output> {
        Vec::new()
    }
    fn check(config: &SaveConfig, cx: &mut CheckCx) -> Facts {
        if let Some(path) = &config.path {
            let path = cx.path(path);
            cx.will_write("path", path);
        }
        Facts::new()
    }
    fn plan(_: &SaveConfig, _: &PlanCx) -> NodePlan {
        NodePlan { event: bytes(Category::Working, 4), event_count: 2, disk: 8 << 20, ..NodePlan::default() }
    }
    fn build(config: SaveConfig, cx: &mut BuildCx) -> Result<Built, RunError> {
        let every = config.every.unwrap_or_default();
        let name = cx.name.to_owned();
        Ok(listen(0, move |cx| {
            note(format!("{name} {:?} {}", cx.moment, cx.position.step));
            let last = cx.moment == Moment::End && cx.position.is_last();
            if last || (cx.moment == Moment::Step && cx.position.due(&every)) {
                let path = cx.folder.join(format!("checkpoints/step-{:04}.txt", cx.position.step));
                atomic_write(&path, |file| write!(file, "{}", cx.report.loss.to_bits()))?;
                cx.artifacts.push(Artifact { kind: "lora", path, final_result: last });
            }
            Ok(())
        }))
    }
}

#[derive(Deserialize, Serialize, JsonSchema)]
pub struct PreviewConfig {
    /// What to draw.
    #[schemars(length(min = 1))]
    prompts: Vec<String>,
    /// When.
    #[serde(default)]
    every: Option<Every>,
    /// Fails at this step.
    fail_at: Option<u64>,
}

/// `sampler.preview`
pub struct Preview;

impl Node for Preview {
    type Config = PreviewConfig;
    const ABOUT: About = about(
        "sampler.preview",
        "Draws pictures while training.",
        "preview:\n  type: sampler.preview\n  model: lora\n  vae: vae\n  prompts: [a fox]\n",
    );
    fn inputs() -> Vec<Input> {
        vec![
            Input::one("model", &[PortType::Trainable, PortType::Model], Rate::Event, "What draws."),
            Input::one("vae", &[PortType::Vae], Rate::Event, "Decodes the pictures."),
            Input::many("text", &[PortType::TextEncoder], Rate::Setup, "Encode the prompts.").early(),
        ]
    }
    fn outputs() -> Vec<Output> {
        Vec::new()
    }
    fn check(_: &PreviewConfig, _: &mut CheckCx) -> Facts {
        Facts::new()
    }
    fn plan(_: &PreviewConfig, _: &PlanCx) -> NodePlan {
        NodePlan {
            prepare: bytes(Category::Activations, 100),
            event: bytes(Category::Working, 300),
            event_flops: 1_000_000,
            event_count: 3,
            ..NodePlan::default()
        }
    }
    fn prepare(_: &PreviewConfig, cx: &mut BuildCx) -> Result<Option<SharedValue>, RunError> {
        note(format!("prepare {} with {} and {}", cx.name, cx.values("text").len(), cx.values("model").len()));
        Ok(Some(toy_named("prompts")))
    }
    fn build(config: PreviewConfig, cx: &mut BuildCx) -> Result<Built, RunError> {
        let texts = cx.values("text").len();
        if let Some(_prompts) = cx.prepared.take() {
            note(format!("build {} with {texts} and its prompts", cx.name));
        }
        let every = config.every.unwrap_or_default();
        let name = cx.name.to_owned();
        Ok(listen(10, move |cx| {
            if cx.moment == Moment::Start || (cx.moment == Moment::Step && cx.position.due(&every)) {
                note(format!("{name} draws at {}", cx.position.step));
            }
            match config.fail_at == Some(cx.position.step) && cx.moment == Moment::Step {
                true => Err(RunError::new("P0911", "the preview could not be drawn")),
                false => Ok(()),
            }
        }))
    }
}

#[derive(Deserialize, Serialize, JsonSchema)]
pub struct MetricsConfig {
    /// Where to write. Default `metrics.jsonl`.
    path: Option<PathBuf>,
}

/// `logger.metrics`
pub struct Metrics;

impl Node for Metrics {
    type Config = MetricsConfig;
    const ABOUT: About = about("logger.metrics", "Writes numbers of each step.", "metrics:\n  type: logger.metrics\n");
    fn inputs() -> Vec<Input> {
        vec![Input::optional("update", &[PortType::Update], Rate::Event, "Optimizer to log.")]
    }
    fn outputs() -> Vec<Output> {
        Vec::new()
    }
    fn check(config: &MetricsConfig, cx: &mut CheckCx) -> Facts {
        if let Some(path) = &config.path {
            let path = cx.path(&path.to_string_lossy());
            cx.will_write("path", path);
        }
        Facts::new()
    }
    fn plan(_: &MetricsConfig, _: &PlanCx) -> NodePlan {
        NodePlan::default()
    }
    fn build(_: MetricsConfig, cx: &mut BuildCx) -> Result<Built, RunError> {
        let path = cx.folder.join("metrics.jsonl");
        Ok(listen(20, move |cx| {
            let fail = |error: std::io::Error| RunError::io("write", &path, &error);
            if cx.moment == Moment::Resume {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let kept: String = text.lines().take(cx.told() as usize).map(|line| format!("{line}\n")).collect();
                fs::write(&path, kept).map_err(fail)?;
            }
            for record in cx.records {
                let mut file = fs::OpenOptions::new().create(true).append(true).open(&path).map_err(fail)?;
                writeln!(file, "{{\"step\":{},\"loss\":{}}}", record.report.step, record.report.loss).map_err(fail)?;
            }
            Ok(())
        }))
    }
}

/// `logger.summary`: uses the loss before training, which no loss can give.
pub struct Summary;

impl Node for Summary {
    type Config = Empty;
    const ABOUT: About =
        about("logger.summary", "Writes once before training.", "summary:\n  type: logger.summary\n  loss: loss\n");
    fn inputs() -> Vec<Input> {
        vec![Input::one("loss", &[PortType::Loss], Rate::Setup, "Loss to describe.")]
    }
    fn outputs() -> Vec<Output> {
        Vec::new()
    }
    fn check(_: &Empty, _: &mut CheckCx) -> Facts {
        Facts::new()
    }
    fn plan(_: &Empty, _: &PlanCx) -> NodePlan {
        NodePlan::default()
    }
    fn build(_: Empty, _: &mut BuildCx) -> Result<Built, RunError> {
        Ok(Built::default())
    }
}
