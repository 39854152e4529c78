//! Elementwise activations.

use burn::tensor::activation;

use super::{Place, host, meta, meta_like, place};
use crate::host as kernels;
use crate::{Cx, DType, Tensor, Var};

/// Cost of a transcendental function, in FLOPs, for the plan.
const COST: usize = 10;

#[derive(Clone, Copy)]
enum Kind {
    Silu,
    Gelu,
    QuickGelu,
    GeluTanh,
    Tanh,
}

fn forward(cx: &Cx, kind: Kind, x: &Tensor) -> Tensor {
    cx.flops(COST * x.len());
    match place(cx, x) {
        Place::Meta => meta_like(x),
        Place::Host => {
            let f = match kind {
                Kind::Silu => kernels::act::silu,
                Kind::Gelu => kernels::act::gelu,
                Kind::QuickGelu => kernels::act::quick_gelu,
                Kind::GeluTanh => kernels::act::gelu_tanh,
                Kind::Tanh => kernels::act::tanh_all,
            };
            Tensor::host(kernels::map1(&host(x), f), x.shape())
        }
        Place::Burn => {
            let flat = x.flatten_burn();
            let y = match kind {
                Kind::Silu => activation::silu(flat),
                Kind::Gelu => activation::gelu(flat),
                Kind::QuickGelu => flat.clone() * activation::sigmoid(flat * 1.702),
                Kind::GeluTanh => flat.clone() * (tanh_argument(flat).tanh() + 1.0) * 0.5,
                Kind::Tanh => flat.tanh(),
            };
            Tensor::from_burn(y).reshape(x.shape())
        }
    }
}

fn backward(cx: &Cx, kind: Kind, x: &Tensor, gy: &Tensor) -> Tensor {
    cx.flops(COST * x.len());
    match place(cx, x) {
        Place::Meta => meta_like(x),
        Place::Host => {
            let f = match kind {
                Kind::Silu => kernels::act::silu_backward,
                Kind::Gelu => kernels::act::gelu_backward,
                Kind::QuickGelu => kernels::act::quick_gelu_backward,
                Kind::GeluTanh => kernels::act::gelu_tanh_backward,
                Kind::Tanh => kernels::act::tanh_all_backward,
            };
            Tensor::host(kernels::map2(&host(x), &host(gy), f), x.shape())
        }
        Place::Burn => {
            let (x32, g) = (x.cast(DType::F32).flatten_burn(), gy.cast(DType::F32).flatten_burn());
            let d = derivative(kind, x32);
            Tensor::from_burn(g * d).cast(x.dtype()).reshape(x.shape())
        }
    }
}

fn derivative(kind: Kind, x: burn::Tensor<1>) -> burn::Tensor<1> {
    match kind {
        Kind::Silu => {
            let s = activation::sigmoid(x.clone());
            s.clone() * (x * (s.neg() + 1.0) + 1.0)
        }
        Kind::Gelu => gelu_derivative(x),
        Kind::QuickGelu => {
            let s = activation::sigmoid(x.clone() * 1.702);
            s.clone() * (x * 1.702 * (s.neg() + 1.0) + 1.0)
        }
        Kind::GeluTanh => {
            let t = tanh_argument(x.clone()).tanh();
            let slope = (x.clone() * x.clone() * 0.134_145 + 1.0) * 0.797_884_560_8;
            (t.clone() + 1.0) * 0.5 + x * 0.5 * ((t.clone() * t).neg() + 1.0) * slope
        }
        Kind::Tanh => {
            let t = x.tanh();
            (t.clone() * t).neg() + 1.0
        }
    }
}

fn tanh_argument(x: burn::Tensor<1>) -> burn::Tensor<1> {
    (x.clone() * x.clone() * 0.044_715 + 1.0) * x * 0.797_884_560_8
}

fn gelu_derivative<const D: usize>(x: burn::Tensor<D>) -> burn::Tensor<D> {
    let phi = ((x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
    let density = (x.clone() * x.clone() * -0.5).exp() * 0.398_942_280_401;
    phi + x * density
}

fn unary(cx: &Cx, kind: Kind, x: &Var) -> Var {
    let y = forward(cx, kind, &x.value);
    let saved = x.value.clone();
    cx.record(y, &[x], move |cx, gy, _| vec![Some(backward(cx, kind, &saved, &gy))])
}

/// `x·σ(x)` (SiLU, swish).
pub fn silu(cx: &Cx, x: &Var) -> Var {
    unary(cx, Kind::Silu, x)
}

/// Exact GELU, `x·Φ(x)`.
pub fn gelu(cx: &Cx, x: &Var) -> Var {
    unary(cx, Kind::Gelu, x)
}

/// CLIP's GELU, `x·σ(1.702x)`.
pub fn quick_gelu(cx: &Cx, x: &Var) -> Var {
    unary(cx, Kind::QuickGelu, x)
}

/// GELU in its tanh form, `½x(1 + tanh(√(2/π)(x + 0.044715x³)))`.
pub fn gelu_tanh(cx: &Cx, x: &Var) -> Var {
    unary(cx, Kind::GeluTanh, x)
}

/// Hyperbolic tangent.
pub fn tanh(cx: &Cx, x: &Var) -> Var {
    unary(cx, Kind::Tanh, x)
}

/// GEGLU (Shazeer 2020): `[.., 2W]` is `a | g`, result `a·gelu(g)` `[.., W]`.
pub fn geglu(cx: &Cx, x: &Var) -> Var {
    let mut shape = x.shape().to_vec();
    let width = shape.last().copied().unwrap_or(0) / 2;
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    cx.flops(COST * x.value.len());
    let y = match place(cx, &x.value) {
        Place::Meta => meta(&x.value, &shape),
        Place::Host => {
            let x = host(&x.value);
            let mut out = kernels::buffer(x.len() / 2);
            rows(&mut out, width, &x, 2 * width, |o, x| kernels::act::geglu(o, x, width));
            Tensor::host(out, &shape)
        }
        Place::Burn => {
            let rows = x.value.len() / (2 * width);
            let flat = x.value.reshape_burn([rows, 2 * width]);
            let a = flat.clone().narrow(1, 0, width);
            let g = flat.narrow(1, width, width);
            Tensor::from_burn(a * activation::gelu(g)).reshape(&shape)
        }
    };
    let saved = x.value.clone();
    cx.record(y, &[x], move |cx, gy, _| vec![Some(geglu_backward(cx, &saved, &gy, width))])
}

fn geglu_backward(cx: &Cx, x: &Tensor, gy: &Tensor, width: usize) -> Tensor {
    cx.flops(COST * x.len());
    match place(cx, x) {
        Place::Meta => meta_like(x),
        Place::Host => {
            use rayon::prelude::*;
            let (xs, g) = (host(x), host(gy));
            let mut out = kernels::buffer(xs.len());
            let per = (kernels::GRAIN / width).max(1);
            out.par_chunks_mut(2 * width * per)
                .zip(xs.par_chunks(2 * width * per))
                .zip(g.par_chunks(width * per))
                .for_each(|((o, x), g)| kernels::act::geglu_backward(o, x, g, width));
            Tensor::host(out, x.shape())
        }
        Place::Burn => {
            let rows = x.len() / (2 * width);
            let flat = x.cast(DType::F32).reshape_burn([rows, 2 * width]);
            let gy = gy.cast(DType::F32).reshape_burn([rows, width]);
            let a = flat.clone().narrow(1, 0, width);
            let g = flat.narrow(1, width, width);
            let da = gy.clone() * activation::gelu(g.clone());
            let dg = gy * a * gelu_derivative(g);
            Tensor::from_burn(burn::Tensor::cat(vec![da, dg], 1)).cast(x.dtype()).reshape(x.shape())
        }
    }
}

fn rows(out: &mut [f32], out_width: usize, x: &[f32], x_width: usize, f: impl Fn(&mut [f32], &[f32]) + Sync) {
    use rayon::prelude::*;
    let per = (kernels::GRAIN / x_width).max(1);
    out.par_chunks_mut(out_width * per).zip(x.par_chunks(x_width * per)).for_each(|(o, x)| f(o, x));
}
