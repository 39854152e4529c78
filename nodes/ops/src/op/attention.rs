//! Attention in the layout `[B, S, H·D]`, without an S×S matrix kept for backward.

use super::{Place, host, meta, meta_like, place};
use crate::host::attention as kernel;
use crate::host::attention::{Extras, Sizes};
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
    /// Heads of keys and values, each for `heads/kv_heads` consecutive query heads (grouped-query attention). `None`: as many as query heads.
    pub kv_heads: Option<usize>,
    /// `[H, Sq, Sk]`, added to the logits of every sample (T5's relative positions).
    pub bias: Option<Var>,
    /// Logits become `c·tanh(x/c)` (Gemma 2). `None` is off.
    pub softcap: Option<f32>,
}

impl AttentionArgs {
    /// Plain attention with `heads` heads.
    pub fn heads(heads: usize) -> Self {
        AttentionArgs { heads, causal: false, scale: None, mask: None, kv_heads: None, bias: None, softcap: None }
    }
}

/// Queries handled at once by the composed body.
const CHUNK: usize = 1024;

/// `softmax(scale·q·kᵀ + bias)·v` by heads: `q [B, Sq, H·D]`, `k, v [B, Sk, KV·D]`.
pub fn attention(cx: &Cx, q: &Var, k: &Var, v: &Var, args: &AttentionArgs) -> Var {
    let (b, sq, width) = (q.dim(0), q.dim(1), q.dim(2));
    let (h, kv) = (args.heads, args.kv_heads.unwrap_or(args.heads));
    let (sk, d) = (k.dim(1), width / h);
    assert!(h.is_multiple_of(kv), "{h} heads for {kv} key heads");
    assert_eq!(k.shape(), [b, sk, kv * d], "keys do not fit the queries");
    assert_eq!(v.shape(), [b, sk, kv * d], "values do not fit the queries");
    let scale = args.scale.unwrap_or((d as f32).powf(-0.5));
    let softcap = args.softcap.unwrap_or(0.0);
    let s = Sizes { b, h, kv, sq, sk, d, scale, causal: args.causal, softcap };
    cx.flops(4 * b * sq * sk * width);
    scratch(cx, &s, 1);
    let bias_value = args.bias.as_ref().map(|b| {
        assert_eq!(b.shape(), [h, sq, sk], "bias does not fit");
        b.value.clone()
    });
    let (o, lse) = match place(cx, &q.value) {
        Place::Meta => (meta_like(&q.value), meta(&q.value, &[b, h, sq])),
        Place::Host => {
            let (mask, bias) = (args.mask.as_ref().map(host), bias_value.as_ref().map(host));
            let extras = Extras { mask: mask.as_deref(), bias: bias.as_deref() };
            let (o, lse) = kernel::attention(s, &host(&q.value), &host(&k.value), &host(&v.value), extras);
            (Tensor::host(o, q.shape()), Tensor::host(lse, &[b, h, sq]))
        }
        Place::Burn => composed(&s, &q.value, &k.value, &v.value, args.mask.as_ref(), bias_value.as_ref()),
    };
    let saved = [q.value.clone(), k.value.clone(), v.value.clone(), o.clone(), lse];
    let mask = args.mask.clone();
    let back = move |cx: &Cx, go: Tensor, need: &[bool]| {
        cx.flops(10 * b * sq * sk * width);
        scratch(cx, &s, 2);
        let [q, k, v, o, lse] = &saved;
        let want_bias = need.get(3) == Some(&true);
        let (gq, gk, gv, gb) = match place(cx, &go) {
            Place::Meta => (meta_like(q), meta_like(k), meta_like(v), want_bias.then(|| meta(q, &[h, sq, sk]))),
            Place::Host => {
                let (m, bias) = (mask.as_ref().map(host), bias_value.as_ref().map(host));
                let extras = Extras { mask: m.as_deref(), bias: bias.as_deref() };
                let (o, lse, go) = (host(o), host(lse), host(&go));
                let g = kernel::attention_backward(s, &host(q), &host(k), &host(v), extras, &o, &lse, &go, want_bias);
                (
                    Tensor::host(g.q, q.shape()),
                    Tensor::host(g.k, k.shape()),
                    Tensor::host(g.v, v.shape()),
                    g.bias.map(|g| Tensor::host(g, &[h, sq, sk])),
                )
            }
            Place::Burn => composed_backward(&s, [q, k, v, o, lse], mask.as_ref(), bias_value.as_ref(), &go, want_bias),
        };
        let mut out = vec![need[0].then_some(gq), need[1].then_some(gk), need[2].then_some(gv)];
        if need.len() > 3 {
            out.push(gb);
        }
        out
    };
    match &args.bias {
        Some(bias) => cx.record(o, &[q, k, v, bias], back),
        None => cx.record(o, &[q, k, v], back),
    }
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

/// Keys or values `[B, H, Sk, D]`, each repeated for the query heads it serves.
fn key_heads(x: &Tensor, s: &Sizes) -> Heads {
    let x = x.reshape_burn([s.b, s.sk, s.kv, s.d]).swap_dims(1, 2);
    if s.kv == s.h {
        return x;
    }
    let group = s.h / s.kv;
    x.reshape([s.b, s.kv, 1, s.sk * s.d]).repeat_dim(2, group).reshape([s.b, s.h, s.sk, s.d])
}

fn merge(x: Heads, s: &Sizes, len: usize, dtype: DType) -> Tensor {
    Tensor::from_burn(x.swap_dims(1, 2).reshape([s.b, len, s.h * s.d])).cast(dtype)
}

/// Gradients of keys or values, summed over the query heads that share them.
fn merge_keys(x: Heads, s: &Sizes, dtype: DType) -> Tensor {
    let x = if s.kv == s.h {
        x
    } else {
        x.reshape([s.b, s.kv, s.h / s.kv, s.sk * s.d]).sum_dim(2).reshape([s.b, s.kv, s.sk, s.d])
    };
    Tensor::from_burn(x.swap_dims(1, 2).reshape([s.b, s.sk, s.kv * s.d])).cast(dtype)
}

/// Logits of queries `first..first+rows` in f32, hidden ones at −1e30.
fn logits(s: &Sizes, q: Heads, k: &Heads, first: usize, mask: Option<&Tensor>, bias: Option<&Tensor>) -> Heads {
    let rows = q.dims()[2];
    let mut x = (q * s.scale).matmul(k.clone().swap_dims(2, 3)).cast(burn::tensor::DType::F32);
    if s.softcap > 0.0 {
        x = (x / s.softcap).tanh() * s.softcap;
    }
    if let Some(bias) = bias {
        x = x + bias.cast(DType::F32).reshape_burn([1, s.h, s.sq, s.sk]).narrow(2, first, rows);
    }
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

fn composed(
    s: &Sizes,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    bias: Option<&Tensor>,
) -> (Tensor, Tensor) {
    let (qh, kh, vh) = (heads(q, s, s.sq), key_heads(k, s), key_heads(v, s));
    let (mut outs, mut lses) = (Vec::new(), Vec::new());
    for first in (0..s.sq).step_by(CHUNK) {
        let rows = CHUNK.min(s.sq - first);
        let x = logits(s, qh.clone().narrow(2, first, rows), &kh, first, mask, bias);
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
    bias: Option<&Tensor>,
    go: &Tensor,
    want_bias: bool,
) -> (Tensor, Tensor, Tensor, Option<Tensor>) {
    let (qh, kh, vh) = (heads(q, s, s.sq), key_heads(k, s), key_heads(v, s));
    let (oh, gh) = (heads(o, s, s.sq), heads(go, s, s.sq));
    let f32_ = burn::tensor::DType::F32;
    let delta = (oh.cast(f32_) * gh.clone().cast(f32_)).sum_dim(3);
    let lse = lse.reshape_burn([s.b, s.h, s.sq, 1]);
    let (mut gqs, mut gbs) = (Vec::new(), Vec::new());
    let (mut gk, mut gv): (Option<Heads>, Option<Heads>) = (None, None);
    let plus = |acc: Option<Heads>, x: Heads| Some(acc.map_or(x.clone(), |a| a + x));
    for first in (0..s.sq).step_by(CHUNK) {
        let rows = CHUNK.min(s.sq - first);
        let qc = qh.clone().narrow(2, first, rows);
        let gc = gh.clone().narrow(2, first, rows);
        let x = logits(s, qc.clone(), &kh, first, mask, bias);
        let p = (x.clone() - lse.clone().narrow(2, first, rows)).exp();
        let dp = gc.clone().matmul(vh.clone().swap_dims(2, 3)).cast(f32_);
        let mut ds = p.clone() * (dp - delta.clone().narrow(2, first, rows));
        if want_bias {
            gbs.push(ds.clone().sum_dim(0).reshape([s.h, rows, s.sk]));
        }
        if s.softcap > 0.0 {
            // Hidden logits are far outside the cap; their probability, and so this gradient, is 0.
            let capped = match bias {
                Some(bias) => x - bias.cast(DType::F32).reshape_burn([1, s.h, s.sq, s.sk]).narrow(2, first, rows),
                None => x,
            };
            let t = (capped / s.softcap).clamp(-1.0, 1.0);
            ds = ds * ((t.clone() * t).neg() + 1.0);
        }
        let ds = ds * s.scale;
        let (p, ds) = (p.cast(vh.dtype()), ds.cast(vh.dtype()));
        gv = plus(gv, p.swap_dims(2, 3).matmul(gc));
        gk = plus(gk, ds.clone().swap_dims(2, 3).matmul(qc));
        gqs.push(ds.matmul(kh.clone()));
    }
    let zero = || Heads::zeros([s.b, s.h, s.sk, s.d], &kh.device());
    (
        merge(Heads::cat(gqs, 2), s, s.sq, q.dtype()),
        merge_keys(gk.unwrap_or_else(zero), s, k.dtype()),
        merge_keys(gv.unwrap_or_else(zero), s, v.dtype()),
        want_bias.then(|| Tensor::from_burn(burn::Tensor::<3>::cat(gbs, 1)).cast(q.dtype())),
    )
}
