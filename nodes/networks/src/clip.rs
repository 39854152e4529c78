//! CLIP text encoders (Radford et al. 2021; OpenCLIP), Hugging Face weight names with the `text_model.` prefix.
//!
//! Causal pre-norm transformer over windows of 77 tokens. ViT-L uses quick GELU; ViT-H and bigG exact GELU.

use pipe_ops::op::{self, AttentionArgs};
use pipe_ops::{Cx, Var};

use crate::net::Net;
use crate::segment::{Builder, Slot};
use crate::shapes::{List, Reader, Shapes, SizesError, Stored};
use crate::text::{TextInput, TextOut, embed, push_weights};

/// Tokens of a window.
pub const WINDOW: usize = 77;
/// End-of-text token.
pub const EOS: u32 = 49407;

/// Activation of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x·σ(1.702x)`: OpenAI's models.
    QuickGelu,
    /// Exact GELU: OpenCLIP's models.
    Gelu,
}

/// Sizes of a CLIP text encoder.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ClipConfig {
    /// Width.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Width of the MLP.
    pub mlp: usize,
    /// Rows of the token table.
    pub vocab: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// Activation of the MLP.
    pub activation: Activation,
    /// Width of the projected pooled vector, where there is a projection.
    pub projection: Option<usize>,
    /// Id of the end-of-text token, whose state is the pooled vector.
    pub eos: u32,
}

/// Which hidden states are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Take {
    /// 1 is the last layer's output, 2 the one before.
    pub clip_skip: usize,
    /// The final norm is applied to them (SD 1.x, 2.x) or not (SDXL, SD3).
    pub final_norm: bool,
    /// The pooled vector is made as well: final norm, first end token, projection if there is one.
    pub pooled: bool,
}

impl ClipConfig {
    /// Reads sizes from shapes; `heads` defaults to heads of width 64.
    pub fn infer(stored: &impl Stored, heads: Option<usize>, activation: Activation) -> Result<Self, SizesError> {
        let r = Reader(stored);
        let table = r.need("text_model.embeddings.token_embedding.weight", 2)?;
        let positions = r.need("text_model.embeddings.position_embedding.weight", 2)?[0];
        let layers = r.count("text_model.encoder.layers.{}.");
        let mlp = r.need("text_model.encoder.layers.0.mlp.fc1.weight", 2)?[0];
        let width = table[1];
        let heads = heads.unwrap_or((width / 64).max(1));
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(SizesError::Odd(format!(
                "width {width} cannot be split into {heads} heads; set `config: {{ heads: … }}`"
            )));
        }
        let projection = r.shape("text_projection.weight").map(|s| s[0]);
        Ok(ClipConfig { width, layers, heads, mlp, vocab: table[0], positions, activation, projection, eos: EOS })
    }

    fn standard(width: usize, layers: usize, activation: Activation, projection: Option<usize>) -> Self {
        let (heads, mlp) = (width / 64, 4 * width);
        ClipConfig { width, layers, heads, mlp, vocab: 49408, positions: WINDOW, activation, projection, eos: EOS }
    }
    /// CLIP ViT-L/14: SD 1.x, SDXL, SD3, FLUX.
    pub fn vit_l() -> Self {
        Self::standard(768, 12, Activation::QuickGelu, None)
    }
    /// OpenCLIP ViT-H/14 without its last layer: SD 2.x.
    pub fn vit_h() -> Self {
        Self::standard(1024, 23, Activation::Gelu, None)
    }
    /// OpenCLIP ViT-bigG/14 with projection: SDXL, SD3.
    pub fn vit_big_g() -> Self {
        Self::standard(1280, 32, Activation::Gelu, Some(1280))
    }

    /// Every tensor with its shape.
    pub fn shapes(&self) -> Shapes {
        let d = self.width;
        let mut l = List::default();
        l.add("text_model.embeddings.token_embedding.weight", &[self.vocab, d]);
        l.add("text_model.embeddings.position_embedding.weight", &[self.positions, d]);
        for i in 0..self.layers {
            let p = format!("text_model.encoder.layers.{i}");
            for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                l.linear(&format!("{p}.self_attn.{name}"), d, d, true);
            }
            l.linear(&format!("{p}.mlp.fc1"), d, self.mlp, true);
            l.linear(&format!("{p}.mlp.fc2"), self.mlp, d, true);
            l.norm(&format!("{p}.layer_norm1"), d);
            l.norm(&format!("{p}.layer_norm2"), d);
        }
        l.norm("text_model.final_layer_norm", d);
        if let Some(p) = self.projection {
            l.linear("text_projection", d, p, false);
        }
        l.0
    }

    /// Adds the segments; reads the [`TextInput`] of `part`, whose mask (if any) hides padding as keys. Hidden states of several windows are joined to
    /// `[B, 75n + 2, D]`; the pooled vector is that of the first window.
    pub fn build(&self, b: &mut Builder, part: &str, take: Take) -> TextOut {
        b.part(part);
        let mut h = b.push("text embeddings", &["text_model.embeddings"], &[], |net, _| {
            let x = embed(net, "text_model.embeddings.token_embedding.weight");
            let positions = net.weight("text_model.embeddings.position_embedding.weight");
            op::add_positions(net.cx, &x, &op::narrow(net.cx, &positions, 0, 0, x.dim(1)))
        });
        let taken = self.layers + 1 - take.clip_skip.clamp(1, self.layers);
        let mut hidden = h;
        let last = if take.pooled { self.layers } else { taken };
        for i in 0..last {
            let (path, config) = (format!("text_model.encoder.layers.{i}"), self.clone());
            let weights = path.clone();
            h = b.push(format!("text layer {i}"), &[&weights], &[h], move |net, x| layer(net, &path, &x[0], &config));
            if i + 1 == taken {
                hidden = h;
            }
        }
        let norm = |b: &mut Builder, h: Slot| {
            b.push("text final norm", &["text_model.final_layer_norm"], &[h], |net, x| {
                net.layer_norm("text_model.final_layer_norm", &x[0], 1e-5)
            })
        };
        let normed = (take.final_norm || take.pooled).then(|| norm(b, h));
        let hidden = match (take.final_norm, normed) {
            (true, Some(n)) if taken == last => n,
            (true, _) => norm(b, hidden),
            _ => hidden,
        };
        let joined = b.push("text windows", &[], &[hidden], |net, x| join_windows(net.cx, &x[0], net.text()));
        let pooled = normed.filter(|_| take.pooled).map(|n| {
            let (projected, eos) = (self.projection.is_some(), self.eos);
            b.push("text pooled", &["text_projection"], &[n], move |net, x| {
                let pooled = first_end(net.cx, &x[0], net.text(), eos);
                if projected { net.linear("text_projection", &pooled) } else { pooled }
            })
        });
        TextOut { hidden: push_weights(b, joined), pooled }
    }
}

/// `[B·n, 77, D]` → `[B, 75n + 2, D]`: one start, the inner tokens of every window, one end.
fn join_windows(cx: &Cx, x: &Var, text: &TextInput) -> Var {
    let n = text.windows.max(1);
    if n == 1 {
        return x.clone();
    }
    let (s, d) = (x.dim(1), x.dim(2));
    let x = op::reshape(cx, x, &[x.dim(0) / n, n * s, d]);
    let mut parts = vec![op::narrow(cx, &x, 1, 0, s - 1)];
    parts.extend((1..n).map(|j| op::narrow(cx, &x, 1, j * s + 1, s - 2)));
    parts.push(op::narrow(cx, &x, 1, n * s - 1, 1));
    op::concat(cx, &parts.iter().collect::<Vec<_>>(), 1)
}

/// The states at the first end token of each sample's first window: `[B, D]`.
fn first_end(cx: &Cx, x: &Var, text: &TextInput, eos: u32) -> Var {
    let (s, d) = (x.dim(1), x.dim(2));
    let rows: Vec<u32> = (0..text.samples())
        .map(|i| {
            let row = i * text.windows.max(1);
            let at = text.ids[row].iter().position(|&id| id == eos).unwrap_or(s - 1);
            (row * s + at) as u32
        })
        .collect();
    op::embedding(cx, &op::reshape(cx, x, &[x.dim(0) * s, d]), &rows)
}

fn layer(net: &Net, path: &str, x: &Var, config: &ClipConfig) -> Var {
    let cx = net.cx;
    let n = net.layer_norm(&format!("{path}.layer_norm1"), x, 1e-5);
    let q = net.linear(&format!("{path}.self_attn.q_proj"), &n);
    let k = net.linear(&format!("{path}.self_attn.k_proj"), &n);
    let v = net.linear(&format!("{path}.self_attn.v_proj"), &n);
    let args = AttentionArgs { causal: true, mask: net.text().mask_tensor(cx), ..AttentionArgs::heads(config.heads) };
    let a = op::attention(cx, &q, &k, &v, &args);
    let x = op::add(cx, x, &net.linear(&format!("{path}.self_attn.out_proj"), &a));
    let n = net.layer_norm(&format!("{path}.layer_norm2"), &x, 1e-5);
    let h = net.linear(&format!("{path}.mlp.fc1"), &n);
    let h = match config.activation {
        Activation::QuickGelu => op::quick_gelu(cx, &h),
        Activation::Gelu => op::gelu(cx, &h),
    };
    op::add(cx, &x, &net.linear(&format!("{path}.mlp.fc2"), &h))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_sizes() {
        for (config, tensors, parameters) in [
            (ClipConfig::vit_l(), 196, 123_060_480),
            (ClipConfig::vit_h(), 372, 340_387_840),
            (ClipConfig::vit_big_g(), 517, 694_659_840),
        ] {
            let shapes = config.shapes();
            assert_eq!(shapes.len(), tensors);
            assert_eq!(shapes.iter().map(|(_, s)| s.iter().product::<usize>()).sum::<usize>(), parameters);
            let map: std::collections::HashMap<_, _> = shapes.into_iter().collect();
            assert_eq!(ClipConfig::infer(&map, None, config.activation), Ok(config));
        }
    }
}
