//! Stochastic gradient descent with momentum (Polyak 1964), also in Nesterov's form (Sutskever et al. 2013).

use multiversion::multiversion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule::{Rule, Tensorwise, Update, check_common, count};
use super::state::{Buffer, Spec, floats};
use crate::{Invalid, par};

/// SGD. sd-scripts' `SGDNesterov` is the default here.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Sgd {
    /// Learning rate η. Default 1e-3.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub learning_rate: f64,
    /// Momentum μ; 0 keeps no state. Default 0.9.
    #[schemars(range(min = 0.0, max = 0.999999))]
    pub momentum: f64,
    /// Looks one momentum step ahead. Default: true with momentum.
    pub nesterov: Option<bool>,
    /// Coupled weight decay λ: `g ← g + λθ`. Default 0.0.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        Sgd { learning_rate: 1e-3, momentum: 0.9, nesterov: None, weight_decay: 0.0 }
    }
}

/// Constants of a step.
struct Step {
    scale: f32,
    decay: f32,
    momentum: f32,
    rate: f32,
    nesterov: bool,
    first: bool,
}

/// `b ← μb + g` (g at first), `θ ← θ − η(g + μb)` or `θ − ηb`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn with_momentum(s: &Step, theta: &mut [f32], b: &mut [f32], g: &[f32]) {
    let n = theta.len();
    let (b, g) = (&mut b[..n], &g[..n]);
    let old = if s.first { 0.0 } else { s.momentum };
    let (now, last) = if s.nesterov { (1.0, s.momentum) } else { (0.0, 1.0) };
    for i in 0..n {
        let g = g[i] * s.scale + s.decay * theta[i];
        b[i] = old * b[i] + g;
        theta[i] -= s.rate * (now * g + last * b[i]);
    }
}

/// `θ ← θ − ηg`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn plain(s: &Step, theta: &mut [f32], g: &[f32]) {
    for (theta, g) in theta.iter_mut().zip(g) {
        *theta -= s.rate * (g * s.scale + s.decay * *theta);
    }
}

impl Rule for Sgd {
    fn name(&self) -> &'static str {
        if self.nesterov.unwrap_or(self.momentum > 0.0) { "SGDNesterov" } else { "SGD" }
    }
    fn check(&self) -> Result<(), Invalid> {
        check_common(Some(self.learning_rate), &[], 1.0, self.weight_decay)?;
        crate::within("momentum", self.momentum, 0.0, 0.999_999)?;
        if self.nesterov == Some(true) && self.momentum == 0.0 {
            return Err(Invalid::new("nesterov", "has no effect without momentum").help("set `momentum`, 0.9 is usual"));
        }
        Ok(())
    }
    fn learning_rate(&self) -> Option<f64> {
        Some(self.learning_rate)
    }
    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        if self.momentum == 0.0 { vec![] } else { vec![Spec::zeros("momentum", count(shape))] }
    }
}

impl Tensorwise for Sgd {
    fn update(&self, u: &Update, theta: &mut [f32], g: &[f32], buffers: &mut [Buffer]) -> f64 {
        let step = Step {
            scale: u.scale,
            decay: self.weight_decay as f32,
            momentum: self.momentum as f32,
            rate: u.rate as f32,
            nesterov: self.nesterov.unwrap_or(true),
            first: u.k == 1,
        };
        if buffers.is_empty() {
            par::each2(theta, g, |theta, g| {
                plain(&step, theta, g);
                0.0
            });
        } else {
            let [momentum] = floats(buffers);
            par::each3(theta, momentum, g, |theta, b, g| {
                with_momentum(&step, theta, b, g);
                0.0
            });
        }
        u.rate
    }
}
