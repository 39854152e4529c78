//! AdaGrad with D-Adaptation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Distance, check, count_step, traits};
use crate::optim::rule::{Algorithm, Rule, Traits, count, gradient, learning, weights, with_weights};
use crate::optim::state::{Init, Spec, Table, floats};
use crate::optim::{Context, Group, Report};
use crate::{Invalid, par, within};

/// D-Adapted AdaGrad.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct DAdaptAdaGrad {
    /// Factor η of the estimated rate d. Default 1.0.
    #[schemars(range(min = 1e-12, max = 10.0))]
    pub learning_rate: f64,
    /// Momentum μ. Default 0.0.
    #[schemars(range(min = 0.0, max = 0.999999))]
    pub momentum: f64,
    /// ε. Default 1e-6.
    #[schemars(range(min = 1e-30, max = 1.0))]
    pub eps: f64,
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

impl Default for DAdaptAdaGrad {
    fn default() -> Self {
        DAdaptAdaGrad { learning_rate: 1.0, momentum: 0.0, eps: 1e-6, weight_decay: 0.0, d0: 1e-6, growth_rate: None }
    }
}

impl Rule for DAdaptAdaGrad {
    fn name(&self) -> &'static str {
        "DAdaptAdaGrad"
    }
    fn check(&self) -> Result<(), Invalid> {
        within("momentum", self.momentum, 0.0, 0.999_999)?;
        check(self.learning_rate, &[], self.eps, self.weight_decay, self.d0, self.growth_rate)
    }
    fn learning_rate(&self) -> Option<f64> {
        Some(self.learning_rate)
    }
    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        let n = count(shape);
        let squares = Spec { init: Init::Fill(1e-6), ..Spec::zeros("alpha", n) };
        vec![squares, Spec::zeros("s", n), Spec::weights("start", n)]
    }
    fn traits(&self) -> Traits {
        traits()
    }
}

/// `Σ x²/(√α + ε)`.
fn weighted(x: &[f32], alpha: &[f32], eps: f32) -> f64 {
    let scaled: Vec<f32> = x.iter().zip(alpha).map(|(x, a)| x * x / (a.sqrt() + eps)).collect();
    scaled.iter().map(|&x| x as f64).sum()
}

impl Algorithm for DAdaptAdaGrad {
    /// `α ← α + g²` from 10⁻⁶, `s ← s + dηg`, `G += (dη)²Σg²/(√α+ε)`, `d̂ = (Σs²/(√α+ε) − G)/Σ|s|`,
    /// `θ ← μθ + (1−μ)(θ₀ − s/(√α+ε))`.
    fn step(&self, table: &mut Table, cx: &Context, groups: &mut [Group<'_>]) -> Report {
        let mut distance = Distance::new(table, groups, self.d0, self.growth_rate);
        let (dlr, eps) = (distance.rate(), self.eps as f32);
        let (mut g_squares, mut s_squares, mut size) = (0.0, table.scalar("squares", 0.0), table.scalar("size", 0.0));
        learning(self, table, groups, |cell, slot, g| {
            let theta = weights(slot);
            let g = gradient(g, cx.gradient_scale, self.weight_decay, &theta);
            let [alpha, s] = floats(&mut cell.buffers);
            s_squares -= weighted(s, alpha, eps);
            size -= par::sum_abs(s);
            g_squares += par::each3(alpha, s, &g, |alpha, s, g| {
                alpha.iter_mut().zip(g).for_each(|(a, g)| *a += g * g);
                s.iter_mut().zip(g).for_each(|(s, g)| *s += dlr as f32 * g);
                weighted(g, alpha, eps)
            });
            s_squares += weighted(s, alpha, eps);
            size += par::sum_abs(s);
        });
        // A difference of sums may leave a rounding error where it is 0.
        if size <= 0.0 {
            return distance.report(groups);
        }
        let gradients = table.scalar("gradients", 0.0) + dlr * dlr * g_squares;
        distance.grow(table, (s_squares - gradients) / size);
        for (name, value) in [("gradients", gradients), ("squares", s_squares), ("size", size)] {
            table.set(name, value);
        }
        let (keep, gain) = (self.momentum as f32, (1.0 - self.momentum) as f32);
        learning(self, table, groups, |cell, slot, _| {
            cell.updates += 1;
            let [alpha, s, start] = floats(&mut cell.buffers);
            with_weights(slot, cx, cell.updates, |theta| {
                par::each4(theta, alpha, start, s, |theta, alpha, start, s| {
                    for (((theta, a), start), s) in theta.iter_mut().zip(alpha).zip(start).zip(s) {
                        *theta = *theta * keep + gain * (*start - s / (a.sqrt() + eps));
                    }
                    0.0
                });
            });
        });
        count_step(table);
        distance.report(groups)
    }
}
