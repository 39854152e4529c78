//! Adafactor (Shazeer and Stern 2018), as transformers has it.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::factored::{Matrices, average};
use super::rule::{Rule, Tensorwise, Traits, Update, check_common, count};
use super::state::{Buffer, Spec, floats};
use crate::par::{self, GRAIN};
use crate::{Invalid, within};

/// Adafactor: little state, and on request a rate of its own.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Adafactor {
    /// Learning rate η. Default: none, which means `relative_step`.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub learning_rate: Option<f64>,
    /// Sets the rate by the number of updates k: `min(0.01, 1/√k)`, for every group. Default: true without a `learning_rate`.
    pub relative_step: Option<bool>,
    /// Begins relative steps with `10⁻⁶·k`. Default false.
    pub warmup_init: bool,
    /// Multiplies the rate by the size of the weights, `max(ε₂, rms(θ))`. Default: true with relative steps.
    pub scale_parameter: Option<bool>,
    /// ε₁ added to squared gradients, ε₂ the smallest size of weights. Default `[1e-30, 1e-3]`.
    #[schemars(inner(range(min = 1e-37, max = 1.0)))]
    pub eps: [f64; 2],
    /// Largest root mean square of an update. Default 1.0.
    #[schemars(range(min = 0.000001, max = 1000000.0))]
    pub clip_threshold: f64,
    /// Exponent of the second moment's decay `1 − k^r`. Default -0.8.
    #[schemars(range(min = -1.0, max = 0.0))]
    pub decay_rate: f64,
    /// β₁ of a first moment, which costs f32 for every weight. Default: none.
    #[schemars(range(min = 0.0, max = 0.999999))]
    pub beta1: Option<f64>,
    /// Weight decay λ: `θ ← θ − ηλθ`. Default 0.0.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
}

impl Default for Adafactor {
    fn default() -> Self {
        Adafactor {
            learning_rate: None,
            relative_step: None,
            warmup_init: false,
            scale_parameter: None,
            eps: [1e-30, 1e-3],
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta1: None,
            weight_decay: 0.0,
        }
    }
}

impl Adafactor {
    /// Whether it sets its own rate.
    pub fn is_relative(&self) -> bool {
        self.relative_step.unwrap_or(self.learning_rate.is_none())
    }

    /// ρ of update k: its own schedule, before scaling by the weights' size.
    pub fn relative_rate(&self, k: u64) -> f64 {
        let cap = if self.warmup_init { 1e-6 * k as f64 } else { 1e-2 };
        cap.min(1.0 / (k.max(1) as f64).sqrt())
    }

    fn scales(&self) -> bool {
        self.scale_parameter.unwrap_or(self.is_relative())
    }

    fn rate(&self, u: &Update, theta: &[f32]) -> f64 {
        let rho = if self.is_relative() { self.relative_rate(u.k) } else { u.rate };
        if self.scales() { rho * self.eps[1].max(par::rms(theta)) } else { rho }
    }
}

impl Rule for Adafactor {
    fn name(&self) -> &'static str {
        "Adafactor"
    }

    fn check(&self) -> Result<(), Invalid> {
        check_common(self.learning_rate, &[], 1.0, self.weight_decay)?;
        within("eps[0]", self.eps[0], 1e-37, 1.0)?;
        within("eps[1]", self.eps[1], 1e-37, 1.0)?;
        within("clip_threshold", self.clip_threshold, 1e-6, 1e6)?;
        within("decay_rate", self.decay_rate, -1.0, 0.0)?;
        if let Some(beta1) = self.beta1 {
            within("beta1", beta1, 0.0, 0.999_999)?;
        }
        match (self.relative_step, self.learning_rate) {
            (Some(true), Some(_)) => {
                return Err(Invalid::new("relative_step", "sets the rate itself, so `learning_rate` has no effect")
                    .help("leave one of them out"));
            }
            (Some(false), None) => {
                return Err(Invalid::new("learning_rate", "is needed without relative steps"));
            }
            _ => {}
        }
        if self.warmup_init && !self.is_relative() {
            return Err(Invalid::new("warmup_init", "has an effect only with relative steps")
                .help("leave `learning_rate` out, or use the schedule's warm-up"));
        }
        if self.eps[1] != Adafactor::default().eps[1] && !self.scales() {
            return Err(Invalid::new("eps[1]", "has an effect only with `scale_parameter`")
                .help("leave the second number at 1e-3"));
        }
        Ok(())
    }

    fn learning_rate(&self) -> Option<f64> {
        self.learning_rate
    }

    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        let mut specs = match Matrices::of(shape) {
            Some(m) => vec![Spec::zeros("v_row", m.row_count()), Spec::zeros("v_column", m.column_count())],
            None => vec![Spec::zeros("v", count(shape))],
        };
        if self.beta1.is_some() {
            specs.push(Spec::zeros("m", count(shape)));
        }
        specs
    }

    fn traits(&self) -> Traits {
        let own_schedule = self.is_relative().then_some("sets its own rate (`relative_step`)");
        Traits { own_schedule, ..Traits::default() }
    }
}

/// What scales the gradient of each row: the row's factor and the factors of its columns.
pub(crate) type Scales<'a> = &'a (dyn Fn(usize) -> (f32, &'a [f32]) + Sync);

/// Root mean square of `U = g ⊗ scales`.
pub(crate) fn rms_of_update(columns: usize, g: &[f32], scale: f32, scales: Scales) -> f64 {
    let rows = g.par_chunks(columns).enumerate().with_min_len((GRAIN / columns).max(1));
    let sums: Vec<f64> = rows
        .map(|(r, g)| {
            let (row, by_column) = scales(r);
            g.iter().zip(by_column).map(|(g, c)| ((row * c * (g * scale)) as f64).powi(2)).sum::<f64>()
        })
        .collect();
    (sums.iter().sum::<f64>() / g.len().max(1) as f64).sqrt()
}

impl Tensorwise for Adafactor {
    fn update(&self, u: &Update, theta: &mut [f32], g: &[f32], buffers: &mut [Buffer]) -> f64 {
        let rate = self.rate(u, theta);
        let beta2 = 1.0 - (u.k as f64).powf(self.decay_rate);
        let (scale, eps) = (u.scale, self.eps[0] as f32);
        let square = |g: f32| (g * scale) * (g * scale) + eps;
        let (by_row, by_column, columns);
        let matrices = Matrices::of(u.shape);
        match matrices {
            Some(m) => {
                let [rows_state, columns_state] = floats(buffers);
                let (rows, cols) = m.means(|r, out| {
                    let g = &g[r * m.columns..][..m.columns];
                    out.iter_mut().zip(g).for_each(|(out, g)| *out = square(*g));
                });
                average(rows_state, &rows, beta2);
                average(columns_state, &cols, beta2);
                (by_row, by_column) = m.factors(rows_state, columns_state);
                columns = m.columns;
            }
            None => {
                let [v] = floats(buffers);
                let squares: Vec<f32> = g.iter().map(|g| square(*g)).collect();
                average(v, &squares, beta2);
                (by_row, by_column) = (vec![1.0], v.iter().map(|v| 1.0 / v.sqrt()).collect());
                columns = v.len().max(1);
            }
        }
        let scales = |r: usize| (by_row[r], matrices.map_or(&by_column[..], |m| m.columns_of(r, &by_column)));
        let excess = (rms_of_update(columns, g, scale, &scales) / self.clip_threshold).max(1.0) as f32;
        let keep = 1.0 - (self.weight_decay * rate) as f32;
        let rate32 = rate as f32;
        let step = |row: f32, c: f32, g: f32| row * c * (g * scale) / excess * rate32;
        let grain = (GRAIN / columns).max(1);
        let rows = theta.par_chunks_mut(columns).zip(g.par_chunks(columns)).enumerate().with_min_len(grain);
        match (self.beta1, buffers.last_mut()) {
            (Some(beta1), Some(Buffer::F32(m))) => {
                let (beta, gain) = (beta1 as f32, (1.0 - beta1) as f32);
                rows.zip(m.par_chunks_mut(columns)).for_each(|((r, (theta, g)), m)| {
                    let (row, by_column) = scales(r);
                    for (((theta, m), g), c) in theta.iter_mut().zip(m).zip(g).zip(by_column) {
                        *m = *m * beta + gain * step(row, *c, *g);
                        *theta = *theta * keep - *m;
                    }
                });
            }
            _ => rows.for_each(|(r, (theta, g))| {
                let (row, by_column) = scales(r);
                for ((theta, g), c) in theta.iter_mut().zip(g).zip(by_column) {
                    *theta = *theta * keep - step(row, *c, *g);
                }
            }),
        }
        rate
    }
}
