//! The optimizers by name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::engine::{Engine, different};
use super::rule::Rule;
use super::*;
use crate::schedule::Schedule;

/// An optimizer and its settings.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "type")]
pub enum OptimizerConfig {
    /// AdamW.
    #[serde(rename = "adamw")]
    AdamW(AdamW),
    /// Adam.
    #[serde(rename = "adam")]
    Adam(Adam),
    /// SGD.
    #[serde(rename = "sgd")]
    Sgd(Sgd),
    /// Lion.
    #[serde(rename = "lion")]
    Lion(Lion),
    /// Adafactor.
    #[serde(rename = "adafactor")]
    Adafactor(Adafactor),
    /// CAME.
    #[serde(rename = "came")]
    Came(Came),
    /// Prodigy.
    #[serde(rename = "prodigy")]
    Prodigy(Prodigy),
    /// Adam with D-Adaptation.
    #[serde(rename = "dadapt_adam")]
    DAdaptAdam(DAdaptAdam),
    /// Adam with D-Adaptation, as first published.
    #[serde(rename = "dadapt_adam_preprint")]
    DAdaptAdamPreprint(DAdaptAdamPreprint),
    /// Adan with D-Adaptation.
    #[serde(rename = "dadapt_adan")]
    DAdaptAdan(DAdaptAdan),
    /// Adan with D-Adaptation by an inner product.
    #[serde(rename = "dadapt_adan_ip")]
    DAdaptAdanIp(DAdaptAdanIp),
    /// AdaGrad with D-Adaptation.
    #[serde(rename = "dadapt_adagrad")]
    DAdaptAdaGrad(DAdaptAdaGrad),
    /// Lion with D-Adaptation.
    #[serde(rename = "dadapt_lion")]
    DAdaptLion(DAdaptLion),
    /// SGD with D-Adaptation.
    #[serde(rename = "dadapt_sgd")]
    DAdaptSgd(DAdaptSgd),
    /// Schedule-free AdamW.
    #[serde(rename = "schedule_free_adamw")]
    ScheduleFreeAdamW(ScheduleFreeAdamW),
    /// Schedule-free RAdam.
    #[serde(rename = "schedule_free_radam")]
    ScheduleFreeRAdam(ScheduleFreeRAdam),
    /// Schedule-free SGD.
    #[serde(rename = "schedule_free_sgd")]
    ScheduleFreeSgd(ScheduleFreeSgd),
    /// AdamW with 8-bit state.
    #[serde(rename = "adamw_8bit")]
    AdamW8bit(AdamW8bit),
    /// Lion with 8-bit state.
    #[serde(rename = "lion_8bit")]
    Lion8bit(Lion8bit),
}

/// The same for every optimizer's settings.
macro_rules! each {
    ($config:expr, $c:ident => $result:expr) => {
        match $config {
            OptimizerConfig::AdamW($c) => $result,
            OptimizerConfig::Adam($c) => $result,
            OptimizerConfig::Sgd($c) => $result,
            OptimizerConfig::Lion($c) => $result,
            OptimizerConfig::Adafactor($c) => $result,
            OptimizerConfig::Came($c) => $result,
            OptimizerConfig::Prodigy($c) => $result,
            OptimizerConfig::DAdaptAdam($c) => $result,
            OptimizerConfig::DAdaptAdamPreprint($c) => $result,
            OptimizerConfig::DAdaptAdan($c) => $result,
            OptimizerConfig::DAdaptAdanIp($c) => $result,
            OptimizerConfig::DAdaptAdaGrad($c) => $result,
            OptimizerConfig::DAdaptLion($c) => $result,
            OptimizerConfig::DAdaptSgd($c) => $result,
            OptimizerConfig::ScheduleFreeAdamW($c) => $result,
            OptimizerConfig::ScheduleFreeRAdam($c) => $result,
            OptimizerConfig::ScheduleFreeSgd($c) => $result,
            OptimizerConfig::AdamW8bit($c) => $result,
            OptimizerConfig::Lion8bit($c) => $result,
        }
    };
}

impl OptimizerConfig {
    /// Name that other trainers use.
    pub fn name(&self) -> &'static str {
        each!(self, c => c.name())
    }

    /// What is out of range, or has no effect beside another setting.
    pub fn check(&self) -> Result<(), Invalid> {
        each!(self, c => c.check())
    }

    /// The base rate; `None` where the optimizer sets its own (Adafactor's relative steps).
    pub fn learning_rate(&self) -> Option<f64> {
        each!(self, c => c.learning_rate())
    }

    /// What is wrong with groups of these names and rates: different rates with an optimizer that estimates one for all
    /// (LoRA+, a rate of its own for the text encoder), or any with one that sets its own. A rate of 0 freezes the group.
    pub fn check_rates(&self, groups: &[(&str, f64)]) -> Result<(), Invalid> {
        let traits = each!(self, c => c.traits());
        if let (None, Some(why), Some(&(group, rate))) = (self.learning_rate(), traits.own_schedule, groups.first()) {
            let reason = format!("`{group}` has the rate {rate:?}; {} {why}", self.name());
            return Err(Invalid::new("learning_rate", reason).help("leave the groups' rates out"));
        }
        let Some(why) = traits.one_rate else { return Ok(()) };
        let mut learning = groups.iter().copied().filter(|(_, rate)| *rate != 0.0);
        let Some(first) = learning.next() else { return Ok(()) };
        match learning.find(|(_, rate)| *rate != first.1) {
            Some(other) => Err(different(self.name(), why, first, other)),
            None => Ok(()),
        }
    }

    /// Why all groups have one rate, where the optimizer estimates it.
    pub fn one_rate(&self) -> Option<&'static str> {
        each!(self, c => c.traits()).one_rate
    }

    /// What is allowed but seldom meant: a low rate where the rate is a factor of an estimate, which starves it.
    pub fn advice(&self) -> Option<Invalid> {
        let rate =
            self.learning_rate().filter(|rate| each!(self, c => c.traits()).one_rate.is_some() && *rate <= 0.1)?;
        let reason = format!("is {rate:?}; {} estimates the rate itself and multiplies it by this", self.name());
        Some(Invalid::new("learning_rate", reason).help("leave it at 1"))
    }

    /// Whether this schedule can have an effect.
    pub fn check_schedule(&self, schedule: &Schedule) -> Result<(), Invalid> {
        match each!(self, c => c.traits()).own_schedule {
            Some(why) if !schedule.is_constant() => {
                Err(Invalid::new("schedule", format!("has no effect: {} {why}", self.name())).help("leave it out"))
            }
            _ => Ok(()),
        }
    }

    /// Whether tensors may be stepped one by one, as their gradients become known.
    pub fn streams(&self) -> bool {
        !each!(self, c => c.traits()).whole
    }

    /// Why tensors cannot be stepped one by one.
    pub fn waits(&self) -> Option<&'static str> {
        match (self.streams(), self.averages()) {
            (true, _) => None,
            (false, true) => Some("counts each step of its average once for all tensors of a group"),
            (false, false) => Some("measures over all tensors before it updates any"),
        }
    }

    /// Bytes of state for a tensor.
    pub fn state_bytes(&self, shape: &[usize]) -> u64 {
        each!(self, c => c.buffers(shape)).iter().map(|spec| spec.bytes()).sum()
    }

    /// Number of buffers that are the state of a tensor.
    pub fn state_buffers(&self, shape: &[usize]) -> usize {
        each!(self, c => c.buffers(shape)).len()
    }

    /// Whether saved weights are averages of those that are trained, as [`Optimizer::averages`].
    pub fn averages(&self) -> bool {
        each!(self, c => c.traits()).averages.is_some()
    }

    /// Why weights that are changed between steps do not stay so: the optimizer keeps others beside them.
    pub fn rebuilds(&self) -> Option<&'static str> {
        match self {
            OptimizerConfig::DAdaptSgd(_) | OptimizerConfig::DAdaptAdaGrad(_) => {
                Some("computes the weights of each step from the first ones")
            }
            _ if self.averages() => Some("averages weights beside those that are scaled"),
            _ => None,
        }
    }

    /// The optimizer, without state yet. Errors as [`OptimizerConfig::check`].
    pub fn build(&self) -> Result<Box<dyn Optimizer>, Error> {
        self.check()?;
        Ok(each!(self, c => Box::new(Engine::new(c.clone())) as Box<dyn Optimizer>))
    }
}
