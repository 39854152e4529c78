//! Adam with D-Adaptation as first published; what sd-scripts calls `DAdaptation`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::adam::accumulate;
use super::{Distance, check, check_decouple, count_step, traits};
use crate::optim::prodigy::descend;
use crate::optim::rule::{Algorithm, Rule, Traits, count, gradient, learning, weights, with_weights};
use crate::optim::state::{Spec, Table, floats};
use crate::optim::{Context, Group, Report};
use crate::{Invalid, par};

/// D-Adapted Adam of the preprint.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct DAdaptAdamPreprint {
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
    /// First estimate d₀. Default 1e-6.
    #[schemars(range(min = 1e-30, max = 1.0))]
    pub d0: f64,
    /// Largest growth of d in a step, as a factor. Default: unlimited.
    #[schemars(range(min = 1.0))]
    pub growth_rate: Option<f64>,
}

impl Default for DAdaptAdamPreprint {
    fn default() -> Self {
        DAdaptAdamPreprint {
            learning_rate: 1.0,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            decouple: false,
            d0: 1e-6,
            growth_rate: None,
        }
    }
}

impl Rule for DAdaptAdamPreprint {
    fn name(&self) -> &'static str {
        "DAdaptAdamPreprint"
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

/// `Σ x²/(√v + ε)`.
fn weighted_squares(x: &[f32], v: &[f32], eps: f32) -> f64 {
    let scaled: Vec<f32> = x.iter().zip(v).map(|(x, v)| x / (v.sqrt() + eps)).collect();
    par::dot(x, &scaled)
}

impl Algorithm for DAdaptAdamPreprint {
    /// Moments, `s ← β₂s + (1−β₂)dηg`, then `G ← β₂G + (1−β₂)(dη)²Σg²/(√v+ε)`,
    /// `d̂ = (Σs²/(√v+ε)/(1−β₂) − G)/Σ|s|`, `θ ← θ − m/(√v+ε)`.
    fn step(&self, table: &mut Table, cx: &Context, groups: &mut [Group<'_>]) -> Report {
        let [beta1, beta2] = self.betas;
        let mut distance = Distance::new(table, groups, self.d0, self.growth_rate);
        let dlr = distance.rate();
        let (coupled, decoupled) = if self.decouple { (0.0, self.weight_decay) } else { (self.weight_decay, 0.0) };
        let eps = self.eps as f32;
        let (mut g_squares, mut s_squares, mut size) = (0.0, 0.0, 0.0);
        learning(self, table, groups, |cell, slot, g| {
            let theta = weights(slot);
            let g = gradient(g, cx.gradient_scale, coupled, &theta);
            let [m, v, s] = floats(&mut cell.buffers);
            g_squares += par::each4(m, v, s, &g, |m, v, s, g| {
                let first = (beta1 as f32, (dlr * (1.0 - beta1)) as f32);
                let second = (beta2 as f32, (1.0 - beta2) as f32);
                accumulate(first, second, (beta2 as f32, (dlr * (1.0 - beta2)) as f32), m, v, s, g);
                weighted_squares(g, v, eps)
            });
            s_squares += weighted_squares(s, v, eps);
            size += par::sum_abs(s);
        });
        let gradients = beta2 * table.scalar("gradients", 0.0) + g_squares * dlr * dlr * (1.0 - beta2);
        if size == 0.0 {
            return distance.report(groups);
        }
        distance.grow(table, (s_squares / (1.0 - beta2) - gradients) / size);
        table.set("gradients", gradients);
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
