//! Convolutions.

use burn::tensor::module;
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};

use super::{Place, host, meta, place};
use crate::host::conv as kernel;
use crate::host::conv::Sizes;
use crate::{Cx, DType, Tensor, Var};

/// Zeros added at top, left, bottom and right by the VAE's and no other down-sampler.
pub fn downsample_pad() -> [usize; 4] {
    [0, 0, 1, 1]
}

/// `conv2d(x, w) + b`: `x [B, C, H, W]`, `w [O, C, KH, KW]`, `b [O]`; `pad` is top, left, bottom, right.
pub fn conv2d(cx: &Cx, x: &Var, w: &Var, b: Option<&Var>, stride: usize, pad: [usize; 4]) -> Var {
    assert_eq!(x.dim(1), w.dim(1), "conv2d: input {:?} for weight {:?}", x.shape(), w.shape());
    let s = Sizes {
        b: x.dim(0),
        c: x.dim(1),
        h: x.dim(2),
        w: x.dim(3),
        o: w.dim(0),
        kh: w.dim(2),
        kw: w.dim(3),
        stride,
        pad,
    };
    work(cx, &s);
    let shape = [s.b, s.o, s.oh(), s.ow()];
    let y = match place(cx, &x.value) {
        Place::Meta => meta(&x.value, &shape),
        Place::Host => {
            let bias = b.map(|b| host(&b.value));
            Tensor::host(kernel::conv2d(s, &host(&x.value), &host(&w.value), bias.as_deref()), &shape)
        }
        Place::Burn => {
            let bias = b.map(|b| b.value.burn::<1>());
            Tensor::from_burn(module::conv2d(x.value.burn::<4>(), w.value.burn::<4>(), bias, options(&s)))
        }
    };
    let xv = w.tracked().then(|| x.value.clone());
    let wv = x.tracked().then(|| w.kept());
    let wshape = w.shape().to_vec();
    let back = move |cx: &Cx, gy: Tensor, need: &[bool]| {
        let gx = wv.filter(|_| need[0]).map(|w| input_backward(cx, &s, &w.tensor(cx), &gy));
        let gw = xv.filter(|_| need[1]).map(|x| weight_backward(cx, &s, &x, &gy, &wshape));
        let mut out = vec![gx, gw];
        if need.len() > 2 {
            out.push(need[2].then(|| bias_backward(cx, &s, &gy)));
        }
        out
    };
    match b {
        Some(b) => cx.record(y, &[x, w, b], back),
        None => cx.record(y, &[x, w], back),
    }
}

/// FLOPs, and on the host the unfolded columns of the samples in flight.
fn work(cx: &Cx, s: &Sizes) {
    let columns = s.c * s.kh * s.kw * s.oh() * s.ow();
    cx.flops(2 * s.b * s.o * columns);
    if let Some(meter) = cx.meter()
        && (s.kh > 1 || s.stride > 1)
    {
        meter.scratch((4 * columns * s.b.min(rayon::current_num_threads())) as u64);
    }
}

fn options(s: &Sizes) -> ConvOptions<2> {
    let mut options = ConvOptions::new([s.stride, s.stride], [0, 0], [1, 1], 1);
    options.padding = [(s.pad[0], s.pad[2]), (s.pad[1], s.pad[3])];
    options
}

fn input_backward(cx: &Cx, s: &Sizes, w: &Tensor, gy: &Tensor) -> Tensor {
    work(cx, s);
    let shape = [s.b, s.c, s.h, s.w];
    match place(cx, gy) {
        Place::Meta => meta(gy, &shape),
        Place::Host => Tensor::host(kernel::conv2d_input_backward(*s, &host(w), &host(gy)), &shape),
        Place::Burn => {
            // The transposed convolution over the padded input, then the padding is cut off.
            let (ph, pw) = (s.h + s.pad[0] + s.pad[2], s.w + s.pad[1] + s.pad[3]);
            let rest = [ph - ((s.oh() - 1) * s.stride + s.kh), pw - ((s.ow() - 1) * s.stride + s.kw)];
            let options = ConvTransposeOptions::new([s.stride, s.stride], [0, 0], rest, [1, 1], 1);
            let full = module::conv_transpose2d(gy.burn::<4>(), w.burn::<4>(), None, options);
            Tensor::from_burn(full.narrow(2, s.pad[0], s.h).narrow(3, s.pad[1], s.w))
        }
    }
}

fn weight_backward(cx: &Cx, s: &Sizes, x: &Tensor, gy: &Tensor, shape: &[usize]) -> Tensor {
    work(cx, s);
    match place(cx, gy) {
        Place::Meta => meta(gy, shape),
        Place::Host => Tensor::host(kernel::conv2d_weight_backward(*s, &host(x), &host(gy)), shape),
        Place::Burn => {
            let w = burn::Tensor::<4>::zeros([shape[0], shape[1], shape[2], shape[3]], &gy.burn::<4>().device())
                .cast(gy.burn::<4>().dtype());
            let padded = x.burn::<4>().pad((s.pad[1], s.pad[3], s.pad[0], s.pad[2]), 0.0);
            let plain = ConvOptions::new([s.stride, s.stride], [0, 0], [1, 1], 1);
            Tensor::from_burn(module::conv2d_weight_backward(padded, w, gy.burn::<4>(), plain))
        }
    }
}

fn bias_backward(cx: &Cx, s: &Sizes, gy: &Tensor) -> Tensor {
    cx.flops(gy.len());
    match place(cx, gy) {
        Place::Meta => meta(gy, &[s.o]),
        Place::Host => Tensor::host(kernel::conv2d_bias_backward(*s, &host(gy)), &[s.o]),
        Place::Burn => {
            let g = gy.cast(DType::F32).reshape_burn([s.b, s.o, s.oh() * s.ow()]);
            Tensor::from_burn(g.sum_dim(2).sum_dim(0).reshape([s.o])).cast(gy.dtype())
        }
    }
}
