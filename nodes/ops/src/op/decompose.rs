//! Weights from a direction and a magnitude (DoRA, Liu et al. 2024).

use rayon::prelude::*;

use super::{Place, host, meta, place};
use crate::host as kernels;
use crate::{Cx, DType, Tensor, Var};

/// Added to norms, as LyCORIS does.
const EPS: f32 = f32::EPSILON;

/// Each row of `v [O, K]` with the length `m [O]`: `m·v/(‖v‖ + ε)`, f32. The gradient goes through the norm as well.
pub fn with_row_norms(cx: &Cx, v: &Var, m: &Var) -> Var {
    let (o, k) = (v.dim(0), v.value.len() / v.dim(0).max(1));
    assert_eq!(m.value.len(), o, "{} magnitudes for weight {:?}", m.value.len(), v.shape());
    cx.flops(4 * v.value.len());
    let y = match place(cx, &v.value) {
        Place::Meta => meta(&v.value, v.shape()),
        Place::Host => {
            let (vs, ms) = (host(&v.value), host(&m.value));
            let mut out = kernels::buffer(o * k);
            out.par_chunks_mut(k).zip(vs.par_chunks(k)).zip(ms.par_iter()).for_each(|((out, v), m)| {
                let s = m / (norm(v) + EPS);
                out.iter_mut().zip(v).for_each(|(o, v)| *o = s * v);
            });
            Tensor::host(out, v.shape())
        }
        Place::Burn => {
            let rows = v.value.reshape_burn([o, k]);
            let norms = burn_norms(&rows) + EPS;
            Tensor::from_burn(rows * (m.value.reshape_burn([o, 1]) / norms)).reshape(v.shape())
        }
    };
    let (vv, mv) = (v.value.clone(), m.value.clone());
    cx.record(y, &[v, m], move |cx, gy, need| {
        let (gv, gm) = backward(cx, &vv, &mv, &gy, o, k);
        vec![need[0].then_some(gv), need[1].then_some(gm)]
    })
}

/// With `n = ‖v‖ + ε`, `d = gy·v`: `∂m = d/n`, `∂v = m/n·gy − m·d/(n²·‖v‖)·v`.
fn backward(cx: &Cx, v: &Tensor, m: &Tensor, gy: &Tensor, o: usize, k: usize) -> (Tensor, Tensor) {
    cx.flops(8 * v.len());
    match place(cx, v) {
        Place::Meta => (meta(v, v.shape()), meta(v, m.shape())),
        Place::Host => {
            let (vs, ms, gs) = (host(v), host(m), host(gy));
            let mut gv = kernels::buffer(o * k);
            let mut gm = kernels::buffer(o);
            gv.par_chunks_mut(k)
                .zip(gm.par_iter_mut())
                .zip(vs.par_chunks(k).zip(gs.par_chunks(k)))
                .zip(ms.par_iter())
                .for_each(|(((gv, gm), (v, g)), m)| {
                    let length = norm(v);
                    let n = length + EPS;
                    let d = g.iter().zip(v).map(|(g, v)| (g * v) as f64).sum::<f64>() as f32;
                    *gm = d / n;
                    let back = if length > 0.0 { m * d / (n * n * length) } else { 0.0 };
                    for ((out, g), v) in gv.iter_mut().zip(g).zip(v) {
                        *out = m / n * g - back * v;
                    }
                });
            (Tensor::host(gv, v.shape()), Tensor::host(gm, m.shape()))
        }
        Place::Burn => {
            let (rows, g) = (v.reshape_burn([o, k]), gy.cast(DType::F32).reshape_burn([o, k]));
            let length = burn_norms(&rows);
            let n = length.clone() + EPS;
            let d = (g.clone() * rows.clone()).sum_dim(1);
            let shape = m.shape();
            let m = m.reshape_burn([o, 1]);
            let gm = d.clone() / n.clone();
            // A row of zeros has no direction: what divides is never zero.
            let back = m.clone() * d / (n.clone() * n.clone() * length.clamp_min(f32::MIN_POSITIVE));
            let gv = g * (m.clone() / n) - rows * back;
            let gm = Tensor::from_burn(gm.reshape([o]));
            (Tensor::from_burn(gv).reshape(v.shape()), gm.reshape(shape))
        }
    }
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt() as f32
}

fn burn_norms(rows: &burn::Tensor<2>) -> burn::Tensor<2> {
    (rows.clone() * rows.clone()).sum_dim(1).sqrt()
}
