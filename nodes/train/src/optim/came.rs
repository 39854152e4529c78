//! CAME (Luo et al. 2023): Adafactor's state, and confidence in the momentum.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::adafactor::rms_of_update;
use super::factored::{Matrices, average};
use super::rule::{Rule, Tensorwise, Update, check_common, count};
use super::state::{Buffer, Spec, floats};
use crate::par::GRAIN;
use crate::{Invalid, within};

/// CAME.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Came {
    /// Learning rate η. Default 2e-4.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub learning_rate: f64,
    /// β₁ of the momentum, β₂ of the second moment, β₃ of the instability. Default `[0.9, 0.999, 0.9999]`.
    #[schemars(inner(range(min = 0.0, max = 0.999999)))]
    pub betas: [f64; 3],
    /// ε₁ added to squared gradients, ε₂ to the instability. Default `[1e-30, 1e-16]`.
    #[schemars(inner(range(min = 1e-37, max = 1.0)))]
    pub eps: [f64; 2],
    /// Largest root mean square of an update. Default 1.0.
    #[schemars(range(min = 0.000001, max = 1000000.0))]
    pub clip_threshold: f64,
    /// Weight decay λ: `θ ← θ − ηλθ`. Default 0.0.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
}

impl Default for Came {
    fn default() -> Self {
        Came {
            learning_rate: 2e-4,
            betas: [0.9, 0.999, 0.9999],
            eps: [1e-30, 1e-16],
            clip_threshold: 1.0,
            weight_decay: 0.0,
        }
    }
}

impl Rule for Came {
    fn name(&self) -> &'static str {
        "CAME"
    }

    fn check(&self) -> Result<(), Invalid> {
        check_common(Some(self.learning_rate), &self.betas, 1.0, self.weight_decay)?;
        within("eps[0]", self.eps[0], 1e-37, 1.0)?;
        within("eps[1]", self.eps[1], 1e-37, 1.0)?;
        within("clip_threshold", self.clip_threshold, 1e-6, 1e6)
    }

    fn learning_rate(&self) -> Option<f64> {
        Some(self.learning_rate)
    }

    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        let mut specs = vec![Spec::zeros("m", count(shape))];
        match Matrices::of(shape) {
            Some(m) => {
                specs.push(Spec::zeros("v_row", m.row_count()));
                specs.push(Spec::zeros("v_column", m.column_count()));
                specs.push(Spec::zeros("instability_row", m.row_count()));
                specs.push(Spec::zeros("instability_column", m.column_count()));
            }
            None => specs.push(Spec::zeros("v", count(shape))),
        }
        specs
    }
}

impl Came {
    /// `m ← β₁m + (1−β₁)U` with `U = g·row·column`, clipped; `U` is kept for the instability.
    fn momentum(
        &self,
        u: &Update,
        columns: usize,
        g: &[f32],
        m: &mut [f32],
        scales: super::adafactor::Scales,
    ) -> Vec<f32> {
        let excess = (rms_of_update(columns, g, u.scale, scales) / self.clip_threshold).max(1.0) as f32;
        let (beta, gain) = (self.betas[0] as f32, (1.0 - self.betas[0]) as f32);
        let mut update = vec![0.0; g.len()];
        let rows = update.par_chunks_mut(columns).zip(m.par_chunks_mut(columns)).zip(g.par_chunks(columns));
        rows.enumerate().with_min_len((GRAIN / columns).max(1)).for_each(|(r, ((update, m), g))| {
            let (row, by_column) = scales(r);
            for (i, (g, c)) in g.iter().zip(by_column).enumerate() {
                update[i] = row * c * (g * u.scale) / excess;
                m[i] = m[i] * beta + gain * update[i];
            }
        });
        update
    }
}

impl Tensorwise for Came {
    fn update(&self, u: &Update, theta: &mut [f32], g: &[f32], buffers: &mut [Buffer]) -> f64 {
        let eps = self.eps.map(|e| e as f32);
        let square = |g: f32| (g * u.scale) * (g * u.scale) + eps[0];
        let (rate, keep) = (u.rate as f32, 1.0 - (self.weight_decay * u.rate) as f32);
        let Some(dims) = Matrices::of(u.shape) else {
            let [m, v] = floats(buffers);
            let squares: Vec<f32> = g.iter().map(|g| square(*g)).collect();
            average(v, &squares, self.betas[1]);
            let roots: Vec<f32> = v.iter().map(|v| 1.0 / v.sqrt()).collect();
            self.momentum(u, g.len().max(1), g, m, &|_| (1.0, &roots));
            theta.iter_mut().zip(&*m).for_each(|(theta, m)| *theta = *theta * keep - m * rate);
            return u.rate;
        };
        let [m, v_row, v_column, instability_row, instability_column] = floats(buffers);
        let n = dims.columns;
        let (rows, columns) = dims.means(|r, out| {
            out.iter_mut().zip(&g[r * n..][..n]).for_each(|(out, g)| *out = square(*g));
        });
        average(v_row, &rows, self.betas[1]);
        average(v_column, &columns, self.betas[1]);
        let (by_row, by_column) = dims.factors(v_row, v_column);
        let update = self.momentum(u, n, g, m, &|r| (by_row[r], dims.columns_of(r, &by_column)));
        let (rows, columns) = dims.means(|r, out| {
            let at = r * n..(r + 1) * n;
            for ((out, x), m) in out.iter_mut().zip(&update[at.clone()]).zip(&m[at]) {
                *out = (x - m) * (x - m) + eps[1];
            }
        });
        average(instability_row, &rows, self.betas[2]);
        average(instability_column, &columns, self.betas[2]);
        let (by_row, by_column) = dims.factors(instability_row, instability_column);
        let rows = theta.par_chunks_mut(n).zip(m.par_chunks(n)).enumerate();
        rows.with_min_len((GRAIN / n).max(1)).for_each(|(r, (theta, m))| {
            for ((theta, m), c) in theta.iter_mut().zip(m).zip(dims.columns_of(r, &by_column)) {
                *theta = *theta * keep - by_row[r] * c * m * rate;
            }
        });
        u.rate
    }
}
