//! Adan (Xie et al. 2022) with D-Adaptation, and the variant that estimates by an inner product.

use multiversion::multiversion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Distance, check, count_step, traits};
use crate::optim::rule::{Algorithm, Rule, Traits, count, gradient, learning, visit, with_weights};
use crate::optim::state::{Spec, Table, floats};
use crate::optim::{Context, Group, Report};
use crate::{Invalid, par};

/// Settings of both: [`DAdaptAdan`] and [`DAdaptAdanIp`] differ in how they estimate d.
macro_rules! adan {
    ($(#[$doc:meta])* $type:ident, $name:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
        #[serde(default)]
        pub struct $type {
            /// Factor η of the estimated rate d. Default 1.0.
            #[schemars(range(min = 1e-12, max = 10.0))]
            pub learning_rate: f64,
            /// Decay rates β₁ of the gradient, β₂ of its change and β₃ of the squares. Default `[0.98, 0.92, 0.99]`.
            #[schemars(inner(range(min = 0.0, max = 0.999999)))]
            pub betas: [f64; 3],
            /// ε. Default 1e-8.
            #[schemars(range(min = 1e-30, max = 1.0))]
            pub eps: f64,
            /// Decoupled weight decay λ. Default 0.02.
            #[schemars(range(min = 0.0, max = 10.0))]
            pub weight_decay: f64,
            /// Decays before the update by `1 − dηλ`, as AdamW, not behind it by `1/(1 + dηλ)`. Default false.
            pub no_prox: bool,
            /// First estimate d₀. Default 1e-6.
            #[schemars(range(min = 1e-30, max = 1.0))]
            pub d0: f64,
            /// Largest growth of d in a step, as a factor. Default: unlimited.
            #[schemars(range(min = 1.0))]
            pub growth_rate: Option<f64>,
        }

        impl Default for $type {
            fn default() -> Self {
                $type {
                    learning_rate: 1.0,
                    betas: [0.98, 0.92, 0.99],
                    eps: 1e-8,
                    weight_decay: 0.02,
                    no_prox: false,
                    d0: 1e-6,
                    growth_rate: None,
                }
            }
        }

        impl Rule for $type {
            fn name(&self) -> &'static str {
                $name
            }
            fn check(&self) -> Result<(), Invalid> {
                if self.no_prox && self.weight_decay == 0.0 {
                    return Err(Invalid::new("no_prox", "has an effect only with `weight_decay`").help("leave it out"));
                }
                check(self.learning_rate, &self.betas, self.eps, self.weight_decay, self.d0, self.growth_rate)
            }
            fn learning_rate(&self) -> Option<f64> {
                Some(self.learning_rate)
            }
            fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
                ["m", "n", "v", "s", "before"].map(|name| Spec::zeros(name, count(shape))).into()
            }
            fn traits(&self) -> Traits {
                traits()
            }
        }

        impl $type {
            fn moments(&self, rate: f64) -> Moments {
                Moments { betas: self.betas, eps: self.eps as f32, rate }
            }
        }
    };
}

adan!(
    /// D-Adapted Adan.
    DAdaptAdan,
    "DAdaptAdan"
);
adan!(
    /// D-Adapted Adan that estimates by an inner product.
    DAdaptAdanIp,
    "DAdaptAdanIP"
);

/// With `e = g − g₋₁`: `n ← β₂n + αe`, `v ← β₃v + γ(g + β₂e)²`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn changes(
    (beta2, alpha): (f32, f32),
    (beta3, gamma): (f32, f32),
    n: &mut [f32],
    v: &mut [f32],
    before: &[f32],
    g: &[f32],
) {
    let len = g.len();
    let (n, v, before) = (&mut n[..len], &mut v[..len], &before[..len]);
    for i in 0..len {
        let e = g[i] - before[i];
        let u = g[i] + beta2 * e;
        n[i] = n[i] * beta2 + alpha * e;
        v[i] = v[i] * beta3 + gamma * u * u;
    }
}

/// `m ← β₁m + αg`, `s ← β₃s + γg`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn averages((beta1, alpha): (f32, f32), (beta3, gamma): (f32, f32), m: &mut [f32], s: &mut [f32], g: &[f32]) {
    let len = g.len();
    let (m, s) = (&mut m[..len], &mut s[..len]);
    for i in 0..len {
        m[i] = m[i] * beta1 + alpha * g[i];
        s[i] = s[i] * beta3 + gamma * g[i];
    }
}

/// `θ ← (aθ − (m + β₂n)/(√v + ε))/b`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn update((a, b): (f32, f32), beta2: f32, eps: f32, theta: &mut [f32], m: &[f32], n: &[f32], v: &[f32]) {
    let len = v.len();
    let (theta, m, n) = (&mut theta[..len], &m[..len], &n[..len]);
    for i in 0..len {
        theta[i] = (theta[i] * a - (m[i] + beta2 * n[i]) / (v[i].sqrt() + eps)) / b;
    }
}

/// What both do to the moments.
#[derive(Clone, Copy)]
struct Moments {
    betas: [f64; 3],
    eps: f32,
    /// `d·η`.
    rate: f64,
}

impl Moments {
    /// Whether a group's gradients count: also in the first step of a warm-up, when no group has a rate.
    fn counts(&self, group: &Group<'_>) -> bool {
        self.rate == 0.0 || group.rate > 0.0
    }

    /// `e = g − g₋₁`, `m ← β₁m + (1−β₁)dηg`, `n ← β₂n + (1−β₂)dηe`, `v ← β₃v + (1−β₃)(g + β₂e)²`, `s ← β₃s + (1−β₃)dηg`.
    fn accumulate(&self, [m, n, v, s, before]: [&mut [f32]; 5], g: &[f32]) {
        let [b1, b2, b3] = self.betas.map(|b| b as f32);
        let [m_gain, n_gain, s_gain] = self.betas.map(|b| ((1.0 - b) * self.rate) as f32);
        let v_gain = (1.0 - self.betas[2]) as f32;
        par::each4(n, v, before, g, |n, v, before, g| {
            changes((b2, n_gain), (b3, v_gain), n, v, before, g);
            0.0
        });
        par::each3(m, s, g, |m, s, g| {
            averages((b1, m_gain), (b3, s_gain), m, s, g);
            0.0
        });
    }

    /// `⟨x, y/(√v + ε)⟩`.
    fn weighted(&self, x: &[f32], y: &[f32], v: &[f32]) -> f64 {
        let scaled: Vec<f32> = y.iter().zip(v).map(|(y, v)| y / (v.sqrt() + self.eps)).collect();
        par::dot(x, &scaled)
    }

    /// `θ ← (θ − (m + β₂n)/(√v + ε))/(1 + dηλ)`, or with `no_prox` `θ·(1 − dηλ)` first; gradients are kept.
    fn descend(
        &self,
        rule: &impl Rule,
        table: &mut Table,
        cx: &Context,
        groups: &mut [Group<'_>],
        (decay, no_prox): (f64, bool),
    ) {
        let (b2, eps) = (self.betas[1] as f32, self.eps);
        let (first, last) = match no_prox {
            true => ((1.0 - decay * self.rate) as f32, 1.0),
            false => (1.0, (1.0 + decay * self.rate) as f32),
        };
        learning(rule, table, groups, |cell, slot, g| {
            cell.updates += 1;
            let g = gradient(g, cx.gradient_scale, 0.0, &[]);
            let [m, n, v, _, before] = floats(&mut cell.buffers);
            before.copy_from_slice(&g);
            with_weights(slot, cx, cell.updates, |theta| {
                par::each4(theta, m, n, v, |theta, m, n, v| {
                    update((first, last), b2, eps, theta, m, n, v);
                    0.0
                });
            });
        });
    }
}

/// A step's gradient; the first one of a tensor is its own predecessor.
fn first_is_its_own(updates: u64, before: &mut [f32], g: &[f32]) {
    if updates == 0 {
        before.copy_from_slice(g);
    }
}

impl Algorithm for DAdaptAdan {
    /// Moments, then `G ← β₃G + (1−β₃)(dη)²Σg²/(√v+ε)`, `d̂ = (Σs²/(√v+ε)/(1−β₃) − G)/Σ|s|`.
    fn step(&self, table: &mut Table, cx: &Context, groups: &mut [Group<'_>]) -> Report {
        let beta3 = self.betas[2];
        let mut distance = Distance::new(table, groups, self.d0, self.growth_rate);
        let moments = self.moments(distance.rate());
        let (mut g_squares, mut s_squares, mut size) = (0.0, 0.0, 0.0);
        visit(
            self,
            table,
            groups,
            |group| moments.counts(group),
            |cell, _, g| {
                let g = gradient(g, cx.gradient_scale, 0.0, &[]);
                let [m, n, v, s, before] = floats(&mut cell.buffers);
                first_is_its_own(cell.updates, before, &g);
                moments.accumulate([m, n, v, s, before], &g);
                g_squares += moments.weighted(&g, &g, v);
                s_squares += moments.weighted(s, s, v);
                size += par::sum_abs(s);
            },
        );
        let gradients = beta3 * table.scalar("gradients", 0.0) + g_squares * moments.rate.powi(2) * (1.0 - beta3);
        if size == 0.0 {
            return distance.report(groups);
        }
        distance.grow(table, (s_squares / (1.0 - beta3) - gradients) / size);
        table.set("gradients", gradients);
        moments.descend(self, table, cx, groups, (self.weight_decay, self.no_prox));
        count_step(table);
        distance.report(groups)
    }
}

impl Algorithm for DAdaptAdanIp {
    /// `a = Σ dη⟨g, s/(√v+ε)⟩` over the state before the step, moments, `N ← β₃N + (1−β₃)a`, `d̂ = 2β₃N/((1−β₃)Σ|s|)`.
    fn step(&self, table: &mut Table, cx: &Context, groups: &mut [Group<'_>]) -> Report {
        let beta3 = self.betas[2];
        let mut distance = Distance::new(table, groups, self.d0, self.growth_rate);
        let moments = self.moments(distance.rate());
        let (mut progress, mut size) = (0.0, 0.0);
        visit(
            self,
            table,
            groups,
            |group| moments.counts(group),
            |cell, _, g| {
                let g = gradient(g, cx.gradient_scale, 0.0, &[]);
                let [m, n, v, s, before] = floats(&mut cell.buffers);
                first_is_its_own(cell.updates, before, &g);
                progress += moments.rate * moments.weighted(&g, s, v);
                moments.accumulate([m, n, v, s, before], &g);
                size += par::sum_abs(s);
            },
        );
        let numerator = beta3 * table.scalar("numerator", 0.0) + (1.0 - beta3) * progress;
        if size == 0.0 {
            return distance.report(groups);
        }
        distance.grow(table, 2.0 * beta3 / (1.0 - beta3) * numerator / size);
        table.set("numerator", numerator);
        moments.descend(self, table, cx, groups, (self.weight_decay, self.no_prox));
        count_step(table);
        distance.report(groups)
    }
}
