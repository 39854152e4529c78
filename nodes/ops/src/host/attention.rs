//! Attention on the CPU, chunked over queries: no S×S matrix is kept, forward or backward.
//!
//! Layout is `[B, S, H·D]` throughout: heads are strided views, nothing is permuted. Forward keeps
//! the logarithm of the softmax denominator of each row (`[B, H, S]`); backward recomputes the
//! probabilities of a chunk from it (Dao et al. 2022, FlashAttention, algorithm 4).

use multiversion::multiversion;
use rayon::prelude::*;

use super::gemm::{Mat, gemm_into};
use super::math::exp;

/// Sizes of an attention call.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Batch.
    pub b: usize,
    /// Heads of the queries.
    pub h: usize,
    /// Heads of keys and values; each serves `h/kv` consecutive query heads.
    pub kv: usize,
    /// Query length.
    pub sq: usize,
    /// Key length.
    pub sk: usize,
    /// Width of a head.
    pub d: usize,
    /// Multiplies the logits.
    pub scale: f32,
    /// Queries see only keys up to their own index.
    pub causal: bool,
    /// Logits become `c·tanh(x/c)`; 0 is off.
    pub softcap: f32,
}

/// Queries of a chunk: the score block stays in cache.
const CHUNK: usize = 64;

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn softmax_row(row: &mut [f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = row.chunks_exact(16);
    let mut max = f32::NEG_INFINITY;
    for &x in chunks.remainder() {
        max = max.max(x);
    }
    for c in chunks {
        for (l, &x) in lanes.iter_mut().zip(c) {
            *l = l.max(x);
        }
    }
    for l in lanes {
        max = max.max(l);
    }
    if max == f32::NEG_INFINITY {
        row.fill(0.0);
        return f32::INFINITY;
    }
    for x in row.iter_mut() {
        *x = exp(*x - max);
    }
    let total = super::act::sum(row);
    let inv = 1.0 / total;
    for x in row.iter_mut() {
        *x *= inv;
    }
    max + total.ln()
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn exp_row(row: &mut [f32], lse: f32) {
    for x in row.iter_mut() {
        *x = exp(*x - lse);
    }
}

/// `ds = p·(dp − δ)·scale`, in place of `dp`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn softmax_row_backward(p: &[f32], dp: &mut [f32], delta: f32, scale: f32) {
    for (dp, &p) in dp.iter_mut().zip(p) {
        *dp = p * (*dp - delta) * scale;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn cap_scores(scores: &mut [f32], cap: f32) {
    for x in scores {
        *x = cap * super::math::tanh(*x / cap);
    }
}

/// Times the derivative of the cap, found again from the probabilities: the capped logit is `ln p + lse − bias`.
fn cap_backward(p: &[f32], bias: Option<&[f32]>, ds: &mut [f32], lse: f32, cap: f32) {
    for (i, (ds, &p)) in ds.iter_mut().zip(p).enumerate() {
        if p > 0.0 {
            let t = (p.ln() + lse - bias.map_or(0.0, |b| b[i])) / cap;
            *ds *= 1.0 - t * t;
        }
    }
}

/// Cap, bias of this head (`[Sq, Sk]`), hidden keys and causality, in this order. `first` is the first query.
fn finish_scores(s: &Sizes, scores: &mut [f32], first: usize, bias: Option<&[f32]>, mask: Option<&[f32]>) {
    if s.softcap > 0.0 {
        cap_scores(scores, s.softcap);
    }
    if let Some(bias) = bias {
        let at = first * s.sk;
        let rows = scores.len();
        super::act::add_assign(scores, &bias[at..at + rows]);
    }
    if let Some(mask) = mask {
        for row in scores.chunks_mut(s.sk) {
            for (x, &keep) in row.iter_mut().zip(mask) {
                if keep == 0.0 {
                    *x = f32::NEG_INFINITY;
                }
            }
        }
    }
    if s.causal {
        for (i, row) in scores.chunks_mut(s.sk).enumerate() {
            let from = (first + i + 1).min(s.sk);
            row[from..].fill(f32::NEG_INFINITY);
        }
    }
}

/// What is added to or hidden from the logits.
#[derive(Clone, Copy, Default)]
pub struct Extras<'a> {
    /// `[B, Sk]`: 0 hides a key.
    pub mask: Option<&'a [f32]>,
    /// `[H, Sq, Sk]`, added to the logits of every sample.
    pub bias: Option<&'a [f32]>,
}

/// `softmax(scale·q·kᵀ + bias)·v`. Gives the result `[B, Sq, H·D]` and lse `[B, H, Sq]`.
pub fn attention(s: Sizes, q: &[f32], k: &[f32], v: &[f32], extras: Extras) -> (Vec<f32>, Vec<f32>) {
    let (width, kv_width) = (s.h * s.d, s.kv * s.d);
    let mut lse = vec![0.0; s.b * s.h * s.sq];
    let heads: Vec<Vec<f32>> = lse
        .par_chunks_mut(s.sq)
        .enumerate()
        .map(|(i, lse)| {
            let (b, h) = (i / s.h, i % s.h);
            let (qo, ko) = (b * s.sq * width + h * s.d, b * s.sk * kv_width + h * s.kv / s.h * s.d);
            let km = Mat::strided(&k[ko..], s.sk, s.d, kv_width, 1);
            let vm = Mat::strided(&v[ko..], s.sk, s.d, kv_width, 1);
            let mask = extras.mask.map(|m| &m[b * s.sk..(b + 1) * s.sk]);
            let bias = extras.bias.map(|m| &m[h * s.sq * s.sk..(h + 1) * s.sq * s.sk]);
            let mut out = super::buffer(s.sq * s.d);
            let mut scores = super::buffer(CHUNK.min(s.sq) * s.sk);
            for first in (0..s.sq).step_by(CHUNK) {
                let rows = CHUNK.min(s.sq - first);
                let scores = &mut scores[..rows * s.sk];
                let qm = Mat::strided(&q[qo + first * width..], rows, s.d, width, 1);
                gemm_into(scores, s.sk, qm, km.t(), 0.0, s.scale, false);
                finish_scores(&s, scores, first, bias, mask);
                for (row, l) in scores.chunks_mut(s.sk).zip(&mut lse[first..]) {
                    *l = softmax_row(row);
                }
                gemm_into(&mut out[first * s.d..], s.d, Mat::new(scores, rows, s.sk), vm, 0.0, 1.0, false);
            }
            out
        })
        .collect();
    (gather_heads(&heads, s.b, s.h, s.h, s.sq, s.d), lse)
}

/// Gradients of [`attention`].
pub struct Gradients {
    /// For q.
    pub q: Vec<f32>,
    /// For k.
    pub k: Vec<f32>,
    /// For v.
    pub v: Vec<f32>,
    /// For the bias, `[H, Sq, Sk]`, where it was asked for.
    pub bias: Option<Vec<f32>>,
}

/// Gradients from the result `o`, its gradient `go` and `lse`.
pub fn attention_backward(
    s: Sizes,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    extras: Extras,
    o: &[f32],
    lse: &[f32],
    go: &[f32],
    bias_wanted: bool,
) -> Gradients {
    let (width, kv_width) = (s.h * s.d, s.kv * s.d);
    let heads: Vec<[Vec<f32>; 4]> = (0..s.b * s.h)
        .into_par_iter()
        .map(|i| {
            let (b, h) = (i / s.h, i % s.h);
            let (qo, ko) = (b * s.sq * width + h * s.d, b * s.sk * kv_width + h * s.kv / s.h * s.d);
            let km = Mat::strided(&k[ko..], s.sk, s.d, kv_width, 1);
            let vm = Mat::strided(&v[ko..], s.sk, s.d, kv_width, 1);
            let mask = extras.mask.map(|m| &m[b * s.sk..(b + 1) * s.sk]);
            let bias = extras.bias.map(|m| &m[h * s.sq * s.sk..(h + 1) * s.sq * s.sk]);
            let mut gq = super::buffer(s.sq * s.d);
            let mut gk = super::buffer(s.sk * s.d);
            let mut gv = super::buffer(s.sk * s.d);
            let chunk = CHUNK.min(s.sq);
            let mut p = super::buffer(chunk * s.sk);
            let mut dp = super::buffer(chunk * s.sk);
            let mut gb = super::buffer(if bias_wanted { s.sq * s.sk } else { 0 });
            for first in (0..s.sq).step_by(CHUNK) {
                let rows = CHUNK.min(s.sq - first);
                let (p, dp) = (&mut p[..rows * s.sk], &mut dp[..rows * s.sk]);
                let at = qo + first * width;
                let qm = Mat::strided(&q[at..], rows, s.d, width, 1);
                let gom = Mat::strided(&go[at..], rows, s.d, width, 1);
                gemm_into(p, s.sk, qm, km.t(), 0.0, s.scale, false);
                finish_scores(&s, p, first, bias, mask);
                gemm_into(dp, s.sk, gom, vm.t(), 0.0, 1.0, false);
                for r in 0..rows {
                    let (p, dp) = (&mut p[r * s.sk..(r + 1) * s.sk], &mut dp[r * s.sk..(r + 1) * s.sk]);
                    exp_row(p, lse[i * s.sq + first + r]);
                    let row = at + r * width;
                    let delta = super::act::dot(&o[row..row + s.d], &go[row..row + s.d]);
                    softmax_row_backward(p, dp, delta, 1.0);
                    if bias_wanted {
                        gb[(first + r) * s.sk..][..s.sk].copy_from_slice(dp);
                    }
                    if s.softcap > 0.0 {
                        let bias = bias.map(|b| &b[(first + r) * s.sk..][..s.sk]);
                        cap_backward(p, bias, dp, lse[i * s.sq + first + r], s.softcap);
                    }
                }
                let pm = Mat::new(p, rows, s.sk);
                let dsm = Mat::new(dp, rows, s.sk);
                gemm_into(&mut gv, s.d, pm.t(), gom, 1.0, 1.0, false);
                gemm_into(&mut gk, s.d, dsm.t(), qm, 1.0, s.scale, false);
                gemm_into(&mut gq[first * s.d..], s.d, dsm, km, 0.0, s.scale, false);
            }
            [gq, gk, gv, gb]
        })
        .collect();
    let bias = bias_wanted.then(|| {
        let mut sum = super::buffer(s.h * s.sq * s.sk);
        for (i, head) in heads.iter().enumerate() {
            super::act::add_assign(&mut sum[i % s.h * s.sq * s.sk..][..s.sq * s.sk], &head[3]);
        }
        sum
    });
    let take = |n: usize| heads.iter().map(|h| h[n].as_slice()).collect::<Vec<_>>();
    Gradients {
        q: gather_heads(&take(0), s.b, s.h, s.h, s.sq, s.d),
        k: gather_heads(&take(1), s.b, s.h, s.kv, s.sk, s.d),
        v: gather_heads(&take(2), s.b, s.h, s.kv, s.sk, s.d),
        bias,
    }
}

/// `[B·H][S·D]` pieces into `[B, S, KV·D]`; pieces that share a key head are added.
fn gather_heads(heads: &[impl AsRef<[f32]> + Sync], b: usize, h: usize, kv: usize, s: usize, d: usize) -> Vec<f32> {
    let width = kv * d;
    let mut out = super::buffer(b * s * width);
    out.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
        let (bi, si) = (row / s, row % s);
        for (ki, out) in out.chunks_mut(d).enumerate() {
            let group = h / kv;
            let piece = |hi: usize| &heads[bi * h + hi].as_ref()[si * d..(si + 1) * d];
            out.copy_from_slice(piece(ki * group));
            for hi in ki * group + 1..(ki + 1) * group {
                super::act::add_assign(out, piece(hi));
            }
        }
    });
    out
}
