//! Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019), in the order PyTorch applies them.

use multiversion::multiversion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule::{Rule, Tensorwise, Update, check_common, count};
use super::state::{Buffer, Spec, floats};
use crate::{Invalid, par};

/// AdamW: decay apart from the gradient.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct AdamW {
    /// Learning rate η. Default 1e-4.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub learning_rate: f64,
    /// Decay rates β₁ and β₂ of the moments. Default `[0.9, 0.999]`.
    #[schemars(inner(range(min = 0.0, max = 0.999999)))]
    pub betas: [f64; 2],
    /// ε added to the root of the second moment. Default 1e-8.
    #[schemars(range(min = 1e-30, max = 1.0))]
    pub eps: f64,
    /// Decoupled weight decay λ: `θ ← θ(1−ηλ)`. Default 0.01.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW { learning_rate: 1e-4, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 }
    }
}

/// Adam: decay through the gradient.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Adam {
    /// Learning rate η. Default 1e-4.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub learning_rate: f64,
    /// Decay rates β₁ and β₂ of the moments. Default `[0.9, 0.999]`.
    #[schemars(inner(range(min = 0.0, max = 0.999999)))]
    pub betas: [f64; 2],
    /// ε added to the root of the second moment. Default 1e-8.
    #[schemars(range(min = 1e-30, max = 1.0))]
    pub eps: f64,
    /// Coupled weight decay λ: `g ← g + λθ`. Default 0.0.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Adam { learning_rate: 1e-4, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 }
    }
}

/// Constants of a step, rounded once.
struct Step {
    scale: f32,
    coupled: f32,
    keep: f32,
    beta2: f32,
    gain1: f32,
    gain2: f32,
    size: f32,
    root: f32,
    eps: f32,
}

impl Step {
    fn new(u: &Update, betas: [f64; 2], eps: f64, coupled: f64, decoupled: f64) -> Self {
        let [beta1, beta2] = betas;
        let k = u.k as f64;
        Step {
            scale: u.scale,
            coupled: coupled as f32,
            keep: (1.0 - u.rate * decoupled) as f32,
            beta2: beta2 as f32,
            gain1: (1.0 - beta1) as f32,
            gain2: (1.0 - beta2) as f32,
            size: (u.rate / (1.0 - beta1.powf(k))) as f32,
            root: (1.0 - beta2.powf(k)).sqrt() as f32,
            eps: eps as f32,
        }
    }
}

/// `m ← m + (1−β₁)(g−m)`, `v ← β₂v + (1−β₂)g²`, `θ ← θ(1−ηλ) − η/(1−β₁ᵏ) · m/(√v/√(1−β₂ᵏ) + ε)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn kernel(s: &Step, theta: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
    let n = theta.len();
    let (m, v, g) = (&mut m[..n], &mut v[..n], &g[..n]);
    for i in 0..n {
        let g = g[i] * s.scale + s.coupled * theta[i];
        m[i] += s.gain1 * (g - m[i]);
        v[i] = v[i] * s.beta2 + s.gain2 * g * g;
        theta[i] = theta[i] * s.keep - s.size * m[i] / (v[i].sqrt() / s.root + s.eps);
    }
}

fn run(step: &Step, theta: &mut [f32], g: &[f32], buffers: &mut [Buffer]) {
    let [m, v] = floats(buffers);
    par::each4(theta, m, v, g, |theta, m, v, g| {
        kernel(step, theta, m, v, g);
        0.0
    });
}

fn moments(shape: &[usize]) -> Vec<Spec> {
    vec![Spec::zeros("m", count(shape)), Spec::zeros("v", count(shape))]
}

impl Rule for AdamW {
    fn name(&self) -> &'static str {
        "AdamW"
    }
    fn check(&self) -> Result<(), Invalid> {
        check_common(Some(self.learning_rate), &self.betas, self.eps, self.weight_decay)
    }
    fn learning_rate(&self) -> Option<f64> {
        Some(self.learning_rate)
    }
    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        moments(shape)
    }
}

impl Tensorwise for AdamW {
    fn update(&self, u: &Update, theta: &mut [f32], g: &[f32], buffers: &mut [Buffer]) -> f64 {
        run(&Step::new(u, self.betas, self.eps, 0.0, self.weight_decay), theta, g, buffers);
        u.rate
    }
}

impl Rule for Adam {
    fn name(&self) -> &'static str {
        "Adam"
    }
    fn check(&self) -> Result<(), Invalid> {
        check_common(Some(self.learning_rate), &self.betas, self.eps, self.weight_decay)
    }
    fn learning_rate(&self) -> Option<f64> {
        Some(self.learning_rate)
    }
    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        moments(shape)
    }
}

impl Tensorwise for Adam {
    fn update(&self, u: &Update, theta: &mut [f32], g: &[f32], buffers: &mut [Buffer]) -> f64 {
        run(&Step::new(u, self.betas, self.eps, self.weight_decay, 0.0), theta, g, buffers);
        u.rate
    }
}
