//! Root-mean-square norms on the CPU.

use multiversion::multiversion;
use rayon::prelude::*;

/// RMS norm over the last axis of `x [R, D]`; gives the result and 1/rms of each row.
pub fn rms_norm(x: &[f32], d: usize, w: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>) {
    let mut out = super::buffer(x.len());
    let mut stats = vec![0.0; x.len() / d];
    let per = (super::GRAIN / d).max(1);
    out.par_chunks_mut(d * per).zip(x.par_chunks(d * per)).zip(stats.par_chunks_mut(per)).for_each(|((o, x), st)| {
        for ((o, x), st) in o.chunks_mut(d).zip(x.chunks(d)).zip(st) {
            *st = 1.0 / (super::act::dot(x, x) / d as f32 + eps).sqrt();
            row(o, x, w, *st);
        }
    });
    (out, stats)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn row(o: &mut [f32], x: &[f32], w: &[f32], rstd: f32) {
    for ((o, &x), &w) in o.iter_mut().zip(x).zip(w) {
        *o = x * rstd * w;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn row_backward(gx: &mut [f32], x: &[f32], gy: &[f32], w: &[f32], gw: &mut [f32], rstd: f32) {
    let d = gx.len();
    let (x, gy, w, gw) = (&x[..d], &gy[..d], &w[..d], &mut gw[..d]);
    let mut mean = [0.0f32; 16];
    for i in 0..d {
        let xh = x[i] * rstd;
        gw[i] += gy[i] * xh;
        mean[i % 16] += gy[i] * w[i] * xh;
    }
    let mean = mean.iter().sum::<f32>() / d as f32;
    for i in 0..d {
        gx[i] = rstd * (gy[i] * w[i] - x[i] * rstd * mean);
    }
}

/// Gradients of [`rms_norm`] for x and the weight.
pub fn rms_norm_backward(x: &[f32], gy: &[f32], stats: &[f32], d: usize, w: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut gx = super::buffer(x.len());
    let per = (super::GRAIN / d).max(1);
    let parts: Vec<Vec<f32>> = gx
        .par_chunks_mut(d * per)
        .zip(x.par_chunks(d * per))
        .zip(gy.par_chunks(d * per))
        .zip(stats.par_chunks(per))
        .map(|(((gx, x), gy), st)| {
            let mut gw = vec![0.0; d];
            for (((gx, x), gy), &st) in gx.chunks_mut(d).zip(x.chunks(d)).zip(gy.chunks(d)).zip(st) {
                row_backward(gx, x, gy, w, &mut gw, st);
            }
            gw
        })
        .collect();
    let mut gw = vec![0.0; d];
    for part in &parts {
        super::act::add_assign(&mut gw, part);
    }
    (gx, gw)
}
