//! Schedule-free optimizers (Defazio et al. 2024): gradients at y, the average x in place of a schedule.
//!
//! The weights during training are y; z is kept, and `x = y + (1 − 1/β)(z − y)` is sampled from, validated and saved.

mod average;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule::{Algorithm, Rule, Traits, check_common, count};
use super::state::{Spec, Table};
use super::{Context, Group, Report};
use crate::{Invalid, within};
use average::{Average, Moment};

/// Schedule-free AdamW.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct ScheduleFreeAdamW {
    /// Learning rate η; larger than AdamW's. Default 0.0025.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub learning_rate: f64,
    /// β₁ of the interpolation, above 0, and β₂ of the second moment. Default `[0.9, 0.999]`.
    #[schemars(inner(range(min = 0.0, max = 0.999999)))]
    pub betas: [f64; 2],
    /// ε. Default 1e-8.
    #[schemars(range(min = 1e-30, max = 1.0))]
    pub eps: f64,
    /// Weight decay λ, at y. Default 0.0.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
    /// Steps of a linear rise of the rate at the start, in place of a schedule's. Default: none.
    #[schemars(range(min = 1))]
    pub warmup_steps: Option<u64>,
    /// Weighs step k of the average by `kʳ`. Default 0.0.
    #[schemars(range(min = 0.0, max = 20.0))]
    pub r: f64,
    /// Weighs steps by this power of the largest rate. Default 2.0.
    #[schemars(range(min = 0.0, max = 20.0))]
    pub weight_lr_power: f64,
}

impl Default for ScheduleFreeAdamW {
    fn default() -> Self {
        ScheduleFreeAdamW {
            learning_rate: 0.0025,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            warmup_steps: None,
            r: 0.0,
            weight_lr_power: 2.0,
        }
    }
}

/// Schedule-free RAdam: the rectification of Liu et al. 2020 in place of a warm-up.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct ScheduleFreeRAdam {
    /// Learning rate η. Default 0.0025.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub learning_rate: f64,
    /// β₁ of the interpolation, above 0, and β₂ of the second moment. Default `[0.9, 0.999]`.
    #[schemars(inner(range(min = 0.0, max = 0.999999)))]
    pub betas: [f64; 2],
    /// ε. Default 1e-8.
    #[schemars(range(min = 1e-30, max = 1.0))]
    pub eps: f64,
    /// Weight decay λ, at y. Default 0.0.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
    /// Weighs step k of the average by `kʳ`. Default 0.0.
    #[schemars(range(min = 0.0, max = 20.0))]
    pub r: f64,
    /// Weighs steps by this power of the largest rate. Default 2.0.
    #[schemars(range(min = 0.0, max = 20.0))]
    pub weight_lr_power: f64,
}

impl Default for ScheduleFreeRAdam {
    fn default() -> Self {
        let ScheduleFreeAdamW { learning_rate, betas, eps, weight_decay, r, weight_lr_power, .. } = Default::default();
        ScheduleFreeRAdam { learning_rate, betas, eps, weight_decay, r, weight_lr_power }
    }
}

/// Schedule-free SGD.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct ScheduleFreeSgd {
    /// Learning rate η; 10 to 50 times that of SGD with momentum. Default 1.0.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub learning_rate: f64,
    /// β of the interpolation. Default 0.9.
    #[schemars(range(min = 0.000001, max = 0.999999))]
    pub momentum: f64,
    /// Weight decay λ, at y. Default 0.0.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
    /// Steps of a linear rise of the rate at the start, in place of a schedule's. Default: none.
    #[schemars(range(min = 1))]
    pub warmup_steps: Option<u64>,
    /// Weighs step k of the average by `kʳ`. Default 0.0.
    #[schemars(range(min = 0.0, max = 20.0))]
    pub r: f64,
    /// Weighs steps by this power of the largest rate. Default 2.0.
    #[schemars(range(min = 0.0, max = 20.0))]
    pub weight_lr_power: f64,
}

impl Default for ScheduleFreeSgd {
    fn default() -> Self {
        ScheduleFreeSgd {
            learning_rate: 1.0,
            momentum: 0.9,
            weight_decay: 0.0,
            warmup_steps: None,
            r: 0.0,
            weight_lr_power: 2.0,
        }
    }
}

/// `min(1, (k+1)/warmup)`.
fn warm(k: u64, warmup: Option<u64>) -> f64 {
    match warmup {
        Some(steps) if k < steps => (k + 1) as f64 / steps as f64,
        _ => 1.0,
    }
}

fn with_moment(shape: &[usize]) -> Vec<Spec> {
    vec![Spec::weights("z", count(shape)), Spec::zeros("v", count(shape))]
}

fn check_warmup(steps: Option<u64>) -> Result<(), Invalid> {
    if steps == Some(0) {
        return Err(Invalid::new("warmup_steps", "a warm-up is at least one step").help("leave it out for none"));
    }
    Ok(())
}

/// Without a warm-up all steps have one rate, so its power weighs them alike.
fn check_power(power: f64, warmup: Option<u64>) -> Result<(), Invalid> {
    if power != 2.0 && warmup.is_none() {
        return Err(Invalid::new("weight_lr_power", "has an effect only with `warmup_steps`").help("leave it out"));
    }
    Ok(())
}

impl ScheduleFreeAdamW {
    fn average(&self) -> Average {
        Average { beta: self.betas[0], decay: self.weight_decay, r: self.r, power: self.weight_lr_power }
    }
}

impl Rule for ScheduleFreeAdamW {
    fn name(&self) -> &'static str {
        "AdamWScheduleFree"
    }
    fn check(&self) -> Result<(), Invalid> {
        check_common(Some(self.learning_rate), &self.betas, self.eps, self.weight_decay)?;
        within("betas[0]", self.betas[0], 1e-6, 0.999_999)?;
        check_warmup(self.warmup_steps)?;
        check_power(self.weight_lr_power, self.warmup_steps)?;
        self.average().check()
    }
    fn learning_rate(&self) -> Option<f64> {
        Some(self.learning_rate)
    }
    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        with_moment(shape)
    }
    fn traits(&self) -> Traits {
        self.average().traits()
    }
}

impl Algorithm for ScheduleFreeAdamW {
    fn step(&self, table: &mut Table, cx: &Context, groups: &mut [Group<'_>]) -> Report {
        let beta2 = self.betas[1];
        self.average().step(self, table, cx, groups, |k| {
            let correction = Some(1.0 - beta2.powf((k + 1) as f64));
            (warm(k, self.warmup_steps), Some(Moment { beta2, eps: self.eps, correction }))
        })
    }
}

impl ScheduleFreeRAdam {
    fn average(&self) -> Average {
        Average { beta: self.betas[0], decay: self.weight_decay, r: self.r, power: self.weight_lr_power }
    }

    /// The rectification of step k from 0; 0 while the second moment is too uncertain, when nothing moves.
    pub fn rectification(&self, k: u64) -> f64 {
        let (beta2, t) = (self.betas[1], (k + 1) as f64);
        let longest = 2.0 / (1.0 - beta2) - 1.0;
        let length = longest - 2.0 * t * beta2.powf(t) / (1.0 - beta2.powf(t));
        if length <= 4.0 {
            return 0.0;
        }
        let ratio = (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length);
        ratio.max(0.0).sqrt()
    }
}

impl Rule for ScheduleFreeRAdam {
    fn name(&self) -> &'static str {
        "RAdamScheduleFree"
    }
    fn check(&self) -> Result<(), Invalid> {
        check_common(Some(self.learning_rate), &self.betas, self.eps, self.weight_decay)?;
        within("betas[0]", self.betas[0], 1e-6, 0.999_999)?;
        if self.betas[1] <= 0.6 {
            return Err(Invalid::new(
                "betas[1]",
                "is too small: at 0.6 and below the rectified rate is 0 in every step",
            ));
        }
        self.average().check()
    }
    fn learning_rate(&self) -> Option<f64> {
        Some(self.learning_rate)
    }
    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        with_moment(shape)
    }
    fn traits(&self) -> Traits {
        self.average().traits()
    }
}

impl Algorithm for ScheduleFreeRAdam {
    fn step(&self, table: &mut Table, cx: &Context, groups: &mut [Group<'_>]) -> Report {
        let beta2 = self.betas[1];
        self.average().step(self, table, cx, groups, |k| {
            let factor = self.rectification(k);
            let correction = (factor > 0.0).then(|| 1.0 - beta2.powf((k + 1) as f64));
            (factor, Some(Moment { beta2, eps: self.eps, correction }))
        })
    }
}

impl ScheduleFreeSgd {
    fn average(&self) -> Average {
        Average { beta: self.momentum, decay: self.weight_decay, r: self.r, power: self.weight_lr_power }
    }
}

impl Rule for ScheduleFreeSgd {
    fn name(&self) -> &'static str {
        "SGDScheduleFree"
    }
    fn check(&self) -> Result<(), Invalid> {
        within("learning_rate", self.learning_rate, 0.0, 1000.0)?;
        within("momentum", self.momentum, 1e-6, 0.999_999)?;
        within("weight_decay", self.weight_decay, 0.0, 10.0)?;
        check_warmup(self.warmup_steps)?;
        check_power(self.weight_lr_power, self.warmup_steps)?;
        self.average().check()
    }
    fn learning_rate(&self) -> Option<f64> {
        Some(self.learning_rate)
    }
    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        vec![Spec::weights("z", count(shape))]
    }
    fn traits(&self) -> Traits {
        self.average().traits()
    }
}

impl Algorithm for ScheduleFreeSgd {
    fn step(&self, table: &mut Table, cx: &Context, groups: &mut [Group<'_>]) -> Report {
        self.average().step(self, table, cx, groups, |k| (warm(k, self.warmup_steps), None))
    }
}
