//! Gemma 1 and 2 (Gemma Team 2024) as text encoders, Hugging Face weight names without `model.`.
//!
//! Decoder-only transformers with grouped-query attention and rotary positions. The output is the stream before the
//! last layer, without final norm: the last layer is neither loaded nor computed.

use pipe_ops::op::{self, AttentionArgs, Pairs};
use pipe_ops::{Cx, Var};

use crate::embed::{RopeCache, rope_angles};
use crate::net::Net;
use crate::segment::Builder;
use crate::shapes::{List, Reader, Shapes, SizesError, Stored, split};
use crate::text::{TextOut, embed};

/// Sizes of a Gemma model.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct GemmaConfig {
    /// Width.
    pub width: usize,
    /// Layers of the model; all but the last are used.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub mlp: usize,
    /// Rows of the token table.
    pub vocab: usize,
    /// Four norms a layer (Gemma 2) rather than two.
    pub second: bool,
    /// Cap of the attention logits. Everyone's encoders run without it, so `None` by default.
    pub softcap: Option<f32>,
}

impl GemmaConfig {
    /// Reads sizes from shapes; `head_dim` defaults to 256.
    pub fn infer(stored: &impl Stored, head_dim: Option<usize>) -> Result<Self, SizesError> {
        let r = Reader(stored);
        let table = r.need("embed_tokens.weight", 2)?;
        let q = r.need("layers.0.self_attn.q_proj.weight", 2)?;
        let k = r.need("layers.0.self_attn.k_proj.weight", 2)?;
        let head_dim = head_dim.unwrap_or(256);
        Ok(GemmaConfig {
            width: table[1],
            layers: r.count("layers.{}."),
            heads: split("query width by heads", q[0], head_dim)?,
            kv_heads: split("key width by heads", k[0], head_dim)?,
            head_dim,
            mlp: r.need("layers.0.mlp.gate_proj.weight", 2)?[0],
            vocab: table[0],
            second: r.has("layers.0.pre_feedforward_layernorm.weight"),
            softcap: None,
        })
    }

    /// Gemma 1 2B: Lumina-Next.
    pub fn gemma1_2b() -> Self {
        let (heads, kv_heads) = (8, 1);
        GemmaConfig {
            width: 2048,
            layers: 18,
            heads,
            kv_heads,
            head_dim: 256,
            mlp: 16384,
            vocab: 256_000,
            second: false,
            softcap: None,
        }
    }

    /// Gemma 2 2B: Lumina-Image-2.0.
    pub fn gemma2_2b() -> Self {
        GemmaConfig { width: 2304, layers: 26, kv_heads: 4, mlp: 9216, second: true, ..Self::gemma1_2b() }
    }

    fn norms(&self) -> &'static [&'static str] {
        if self.second {
            &["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"]
        } else {
            &["input_layernorm", "post_attention_layernorm"]
        }
    }

    fn layer_shapes(&self, l: &mut List, i: usize) {
        let d = self.width;
        let p = format!("layers.{i}");
        l.linear(&format!("{p}.self_attn.q_proj"), d, self.heads * self.head_dim, false);
        l.linear(&format!("{p}.self_attn.k_proj"), d, self.kv_heads * self.head_dim, false);
        l.linear(&format!("{p}.self_attn.v_proj"), d, self.kv_heads * self.head_dim, false);
        l.linear(&format!("{p}.self_attn.o_proj"), self.heads * self.head_dim, d, false);
        l.linear(&format!("{p}.mlp.gate_proj"), d, self.mlp, false);
        l.linear(&format!("{p}.mlp.up_proj"), d, self.mlp, false);
        l.linear(&format!("{p}.mlp.down_proj"), self.mlp, d, false);
        for name in self.norms() {
            l.rms(&format!("{p}.{name}"), d);
        }
    }

    /// Every tensor of the file with its shape.
    pub fn all_shapes(&self) -> Shapes {
        let mut l = List(self.shapes());
        self.layer_shapes(&mut l, self.layers - 1);
        l.rms("norm", self.width);
        l.0
    }

    /// The tensors that are used, with their shapes.
    pub fn shapes(&self) -> Shapes {
        let mut l = List::default();
        l.add("embed_tokens.weight", &[self.vocab, self.width]);
        for i in 0..self.layers.saturating_sub(1) {
            self.layer_shapes(&mut l, i);
        }
        l.0
    }

    /// Adds the segments; reads the [`crate::TextInput`] of `part`, whose mask hides padding.
    pub fn build(&self, b: &mut Builder, part: &str) -> TextOut {
        b.part(part);
        let width = self.width as f32;
        let mut h = b.push("Gemma embeddings", &["embed_tokens"], &[], move |net, _| {
            op::scale(net.cx, &embed(net, "embed_tokens.weight"), width.sqrt())
        });
        let tables = RopeCache::default();
        for i in 0..self.layers.saturating_sub(1) {
            let (path, config, tables) = (format!("layers.{i}"), self.clone(), tables.clone());
            let weights = path.clone();
            h = b.push(format!("Gemma layer {i}"), &[&weights], &[h], move |net, x| {
                layer(net, &path, &x[0], &config, &tables)
            });
        }
        TextOut { hidden: h, pooled: None }
    }
}

fn layer(net: &Net, path: &str, x: &Var, c: &GemmaConfig, tables: &RopeCache) -> Var {
    let norm = |name: &str, x: &Var| net.rms_norm_plus_one(&format!("{path}.{name}"), x, 1e-6);
    let a = attend(net, path, &norm("input_layernorm", x), c, tables);
    let cx = net.cx;
    if c.second {
        let x = op::add(cx, x, &norm("post_attention_layernorm", &a));
        let m = mlp(net, cx, path, &norm("pre_feedforward_layernorm", &x));
        op::add(cx, &x, &norm("post_feedforward_layernorm", &m))
    } else {
        let x = op::add(cx, x, &a);
        op::add(cx, &x, &mlp(net, cx, path, &norm("post_attention_layernorm", &x)))
    }
}

fn attend(net: &Net, path: &str, n: &Var, c: &GemmaConfig, tables: &RopeCache) -> Var {
    let cx = net.cx;
    let (s, half) = (n.dim(1), c.head_dim / 2);
    let table = tables.get(cx, &[s], || {
        let omegas: Vec<f64> = (0..half).map(|i| 10000f64.powf(-2.0 * i as f64 / c.head_dim as f64)).collect();
        let positions: Vec<f64> = (0..s).map(|p| p as f64).collect();
        (rope_angles(&positions, &omegas), [1, s, half])
    });
    let project = |name: &str| net.linear(&format!("{path}.self_attn.{name}"), n);
    let q = op::rope(cx, &project("q_proj"), c.heads, &table, Pairs::Halves);
    let k = op::rope(cx, &project("k_proj"), c.kv_heads, &table, Pairs::Halves);
    let args = AttentionArgs {
        causal: true,
        kv_heads: Some(c.kv_heads),
        softcap: c.softcap,
        mask: net.text().mask_tensor(cx),
        ..AttentionArgs::heads(c.heads)
    };
    let a = op::attention(cx, &q, &k, &project("v_proj"), &args);
    net.linear(&format!("{path}.self_attn.o_proj"), &a)
}

fn mlp(net: &Net, cx: &Cx, path: &str, n: &Var) -> Var {
    let gate = op::gelu_tanh(cx, &net.linear(&format!("{path}.mlp.gate_proj"), n));
    let h = op::mul(cx, &gate, &net.linear(&format!("{path}.mlp.up_proj"), n));
    net.linear(&format!("{path}.mlp.down_proj"), &h)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_have_their_size() {
        for (config, tensors, parameters) in
            [(GemmaConfig::gemma1_2b(), 164, 2_506_172_416), (GemmaConfig::gemma2_2b(), 288, 2_614_341_888usize)]
        {
            let shapes = config.all_shapes();
            assert_eq!(shapes.len(), tensors);
            assert_eq!(shapes.iter().map(|(_, s)| s.iter().product::<usize>()).sum::<usize>(), parameters);
            let map: std::collections::HashMap<_, _> = shapes.into_iter().collect();
            assert_eq!(GemmaConfig::infer(&map, None), Ok(config));
        }
    }
}
