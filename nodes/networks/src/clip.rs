//! CLIP text encoder (Radford et al. 2021), Hugging Face weight names with the `text_model.` prefix.
//!
//! `forward(ids [B, 77]) -> hidden [B, 77, D]`: causal pre-norm transformer with quick GELU.

use pipe_ops::Var;
use pipe_ops::op::{self, AttentionArgs};

use crate::net::Net;
use crate::segment::{Builder, Slot};

/// Tokens of a window.
pub const WINDOW: usize = 77;

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
}

impl ClipConfig {
    /// Reads sizes from shapes; `heads` defaults to heads of width 64.
    pub fn infer(shape: impl Fn(&str) -> Option<Vec<usize>>, heads: Option<usize>) -> Result<Self, String> {
        let need =
            |name: &str| shape(name).filter(|s| s.len() == 2).ok_or_else(|| format!("tensor `{name}` is missing"));
        let table = need("text_model.embeddings.token_embedding.weight")?;
        let positions = need("text_model.embeddings.position_embedding.weight")?[0];
        let mut layers = 0;
        while shape(&format!("text_model.encoder.layers.{layers}.self_attn.q_proj.weight")).is_some() {
            layers += 1;
        }
        let mlp = need("text_model.encoder.layers.0.mlp.fc1.weight")?[0];
        let width = table[1];
        let heads = heads.unwrap_or((width / 64).max(1));
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(format!("width {width} cannot be split into {heads} heads; set `config: {{ heads: … }}`"));
        }
        Ok(ClipConfig { width, layers, heads, mlp, vocab: table[0], positions })
    }

    /// CLIP ViT-L/14 as in SD 1.x.
    pub fn vit_l() -> Self {
        ClipConfig { width: 768, layers: 12, heads: 12, mlp: 3072, vocab: 49408, positions: 77 }
    }

    /// Every tensor with its shape.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let d = self.width;
        let mut list = vec![
            ("text_model.embeddings.token_embedding.weight".to_string(), vec![self.vocab, d]),
            ("text_model.embeddings.position_embedding.weight".to_string(), vec![self.positions, d]),
        ];
        for i in 0..self.layers {
            let p = format!("text_model.encoder.layers.{i}");
            let mut add = |name: &str, weight: Vec<usize>| {
                list.push((format!("{p}.{name}.bias"), vec![weight[0]]));
                list.push((format!("{p}.{name}.weight"), weight));
            };
            for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                add(&format!("self_attn.{name}"), vec![d, d]);
            }
            add("mlp.fc1", vec![self.mlp, d]);
            add("mlp.fc2", vec![d, self.mlp]);
            add("layer_norm1", vec![d]);
            add("layer_norm2", vec![d]);
        }
        for name in ["weight", "bias"] {
            list.push((format!("text_model.final_layer_norm.{name}"), vec![d]));
        }
        list
    }

    /// Adds the segments; reads [`crate::Inputs::tokens`]. `clip_skip` 1 is the last layer, 2 the one before.
    /// Gives the slot of the hidden states after the final norm.
    pub fn build(&self, b: &mut Builder, part: &str, clip_skip: usize) -> Slot {
        b.part(part);
        let width = self.width;
        let mut h = b.push("text embeddings", &["text_model.embeddings"], &[], move |net, _| {
            let ids: Vec<u32> = net.inputs.tokens.iter().flatten().copied().collect();
            let windows = net.inputs.tokens.len();
            let length = ids.len() / windows.max(1);
            let table = net.weight("text_model.embeddings.token_embedding.weight");
            let x = op::embedding(net.cx, &table, &ids);
            let x = op::reshape(net.cx, &x, &[windows, length, width]);
            let positions = net.weight("text_model.embeddings.position_embedding.weight");
            op::add_positions(net.cx, &x, &op::narrow(net.cx, &positions, 0, 0, length))
        });
        let heads = self.heads;
        for i in 0..self.layers + 1 - clip_skip.clamp(1, self.layers) {
            let path = format!("text_model.encoder.layers.{i}");
            h = b
                .push(format!("text layer {i}"), &[&path.clone()], &[h], move |net, x| layer(net, &path, &x[0], heads));
        }
        b.push("text final norm", &["text_model.final_layer_norm"], &[h], |net, x| {
            net.layer_norm("text_model.final_layer_norm", &x[0], 1e-5)
        })
    }
}

fn layer(net: &Net, path: &str, x: &Var, heads: usize) -> Var {
    let cx = net.cx;
    let n = net.layer_norm(&format!("{path}.layer_norm1"), x, 1e-5);
    let q = net.linear(&format!("{path}.self_attn.q_proj"), &n);
    let k = net.linear(&format!("{path}.self_attn.k_proj"), &n);
    let v = net.linear(&format!("{path}.self_attn.v_proj"), &n);
    let args = AttentionArgs { causal: true, ..AttentionArgs::heads(heads) };
    let a = op::attention(cx, &q, &k, &v, &args);
    let x = op::add(cx, x, &net.linear(&format!("{path}.self_attn.out_proj"), &a));
    let n = net.layer_norm(&format!("{path}.layer_norm2"), &x, 1e-5);
    let h = op::quick_gelu(cx, &net.linear(&format!("{path}.mlp.fc1"), &n));
    op::add(cx, &x, &net.linear(&format!("{path}.mlp.fc2"), &h))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vit_l_has_its_size() {
        let config = ClipConfig::vit_l();
        let shapes = config.shapes();
        assert_eq!(shapes.len(), 196);
        assert_eq!(shapes.iter().map(|(_, s)| s.iter().product::<usize>()).sum::<usize>(), 123_060_480);
        let map: std::collections::HashMap<_, _> = shapes.into_iter().collect();
        assert_eq!(ClipConfig::infer(|n| map.get(n).cloned(), None), Ok(config));
    }
}
