//! Rotary position embeddings (Su et al. 2021).

use rayon::prelude::*;

use super::{Place, host, meta_like, place};
use crate::host as kernels;
use crate::{Cx, DType, Device, Tensor, Var};

/// Which two elements of a head make a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// Neighbours `2k, 2k+1` (FLUX, Lumina).
    Adjacent,
    /// `k, k + D/2` (Gemma, Llama).
    Halves,
}

/// Cosines and sines of the angles, `[B, S, D/2]`; `B` is 1 where all samples have the same positions.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

impl RopeTable {
    /// From angles `[B, S, half]`, computed in f64 and stored in f32.
    pub fn new(device: &Device, angles: &[f64], shape: [usize; 3]) -> Self {
        let make = |f: fn(f64) -> f64| device.tensor(angles.iter().map(|&a| f(a) as f32).collect(), &shape, DType::F32);
        RopeTable { cos: make(f64::cos), sin: make(f64::sin) }
    }
}

/// Rotates each pair of each head of `x [B, S, H·D]` by its angle.
pub fn rope(cx: &Cx, x: &Var, heads: usize, table: &RopeTable, pairs: Pairs) -> Var {
    let y = rotate(cx, &x.value, heads, table, pairs, 1.0);
    let table = table.clone();
    cx.record(y, &[x], move |cx, gy, _| vec![Some(rotate(cx, &gy, heads, &table, pairs, -1.0))])
}

fn rotate(cx: &Cx, x: &Tensor, heads: usize, table: &RopeTable, pairs: Pairs, sign: f32) -> Tensor {
    let (b, s, width) = (x.dim(0), x.dim(1), x.dim(2));
    let half = table.cos.dim(2);
    assert_eq!(width, heads * half * 2, "rotary table of {half} angles for {heads} heads in width {width}");
    assert!(table.cos.dim(1) == s && (table.cos.dim(0) == b || table.cos.dim(0) == 1), "rotary table does not fit");
    cx.flops(3 * x.len());
    match place(cx, x) {
        Place::Meta => meta_like(x),
        Place::Host => {
            let (xs, cos, sin) = (host(x), host(&table.cos), host(&table.sin));
            let shared = table.cos.dim(0) == 1;
            let mut out = kernels::buffer(xs.len());
            out.par_chunks_mut(width).zip(xs.par_chunks(width)).enumerate().for_each(|(row, (o, x))| {
                let at = if shared { row % s } else { row } * half;
                let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
                for (o, x) in o.chunks_mut(2 * half).zip(x.chunks(2 * half)) {
                    match pairs {
                        Pairs::Adjacent => kernels::act::rotate_adjacent(o, x, cos, sin, sign),
                        Pairs::Halves => kernels::act::rotate_halves(o, x, cos, sin, sign),
                    }
                }
            });
            Tensor::host(out, x.shape())
        }
        Place::Burn => {
            let tb = table.cos.dim(0);
            let (cos, sin) =
                (table.cos.reshape_burn([tb, s, 1, half]), table.sin.reshape_burn([tb, s, 1, half]) * sign);
            let x32 = x.cast(DType::F32);
            let y = match pairs {
                Pairs::Adjacent => {
                    let p = x32.reshape_burn([b * s * heads * half, 2]);
                    let part = |i: usize| p.clone().narrow(1, i, 1).reshape([b, s, heads, half]);
                    let (x0, x1) = (part(0), part(1));
                    let y0 = x0.clone() * cos.clone() - x1.clone() * sin.clone();
                    let y1 = x0 * sin + x1 * cos;
                    let n = b * s * heads * half;
                    burn::Tensor::cat(vec![y0.reshape([n, 1]), y1.reshape([n, 1])], 1)
                }
                Pairs::Halves => {
                    let p = x32.reshape_burn([b, s, heads, 2 * half]);
                    let (x0, x1) = (p.clone().narrow(3, 0, half), p.narrow(3, half, half));
                    let y0 = x0.clone() * cos.clone() - x1.clone() * sin.clone();
                    let y1 = x0 * sin + x1 * cos;
                    burn::Tensor::cat(vec![y0, y1], 3).reshape([b * s * heads * half, 2])
                }
            };
            Tensor::from_burn(y).cast(x.dtype()).reshape(x.shape())
        }
    }
}
