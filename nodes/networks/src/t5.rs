//! The encoder of T5 v1.1 (Raffel et al. 2020; gated GELU of Shazeer 2020), Hugging Face weight names.
//!
//! No biases, no absolute positions: a bias by bucketed distance is added to the logits of every layer.

use pipe_ops::op::{self, AttentionArgs};
use pipe_ops::{Cx, Var};

use crate::net::Net;
use crate::segment::Builder;
use crate::shapes::{List, Reader, Shapes, SizesError, Stored, split};
use crate::text::{TextOut, embed};

/// Sizes of a T5 encoder.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct T5Config {
    /// Width.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the feed-forward.
    pub ff: usize,
    /// Rows of the token table.
    pub vocab: usize,
    /// Buckets of the relative positions.
    pub buckets: usize,
}

const BIAS: &str = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";

impl T5Config {
    /// Reads sizes from shapes.
    pub fn infer(stored: &impl Stored) -> Result<Self, SizesError> {
        let r = Reader(stored);
        let table = r.need("shared.weight", 2)?;
        let bias = r.need(BIAS, 2)?;
        let q = r.need("encoder.block.0.layer.0.SelfAttention.q.weight", 2)?;
        let ff = r.need("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 2)?[0];
        Ok(T5Config {
            width: table[1],
            layers: r.count("encoder.block.{}."),
            heads: bias[1],
            head_dim: split("query width by heads", q[0], bias[1])?,
            ff,
            vocab: table[0],
            buckets: bias[0],
        })
    }

    /// T5-XXL: SD3, FLUX.
    pub fn xxl() -> Self {
        T5Config { width: 4096, layers: 24, heads: 64, head_dim: 64, ff: 10240, vocab: 32128, buckets: 32 }
    }

    /// Every tensor with its shape.
    pub fn shapes(&self) -> Shapes {
        let (d, inner) = (self.width, self.heads * self.head_dim);
        let mut l = List::default();
        l.add("shared.weight", &[self.vocab, d]);
        for i in 0..self.layers {
            let p = format!("encoder.block.{i}.layer");
            for name in ["q", "k", "v"] {
                l.linear(&format!("{p}.0.SelfAttention.{name}"), d, inner, false);
            }
            l.linear(&format!("{p}.0.SelfAttention.o"), inner, d, false);
            if i == 0 {
                l.add(BIAS, &[self.buckets, self.heads]);
            }
            l.rms(&format!("{p}.0.layer_norm"), d);
            l.linear(&format!("{p}.1.DenseReluDense.wi_0"), d, self.ff, false);
            l.linear(&format!("{p}.1.DenseReluDense.wi_1"), d, self.ff, false);
            l.linear(&format!("{p}.1.DenseReluDense.wo"), self.ff, d, false);
            l.rms(&format!("{p}.1.layer_norm"), d);
        }
        l.rms("encoder.final_layer_norm", d);
        l.0
    }

    /// Adds the segments; reads the [`crate::TextInput`] of `part`, whose mask (if any) hides padding as keys.
    pub fn build(&self, b: &mut Builder, part: &str) -> TextOut {
        b.part(part);
        let (heads, buckets) = (self.heads, self.buckets);
        let mut h = b.push("T5 embeddings", &["shared"], &[], |net, _| embed(net, "shared.weight"));
        let bias = b.push("T5 relative positions", &[BIAS.trim_end_matches(".weight")], &[], move |net, _| {
            let s = net.text().length();
            let ids: Vec<u32> = (0..s * s).map(|i| bucket((i % s) as i64 - (i / s) as i64, buckets) as u32).collect();
            let x = op::embedding(net.cx, &net.weight(BIAS), &ids);
            op::permute(net.cx, &x, &[s, s, heads], &[2, 0, 1])
        });
        for i in 0..self.layers {
            let path = format!("encoder.block.{i}.layer");
            let weights = format!("encoder.block.{i}");
            h = b.push(format!("T5 layer {i}"), &[&weights], &[h, bias], move |net, x| {
                layer(net, &path, &x[0], &x[1], heads)
            });
        }
        let hidden = b.push("T5 final norm", &["encoder.final_layer_norm"], &[h], |net, x| {
            net.rms_norm("encoder.final_layer_norm", &x[0], 1e-6)
        });
        TextOut { hidden, pooled: None }
    }
}

/// Bucket of the distance `key − query`, both directions, distances from 128 on in the last one.
pub fn bucket(distance: i64, buckets: usize) -> usize {
    let half = buckets / 2;
    let base = if distance > 0 { half } else { 0 };
    let n = distance.unsigned_abs() as usize;
    let exact = half / 2;
    if n < exact {
        return base + n;
    }
    // The reference computes this logarithm in f32.
    let log = (n as f32 / exact as f32).ln() / (128.0f32 / exact as f32).ln() * (half - exact) as f32;
    base + (exact + log as usize).min(half - 1)
}

fn layer(net: &Net, path: &str, x: &Var, bias: &Var, heads: usize) -> Var {
    let cx = net.cx;
    let n = net.rms_norm(&format!("{path}.0.layer_norm"), x, 1e-6);
    let project = |name: &str| net.linear(&format!("{path}.0.SelfAttention.{name}"), &n);
    let args = AttentionArgs {
        scale: Some(1.0),
        bias: Some(bias.clone()),
        mask: net.text().mask_tensor(cx),
        ..AttentionArgs::heads(heads)
    };
    let a = op::attention(cx, &project("q"), &project("k"), &project("v"), &args);
    let x = op::add(cx, x, &net.linear(&format!("{path}.0.SelfAttention.o"), &a));
    let n = net.rms_norm(&format!("{path}.1.layer_norm"), &x, 1e-6);
    op::add(cx, &x, &feed_forward(net, cx, &format!("{path}.1.DenseReluDense"), &n))
}

fn feed_forward(net: &Net, cx: &Cx, path: &str, n: &Var) -> Var {
    let gate = op::gelu_tanh(cx, &net.linear(&format!("{path}.wi_0"), n));
    let h = op::mul(cx, &gate, &net.linear(&format!("{path}.wi_1"), n));
    net.linear(&format!("{path}.wo"), &h)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xxl_has_its_size() {
        let config = T5Config::xxl();
        let shapes = config.shapes();
        assert_eq!(shapes.len(), 219);
        assert_eq!(shapes.iter().map(|(_, s)| s.iter().product::<usize>()).sum::<usize>(), 4_762_310_656);
        let map: std::collections::HashMap<_, _> = shapes.into_iter().collect();
        assert_eq!(T5Config::infer(&map), Ok(config));
    }

    #[test]
    fn buckets() {
        let known =
            [(0, 0), (1, 1), (7, 7), (8, 8), (11, 8), (12, 9), (16, 10), (23, 11), (32, 12), (46, 13), (64, 14)];
        for (distance, expected) in known.into_iter().chain([(90, 14), (91, 15), (5000, 15)]) {
            assert_eq!(bucket(-distance, 32), expected, "{distance} back");
            assert_eq!(bucket(distance, 32), if distance > 0 { expected + 16 } else { 0 }, "{distance} ahead");
        }
    }
}
