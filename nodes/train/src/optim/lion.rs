//! Lion (Chen et al. 2023): the sign of a momentum.

use multiversion::multiversion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule::{Rule, Tensorwise, Update, check_common, count};
use super::state::{Buffer, Spec, floats};
use crate::{Invalid, par};

/// Lion. Rates are usually 3 to 10 times smaller than AdamW's, decays as much larger.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Lion {
    /// Learning rate η. Default 1e-5.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub learning_rate: f64,
    /// β₁ of the update and β₂ of the momentum. Default `[0.9, 0.99]`.
    #[schemars(inner(range(min = 0.0, max = 0.999999)))]
    pub betas: [f64; 2],
    /// Weight decay λ: `θ ← θ(1−ηλ)`. Default 0.0.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
    /// Divides the decay by `learning_rate`, so that it follows the schedule but not the rate. Default false.
    pub decoupled_weight_decay: bool,
}

impl Default for Lion {
    fn default() -> Self {
        Lion { learning_rate: 1e-5, betas: [0.9, 0.99], weight_decay: 0.0, decoupled_weight_decay: false }
    }
}

/// Constants of a step.
pub(crate) struct Step {
    pub scale: f32,
    pub keep: f32,
    pub rate: f32,
    pub beta1: f32,
    pub gain1: f32,
    pub beta2: f32,
    pub gain2: f32,
}

impl Step {
    pub fn new(u: &Update, [beta1, beta2]: [f64; 2], decay: f64) -> Self {
        Step {
            scale: u.scale,
            keep: (1.0 - u.rate * decay) as f32,
            rate: u.rate as f32,
            beta1: beta1 as f32,
            gain1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            gain2: (1.0 - beta2) as f32,
        }
    }
}

/// −1, 0 or 1.
#[inline(always)]
pub(crate) fn sign(x: f32) -> f32 {
    (x > 0.0) as i32 as f32 - (x < 0.0) as i32 as f32
}

/// `θ ← θ(1−ηλ) − η·sign(β₁m + (1−β₁)g)`, `m ← β₂m + (1−β₂)g`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn kernel(s: &Step, theta: &mut [f32], m: &mut [f32], g: &[f32]) {
    let n = theta.len();
    let (m, g) = (&mut m[..n], &g[..n]);
    for i in 0..n {
        let g = g[i] * s.scale;
        theta[i] = theta[i] * s.keep - s.rate * sign(s.beta1 * m[i] + s.gain1 * g);
        m[i] = s.beta2 * m[i] + s.gain2 * g;
    }
}

/// On f32 state.
pub(crate) fn run(step: &Step, theta: &mut [f32], g: &[f32], m: &mut [f32]) {
    par::each3(theta, m, g, |theta, m, g| {
        kernel(step, theta, m, g);
        0.0
    });
}

impl Rule for Lion {
    fn name(&self) -> &'static str {
        "Lion"
    }
    fn check(&self) -> Result<(), Invalid> {
        check_common(Some(self.learning_rate), &self.betas, 1.0, self.weight_decay)?;
        crate::within("learning_rate", self.learning_rate, 0.0, 10.0)?;
        if self.decoupled_weight_decay && self.learning_rate == 0.0 {
            let reason = "divides the decay by `learning_rate`, which is 0";
            return Err(Invalid::new("decoupled_weight_decay", reason).help("leave it out"));
        }
        if self.decoupled_weight_decay && self.weight_decay == 0.0 {
            return Err(Invalid::new("decoupled_weight_decay", "has no effect without `weight_decay`"));
        }
        Ok(())
    }
    fn learning_rate(&self) -> Option<f64> {
        Some(self.learning_rate)
    }
    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        vec![Spec::zeros("m", count(shape))]
    }
}

impl Tensorwise for Lion {
    fn update(&self, u: &Update, theta: &mut [f32], g: &[f32], buffers: &mut [Buffer]) -> f64 {
        let decay =
            if self.decoupled_weight_decay { self.weight_decay / self.learning_rate } else { self.weight_decay };
        let [m] = floats(buffers);
        run(&Step::new(u, self.betas, decay), theta, g, m);
        u.rate
    }
}
