//! Sinusoidal embeddings and rotary tables.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use pipe_ops::op::RopeTable;
use pipe_ops::{Cx, Tensor};

/// `[cos(f·t·ω) | sin(f·t·ω)]`, `ω_i = 10000^(−i/half)`, for each value of `t`: `[B, dim]` in the compute type.
///
/// Cosines first and divisor `half`, as all Stable Diffusion and FLUX models have it.
pub fn sinusoidal(cx: &Cx, t: &[f32], dim: usize, factor: f32) -> Tensor {
    cx.device.tensor(sinusoidal_values(t, dim, factor), &[t.len(), dim], cx.compute)
}

/// The values of [`sinusoidal`], row by row.
pub fn sinusoidal_values(t: &[f32], dim: usize, factor: f32) -> Vec<f32> {
    let half = dim / 2;
    let mut out = Vec::with_capacity(t.len() * dim);
    for &t in t {
        let angle = |i: usize| {
            let omega = (-(10000f32.ln()) * i as f32 / half as f32).exp();
            factor * t * omega
        };
        out.extend((0..half).map(|i| angle(i).cos()));
        out.extend((0..half).map(|i| angle(i).sin()));
    }
    out
}

/// Angles `position·ω`, row by row.
pub fn rope_angles(positions: &[f64], omegas: &[f64]) -> Vec<f64> {
    positions.iter().flat_map(|p| omegas.iter().map(move |w| p * w)).collect()
}

/// Rotary tables by the sizes they were made for; the blocks of a network share them.
#[derive(Clone, Default)]
pub struct RopeCache(Arc<Mutex<HashMap<Vec<usize>, RopeTable>>>);

impl RopeCache {
    /// Tables kept at once; more sizes than this start over.
    const KEPT: usize = 16;

    /// The table for `key`, made from `(angles, [B, S, half])` at first use. Shapes-only runs keep nothing.
    pub fn get(&self, cx: &Cx, key: &[usize], make: impl FnOnce() -> (Vec<f64>, [usize; 3])) -> RopeTable {
        if cx.meter().is_some() {
            let (angles, shape) = make();
            return RopeTable::new(&cx.device, &angles, shape);
        }
        let mut tables = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(table) = tables.get(key) {
            return table.clone();
        }
        if tables.len() >= Self::KEPT {
            tables.clear();
        }
        let (angles, shape) = make();
        let table = RopeTable::new(&cx.device, &angles, shape);
        tables.insert(key.to_vec(), table.clone());
        table
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn known_values() {
        let e = super::sinusoidal_values(&[500.0], 320, 1.0);
        for (i, v) in
            [(0, -0.883_849), (1, 0.702_750), (159, 0.998_598), (160, -0.467_772), (161, 0.711_436), (319, 0.052_938)]
        {
            assert!((e[i] - v).abs() < 2e-4, "index {i}: {} not {v}", e[i]);
        }
        let e = super::sinusoidal_values(&[0.5], 256, 1000.0);
        for (i, v) in
            [(0, -0.883_849), (1, 0.945_943), (127, 0.998_557), (128, -0.467_772), (129, 0.324_334), (255, 0.053_705)]
        {
            assert!((e[i] - v).abs() < 2e-4, "index {i}");
        }
    }
}
