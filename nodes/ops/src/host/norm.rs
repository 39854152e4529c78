//! Group and layer normalisation with affine, forward and backward, statistics in f32.

use multiversion::multiversion;
use rayon::prelude::*;

use super::act::{silu_grad, sum};
use super::math::sigmoid;

/// Mean and 1/σ of `x`, two passes.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn statistics(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum(x) / n;
    let mut lanes = [0.0f32; 16];
    let chunks = x.chunks_exact(16);
    let mut rest = 0.0;
    for &x in chunks.remainder() {
        rest += (x - mean) * (x - mean);
    }
    for c in chunks {
        for (l, &x) in lanes.iter_mut().zip(c) {
            *l += (x - mean) * (x - mean);
        }
    }
    let var = (lanes.iter().sum::<f32>() + rest) / n;
    (mean, 1.0 / (var + eps).sqrt())
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn affine(out: &mut [f32], x: &[f32], scale: f32, shift: f32, silu: bool) {
    if silu {
        for (o, &x) in out.iter_mut().zip(x) {
            let y = x * scale + shift;
            *o = y * sigmoid(y);
        }
    } else {
        for (o, &x) in out.iter_mut().zip(x) {
            *o = x * scale + shift;
        }
    }
}

/// Per channel: Σ gy′ and Σ gy′·x̂, writing gy′ (gy through silu where asked) into `g`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn channel_sums(g: &mut [f32], x: &[f32], gy: &[f32], mean: f32, rstd: f32, w: f32, b: f32, silu: bool) -> (f32, f32) {
    if silu {
        for ((g, &x), &gy) in g.iter_mut().zip(x).zip(gy) {
            *g = gy * silu_grad((x - mean) * rstd * w + b);
        }
    } else {
        g.copy_from_slice(gy);
    }
    let mut s = [0.0f32; 16];
    let mut sx = [0.0f32; 16];
    let (cg, cx) = (g.chunks_exact(16), x.chunks_exact(16));
    let (mut rs, mut rsx) = (0.0, 0.0);
    for (&g, &x) in cg.remainder().iter().zip(cx.remainder()) {
        rs += g;
        rsx += g * (x - mean) * rstd;
    }
    for (g, x) in cg.zip(cx) {
        for i in 0..16 {
            s[i] += g[i];
            sx[i] += g[i] * (x[i] - mean) * rstd;
        }
    }
    (s.iter().sum::<f32>() + rs, sx.iter().sum::<f32>() + rsx)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn channel_dx(g: &mut [f32], x: &[f32], mean: f32, rstd: f32, w: f32, m1: f32, m2: f32) {
    for (g, &x) in g.iter_mut().zip(x) {
        *g = rstd * (*g * w - m1 - (x - mean) * rstd * m2);
    }
}

/// Group norm over `x [B, C, N]` (N = H·W) with optional SiLU behind it.
/// Gives the result and, per (sample, group), mean and 1/σ.
pub fn group_norm(
    x: &[f32],
    b: usize,
    c: usize,
    groups: usize,
    w: &[f32],
    bias: &[f32],
    eps: f32,
    silu: bool,
) -> (Vec<f32>, Vec<f32>) {
    let n = x.len() / (b * c);
    let span = c / groups * n;
    let mut out = super::buffer(x.len());
    let mut stats = vec![0.0; b * groups * 2];
    out.par_chunks_mut(span).zip(x.par_chunks(span)).zip(stats.par_chunks_mut(2)).enumerate().for_each(
        |(i, ((o, x), st))| {
            let (mean, rstd) = statistics(x, eps);
            st.copy_from_slice(&[mean, rstd]);
            let first = (i % groups) * (c / groups);
            for (j, (o, x)) in o.chunks_mut(n).zip(x.chunks(n)).enumerate() {
                let scale = rstd * w[first + j];
                affine(o, x, scale, bias[first + j] - mean * scale, silu);
            }
        },
    );
    (out, stats)
}

/// Gradients of [`group_norm`]: for x, and (when asked) for weight and bias.
pub fn group_norm_backward(
    x: &[f32],
    gy: &[f32],
    stats: &[f32],
    b: usize,
    c: usize,
    groups: usize,
    w: &[f32],
    bias: &[f32],
    silu: bool,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let n = x.len() / (b * c);
    let per = c / groups;
    let span = per * n;
    let mut gx = super::buffer(x.len());
    let mut sums = vec![0.0; b * c * 2];
    gx.par_chunks_mut(span)
        .zip(x.par_chunks(span))
        .zip(gy.par_chunks(span))
        .zip(sums.par_chunks_mut(per * 2))
        .enumerate()
        .for_each(|(i, (((g, x), gy), sums))| {
            let (mean, rstd) = (stats[2 * i], stats[2 * i + 1]);
            let first = (i % groups) * per;
            let (mut m1, mut m2) = (0.0, 0.0);
            for (j, ((g, x), gy)) in g.chunks_mut(n).zip(x.chunks(n)).zip(gy.chunks(n)).enumerate() {
                let (s, sx) = channel_sums(g, x, gy, mean, rstd, w[first + j], bias[first + j], silu);
                sums[2 * j] = s;
                sums[2 * j + 1] = sx;
                m1 += w[first + j] * s;
                m2 += w[first + j] * sx;
            }
            let (m1, m2) = (m1 / span as f32, m2 / span as f32);
            for (j, (g, x)) in g.chunks_mut(n).zip(x.chunks(n)).enumerate() {
                channel_dx(g, x, mean, rstd, w[first + j], m1, m2);
            }
        });
    let (mut gw, mut gb) = (vec![0.0; c], vec![0.0; c]);
    for row in sums.chunks(c * 2) {
        for j in 0..c {
            gb[j] += row[2 * j];
            gw[j] += row[2 * j + 1];
        }
    }
    (gx, gw, gb)
}

/// Layer norm over the last axis of `x [R, D]`; gives the result and mean, 1/σ per row.
pub fn layer_norm(x: &[f32], d: usize, w: &[f32], bias: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>) {
    let rows = x.len() / d;
    let mut out = super::buffer(x.len());
    let mut stats = vec![0.0; rows * 2];
    let per = (super::GRAIN / d).max(1);
    out.par_chunks_mut(d * per).zip(x.par_chunks(d * per)).zip(stats.par_chunks_mut(2 * per)).for_each(
        |((o, x), st)| {
            for ((o, x), st) in o.chunks_mut(d).zip(x.chunks(d)).zip(st.chunks_mut(2)) {
                let (mean, rstd) = statistics(x, eps);
                st.copy_from_slice(&[mean, rstd]);
                layer_row(o, x, w, bias, mean, rstd);
            }
        },
    );
    (out, stats)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn layer_row(o: &mut [f32], x: &[f32], w: &[f32], b: &[f32], mean: f32, rstd: f32) {
    for i in 0..o.len().min(x.len()).min(w.len()).min(b.len()) {
        o[i] = (x[i] - mean) * rstd * w[i] + b[i];
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn layer_row_backward(
    gx: &mut [f32],
    x: &[f32],
    gy: &[f32],
    w: &[f32],
    gw: &mut [f32],
    gb: &mut [f32],
    mean: f32,
    rstd: f32,
) {
    let d = gx.len();
    let (x, gy, w) = (&x[..d], &gy[..d], &w[..d]);
    let (gw, gb) = (&mut gw[..d], &mut gb[..d]);
    let (mut m1, mut m2) = ([0.0f32; 16], [0.0f32; 16]);
    for i in 0..d {
        let xh = (x[i] - mean) * rstd;
        let g = gy[i] * w[i];
        gw[i] += gy[i] * xh;
        gb[i] += gy[i];
        gx[i] = g;
        m1[i % 16] += g;
        m2[i % 16] += g * xh;
    }
    let (m1, m2) = (m1.iter().sum::<f32>() / d as f32, m2.iter().sum::<f32>() / d as f32);
    for i in 0..d {
        gx[i] = rstd * (gx[i] - m1 - (x[i] - mean) * rstd * m2);
    }
}

/// Gradients of [`layer_norm`] for x, weight and bias.
pub fn layer_norm_backward(
    x: &[f32],
    gy: &[f32],
    stats: &[f32],
    d: usize,
    w: &[f32],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut gx = super::buffer(x.len());
    let per = (super::GRAIN / d).max(1);
    let parts: Vec<(Vec<f32>, Vec<f32>)> = gx
        .par_chunks_mut(d * per)
        .zip(x.par_chunks(d * per))
        .zip(gy.par_chunks(d * per))
        .zip(stats.par_chunks(2 * per))
        .map(|(((gx, x), gy), st)| {
            let (mut gw, mut gb) = (vec![0.0; d], vec![0.0; d]);
            for (((gx, x), gy), st) in gx.chunks_mut(d).zip(x.chunks(d)).zip(gy.chunks(d)).zip(st.chunks(2)) {
                layer_row_backward(gx, x, gy, w, &mut gw, &mut gb, st[0], st[1]);
            }
            (gw, gb)
        })
        .collect();
    let (mut gw, mut gb) = (vec![0.0; d], vec![0.0; d]);
    for (w, b) in &parts {
        super::act::add_assign(&mut gw, w);
        super::act::add_assign(&mut gb, b);
    }
    (gx, gw, gb)
}
