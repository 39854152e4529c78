//! Reordering axes: patches of an image as tokens, and back.

use rayon::prelude::*;

use super::{Place, host, meta, place};
use crate::host as kernels;
use crate::{Cx, Tensor, Var};

/// Most axes a permutation may have.
const AXES: usize = 6;

/// `x`, seen with the sizes `shape`, with its axes in the order `axes`: axis `i` of the result is axis `axes[i]`.
pub fn permute(cx: &Cx, x: &Var, shape: &[usize], axes: &[usize]) -> Var {
    let from = x.shape().to_vec();
    let y = permuted(cx, &x.value, shape, axes);
    let mut inverse = vec![0; axes.len()];
    for (i, &a) in axes.iter().enumerate() {
        inverse[a] = i;
    }
    let out_shape = y.shape().to_vec();
    cx.record(y, &[x], move |cx, gy, _| vec![Some(permuted(cx, &gy, &out_shape, &inverse).reshape(&from))])
}

fn permuted(cx: &Cx, x: &Tensor, shape: &[usize], axes: &[usize]) -> Tensor {
    assert_eq!(x.len(), shape.iter().product::<usize>(), "{:?} seen as {shape:?}", x.shape());
    assert!(shape.len() == axes.len() && axes.len() <= AXES, "permutation of {} axes", axes.len());
    let out_shape: Vec<usize> = axes.iter().map(|&a| shape[a]).collect();
    match place(cx, x) {
        Place::Meta => meta(x, &out_shape),
        Place::Host => {
            // All cases have six axes, the front ones of size 1.
            let lead = AXES - shape.len();
            let mut strides = [0; AXES];
            let mut sizes = [1; AXES];
            let mut own = vec![1; shape.len()];
            for i in (0..shape.len().saturating_sub(1)).rev() {
                own[i] = own[i + 1] * shape[i + 1];
            }
            for (i, &a) in axes.iter().enumerate() {
                sizes[lead + i] = shape[a];
                strides[lead + i] = own[a];
            }
            let xs = host(x);
            let mut out = kernels::buffer(xs.len());
            let inner = sizes[3] * sizes[4] * sizes[5];
            out.par_chunks_mut(inner.max(1)).enumerate().for_each(|(i, o)| {
                let (a, b, c) = (i / (sizes[1] * sizes[2]), i / sizes[2] % sizes[1], i % sizes[2]);
                let base = a * strides[0] + b * strides[1] + c * strides[2];
                let mut at = 0;
                for d in 0..sizes[3] {
                    for e in 0..sizes[4] {
                        let start = base + d * strides[3] + e * strides[4];
                        for f in 0..sizes[5] {
                            o[at] = xs[start + f * strides[5]];
                            at += 1;
                        }
                    }
                }
            });
            Tensor::host(out, &out_shape)
        }
        Place::Burn => {
            let x = x.reshape(shape);
            let axes: Vec<isize> = axes.iter().map(|&a| a as isize).collect();
            macro_rules! of_rank {
                ($($n:literal),*) => {
                    match shape.len() {
                        $($n => {
                            let mut order = [0isize; $n];
                            order.copy_from_slice(&axes);
                            Tensor::from_burn(x.burn::<$n>().permute(order))
                        })*
                        n => panic!("permutation of {n} axes"),
                    }
                };
            }
            of_rank!(2, 3, 4, 5, 6)
        }
    }
}

/// Order of the features of a `p × p` patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchOrder {
    /// Channel, row, column (FLUX).
    ChannelFirst,
    /// Row, column, channel (SD3's output, Lumina).
    ChannelLast,
}

/// `[B, C, H, W]` → `[B, (H/p)·(W/p), C·p·p]`, patches row by row.
pub fn patchify(cx: &Cx, x: &Var, p: usize, order: PatchOrder) -> Var {
    let (b, c, h, w) = (x.dim(0), x.dim(1), x.dim(2) / p, x.dim(3) / p);
    assert!(h * p == x.dim(2) && w * p == x.dim(3), "{:?} has no whole {p}×{p} patches", x.shape());
    let axes: [usize; 6] = match order {
        PatchOrder::ChannelFirst => [0, 2, 4, 1, 3, 5],
        PatchOrder::ChannelLast => [0, 2, 4, 3, 5, 1],
    };
    let y = permute(cx, x, &[b, c, h, p, w, p], &axes);
    super::reshape(cx, &y, &[b, h * w, c * p * p])
}

/// `[B, h·w, C·p·p]` → `[B, C, h·p, w·p]`; `h, w` count patches.
pub fn unpatchify(cx: &Cx, x: &Var, h: usize, w: usize, p: usize, order: PatchOrder) -> Var {
    let (b, c) = (x.dim(0), x.dim(2) / (p * p));
    assert_eq!(x.dim(1), h * w, "{} tokens for {h}×{w} patches", x.dim(1));
    let y = match order {
        PatchOrder::ChannelFirst => permute(cx, x, &[b, h, w, c, p, p], &[0, 3, 1, 4, 2, 5]),
        PatchOrder::ChannelLast => permute(cx, x, &[b, h, w, p, p, c], &[0, 5, 1, 3, 2, 4]),
    };
    super::reshape(cx, &y, &[b, c, h * p, w * p])
}
