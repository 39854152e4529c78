//! Attention in the layout `[B, S, H·D]`, without an S×S matrix kept for backward.

use super::{Place, host, meta, meta_like, place};
use crate::host::attention as kernel;
use crate::host::attention::Sizes;
use crate::{Cx, DType, Tensor, Var};

/// What shapes do not tell.
#[derive(Clone, Debug)]
pub struct AttentionArgs {
    /// Number of heads.
    pub heads: usize,
    /// Queries see only keys up to their own index.
    pub causal: bool,
    /// Multiplies the logits; `None` is `head_dim^-0.5`.
    pub scale: Option<f32>,
    /// `[B, Sk]`, 0 hides a key.
    pub mask: Option<Tensor>,
}

impl AttentionArgs {
    /// Plain attention with `heads` heads.
    pub fn heads(heads: usize) -> Self {
        AttentionArgs { heads, causal: false, scale: None, mask: None }
    }
}

/// Queries handled at once by the composed body.
const CHUNK: usize = 1024;

/// `softmax(scale·q·kᵀ)·v` by heads: `q [B, Sq, H·D]`, `k, v [B, Sk, H·D]`.
pub fn attention(cx: &Cx, q: &Var, k: &Var, v: &Var, args: &AttentionArgs) -> Var {
    let (b, sq, width) = (q.dim(0), q.dim(1), q.dim(2));
    let sk = k.dim(1);
    assert_eq!(k.shape(), [b, sk, width], "keys do not fit the queries");
    assert_eq!(v.shape(), [b, sk, width], "values do not fit the queries");
    let d = width / args.heads;
    let scale = args.scale.unwrap_or((d as f32).powf(-0.5));
    let s = Sizes { b, h: args.heads, sq, sk, d, scale, causal: args.causal };
    cx.flops(4 * b * sq * sk * width);
    scratch(cx, &s, 1);
    let (o, lse) = match place(cx, &q.value) {
        Place::Meta => (meta_like(&q.value), meta(&q.value, &[b, s.h, sq])),
        Place::Host => {
            let mask = args.mask.as_ref().map(host);
            let (o, lse) = kernel::attention(s, &host(&q.value), &host(&k.value), &host(&v.value), mask.as_deref());
            (Tensor::host(o, q.shape()), Tensor::host(lse, &[b, s.h, sq]))
        }
        Place::Burn => composed(&s, &q.value, &k.value, &v.value, args.mask.as_ref()),
    };
    let saved = [q.value.clone(), k.value.clone(), v.value.clone(), o.clone(), lse];
    let mask = args.mask.clone();
    cx.record(o, &[q, k, v], move |cx, go, need| {
        cx.flops(10 * b * sq * sk * width);
        scratch(cx, &s, 2);
        let [q, k, v, o, lse] = &saved;
        let (gq, gk, gv) = match place(cx, &go) {
            Place::Meta => (meta_like(q), meta_like(k), meta_like(v)),
            Place::Host => {
                let m = mask.as_ref().map(host);
                let (gq, gk, gv) = kernel::attention_backward(
                    s,
                    &host(q),
                    &host(k),
                    &host(v),
                    m.as_deref(),
                    &host(o),
                    &host(lse),
                    &host(&go),
                );
                (Tensor::host(gq, q.shape()), Tensor::host(gk, k.shape()), Tensor::host(gv, v.shape()))
            }
            Place::Burn => composed_backward(&s, [q, k, v, o, lse], mask.as_ref(), &go),
        };
        vec![need[0].then_some(gq), need[1].then_some(gk), need[2].then_some(gv)]
    })
}

fn scratch(cx: &Cx, s: &Sizes, blocks: usize) {
    if let Some(meter) = cx.meter() {
        let at_once = (s.b * s.h).min(rayon::current_num_threads());
        // Score blocks of the heads in flight, and all heads' results before they are gathered.
        let scores = at_once * 64.min(s.sq) * s.sk * blocks;
        let results = s.b * s.h * s.d * (s.sq + if blocks > 1 { 2 * s.sk } else { 0 });
        meter.scratch(4 * (scores + results) as u64);
    }
}

type Heads = burn::Tensor<4>;

fn heads(x: &Tensor, s: &Sizes, len: usize) -> Heads {
    x.reshape_burn([s.b, len, s.h, s.d]).swap_dims(1, 2)
}

fn merge(x: Heads, s: &Sizes, len: usize, dtype: DType) -> Tensor {
    Tensor::from_burn(x.swap_dims(1, 2).reshape([s.b, len, s.h * s.d])).cast(dtype)
}

/// Logits of queries `first..first+rows` in f32, hidden ones at −1e30.
fn logits(s: &Sizes, q: Heads, k: &Heads, first: usize, mask: Option<&Tensor>) -> Heads {
    let rows = q.dims()[2];
    let mut x = (q * s.scale).matmul(k.clone().swap_dims(2, 3)).cast(burn::tensor::DType::F32);
    if let Some(mask) = mask {
        let hidden = (mask.cast(DType::F32).reshape_burn([s.b, 1, 1, s.sk]) - 1.0) * 1e30;
        x = x + hidden;
    }
    if s.causal {
        let device = x.device();
        let mut bias = vec![0.0f32; rows * s.sk];
        for (r, row) in bias.chunks_mut(s.sk).enumerate() {
            for b in row.iter_mut().skip(first + r + 1) {
                *b = -1e30;
            }
        }
        let data = burn::tensor::TensorData::new(bias, [1, 1, rows, s.sk]);
        x = x + burn::Tensor::<4>::from_data(data, &device);
    }
    x
}

fn composed(s: &Sizes, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> (Tensor, Tensor) {
    let (qh, kh, vh) = (heads(q, s, s.sq), heads(k, s, s.sk), heads(v, s, s.sk));
    let (mut outs, mut lses) = (Vec::new(), Vec::new());
    for first in (0..s.sq).step_by(CHUNK) {
        let rows = CHUNK.min(s.sq - first);
        let x = logits(s, qh.clone().narrow(2, first, rows), &kh, first, mask);
        let max = x.clone().max_dim(3);
        let e = (x - max.clone()).exp();
        let total = e.clone().sum_dim(3);
        let p = (e / total.clone()).cast(vh.dtype());
        outs.push(p.matmul(vh.clone()));
        lses.push(max + total.log());
    }
    let o = merge(Heads::cat(outs, 2), s, s.sq, q.dtype());
    let lse = Tensor::from_burn(Heads::cat(lses, 2).reshape([s.b, s.h, s.sq]));
    (o, lse)
}

fn composed_backward(
    s: &Sizes,
    [q, k, v, o, lse]: [&Tensor; 5],
    mask: Option<&Tensor>,
    go: &Tensor,
) -> (Tensor, Tensor, Tensor) {
    let (qh, kh, vh) = (heads(q, s, s.sq), heads(k, s, s.sk), heads(v, s, s.sk));
    let (oh, gh) = (heads(o, s, s.sq), heads(go, s, s.sq));
    let f32_ = burn::tensor::DType::F32;
    let delta = (oh.cast(f32_) * gh.clone().cast(f32_)).sum_dim(3);
    let lse = lse.reshape_burn([s.b, s.h, s.sq, 1]);
    let mut gqs = Vec::new();
    let (mut gk, mut gv): (Option<Heads>, Option<Heads>) = (None, None);
    let plus = |acc: Option<Heads>, x: Heads| Some(acc.map_or(x.clone(), |a| a + x));
    for first in (0..s.sq).step_by(CHUNK) {
        let rows = CHUNK.min(s.sq - first);
        let qc = qh.clone().narrow(2, first, rows);
        let gc = gh.clone().narrow(2, first, rows);
        let p = (logits(s, qc.clone(), &kh, first, mask) - lse.clone().narrow(2, first, rows)).exp();
        let dp = gc.clone().matmul(vh.clone().swap_dims(2, 3)).cast(f32_);
        let ds = p.clone() * (dp - delta.clone().narrow(2, first, rows)) * s.scale;
        let (p, ds) = (p.cast(vh.dtype()), ds.cast(vh.dtype()));
        gv = plus(gv, p.swap_dims(2, 3).matmul(gc));
        gk = plus(gk, ds.clone().swap_dims(2, 3).matmul(qc));
        gqs.push(ds.matmul(kh.clone()));
    }
    let zero = || Heads::zeros([s.b, s.h, s.sk, s.d], &kh.device());
    (
        merge(Heads::cat(gqs, 2), s, s.sq, q.dtype()),
        merge(gk.unwrap_or_else(zero), s, s.sk, k.dtype()),
        merge(gv.unwrap_or_else(zero), s, s.sk, v.dtype()),
    )
}
