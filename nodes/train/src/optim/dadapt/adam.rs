//! Adam with D-Adaptation, as dadaptation 3.2 has it.

use multiversion::multiversion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Distance, check, check_decouple, count_step, traits};
use crate::optim::prodigy::descend;
use crate::optim::rule::{Algorithm, Rule, Traits, count, gradient, learning, weights, with_weights};
use crate::optim::state::{Spec, Table, floats};
use crate::optim::{Context, Group, Report};
use crate::{Invalid, par};

/// D-Adapted Adam.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct DAdaptAdam {
    /// Factor η of the estimated rate d. Default 1.0.
    #[schemars(range(min = 1e-12, max = 10.0))]
    pub learning_rate: f64,
    /// Decay rates β₁ and β₂ of the moments. Default `[0.9, 0.999]`.
    #[schemars(inner(range(min = 0.0, max = 0.999999)))]
    pub betas: [f64; 2],
    /// ε. Default 1e-8.
    #[schemars(range(min = 1e-30, max = 1.0))]
    pub eps: f64,
    /// Weight decay λ. Default 0.0.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
    /// Decays weights apart from the gradient, as AdamW. Default false.
    pub decouple: bool,
    /// Corrects the moments' bias, as Adam. Default false.
    pub use_bias_correction: bool,
    /// First estimate d₀. Default 1e-6.
    #[schemars(range(min = 1e-30, max = 1.0))]
    pub d0: f64,
    /// Largest growth of d in a step, as a factor. Default: unlimited.
    #[schemars(range(min = 1.0))]
    pub growth_rate: Option<f64>,
}

impl Default for DAdaptAdam {
    fn default() -> Self {
        DAdaptAdam {
            learning_rate: 1.0,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            decouple: false,
            use_bias_correction: false,
            d0: 1e-6,
            growth_rate: None,
        }
    }
}

impl Rule for DAdaptAdam {
    fn name(&self) -> &'static str {
        "DAdaptAdam"
    }
    fn check(&self) -> Result<(), Invalid> {
        check_decouple(self.decouple, self.weight_decay)?;
        check(self.learning_rate, &self.betas, self.eps, self.weight_decay, self.d0, self.growth_rate)
    }
    fn learning_rate(&self) -> Option<f64> {
        Some(self.learning_rate)
    }
    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        ["m", "v", "s"].map(|name| Spec::zeros(name, count(shape))).into()
    }
    fn traits(&self) -> Traits {
        traits()
    }
}

/// `s/(√v + ε)` into `out`.
fn scaled(s: &[f32], v: &[f32], eps: f32, out: &mut [f32]) {
    out.iter_mut().zip(s).zip(v).for_each(|((out, s), v)| *out = s / (v.sqrt() + eps));
}

/// `m ← β₁m + αg`, `v ← β₂v + (1−β₂)g²`, `s ← qs + γg`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn accumulate(
    (beta1, alpha): (f32, f32),
    (beta2, gain): (f32, f32),
    (q, gamma): (f32, f32),
    m: &mut [f32],
    v: &mut [f32],
    s: &mut [f32],
    g: &[f32],
) {
    let n = g.len();
    let (m, v, s) = (&mut m[..n], &mut v[..n], &mut s[..n]);
    for i in 0..n {
        m[i] = m[i] * beta1 + alpha * g[i];
        v[i] = v[i] * beta2 + gain * g[i] * g[i];
        s[i] = s[i] * q + gamma * g[i];
    }
}

impl Algorithm for DAdaptAdam {
    /// With `q = √β₂`: `a = Σ d·η⟨g, s/(√v+ε)⟩` over the state before the step, moments, `s ← qs + (1−q)dηg`,
    /// `n ← qn + (1−q)a`, `d̂ = n/((1−q)Σ|s|)`, `θ ← θ − m/(√v+ε)`.
    fn step(&self, table: &mut Table, cx: &Context, groups: &mut [Group<'_>]) -> Report {
        let [beta1, beta2] = self.betas;
        let mut distance = Distance::new(table, groups, self.d0, self.growth_rate);
        let k = table.scalar("updates", 0.0) + 1.0;
        let c = if self.use_bias_correction { (1.0 - beta2.powf(k)).sqrt() / (1.0 - beta1.powf(k)) } else { 1.0 };
        let dlr = distance.rate() * c;
        let (coupled, decoupled) = if self.decouple { (0.0, self.weight_decay) } else { (self.weight_decay, 0.0) };
        let (q, eps) = (beta2.sqrt(), self.eps as f32);
        let (mut progress, mut size) = (0.0, 0.0);
        learning(self, table, groups, |cell, slot, g| {
            let theta = weights(slot);
            let g = gradient(g, cx.gradient_scale, coupled, &theta);
            let [m, v, s] = floats(&mut cell.buffers);
            progress += dlr
                * par::each4(m, v, s, &g, |m, v, s, g| {
                    let mut way = vec![0.0; g.len()];
                    scaled(s, v, eps, &mut way);
                    let progress = par::dot(g, &way);
                    let first = (beta1 as f32, (dlr * (1.0 - beta1)) as f32);
                    let second = (beta2 as f32, (1.0 - beta2) as f32);
                    accumulate(first, second, (q as f32, (dlr * (1.0 - q)) as f32), m, v, s, g);
                    progress
                });
            size += par::sum_abs(s);
        });
        let numerator = q * table.scalar("numerator", 0.0) + (1.0 - q) * progress;
        if size == 0.0 {
            return distance.report(groups);
        }
        distance.grow(table, numerator / ((1.0 - q) * size));
        table.set("numerator", numerator);
        let keep = (1.0 - decoupled * dlr) as f32;
        learning(self, table, groups, |cell, slot, _| {
            cell.updates += 1;
            let [m, v, _] = floats(&mut cell.buffers);
            with_weights(slot, cx, cell.updates, |theta| {
                par::apply(theta, m, v, |theta, m, v| descend(theta, m, v, keep, 1.0, eps));
            });
        });
        count_step(table);
        distance.report(groups)
    }
}
