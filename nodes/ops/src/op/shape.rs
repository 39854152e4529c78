//! Moving elements: reshape, tokens, concatenation, slices, up-sampling.

use rayon::prelude::*;

use super::{Place, host, meta, place};
use crate::host as kernels;
use crate::{Cx, Device, Tensor, Var};

/// The same elements in another shape.
pub fn reshape(cx: &Cx, x: &Var, shape: &[usize]) -> Var {
    let from = x.shape().to_vec();
    cx.record(x.value.reshape(shape), &[x], move |_, gy, _| vec![Some(gy.reshape(&from))]).reshaped(x)
}

/// `[B, R, C]` → `[B, C, R]`.
fn transpose(cx: &Cx, x: &Tensor, b: usize, r: usize, c: usize) -> Tensor {
    match place(cx, x) {
        Place::Meta => meta(x, &[b, c, r]),
        Place::Host => {
            const TILE: usize = 32;
            let xs = host(x);
            let mut out = kernels::buffer(xs.len());
            out.par_chunks_mut(r * c).zip(xs.par_chunks(r * c)).for_each(|(o, x)| {
                for r0 in (0..r).step_by(TILE) {
                    for c0 in (0..c).step_by(TILE) {
                        for i in r0..(r0 + TILE).min(r) {
                            for j in c0..(c0 + TILE).min(c) {
                                o[j * r + i] = x[i * c + j];
                            }
                        }
                    }
                }
            });
            Tensor::host(out, &[b, c, r])
        }
        Place::Burn => Tensor::from_burn(x.reshape_burn([b, r, c]).swap_dims(1, 2)),
    }
}

/// `[B, C, H, W]` → `[B, H·W, C]`.
pub fn to_tokens(cx: &Cx, x: &Var) -> Var {
    let shape = x.shape().to_vec();
    let (b, c, n) = (shape[0], shape[1], shape[2] * shape[3]);
    let y = transpose(cx, &x.value, b, c, n);
    cx.record(y, &[x], move |cx, gy, _| vec![Some(transpose(cx, &gy, b, n, c).reshape(&shape))])
}

/// `[B, H·W, C]` → `[B, C, H, W]`.
pub fn from_tokens(cx: &Cx, x: &Var, h: usize, w: usize) -> Var {
    let (b, n, c) = (x.dim(0), x.dim(1), x.dim(2));
    assert_eq!(n, h * w, "{n} tokens for {h}×{w} pixels");
    let y = transpose(cx, &x.value, b, n, c).reshape(&[b, c, h, w]);
    cx.record(y, &[x], move |cx, gy, _| vec![Some(transpose(cx, &gy, b, c, n))])
}

/// Sizes before, at and behind `axis`.
fn split_at(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

fn cut(cx: &Cx, x: &Tensor, axis: usize, start: usize, len: usize) -> Tensor {
    let (outer, full, inner) = split_at(x.shape(), axis);
    let mut shape = x.shape().to_vec();
    shape[axis] = len;
    match place(cx, x) {
        Place::Meta => meta(x, &shape),
        Place::Host => {
            let xs = host(x);
            let mut out = Vec::with_capacity(outer * len * inner);
            for block in xs.chunks(full * inner) {
                out.extend_from_slice(&block[start * inner..(start + len) * inner]);
            }
            Tensor::host(out, &shape)
        }
        Place::Burn => Tensor::from_burn(x.reshape_burn([outer, full, inner]).narrow(1, start, len)).reshape(&shape),
    }
}

fn join(cx: &Cx, parts: &[&Tensor], axis: usize) -> Tensor {
    let mut shape = parts[0].shape().to_vec();
    for part in parts {
        let same = part.shape().len() == shape.len() && (0..shape.len()).all(|d| d == axis || part.dim(d) == shape[d]);
        assert!(same, "{:?} cannot be joined to {shape:?} along axis {axis}", part.shape());
    }
    shape[axis] = parts.iter().map(|p| p.dim(axis)).sum();
    match place(cx, parts[0]) {
        Place::Meta => meta(parts[0], &shape),
        Place::Host => {
            let (outer, _, inner) = split_at(&shape, axis);
            let hosts: Vec<_> = parts.iter().map(|p| (host(p), p.dim(axis) * inner)).collect();
            let mut out = Vec::with_capacity(shape.iter().product());
            for i in 0..outer {
                for (x, span) in &hosts {
                    out.extend_from_slice(&x[i * span..(i + 1) * span]);
                }
            }
            Tensor::host(out, &shape)
        }
        Place::Burn => {
            let (outer, _, inner) = split_at(&shape, axis);
            let parts = parts.iter().map(|p| p.reshape_burn([outer, p.dim(axis), inner])).collect();
            Tensor::from_burn(burn::Tensor::<3>::cat(parts, 1)).reshape(&shape)
        }
    }
}

/// `parts` behind each other along `axis`.
pub fn concat(cx: &Cx, parts: &[&Var], axis: usize) -> Var {
    let tensors: Vec<&Tensor> = parts.iter().map(|p| &p.value).collect();
    let sizes: Vec<usize> = parts.iter().map(|p| p.dim(axis)).collect();
    let y = join(cx, &tensors, axis);
    cx.record(y, parts, move |cx, gy, need| {
        let mut start = 0;
        sizes
            .iter()
            .zip(need)
            .map(|(&len, &need)| {
                let part = need.then(|| cut(cx, &gy, axis, start, len));
                start += len;
                part
            })
            .collect()
    })
}

/// Elements `start..start+len` of `axis`.
pub fn narrow(cx: &Cx, x: &Var, axis: usize, start: usize, len: usize) -> Var {
    let full = x.dim(axis);
    if start == 0 && len == full {
        return x.clone();
    }
    let y = cut(cx, &x.value, axis, start, len);
    let shape = x.shape().to_vec();
    cx.record(y, &[x], move |cx, gy, _| vec![Some(spread(cx, &gy, &shape, axis, start))])
}

/// `x` at `start` of `axis` of a tensor of zeros.
fn spread(cx: &Cx, x: &Tensor, shape: &[usize], axis: usize, start: usize) -> Tensor {
    let len = x.dim(axis);
    match place(cx, x) {
        Place::Meta => meta(x, shape),
        Place::Host => {
            let (_, full, inner) = split_at(shape, axis);
            let xs = host(x);
            let mut out = kernels::buffer(shape.iter().product());
            for (o, x) in out.chunks_mut(full * inner).zip(xs.chunks(len * inner)) {
                o[start * inner..(start + len) * inner].copy_from_slice(x);
            }
            Tensor::host(out, shape)
        }
        Place::Burn => {
            let zeros = |n: usize| {
                let mut shape = shape.to_vec();
                shape[axis] = n;
                (n > 0).then(|| cx.device.zeros(&shape, x.dtype()))
            };
            let (before, after) = (zeros(start), zeros(shape[axis] - start - len));
            let parts: Vec<&Tensor> = [before.as_ref(), Some(x), after.as_ref()].into_iter().flatten().collect();
            join(cx, &parts, axis)
        }
    }
}

/// Rows `ids` of the first axis.
pub fn select_rows(cx: &Cx, x: &Tensor, ids: &[usize]) -> Tensor {
    let mut shape = x.shape().to_vec();
    let span: usize = shape[1..].iter().product();
    shape[0] = ids.len();
    match place(cx, x) {
        Place::Meta => meta(x, &shape),
        Place::Host => {
            let xs = host(x);
            let mut out = Vec::with_capacity(ids.len() * span);
            for &i in ids {
                out.extend_from_slice(&xs[i * span..(i + 1) * span]);
            }
            Tensor::host(out, &shape)
        }
        Place::Burn => {
            let Device::Burn(device) = &cx.device else { unreachable!("burn body without burn device") };
            let ids: Vec<u32> = ids.iter().map(|&i| i as u32).collect();
            let flat = x.reshape_burn([x.dim(0), span]).select(0, Device::indices(device, &ids));
            Tensor::from_burn(flat).reshape(&shape)
        }
    }
}

/// Nearest up-sampling of `[B, C, H, W]` to `h × w`: pixel `(y, x)` takes `(⌊y·H/h⌋, ⌊x·W/w⌋)`.
pub fn upsample(cx: &Cx, x: &Var, h: usize, w: usize) -> Var {
    let (b, c, h0, w0) = (x.dim(0), x.dim(1), x.dim(2), x.dim(3));
    let y = match place(cx, &x.value) {
        Place::Meta => meta(&x.value, &[b, c, h, w]),
        Place::Host => {
            let xs = host(&x.value);
            let columns: Vec<usize> = (0..w).map(|i| i * w0 / w).collect();
            let mut out = kernels::buffer(b * c * h * w);
            out.par_chunks_mut(h * w).zip(xs.par_chunks(h0 * w0)).for_each(|(o, x)| {
                for (i, o) in o.chunks_mut(w).enumerate() {
                    let row = &x[i * h0 / h * w0..][..w0];
                    for (o, &j) in o.iter_mut().zip(&columns) {
                        *o = row[j];
                    }
                }
            });
            Tensor::host(out, &[b, c, h, w])
        }
        Place::Burn => {
            let Device::Burn(device) = &cx.device else { unreachable!("burn body without burn device") };
            let rows: Vec<u32> = (0..h).map(|i| (i * h0 / h) as u32).collect();
            let columns: Vec<u32> = (0..w).map(|i| (i * w0 / w) as u32).collect();
            let t = x.value.burn::<4>().select(2, Device::indices(device, &rows));
            Tensor::from_burn(t.select(3, Device::indices(device, &columns)))
        }
    };
    cx.record(y, &[x], move |cx, gy, _| vec![Some(upsample_backward(cx, &gy, [b, c, h0, w0], h, w))])
}

fn upsample_backward(cx: &Cx, gy: &Tensor, [b, c, h0, w0]: [usize; 4], h: usize, w: usize) -> Tensor {
    match place(cx, gy) {
        Place::Meta => meta(gy, &[b, c, h0, w0]),
        Place::Host => {
            let g = host(gy);
            let mut out = kernels::buffer(b * c * h0 * w0);
            out.par_chunks_mut(h0 * w0).zip(g.par_chunks(h * w)).for_each(|(o, g)| {
                for (i, g) in g.chunks(w).enumerate() {
                    let row = &mut o[i * h0 / h * w0..][..w0];
                    for (j, &g) in g.iter().enumerate() {
                        row[j * w0 / w] += g;
                    }
                }
            });
            Tensor::host(out, &[b, c, h0, w0])
        }
        Place::Burn => {
            let Device::Burn(device) = &cx.device else { unreachable!("burn body without burn device") };
            let rows: Vec<u32> = (0..h).map(|i| (i * h0 / h) as u32).collect();
            let columns: Vec<u32> = (0..w).map(|i| (i * w0 / w) as u32).collect();
            let g = gy.burn::<4>();
            let add = burn::tensor::IndexingUpdateOp::Add;
            let t = burn::Tensor::<4>::zeros([b, c, h0, w], device).cast(g.dtype());
            let t = t.select_assign(2, Device::indices(device, &rows), g.clone(), add);
            let s = burn::Tensor::<4>::zeros([b, c, h0, w0], device).cast(g.dtype());
            Tensor::from_burn(s.select_assign(3, Device::indices(device, &columns), t, add))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "cannot be joined")]
    fn parts_of_other_sizes_are_not_joined() {
        let part = |shape: &[usize]| Var::constant(Tensor::host(vec![0.0; shape.iter().product()], shape));
        concat(&Cx::cpu(), &[&part(&[2, 3]), &part(&[2, 4])], 0);
    }
}
