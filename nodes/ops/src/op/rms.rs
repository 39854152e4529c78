//! Root-mean-square norm (Zhang and Sennrich 2019), statistics in f32.

use super::{Place, host, meta, meta_like, place};
use crate::host::rms as kernel;
use crate::{Cx, DType, Tensor, Var};

/// `x/√(mean(x²) + ε)·w` over the last axis of `x [.., D]`, `w [D]`.
pub fn rms_norm(cx: &Cx, x: &Var, w: &Var, eps: f32) -> Var {
    let d = w.value.len();
    assert_eq!(x.shape().last(), Some(&d), "RMS norm of {:?} with weight [{d}]", x.shape());
    let rows = x.value.len() / d;
    cx.flops(5 * x.value.len());
    let (y, stats) = match place(cx, &x.value) {
        Place::Meta => (meta_like(&x.value), meta(&x.value, &[rows])),
        Place::Host => {
            let (y, stats) = kernel::rms_norm(&host(&x.value), d, &host(&w.value), eps);
            (Tensor::host(y, x.shape()), Tensor::host(stats, &[rows]))
        }
        Place::Burn => {
            let x32 = x.value.cast(DType::F32).reshape_burn([rows, d]);
            let rstd = ((x32.clone() * x32.clone()).mean_dim(1) + eps).sqrt().recip();
            let y = x32 * rstd.clone() * w.value.cast(DType::F32).reshape_burn([1, d]);
            (Tensor::from_burn(y).cast(x.value.dtype()).reshape(x.shape()), Tensor::from_burn(rstd.reshape([rows])))
        }
    };
    let (xv, wv) = (x.value.clone(), w.value.clone());
    cx.record(y, &[x, w], move |cx, gy, need| {
        cx.flops(10 * xv.len());
        let (gx, gw) = match place(cx, &gy) {
            Place::Meta => (meta_like(&xv), meta(&gy, &[d])),
            Place::Host => {
                let (gx, gw) = kernel::rms_norm_backward(&host(&xv), &host(&gy), &host(&stats), d, &host(&wv));
                (Tensor::host(gx, xv.shape()), Tensor::host(gw, &[d]))
            }
            Place::Burn => {
                let rstd = stats.reshape_burn([rows, 1]);
                let xhat = xv.cast(DType::F32).reshape_burn([rows, d]) * rstd.clone();
                let g = gy.cast(DType::F32).reshape_burn([rows, d]);
                let gw = (g.clone() * xhat.clone()).sum_dim(0).reshape([d]);
                let gh = g * wv.cast(DType::F32).reshape_burn([1, d]);
                let mean = (gh.clone() * xhat.clone()).mean_dim(1);
                let gx = (gh - xhat * mean) * rstd;
                (Tensor::from_burn(gx).cast(xv.dtype()).reshape(xv.shape()), Tensor::from_burn(gw).cast(wv.dtype()))
            }
        };
        vec![need[0].then_some(gx), need[1].then_some(gw)]
    })
}
