//! Prodigy (Mishchenko and Defazio 2024): Adam that estimates its own rate.

use std::borrow::Cow;

use multiversion::multiversion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule::{
    Algorithm, Rule, Traits, check_common, common_rate, count, gradient, learning, weights, with_weights,
};
use super::state::{Init, Spec, Table, floats};
use super::{Context, Group, Report};
use crate::{Invalid, par, within};

/// Prodigy. The rate is a factor of the estimate, best left at 1.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Prodigy {
    /// Factor η of the estimated rate d. Default 1.0.
    #[schemars(range(min = 1e-12, max = 10.0))]
    pub learning_rate: f64,
    /// Decay rates β₁ and β₂ of the moments. Default `[0.9, 0.999]`.
    #[schemars(inner(range(min = 0.0, max = 0.999999)))]
    pub betas: [f64; 2],
    /// Decay rate β₃ of the estimate's sums. Default √β₂.
    #[schemars(range(min = 0.0, max = 0.999999))]
    pub beta3: Option<f64>,
    /// ε. Default 1e-8.
    #[schemars(range(min = 1e-30, max = 1.0))]
    pub eps: f64,
    /// Weight decay λ. Default 0.0.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
    /// Decays weights apart from the gradient, as AdamW. Default true.
    pub decouple: bool,
    /// Corrects the moments' bias, as Adam. Default false.
    pub use_bias_correction: bool,
    /// Keeps the rate's warm-up out of the estimate. Default false.
    pub safeguard_warmup: bool,
    /// First estimate d₀. Default 1e-6.
    #[schemars(range(min = 1e-30, max = 1.0))]
    pub d0: f64,
    /// Multiplies the estimate. Default 1.0.
    #[schemars(range(min = 0.000001, max = 1000000.0))]
    pub d_coef: f64,
    /// Largest growth of d in a step, as a factor. Default: unlimited.
    #[schemars(range(min = 1.0))]
    pub growth_rate: Option<f64>,
    /// Estimates from every n-th weight, which saves memory. Default 1.
    #[schemars(range(min = 1, max = 1000000))]
    pub slice_p: usize,
}

impl Default for Prodigy {
    fn default() -> Self {
        Prodigy {
            learning_rate: 1.0,
            betas: [0.9, 0.999],
            beta3: None,
            eps: 1e-8,
            weight_decay: 0.0,
            decouple: true,
            use_bias_correction: false,
            safeguard_warmup: false,
            d0: 1e-6,
            d_coef: 1.0,
            growth_rate: None,
            slice_p: 1,
        }
    }
}

impl Rule for Prodigy {
    fn name(&self) -> &'static str {
        "Prodigy"
    }

    fn check(&self) -> Result<(), Invalid> {
        check_common(Some(self.learning_rate), &self.betas, self.eps, self.weight_decay)?;
        within("learning_rate", self.learning_rate, 1e-12, 10.0)?;
        if let Some(beta3) = self.beta3 {
            within("beta3", beta3, 0.0, 0.999_999)?;
        }
        if !self.decouple && self.weight_decay == 0.0 {
            return Err(Invalid::new("decouple", "has an effect only with `weight_decay`").help("leave it out"));
        }
        within("d0", self.d0, 1e-30, 1.0)?;
        within("d_coef", self.d_coef, 1e-6, 1e6)?;
        check_growth(self.growth_rate)?;
        within("slice_p", self.slice_p as f64, 1.0, 1e6)
    }

    fn learning_rate(&self) -> Option<f64> {
        Some(self.learning_rate)
    }

    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        let (n, stride) = (count(shape), self.slice_p.max(1));
        let sliced = n.div_ceil(stride);
        let start = Spec { init: Init::Weights { stride }, ..Spec::weights("start", sliced) };
        let moment = (self.betas[0] > 0.0).then(|| Spec::zeros("m", n));
        [Spec::zeros("v", n), Spec::zeros("s", sliced), start].into_iter().chain(moment).collect()
    }

    fn traits(&self) -> Traits {
        let one_rate = Some("estimates one rate for all groups");
        Traits { whole: true, one_rate, ..Traits::default() }
    }
}

/// A limit to the growth of the estimate.
pub(super) fn check_growth(rate: Option<f64>) -> Result<(), Invalid> {
    match rate {
        Some(1.0) => Err(Invalid::new("growth_rate", "of 1 keeps the estimate at its start; it is above 1")),
        rate => within("growth_rate", rate.unwrap_or(1.0), 1.0, f64::MAX),
    }
}

/// `x ← βx + αg`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn accumulate(x: &mut [f32], g: &[f32], beta: f32, alpha: f32) {
    x.iter_mut().zip(g).for_each(|(x, g)| *x = *x * beta + alpha * g);
}

/// `x ← βx + αg²`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn accumulate_squares(x: &mut [f32], g: &[f32], beta: f32, alpha: f32) {
    x.iter_mut().zip(g).for_each(|(x, g)| *x = *x * beta + alpha * g * g);
}

/// `θ ← θ·keep − size·m/(√v + ε)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn descend(theta: &mut [f32], m: &[f32], v: &[f32], keep: f32, size: f32, eps: f32) {
    let n = theta.len();
    let (m, v) = (&m[..n], &v[..n]);
    for i in 0..n {
        theta[i] = theta[i] * keep - size * m[i] / (v[i].sqrt() + eps);
    }
}

/// Every n-th element.
fn sliced(x: &[f32], stride: usize) -> Cow<'_, [f32]> {
    if stride <= 1 { Cow::Borrowed(x) } else { x.iter().step_by(stride).copied().collect() }
}

impl Algorithm for Prodigy {
    /// Both passes of a step: sums of all tensors, the new d, then the update with the old `D = d·η·c` and the new d in ε.
    /// Nothing is updated while the sum of |s| is 0, as in a warm-up's first step.
    fn step(&self, table: &mut Table, cx: &Context, groups: &mut [Group<'_>]) -> Report {
        let [beta1, beta2] = self.betas;
        let beta3 = self.beta3.unwrap_or(beta2.sqrt());
        let k = table.scalar("updates", 0.0);
        let d = table.scalar("d", self.d0);
        let rate = common_rate(groups);
        let c = if self.use_bias_correction {
            (1.0 - beta2.powf(k + 1.0)).sqrt() / (1.0 - beta1.powf(k + 1.0))
        } else {
            1.0
        };
        let dlr = d * rate * c;
        let (coupled, decoupled) = if self.decouple { (0.0, self.weight_decay) } else { (self.weight_decay, 0.0) };
        let mut numerator = beta3 * table.scalar("numerator", 0.0);
        let mut denominator = 0.0;
        let s_gain = ((d / self.d0) * if self.safeguard_warmup { d } else { dlr }) as f32;
        learning(self, table, groups, |cell, slot, g| {
            let theta = weights(slot);
            let g = gradient(g, cx.gradient_scale, coupled, &theta);
            if beta1 > 0.0 {
                let [v, s, start, m] = floats(&mut cell.buffers);
                par::each3(m, v, &g, |m, v, g| {
                    accumulate(m, g, beta1 as f32, (d * (1.0 - beta1)) as f32);
                    accumulate_squares(v, g, beta2 as f32, (d * d * (1.0 - beta2)) as f32);
                    0.0
                });
                numerator += self.measure(d, dlr, &g, &theta, start);
                denominator += self.sum(s, &g, beta3, s_gain);
            } else {
                let [v, s, start] = floats(&mut cell.buffers);
                par::each2(v, &g, |v, g| {
                    accumulate_squares(v, g, beta2 as f32, (d * d * (1.0 - beta2)) as f32);
                    0.0
                });
                numerator += self.measure(d, dlr, &g, &theta, start);
                denominator += self.sum(s, &g, beta3, s_gain);
            }
        });
        let report =
            |d: f64, groups: &[Group]| Report { rates: groups.iter().map(|g| d * g.rate).collect(), distance: Some(d) };
        if denominator == 0.0 {
            return report(d, groups);
        }
        let estimate = self.d_coef * numerator / denominator;
        let start = if d == self.d0 { d.max(estimate) } else { d };
        let largest = table.scalar("d_max", self.d0).max(estimate);
        let next = largest.min(start * self.growth_rate.unwrap_or(f64::INFINITY));
        let (keep, eps) = ((1.0 - decoupled * dlr) as f32, (next * self.eps) as f32);
        learning(self, table, groups, |cell, slot, g| {
            cell.updates += 1;
            let buffers = &mut cell.buffers;
            with_weights(slot, cx, cell.updates, |theta| {
                if beta1 > 0.0 {
                    let [v, _, _, m] = floats(buffers);
                    let m: &[f32] = m;
                    par::apply(theta, m, v, |theta, m, v| descend(theta, m, v, keep, dlr as f32, eps));
                } else {
                    let g = gradient(g, cx.gradient_scale, coupled, theta);
                    let [v, _, _] = floats(buffers);
                    par::apply(theta, &g, v, |theta, g, v| descend(theta, g, v, keep, (dlr * next) as f32, eps));
                }
            });
        });
        table.set("d", next);
        table.set("d_max", largest);
        table.set("numerator", numerator);
        table.set("updates", k + 1.0);
        report(next, groups)
    }
}

impl Prodigy {
    /// `(d/d₀)·D·⟨g, θ₀ − θ⟩`.
    fn measure(&self, d: f64, dlr: f64, g: &[f32], theta: &[f32], start: &[f32]) -> f64 {
        let (g, theta) = (sliced(g, self.slice_p), sliced(theta, self.slice_p));
        let way: Vec<f32> = start.iter().zip(theta.iter()).map(|(a, b)| a - b).collect();
        (d / self.d0) * dlr * par::dot(&g, &way)
    }

    /// `s ← β₃s + αg` and `Σ|s|`.
    fn sum(&self, s: &mut [f32], g: &[f32], beta3: f64, gain: f32) -> f64 {
        par::each2(s, &sliced(g, self.slice_p), |s, g| {
            accumulate(s, g, beta3 as f32, gain);
            par::sum_abs(s)
        })
    }
}
