//! SGD with D-Adaptation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Distance, check, count_step, traits};
use crate::optim::rule::{Algorithm, Rule, Traits, count, gradient, learning, weights, with_weights};
use crate::optim::state::{Spec, Table, floats};
use crate::optim::{Context, Group, Report};
use crate::{Invalid, par, within};

/// D-Adapted SGD.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct DAdaptSgd {
    /// Factor η of the estimated rate d. Default 1.0.
    #[schemars(range(min = 1e-12, max = 10.0))]
    pub learning_rate: f64,
    /// Momentum μ. Default 0.0.
    #[schemars(range(min = 0.0, max = 0.999999))]
    pub momentum: f64,
    /// Coupled weight decay λ: `g ← g + λθ`. Default 0.0.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
    /// First estimate d₀. Default 1e-6.
    #[schemars(range(min = 1e-30, max = 1.0))]
    pub d0: f64,
    /// Largest growth of d in a step, as a factor. Default: unlimited.
    #[schemars(range(min = 1.0))]
    pub growth_rate: Option<f64>,
}

impl Default for DAdaptSgd {
    fn default() -> Self {
        DAdaptSgd { learning_rate: 1.0, momentum: 0.0, weight_decay: 0.0, d0: 1e-6, growth_rate: None }
    }
}

impl Rule for DAdaptSgd {
    fn name(&self) -> &'static str {
        "DAdaptSGD"
    }
    fn check(&self) -> Result<(), Invalid> {
        within("momentum", self.momentum, 0.0, 0.999_999)?;
        check(self.learning_rate, &[], 1.0, self.weight_decay, self.d0, self.growth_rate)
    }
    fn learning_rate(&self) -> Option<f64> {
        Some(self.learning_rate)
    }
    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        vec![Spec::zeros("s", count(shape)), Spec::weights("start", count(shape))]
    }
    fn traits(&self) -> Traits {
        traits()
    }
}

impl Algorithm for DAdaptSgd {
    /// `n += d·η/‖g₀‖·⟨g, s⟩`, `s ← s + d·η/‖g₀‖·g`, `d̂ = 2n/‖s‖`, `θ ← μθ + (1−μ)(θ₀ − s)`; g₀ is the first gradient, of
    /// all tensors and without decay.
    fn step(&self, table: &mut Table, cx: &Context, groups: &mut [Group<'_>]) -> Report {
        let mut distance = Distance::new(table, groups, self.d0, self.growth_rate);
        let first = table.scalar("updates", 0.0) == 0.0;
        let mut g0 = table.scalar("first_norm", 0.0);
        if first {
            let mut squares = 0.0;
            learning(self, table, groups, |_, _, g| squares += par::sum_squares(g));
            g0 = squares.sqrt() * cx.gradient_scale as f64;
        }
        if g0 == 0.0 {
            return distance.report(groups);
        }
        let dlr = distance.rate() / g0;
        let (mut numerator, mut squares) = (table.scalar("numerator", 0.0), 0.0);
        learning(self, table, groups, |cell, slot, g| {
            let theta = weights(slot);
            let g = gradient(g, cx.gradient_scale, self.weight_decay, &theta);
            let [s] = floats(&mut cell.buffers);
            numerator += dlr
                * par::each2(s, &g, |s, g| {
                    let progress = par::dot(g, s);
                    s.iter_mut().zip(g).for_each(|(s, g)| *s += dlr as f32 * g);
                    progress
                });
            squares += par::sum_squares(s);
        });
        if squares == 0.0 {
            return distance.report(groups);
        }
        distance.grow(table, 2.0 * numerator / squares.sqrt());
        table.set("numerator", numerator);
        table.set("first_norm", g0);
        let (keep, gain) = (self.momentum as f32, (1.0 - self.momentum) as f32);
        learning(self, table, groups, |cell, slot, _| {
            cell.updates += 1;
            let [s, start] = floats(&mut cell.buffers);
            with_weights(slot, cx, cell.updates, |theta| {
                par::apply(theta, start, s, |theta, start, s| {
                    for ((theta, start), s) in theta.iter_mut().zip(start).zip(s) {
                        *theta = *theta * keep + gain * (start - s);
                    }
                });
            });
        });
        count_step(table);
        distance.report(groups)
    }
}
