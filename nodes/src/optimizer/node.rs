//! The node type of an optimizer: what it is made of, its checks, plan and build.

use std::marker::PhantomData;
use std::sync::Arc;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::{Bytes, Category, Curve, NodePlan, bytes_text};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, Position, RunError};
use pipe_data::metadata::py_float;
use pipe_ops::backend::Kind;
use pipe_ops::{DType, Device};
use pipe_train::Invalid;
use pipe_train::optim::{AdamW, OptimizerConfig};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::device::DeviceAdamW;
use super::estimate::Manner;
use super::frame::Frame;
use super::groups::Group;
use super::host::{HostUpdater, Updater};
use super::rates::Rates;
use super::scaler::LossScale;
use super::stepper::{Recipe, Stepper};
use super::{check_rates, checks, estimate, groups, state};
use crate::common::batch::run_steps;
use crate::common::plain_value;
use crate::loss::{Loss, LossProgram};

/// An optimizer: its settings are its own fields of a document.
pub trait Algorithm: Clone + Default + Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// Description of the node type.
    const ABOUT: About;
    /// Name in the metadata of saved files: module and class of the usual Python implementation.
    const CLASS: &'static str;

    /// As one of all optimizers.
    fn config(&self) -> OptimizerConfig;

    /// Arguments in the metadata of saved files: those whose value is not the usual one.
    fn arguments(&self) -> Vec<(String, Json)> {
        changed(self)
    }

    /// What stands in place of a schedule.
    fn own_schedule(&self) -> Option<OwnSchedule> {
        None
    }

    /// Settings of AdamW, if that is what it is: GPUs have it.
    fn adamw(&self) -> Option<&AdamW> {
        None
    }
}

/// What an optimizer does in place of a schedule.
pub struct OwnSchedule {
    /// Name of the scheduler in the metadata of saved files.
    pub name: &'static str,
    /// In words.
    pub text: String,
    /// The rate, or its factor, after so many steps.
    pub at: Box<dyn Fn(u64) -> f64>,
    /// Steps of its warm-up, where a field gives them.
    pub warmup: Option<u64>,
}

/// A constant rate, after a warm-up in which the first step has a part of it already.
pub fn averaging(warmup: Option<u64>) -> OwnSchedule {
    let text = match warmup {
        Some(steps) => format!("times the group's: constant after a warm-up of {steps} steps; weights are averaged"),
        None => "times the group's: constant; weights are averaged".to_string(),
    };
    let at = move |t: u64| warmup.map_or(1.0, |steps| ((t + 1) as f64 / steps.max(1) as f64).min(1.0));
    OwnSchedule { name: "constant", text, at: Box::new(at), warmup }
}

/// Fields with another value than the default.
pub fn changed<A: Algorithm>(settings: &A) -> Vec<(String, Json)> {
    let fields = |settings: &A| match serde_json::to_value(settings) {
        Ok(Json::Object(map)) => map,
        _ => Default::default(),
    };
    let usual = fields(&A::default());
    let own = fields(settings).into_iter();
    own.filter(|(name, value)| name != "learning_rate" && usual.get(name) != Some(value)).collect()
}

/// What every optimizer but AdamW says of GPUs.
macro_rules! on_host {
    ($($text:literal)+) => {
        concat!(
            $($text,)+
            "\n\nOn a GPU the update runs on the CPU: gradients are read back and weights uploaded in every step, and the \
             optimizer's state is in host memory."
        )
    };
}
pub(super) use on_host;

/// Fields of an optimizer: its own, and those that all have.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(bound = "A: DeserializeOwned")]
pub struct Config<A> {
    #[serde(flatten)]
    algorithm: A,
    #[serde(flatten)]
    frame: Frame,
}

/// The value of an `Update` port: what loggers and savers may ask of the optimizer.
#[derive(Clone)]
pub struct Update {
    /// The loss that is minimised.
    pub loss: Arc<dyn LossProgram>,
    /// Rates before the schedule.
    pub rates: Rates,
    /// Name and arguments, as other trainers write them.
    pub optimizer: String,
    /// Name of the schedule, as other trainers write it.
    pub scheduler: String,
    /// Steps of the schedule's warm-up.
    pub warmup: u64,
    /// Largest gradient norm.
    pub max_grad_norm: Option<f64>,
}

plain_value!(Update);

/// The node type of an optimizer.
pub struct OptimizerNode<A>(PhantomData<fn() -> A>);

impl<A: Algorithm> Config<A> {
    fn rates(&self, facts: &Facts) -> Rates {
        Rates::new(self.algorithm.config().learning_rate(), &self.frame, facts)
    }

    /// The run's parameter groups, where the facts tell what learns.
    fn groups(&self, facts: &Facts) -> Option<Vec<Group>> {
        let (main, tensors) = estimate::tensors(facts)?;
        Some(groups::of(main, tensors, &self.rates(facts)))
    }

    fn curve(&self, total: u64) -> Curve {
        let schedule = &self.frame.schedule;
        match self.algorithm.own_schedule() {
            Some(own) => Curve::sample(format!("learning rate: {}", own.text), total, own.at),
            None => {
                let warmup = match schedule.warmup(total) {
                    0 => String::new(),
                    steps => format!(", warm-up {steps} steps"),
                };
                let name = format!("learning rate, times that of the group: {}{warmup}", schedule.name(total));
                Curve::sample(name, total, |t| schedule.factor(t, total))
            }
        }
    }

    /// `module.Class(k=v,…)`.
    fn title(&self) -> String {
        let arguments = self.algorithm.arguments();
        let list: Vec<String> = arguments.iter().map(|(name, value)| format!("{name}={}", python(value))).collect();
        if list.is_empty() { A::CLASS.into() } else { format!("{}({})", A::CLASS, list.join(",")) }
    }
}

/// A value as Python writes it.
fn python(value: &Json) -> String {
    match value {
        Json::Null => "None".into(),
        Json::Bool(true) => "True".into(),
        Json::Bool(false) => "False".into(),
        Json::Number(n) if n.is_f64() => py_float(n.as_f64().unwrap_or(0.0)),
        Json::Array(items) => format!("({})", items.iter().map(python).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Whether the weights that learn are kept in bf16: only the CPU's updates round at random.
fn half(facts: &Facts) -> bool {
    facts.get("half") == Some(&Json::Bool(true))
}

pub(super) fn complain(cx: &mut CheckCx, invalid: Invalid) {
    // An option without effect, or one that contradicts another.
    let code = if invalid.reason.contains("effect") { "P0402" } else { "P0403" };
    let field = invalid.field.replace('[', ".").replace(']', "");
    // A reason is a sentence, or what is said of the field.
    let first = invalid.reason.split(' ').next().unwrap_or_default();
    let message = match first {
        "is" | "has" | "sets" | "ends" | "stands" => format!("`{}` {}", invalid.field, invalid.reason),
        _ => invalid.reason,
    };
    cx.error(code, &field, message, invalid.help);
}

impl<A: Algorithm> Node for OptimizerNode<A> {
    type Config = Config<A>;

    const ABOUT: About = A::ABOUT;

    fn inputs() -> Vec<Input> {
        vec![Input::one("loss", &[PortType::Loss], Rate::Step, "Loss to minimise.")]
    }

    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Update, Rate::Setup, "The optimizer's steps.")]
    }

    fn check(config: &Config<A>, cx: &mut CheckCx) -> Facts {
        let Some(loss) = cx.inputs.one("loss").cloned() else { return Facts::new() };
        let (per_epoch, total) = run_steps(cx.settings, loss.facts.u64("batches").unwrap_or(1));
        let optimizer = config.algorithm.config();
        if let Err(invalid) = optimizer.check() {
            complain(cx, invalid);
        } else {
            let changed = optimizer.learning_rate() != A::default().config().learning_rate();
            let (rates, groups) = (config.rates(&loss.facts), config.groups(&loss.facts));
            check_rates::check(cx, &optimizer, &rates, groups.as_deref(), changed);
            let full = loss.facts.str("method") == Some("full");
            check_rates::at_zero(cx, &rates, groups.as_deref().unwrap_or_default(), full);
            if let Some(advice) = optimizer.advice() {
                cx.warn("P0403", &advice.field, format!("`{}` {}", advice.field, advice.reason), advice.help);
            }
        }
        if let (Some(why), Some(field)) = (optimizer.rebuilds(), loss.facts.str("norm_field")) {
            let message = format!("`scale_weight_norms` does not go with {}, which {why}", optimizer.name());
            cx.error("P0403", field, message, Some("leave it out, or take another optimizer".into()));
        }
        let own = config.algorithm.own_schedule().and_then(|own| own.warmup).filter(|warmup| *warmup > total);
        if let Some(warmup) = own {
            let message = format!("the warm-up of {warmup} steps is longer than the run of {total}");
            cx.error("P0403", "warmup_steps", message, None);
        }
        if let Err(invalid) = optimizer.check_schedule(&config.frame.schedule) {
            complain(cx, invalid);
        } else if let Err(invalid) = config.frame.schedule.check(total) {
            complain(cx, invalid.within("schedule"));
        } else if let Some(advice) = config.frame.schedule.advice(total) {
            let advice = advice.within("schedule");
            cx.warn("P0402", &advice.field, format!("`{}` {}", advice.field, advice.reason), advice.help);
        }
        if let Some(length) = &config.frame.stop_text_encoder_training {
            checks::stop(cx, length, total, config.groups(&loss.facts).as_deref());
            checks::estimates(cx, &optimizer);
        }
        // Behind a node with mistakes nothing is known.
        if config.frame.fused_backward
            && let Some(method) = loss.facts.str("method")
        {
            checks::fused(cx, &optimizer, method == "full");
        }
        checks::read_every(cx, &loss.facts, config.algorithm.adamw().is_some());
        Facts::new().with("steps", total).with("steps_per_epoch", per_epoch)
    }

    fn plan(config: &Config<A>, cx: &PlanCx) -> NodePlan {
        let Some(loss) = cx.inputs.one("loss") else { return NodePlan::default() };
        let (per_epoch, total) = run_steps(cx.settings, loss.facts.u64("batches").unwrap_or(1));
        let optimizer = config.algorithm.config();
        let position = Position { step: 0, total_steps: total, steps_per_epoch: per_epoch };
        let groups = config.groups(&loss.facts).unwrap_or_default();
        let planned: Vec<_> =
            groups.iter().map(|group| group.planned(&optimizer, estimate::kept(&loss.facts))).collect();
        let state_bytes = planned.iter().map(|group| group.state_bytes).sum();
        let manner = Manner { fused: config.frame.fused_backward, texts_still: false };
        let mut plan = estimate::step(cx.settings, &loss.facts, manner);
        if let Some(length) = &config.frame.stop_text_encoder_training {
            // Memory is that of the steps before, time a mean of both.
            let (before, all) = (length.of(total).min(total), total.max(1));
            let after = estimate::step(cx.settings, &loss.facts, Manner { texts_still: true, ..manner }).step_flops;
            let sum = plan.step_flops as u128 * before as u128 + after as u128 * (all - before) as u128;
            plan.step_flops = (sum / all as u128) as u64;
            plan.notes.push(format!("text encoders learn in the first {before} of {total} steps"));
        }
        // A GPU's memory holds only what its own update needs.
        let own = config.algorithm.adamw().is_some() && !half(&loss.facts);
        let away = crate::planned_kind(cx.settings) != Kind::Cpu && !own;
        if away {
            let state = bytes_text(state_bytes);
            let note = "the update runs on the CPU: gradients are read back and weights uploaded in every step";
            plan.notes.push(format!("{note}; the state ({state}) is in host memory"));
            plan.host += state_bytes;
        } else {
            plan.resident.push(Bytes { category: Category::OptimizerState, bytes: state_bytes });
        }
        if optimizer.averages() {
            let bytes = planned.iter().map(|group| group.bytes).sum();
            plan.shown.push(Bytes { category: Category::Trainable, bytes });
        }
        let frozen = |name: &str| loss.facts.u64(name).unwrap_or(0);
        let size = state::bytes(&groups, &optimizer, position)
            + state::frozen_bytes(frozen("frozen_values"), frozen("frozen_tensors"));
        estimate::states(cx.settings, &loss.facts, (per_epoch, total), size, &mut plan);
        plan.steps = Some(total);
        plan.epochs = Some(total as f64 / per_epoch as f64);
        plan.notes.push(format!("{per_epoch} steps an epoch"));
        plan.groups = planned;
        plan.schedule = Some(config.curve(total));
        plan
    }

    fn build(config: Config<A>, cx: &mut BuildCx) -> Result<Built, RunError> {
        let loss = cx.one::<Loss>("loss")?.0.clone();
        let (steps_per_epoch, total_steps) = run_steps(cx.settings, loss.source().per_epoch());
        let position = Position { step: 0, total_steps, steps_per_epoch };
        let facts = cx.facts.one("loss").map(|source| source.facts.clone()).unwrap_or_default();
        let (rates, optimizer) = (config.rates(&facts), config.algorithm.config());
        let device = loss.engine().device.clone();
        let updater: Box<dyn Updater> = match (&device, config.algorithm.adamw()) {
            (Device::Burn(_), Some(adamw)) if !half(&facts) => Box::new(DeviceAdamW::new(adamw.clone(), device)),
            _ => Box::new(HostUpdater::new(&optimizer, device, loss.trainable().rounding())?),
        };
        let schedule = config.frame.schedule.clone();
        let own = config.algorithm.own_schedule().map(|own| own.name.to_string());
        let update = Update {
            loss: loss.clone(),
            rates: rates.clone(),
            optimizer: config.title(),
            scheduler: own.unwrap_or_else(|| schedule.name(total_steps).into()),
            warmup: schedule.warmup(total_steps),
            max_grad_norm: config.frame.max_grad_norm.get(),
        };
        // An autoencoder is trained in f32 on every device.
        let compute = if facts.str("loss") == Some("autoencoder") { DType::F32 } else { loss.engine().compute };
        let scaler = LossScale::of(compute);
        let recipe = Recipe {
            optimizer,
            rates,
            schedule,
            text_until: config.frame.stop_text_encoder_training.as_ref().map(|length| length.of(total_steps)),
            progress: cx.progress.clone(),
            max_grad_norm: update.max_grad_norm,
            seed: cx.settings.seed,
            accumulate: cx.settings.train.accumulate,
            defer: cx.settings.train.read_every > 1 && scaler.is_none(),
            fused: config.frame.fused_backward,
            scaler,
        };
        let stepper = Stepper::new(loss, recipe, updater, position);
        Ok(Built { outputs: vec![Arc::new(update)], driver: Some(Box::new(stepper)), ..Default::default() })
    }
}

#[cfg(test)]
mod tests {
    use pipe_train::optim::{Lion, Prodigy, Sgd};

    use super::*;

    fn config<A: Algorithm>(fields: Json) -> Config<A> {
        serde_json::from_value(fields).unwrap()
    }

    #[test]
    fn names_and_arguments_are_those_of_the_python_classes() {
        let title = |json: Json| config::<AdamW>(json).title();
        assert_eq!(
            title(serde_json::json!({ "learning_rate": 1, "type": "optimizer.adamw" })),
            "torch.optim.adamw.AdamW"
        );
        assert_eq!(
            title(serde_json::json!({ "weight_decay": 0, "betas": [0.9, 0.99], "eps": 1e-6 })),
            "torch.optim.adamw.AdamW(betas=(0.9, 0.99),eps=1e-06,weight_decay=0.0)"
        );
        let prodigy: Config<Prodigy> = config(serde_json::json!({ "use_bias_correction": true, "slice_p": 11 }));
        assert_eq!(prodigy.title(), "prodigyopt.prodigy.Prodigy(use_bias_correction=True,slice_p=11)");
        assert_eq!(config::<Sgd>(serde_json::json!({})).title(), "torch.optim.sgd.SGD(momentum=0.9,nesterov=True)");
        assert_eq!(config::<Lion>(serde_json::json!({})).title(), "lion_pytorch.lion_pytorch.Lion");
    }

    #[test]
    fn fields_of_both_kinds_are_read() {
        let fields = serde_json::json!({ "learning_rate": 2e-5, "max_grad_norm": false, "text_encoder_learning_rate": 1,
            "schedule": { "type": "cosine_with_min_lr", "min_ratio": 0.1 } });
        let lion: Config<Lion> = config(fields);
        assert_eq!((lion.algorithm.learning_rate, lion.frame.max_grad_norm.get()), (2e-5, None));
        assert_eq!(lion.frame.text_encoder_learning_rate, Some(1.0));
        assert_eq!(lion.frame.schedule.name(10), "cosine_with_min_lr");
    }
}
