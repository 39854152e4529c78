//! Sums, scalings and casts.

use super::{Place, host, meta, place};
use crate::host as kernels;
use crate::{Cx, DType, Tensor, Var};

/// `a + b` of two tensors of one shape, reusing `a` where it is not shared.
pub fn add_tensors(cx: &Cx, mut a: Tensor, b: Tensor) -> Tensor {
    assert_eq!(a.shape(), b.shape(), "shapes of a sum differ");
    cx.flops(a.len());
    match place(cx, &a) {
        Place::Meta => a,
        Place::Host => {
            let b = host(&b);
            a.update(|a| {
                use rayon::prelude::*;
                a.par_chunks_mut(kernels::GRAIN)
                    .zip(b.par_chunks(kernels::GRAIN))
                    .for_each(|(a, b)| kernels::act::add_assign(a, b));
            });
            a
        }
        Place::Burn => {
            let shape = a.shape().to_vec();
            let dtype = a.dtype();
            Tensor::from_burn(a.flatten_burn() + b.cast(dtype).flatten_burn()).reshape(&shape)
        }
    }
}

/// `s·x` of a tensor.
pub fn scale_tensor(cx: &Cx, x: &Tensor, s: f32) -> Tensor {
    cx.flops(x.len());
    match place(cx, x) {
        Place::Meta => meta(x, x.shape()),
        Place::Host => Tensor::host(kernels::map1(&host(x), |o, x| kernels::act::scale(o, x, s)), x.shape()),
        Place::Burn => Tensor::from_burn(x.flatten_burn() * s).reshape(x.shape()),
    }
}

/// `a + b`.
pub fn add(cx: &Cx, a: &Var, b: &Var) -> Var {
    assert_eq!(a.shape(), b.shape(), "shapes of a sum differ");
    cx.flops(a.value.len());
    let y = match place(cx, &a.value) {
        Place::Meta => meta(&a.value, a.shape()),
        Place::Host => Tensor::host(kernels::map2(&host(&a.value), &host(&b.value), kernels::act::add), a.shape()),
        Place::Burn => Tensor::from_burn(a.value.flatten_burn() + b.value.flatten_burn()).reshape(a.shape()),
    };
    cx.record(y, &[a, b], |_, gy, need| vec![need[0].then(|| gy.clone()), need[1].then_some(gy)])
}

/// `s·x`.
pub fn scale(cx: &Cx, x: &Var, s: f32) -> Var {
    if s == 1.0 {
        return x.clone();
    }
    let y = scale_tensor(cx, &x.value, s);
    cx.record(y, &[x], move |cx, gy, _| vec![Some(scale_tensor(cx, &gy, s))])
}

/// `x·m` with a constant `m` of the same shape (dropout masks).
pub fn mul_const(cx: &Cx, x: &Var, m: &Tensor) -> Var {
    let y = mul_tensors(cx, &x.value, m);
    let m = m.clone();
    cx.record(y, &[x], move |cx, gy, _| vec![Some(mul_tensors(cx, &gy, &m))])
}

/// `a·b` elementwise.
pub fn mul(cx: &Cx, a: &Var, b: &Var) -> Var {
    let y = mul_tensors(cx, &a.value, &b.value);
    let (av, bv) = (b.tracked().then(|| a.value.clone()), a.tracked().then(|| b.value.clone()));
    cx.record(y, &[a, b], move |cx, gy, need| {
        let ga = bv.filter(|_| need[0]).map(|b| mul_tensors(cx, &gy, &b));
        let gb = av.filter(|_| need[1]).map(|a| mul_tensors(cx, &gy, &a));
        vec![ga, gb]
    })
}

/// `x + c`.
pub fn offset(cx: &Cx, x: &Var, c: f32) -> Var {
    cx.flops(x.value.len());
    let y = match place(cx, &x.value) {
        Place::Meta => meta(&x.value, x.shape()),
        Place::Host => Tensor::host(host(&x.value).iter().map(|x| x + c).collect(), x.shape()),
        Place::Burn => Tensor::from_burn(x.value.flatten_burn() + c).reshape(x.shape()),
    };
    cx.record(y, &[x], |_, gy, _| vec![Some(gy)])
}

fn mul_tensors(cx: &Cx, a: &Tensor, b: &Tensor) -> Tensor {
    assert_eq!(a.shape(), b.shape(), "shapes of a product differ");
    cx.flops(a.len());
    match place(cx, a) {
        Place::Meta => meta(a, a.shape()),
        Place::Host => Tensor::host(kernels::map2(&host(a), &host(b), kernels::act::mul), a.shape()),
        Place::Burn => Tensor::from_burn(a.flatten_burn() * b.cast(a.dtype()).flatten_burn()).reshape(a.shape()),
    }
}

/// In another element type; the gradient comes back in the old one.
pub fn cast(cx: &Cx, x: &Var, dtype: DType) -> Var {
    let from = x.value.dtype();
    if from == dtype {
        return x.clone();
    }
    cx.record(x.value.cast(dtype), &[x], move |_, gy, _| vec![Some(gy.cast(from))])
}

/// `x [B, C, H, W] + e [B, C]`, the same for every pixel: a time embedding.
pub fn add_channels(cx: &Cx, x: &Var, e: &Var) -> Var {
    let (b, c) = (x.dim(0), x.dim(1));
    assert_eq!(e.shape(), [b, c], "embedding does not fit {:?}", x.shape());
    let n = x.value.len() / (b * c);
    cx.flops(x.value.len());
    let y = match place(cx, &x.value) {
        Place::Meta => meta(&x.value, x.shape()),
        Place::Host => {
            use rayon::prelude::*;
            let (xs, es) = (host(&x.value), host(&e.value));
            let mut out = kernels::buffer(xs.len());
            out.par_chunks_mut(n).zip(xs.par_chunks(n)).zip(es.par_iter()).for_each(|((o, x), &e)| {
                for (o, &x) in o.iter_mut().zip(x) {
                    *o = x + e;
                }
            });
            Tensor::host(out, x.shape())
        }
        Place::Burn => {
            let sum = x.value.reshape_burn([b, c, n]) + e.value.reshape_burn([b, c, 1]);
            Tensor::from_burn(sum).reshape(x.shape())
        }
    };
    cx.record(y, &[x, e], move |cx, gy, need| {
        let ge = need[1].then(|| sum_pixels(cx, &gy, b, c));
        vec![need[0].then_some(gy), ge]
    })
}

fn sum_pixels(cx: &Cx, x: &Tensor, b: usize, c: usize) -> Tensor {
    let n = x.len() / (b * c);
    cx.flops(x.len());
    match place(cx, x) {
        Place::Meta => meta(x, &[b, c]),
        Place::Host => Tensor::host(host(x).chunks(n).map(kernels::act::sum).collect(), &[b, c]),
        Place::Burn => {
            let sum = x.cast(DType::F32).reshape_burn([b, c, n]).sum_dim(2).reshape([b, c]);
            Tensor::from_burn(sum).cast(x.dtype())
        }
    }
}

/// `x [B, S, D] + p [S, D]`: position embeddings.
pub fn add_positions(cx: &Cx, x: &Var, p: &Var) -> Var {
    let (b, s, d) = (x.dim(0), x.dim(1), x.dim(2));
    assert_eq!(p.shape(), [s, d], "positions do not fit {:?}", x.shape());
    cx.flops(x.value.len());
    let y = match place(cx, &x.value) {
        Place::Meta => meta(&x.value, x.shape()),
        Place::Host => {
            let (xs, ps) = (host(&x.value), host(&p.value));
            let mut out = kernels::buffer(xs.len());
            for (o, x) in out.chunks_mut(s * d).zip(xs.chunks(s * d)) {
                kernels::act::add(o, x, &ps);
            }
            Tensor::host(out, x.shape())
        }
        Place::Burn => Tensor::from_burn(x.value.burn::<3>() + p.value.reshape_burn([1, s, d])),
    };
    cx.record(y, &[x, p], move |cx, gy, need| {
        let gp = need[1].then(|| sum_batch(cx, &gy, b, s, d));
        vec![need[0].then_some(gy), gp]
    })
}

fn sum_batch(cx: &Cx, x: &Tensor, b: usize, s: usize, d: usize) -> Tensor {
    cx.flops(x.len());
    match place(cx, x) {
        Place::Meta => meta(x, &[s, d]),
        Place::Host => {
            let xs = host(x);
            let mut out = kernels::buffer(s * d);
            for x in xs.chunks(s * d) {
                kernels::act::add_assign(&mut out, x);
            }
            Tensor::host(out, &[s, d])
        }
        Place::Burn => {
            Tensor::from_burn(x.cast(DType::F32).reshape_burn([b, s, d]).sum_dim(0).reshape([s, d])).cast(x.dtype())
        }
    }
}
