//! Lion with D-Adaptation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Distance, check, count_step, traits};
use crate::optim::lion::sign;
use crate::optim::rule::{Algorithm, Rule, Traits, count, gradient, learning, with_weights};
use crate::optim::state::{Spec, Table, floats};
use crate::optim::{Context, Group, Report};
use crate::{Invalid, par};

/// D-Adapted Lion.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct DAdaptLion {
    /// Factor η of the estimated rate d. Default 1.0.
    #[schemars(range(min = 1e-12, max = 10.0))]
    pub learning_rate: f64,
    /// β₁ of the update and β₂ of the momentum. Default `[0.9, 0.99]`.
    #[schemars(inner(range(min = 0.0, max = 0.999999)))]
    pub betas: [f64; 2],
    /// Weight decay λ: `θ ← θ(1−dηλ)`. Default 0.0.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
    /// First estimate d₀. Default 1e-6.
    #[schemars(range(min = 1e-30, max = 1.0))]
    pub d0: f64,
}

impl Default for DAdaptLion {
    fn default() -> Self {
        DAdaptLion { learning_rate: 1.0, betas: [0.9, 0.99], weight_decay: 0.0, d0: 1e-6 }
    }
}

impl Rule for DAdaptLion {
    fn name(&self) -> &'static str {
        "DAdaptLion"
    }
    fn check(&self) -> Result<(), Invalid> {
        check(self.learning_rate, &self.betas, 1.0, self.weight_decay, self.d0, None)
    }
    fn learning_rate(&self) -> Option<f64> {
        Some(self.learning_rate)
    }
    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        ["m", "s"].map(|name| Spec::zeros(name, count(shape))).into()
    }
    fn traits(&self) -> Traits {
        traits()
    }
}

impl Algorithm for DAdaptLion {
    /// `u = sign(β₁m + (1−β₁)g)`, `θ ← θ(1−dηλ) − dηu`, `m ← β₂m + (1−β₂)dηg`; with `q = √β₂`:
    /// `a += dη⟨u, s⟩`, `s ← qs + (1−q)dηu`, `n ← qn + (1−q)a`, `d̂ = n/((1−q)Σ|s|)`.
    fn step(&self, table: &mut Table, cx: &Context, groups: &mut [Group<'_>]) -> Report {
        let [beta1, beta2] = self.betas;
        let mut distance = Distance::new(table, groups, self.d0, None);
        let (dlr, q) = (distance.rate(), beta2.sqrt());
        let (keep, step) = ((1.0 - dlr * self.weight_decay) as f32, dlr as f32);
        let (blend, gain) = ((beta1 as f32, (1.0 - beta1) as f32), (beta2 as f32, ((1.0 - beta2) * dlr) as f32));
        let s_gain = ((1.0 - q) * dlr) as f32;
        let (mut progress, mut size) = (0.0, 0.0);
        learning(self, table, groups, |cell, slot, g| {
            cell.updates += 1;
            let g = gradient(g, cx.gradient_scale, 0.0, &[]);
            let [m, s] = floats(&mut cell.buffers);
            progress += dlr
                * with_weights(slot, cx, cell.updates, |theta| {
                    par::each4(theta, m, s, &g, |theta, m, s, g| {
                        let update: Vec<f32> = m.iter().zip(g).map(|(m, g)| sign(blend.0 * m + blend.1 * g)).collect();
                        let progress = par::dot(&update, s);
                        theta.iter_mut().zip(&update).for_each(|(theta, u)| *theta = *theta * keep - step * u);
                        m.iter_mut().zip(g).for_each(|(m, g)| *m = *m * gain.0 + gain.1 * g);
                        s.iter_mut().zip(&update).for_each(|(s, u)| *s = *s * q as f32 + s_gain * u);
                        progress
                    })
                });
            size += par::sum_abs(s);
        });
        let numerator = q * table.scalar("numerator", 0.0) + (1.0 - q) * progress;
        if size == 0.0 {
            return distance.report(groups);
        }
        distance.grow(table, numerator / ((1.0 - q) * size));
        table.set("numerator", numerator);
        count_step(table);
        distance.report(groups)
    }
}
