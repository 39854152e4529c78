//! The step of every schedule-free optimizer.

use multiversion::multiversion;

use crate::optim::engine::lerp;
use crate::optim::rule::{Rule, Traits, with_weights};
use crate::optim::state::{Table, floats};
use crate::optim::{Context, Group, Report};
use crate::{Invalid, par, within};

/// What the three have in common.
pub struct Average {
    pub beta: f64,
    pub decay: f64,
    pub r: f64,
    pub power: f64,
}

/// Second moment of a step.
#[derive(Clone, Copy)]
pub struct Moment {
    pub beta2: f64,
    pub eps: f64,
    /// `1 − β₂ᵏ`, or `None` while RAdam takes the plain gradient.
    pub correction: Option<f64>,
}

/// Constants of a step.
struct Step {
    scale: f32,
    decay: f32,
    c: f32,
    pull: f32,
    rate: f32,
}

impl Step {
    /// `y ← (1−c)y + cz`, `y ← y + γ(β(1−c) − 1)ĝ`, `z ← z − γĝ`.
    #[inline(always)]
    fn apply(&self, direction: f32, y: &mut f32, z: &mut f32) {
        let direction = direction + self.decay * *y;
        *y = lerp(*y, *z, self.c) + self.pull * direction;
        *z -= self.rate * direction;
    }
}

/// `v ← β₂v + (1−β₂)g²`, `ĝ = g/(√(v/(1−β₂ᵏ)) + ε) + λy`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn adaptive(s: &Step, m: Moment, y: &mut [f32], z: &mut [f32], v: &mut [f32], g: &[f32]) {
    let (beta2, gain, eps) = (m.beta2 as f32, (1.0 - m.beta2) as f32, m.eps as f32);
    let correction = m.correction.unwrap_or(1.0) as f32;
    let plain = m.correction.is_none();
    let n = y.len();
    let (z, v, g) = (&mut z[..n], &mut v[..n], &g[..n]);
    for i in 0..n {
        let g = g[i] * s.scale;
        v[i] = v[i] * beta2 + gain * g * g;
        let denominator = (v[i] / correction).sqrt() + eps;
        s.apply(if plain { g } else { g / denominator }, &mut y[i], &mut z[i]);
    }
}

impl Average {
    /// A step at rates `γ = η·sched(k)`; k counts from 0 in each group.
    pub fn step(
        &self,
        rule: &impl Rule,
        table: &mut Table,
        cx: &Context,
        groups: &mut [Group<'_>],
        at: impl Fn(u64) -> (f64, Option<Moment>),
    ) -> Report {
        let mut rates = Vec::new();
        for group in groups {
            let name = |what: &str| format!("{what}.{}", group.name);
            let k = table.scalar(&name("steps"), 0.0);
            let (factor, moment) = at(k as u64);
            let rate = group.rate * factor;
            let largest = table.scalar(&name("largest_rate"), -1.0).max(rate);
            let weight = (k + 1.0).powf(self.r) * largest.powf(self.power);
            let sum = table.scalar(&name("weight_sum"), 0.0) + weight;
            let c = if sum == 0.0 { 0.0 } else { weight / sum };
            let step = Step {
                scale: cx.gradient_scale,
                decay: self.decay as f32,
                c: c as f32,
                pull: (rate * (self.beta * (1.0 - c) - 1.0)) as f32,
                rate: rate as f32,
            };
            for (scalar, value) in [("steps", k + 1.0), ("largest_rate", largest), ("weight_sum", sum)] {
                table.set(&name(scalar), value);
            }
            for slot in &mut group.slots {
                let Some(g) = slot.gradient else { continue };
                let cell = table.cell(rule, slot);
                cell.updates += 1;
                let buffers = &mut cell.buffers;
                with_weights(slot, cx, cell.updates, |y| match moment {
                    Some(moment) => {
                        let [z, v] = floats(buffers);
                        par::each4(y, z, v, g, |y, z, v, g| {
                            adaptive(&step, moment, y, z, v, g);
                            0.0
                        });
                    }
                    None => {
                        let [z] = floats(buffers);
                        par::each3(y, z, g, |y, z, g| {
                            y.iter_mut().zip(z).zip(g).for_each(|((y, z), g)| step.apply(g * step.scale, y, z));
                            0.0
                        });
                    }
                });
            }
            rates.push(rate);
        }
        Report { rates, distance: None }
    }

    /// How the optimizer may be used.
    pub fn traits(&self) -> Traits {
        let own_schedule = Some("averages in place of a schedule; it has a `warmup_steps` of its own");
        Traits { whole: true, own_schedule, averages: Some(self.beta), ..Traits::default() }
    }

    /// Ranges.
    pub fn check(&self) -> Result<(), Invalid> {
        // Beyond these the weights of the average leave the range of numbers in a long run.
        within("r", self.r, 0.0, 20.0)?;
        within("weight_lr_power", self.power, 0.0, 20.0)
    }
}
