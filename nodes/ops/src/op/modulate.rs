//! Shifts, scales and gates that a condition sets for a whole sample (adaptive norms, Peebles and Xie 2023).

use rayon::prelude::*;

use super::{Place, host, meta, meta_like, place};
use crate::host as kernels;
use crate::{Cx, DType, Tensor, Var};

/// Sizes `[B, S, D]` of `x`, with `c` checked to be `[B, D]`.
fn sizes(x: &Var, c: &Var) -> [usize; 3] {
    let (b, s, d) = (x.dim(0), x.dim(1), x.dim(2));
    assert_eq!(c.shape(), [b, d], "condition {:?} for {:?}", c.shape(), x.shape());
    [b, s, d]
}

/// `x·(1 + scale) + shift`: `x [B, S, D]`, `scale, shift [B, D]`.
pub fn modulate(cx: &Cx, x: &Var, scale: &Var, shift: Option<&Var>) -> Var {
    let n = sizes(x, scale);
    let shift_value = shift.map(|s| {
        sizes(x, s);
        &s.value
    });
    let y = affine(cx, &x.value, n, &scale.value, 1.0, shift_value);
    let (xv, sv) = (x.tracked().then(|| scale.value.clone()), scale.tracked().then(|| x.value.clone()));
    let back = move |cx: &Cx, gy: Tensor, need: &[bool]| {
        let mut out = vec![
            sv_grad(cx, &gy, n, xv.filter(|_| need[0]).as_ref(), 1.0),
            sv.filter(|_| need[1]).map(|x| sum_product(cx, &gy, Some(&x), n)),
        ];
        if need.len() > 2 {
            out.push(need[2].then(|| sum_product(cx, &gy, None, n)));
        }
        out
    };
    match shift {
        Some(shift) => cx.record(y, &[x, scale, shift], back),
        None => cx.record(y, &[x, scale], back),
    }
}

/// `x·g`: `x [B, S, D]`, gate `g [B, D]`.
pub fn gate(cx: &Cx, x: &Var, g: &Var) -> Var {
    let n = sizes(x, g);
    let y = affine(cx, &x.value, n, &g.value, 0.0, None);
    let (gv, xv) = (x.tracked().then(|| g.value.clone()), g.tracked().then(|| x.value.clone()));
    cx.record(y, &[x, g], move |cx, gy, need| {
        vec![
            sv_grad(cx, &gy, n, gv.filter(|_| need[0]).as_ref(), 0.0),
            xv.filter(|_| need[1]).map(|x| sum_product(cx, &gy, Some(&x), n)),
        ]
    })
}

fn sv_grad(cx: &Cx, gy: &Tensor, n: [usize; 3], scale: Option<&Tensor>, plus: f32) -> Option<Tensor> {
    scale.map(|scale| affine(cx, gy, n, scale, plus, None))
}

/// `x·(plus + a) + b` with `a, b [B, D]`.
fn affine(cx: &Cx, x: &Tensor, [b, s, d]: [usize; 3], a: &Tensor, plus: f32, shift: Option<&Tensor>) -> Tensor {
    cx.flops(2 * x.len());
    match place(cx, x) {
        Place::Meta => meta_like(x),
        Place::Host => {
            let (xs, a) = (host(x), host(a));
            let shift = shift.map(host);
            let mut out = kernels::buffer(xs.len());
            if d == 1 {
                // One channel: a sample is one row.
                out.par_chunks_mut(s.max(1)).zip(xs.par_chunks(s.max(1))).enumerate().for_each(|(i, (o, x))| {
                    let (factor, more) = (plus + a[i], shift.as_ref().map_or(0.0, |shift| shift[i]));
                    o.iter_mut().zip(x).for_each(|(o, x)| *o = x * factor + more);
                });
                return Tensor::host(out, x.shape());
            }
            out.par_chunks_mut(d).zip(xs.par_chunks(d)).enumerate().for_each(|(row, (o, x))| {
                let at = row / s * d;
                let a = &a[at..at + d];
                match &shift {
                    Some(shift) => kernels::act::affine(o, x, a, &shift[at..at + d], plus),
                    None => kernels::act::scale_rows(o, x, a, plus),
                }
            });
            Tensor::host(out, x.shape())
        }
        Place::Burn => {
            let y = x.burn::<3>() * (a.reshape_burn([b, 1, d]) + plus);
            let y = match shift {
                Some(shift) => y + shift.reshape_burn([b, 1, d]),
                None => y,
            };
            Tensor::from_burn(y)
        }
    }
}

/// `Σ_s g·x` as `[B, D]`; without `x`, `Σ_s g`.
fn sum_product(cx: &Cx, g: &Tensor, x: Option<&Tensor>, [b, s, d]: [usize; 3]) -> Tensor {
    cx.flops(2 * g.len());
    match place(cx, g) {
        Place::Meta => meta(g, &[b, d]),
        Place::Host => {
            let g = host(g);
            let x = x.map(host);
            let mut out = kernels::buffer(b * d);
            out.par_chunks_mut(d).enumerate().for_each(|(i, o)| {
                for r in i * s..(i + 1) * s {
                    let g = &g[r * d..(r + 1) * d];
                    match &x {
                        Some(x) => kernels::act::add_product(o, g, &x[r * d..(r + 1) * d]),
                        None => kernels::act::add_assign(o, g),
                    }
                }
            });
            Tensor::host(out, &[b, d])
        }
        Place::Burn => {
            let mut p = g.cast(DType::F32).burn::<3>();
            if let Some(x) = x {
                p = p * x.cast(DType::F32).burn::<3>();
            }
            Tensor::from_burn(p.sum_dim(1).reshape([b, d])).cast(g.dtype())
        }
    }
}

/// `Σ_s w·x`: `x [B, S, D]` with constant weights `w [B, S]`, giving `[B, D]`; a masked mean where the weights are
/// `1/n` on real tokens.
pub fn weighted_sum(cx: &Cx, x: &Var, w: &Tensor) -> Var {
    let (b, s, d) = (x.dim(0), x.dim(1), x.dim(2));
    assert_eq!(w.shape(), [b, s], "weights {:?} for {:?}", w.shape(), x.shape());
    cx.flops(2 * x.value.len());
    let y = match place(cx, &x.value) {
        Place::Meta => meta(&x.value, &[b, d]),
        Place::Host => {
            let (xs, ws) = (host(&x.value), host(w));
            let mut out = kernels::buffer(b * d);
            for (i, o) in out.chunks_mut(d).enumerate() {
                for r in i * s..(i + 1) * s {
                    kernels::act::axpy(o, &xs[r * d..(r + 1) * d], ws[r]);
                }
            }
            Tensor::host(out, &[b, d])
        }
        Place::Burn => {
            let y = x.value.burn::<3>() * w.cast(x.value.dtype()).reshape_burn([b, s, 1]);
            Tensor::from_burn(y.sum_dim(1).reshape([b, d]))
        }
    };
    let w = w.clone();
    cx.record(y, &[x], move |cx, gy, _| {
        vec![Some(match place(cx, &gy) {
            Place::Meta => meta(&gy, &[b, s, d]),
            Place::Host => {
                let (g, ws) = (host(&gy), host(&w));
                let mut out = kernels::buffer(b * s * d);
                for (r, o) in out.chunks_mut(d).enumerate() {
                    kernels::act::scale(o, &g[r / s * d..][..d], ws[r]);
                }
                Tensor::host(out, &[b, s, d])
            }
            Place::Burn => Tensor::from_burn(gy.reshape_burn([b, 1, d]) * w.cast(gy.dtype()).reshape_burn([b, s, 1])),
        })]
    })
}
