//! Group and layer normalisation (Wu and He 2018; Ba et al. 2016), statistics in f32.

use burn::tensor::activation;

use super::{Place, host, meta, meta_like, place};
use crate::host::norm as kernel;
use crate::{Cx, DType, Tensor, Var};

/// FLOPs an element, for the plan.
const COST: usize = 8;

/// Group norm over `x [B, C, ..]` with affine `w, b [C]`, and SiLU behind it if asked.
pub fn group_norm(cx: &Cx, x: &Var, w: &Var, b: &Var, groups: usize, eps: f32, silu: bool) -> Var {
    let (n, c) = (x.dim(0), x.dim(1));
    assert!(c.is_multiple_of(groups), "{c} channels in {groups} groups");
    cx.flops(COST * x.value.len());
    let (y, stats) = match place(cx, &x.value) {
        Place::Meta => (meta_like(&x.value), meta(&x.value, &[n, groups, 2])),
        Place::Host => {
            let (y, stats) =
                kernel::group_norm(&host(&x.value), n, c, groups, &host(&w.value), &host(&b.value), eps, silu);
            (Tensor::host(y, x.shape()), Tensor::host(stats, &[n, groups, 2]))
        }
        Place::Burn => {
            let (xhat, stats) = normalise(&x.value, [n, groups], eps);
            let y = affine(xhat, n, c, &w.value, &b.value);
            let y = if silu { activation::silu(y) } else { y };
            (Tensor::from_burn(y).cast(x.value.dtype()).reshape(x.shape()), stats)
        }
    };
    let (xv, wv, bv) = (x.value.clone(), w.value.clone(), b.value.clone());
    cx.record(y, &[x, w, b], move |cx, gy, need| {
        cx.flops(2 * COST * xv.len());
        let (gx, gw, gb) = match place(cx, &gy) {
            Place::Meta => (meta_like(&xv), meta(&gy, &[c]), meta(&gy, &[c])),
            Place::Host => {
                let (gx, gw, gb) = kernel::group_norm_backward(
                    &host(&xv),
                    &host(&gy),
                    &host(&stats),
                    n,
                    c,
                    groups,
                    &host(&wv),
                    &host(&bv),
                    silu,
                );
                (Tensor::host(gx, xv.shape()), Tensor::host(gw, &[c]), Tensor::host(gb, &[c]))
            }
            Place::Burn => {
                let (xhat, _) = normalise(&xv, [n, groups], eps);
                let mut g = gy.cast(DType::F32).reshape_burn([n, c, xv.len() / (n * c)]);
                if silu {
                    let pre = affine(xhat.clone(), n, c, &wv, &bv);
                    let s = activation::sigmoid(pre.clone());
                    g = g * s.clone() * (pre * (s.neg() + 1.0) + 1.0);
                }
                composed_backward(&xv, xhat, stats, g, &wv, [n, groups, c])
            }
        };
        vec![need[0].then_some(gx), need[1].then_some(gw), need[2].then_some(gb)]
    })
}

/// `(x − μ)/σ` over `[rows][groups]` as `[R·G, N]` in f32, and μ, 1/σ as `[R, G, 2]`.
fn normalise(x: &Tensor, [rows, groups]: [usize; 2], eps: f32) -> (burn::Tensor<2>, Tensor) {
    let n = x.len() / (rows * groups);
    let flat = x.cast(DType::F32).reshape_burn([rows * groups, n]);
    let mean = flat.clone().mean_dim(1);
    let centred = flat - mean.clone();
    let var = (centred.clone() * centred.clone()).mean_dim(1);
    let rstd = (var + eps).sqrt().recip();
    let stats = burn::Tensor::cat(vec![mean, rstd.clone()], 1).reshape([rows, groups, 2]);
    (centred * rstd, Tensor::from_burn(stats))
}

fn affine(xhat: burn::Tensor<2>, n: usize, c: usize, w: &Tensor, b: &Tensor) -> burn::Tensor<3> {
    let len = xhat.dims().iter().product::<usize>();
    let xhat = xhat.reshape([n, c, len / (n * c)]);
    xhat * w.cast(DType::F32).reshape_burn([1, c, 1]) + b.cast(DType::F32).reshape_burn([1, c, 1])
}

fn composed_backward(
    x: &Tensor,
    xhat: burn::Tensor<2>,
    stats: Tensor,
    g: burn::Tensor<3>,
    w: &Tensor,
    [n, groups, c]: [usize; 3],
) -> (Tensor, Tensor, Tensor) {
    let len = x.len() / (n * c);
    let xh3 = xhat.clone().reshape([n, c, len]);
    let gw = (g.clone() * xh3).sum_dim(2).sum_dim(0).reshape([c]);
    let gb = g.clone().sum_dim(2).sum_dim(0).reshape([c]);
    let gh = (g * w.cast(DType::F32).reshape_burn([1, c, 1])).reshape([n * groups, x.len() / (n * groups)]);
    let m1 = gh.clone().mean_dim(1);
    let m2 = (gh.clone() * xhat.clone()).mean_dim(1);
    let rstd = stats.reshape_burn([n * groups, 2]).narrow(1, 1, 1);
    let gx = (gh - m1 - xhat * m2) * rstd;
    let gx = Tensor::from_burn(gx).cast(x.dtype()).reshape(x.shape());
    (gx, Tensor::from_burn(gw).cast(w.dtype()), Tensor::from_burn(gb).cast(w.dtype()))
}

/// Layer norm over the last axis without weights.
pub fn layer_norm_plain(cx: &Cx, x: &Var, eps: f32) -> Var {
    let d = x.shape().last().copied().unwrap_or(1);
    let constant = |v: f32| Var::constant(cx.device.tensor(vec![v; d], &[d], x.value.dtype()));
    layer_norm(cx, x, &constant(1.0), &constant(0.0), eps)
}

/// Layer norm over the last axis of `x [.., D]` with affine `w, b [D]`.
pub fn layer_norm(cx: &Cx, x: &Var, w: &Var, b: &Var, eps: f32) -> Var {
    let d = x.shape().last().copied().unwrap_or(1);
    let rows = x.value.len() / d;
    cx.flops(COST * x.value.len());
    let (y, stats) = match place(cx, &x.value) {
        Place::Meta => (meta_like(&x.value), meta(&x.value, &[rows, 1, 2])),
        Place::Host => {
            let (y, stats) = kernel::layer_norm(&host(&x.value), d, &host(&w.value), &host(&b.value), eps);
            (Tensor::host(y, x.shape()), Tensor::host(stats, &[rows, 1, 2]))
        }
        Place::Burn => {
            let (xhat, stats) = normalise(&x.value, [rows, 1], eps);
            let y =
                xhat * w.value.cast(DType::F32).reshape_burn([1, d]) + b.value.cast(DType::F32).reshape_burn([1, d]);
            (Tensor::from_burn(y).cast(x.value.dtype()).reshape(x.shape()), stats)
        }
    };
    let (xv, wv) = (x.value.clone(), w.value.clone());
    cx.record(y, &[x, w, b], move |cx, gy, need| {
        cx.flops(2 * COST * xv.len());
        let (gx, gw, gb) = match place(cx, &gy) {
            Place::Meta => (meta_like(&xv), meta(&gy, &[d]), meta(&gy, &[d])),
            Place::Host => {
                let (gx, gw, gb) = kernel::layer_norm_backward(&host(&xv), &host(&gy), &host(&stats), d, &host(&wv));
                (Tensor::host(gx, xv.shape()), Tensor::host(gw, &[d]), Tensor::host(gb, &[d]))
            }
            Place::Burn => {
                let (xhat, _) = normalise(&xv, [rows, 1], eps);
                let g = gy.cast(DType::F32).reshape_burn([rows, d]);
                let gw = (g.clone() * xhat.clone()).sum_dim(0).reshape([d]);
                let gb = g.clone().sum_dim(0).reshape([d]);
                let gh = g * wv.cast(DType::F32).reshape_burn([1, d]);
                let m1 = gh.clone().mean_dim(1);
                let m2 = (gh.clone() * xhat.clone()).mean_dim(1);
                let rstd = stats.reshape_burn([rows, 2]).narrow(1, 1, 1);
                let gx = Tensor::from_burn((gh - m1 - xhat * m2) * rstd).cast(xv.dtype()).reshape(xv.shape());
                (gx, Tensor::from_burn(gw).cast(wv.dtype()), Tensor::from_burn(gb).cast(wv.dtype()))
            }
        };
        vec![need[0].then_some(gx), need[1].then_some(gw), need[2].then_some(gb)]
    })
}
