//! Lumina-Image-2.0 (Qin et al. 2025), the authors' weight names.
//!
//! `forward(x [B, C, H, W], t = 1 − σ, captions [B, S, 2304] with their mask) -> velocity z − ε [B, C, H, W]`.
//! Captions keep their padding, which attention does not see; positions are those of the unpadded sequences.

use pipe_ops::Var;
use pipe_ops::op::{self, AttentionArgs, Pairs, PatchOrder, RopeTable};

use crate::embed::{RopeCache, rope_angles, sinusoidal};
use crate::flux::axis_frequencies;
use crate::mmdit::chunks;
use crate::net::Net;
use crate::segment::{Builder, Slot};
use crate::shapes::{List, Reader, Shapes, SizesError, Stored, split};

/// Width of the sinusoidal time embedding.
const TIME: usize = 256;
/// ε of the RMS norms.
const EPS: f32 = 1e-5;

/// Sizes of a Lumina 2 transformer.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Lumina2Config {
    /// Width.
    pub width: usize,
    /// Layers on the joint sequence.
    pub layers: usize,
    /// Blocks that refine the image tokens, and as many for the captions.
    pub refiners: usize,
    /// Query heads.
    pub heads: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// Width of the feed-forward.
    pub ff: usize,
    /// Width of the caption features.
    pub context: usize,
    /// Width of the time embedding.
    pub time: usize,
    /// Latent channels.
    pub channels: usize,
    /// Side of a patch.
    pub patch: usize,
    /// Rotary dimensions of a head for each of the three position axes.
    pub axes: [usize; 3],
    /// The file has the unused `norm_final.weight`.
    pub norm_final: bool,
}

impl Lumina2Config {
    /// Reads sizes from shapes; `axes` defaults to three equal parts, `patch` to 2.
    pub fn infer(stored: &impl Stored, axes: Option<[usize; 3]>) -> Result<Self, SizesError> {
        let r = Reader(stored);
        let x = r.need("x_embedder.weight", 2)?;
        let width = x[0];
        let head = r.need("layers.0.attention.q_norm.weight", 1)?[0];
        let qkv = r.need("layers.0.attention.qkv.weight", 2)?[0];
        let patch = 2;
        let axes = axes.unwrap_or([head / 3; 3]);
        if axes.iter().sum::<usize>() != head || axes.iter().any(|a| a % 2 != 0) {
            return Err(SizesError::Odd(format!("position axes {axes:?} do not make up a head of {head}")));
        }
        Ok(Lumina2Config {
            width,
            layers: r.count("layers.{}."),
            refiners: r.count("noise_refiner.{}."),
            heads: split("width by heads", width, head)?,
            kv_heads: split("key width by heads", qkv.saturating_sub(width), 2 * head)?,
            ff: r.need("layers.0.feed_forward.w1.weight", 2)?[0],
            context: r.need("cap_embedder.1.weight", 2)?[1],
            time: r.need("t_embedder.mlp.0.weight", 2)?[0],
            channels: split("input width by patches", x[1], patch * patch)?,
            patch,
            axes,
            norm_final: r.has("norm_final.weight"),
        })
    }

    /// Lumina-Image-2.0.
    pub fn image_2_0() -> Self {
        Lumina2Config {
            width: 2304,
            layers: 26,
            refiners: 2,
            heads: 24,
            kv_heads: 8,
            ff: 9216,
            context: 2304,
            time: 1024,
            channels: 16,
            patch: 2,
            axes: [32; 3],
            norm_final: true,
        }
    }

    fn blocks(&self) -> impl Iterator<Item = (String, bool)> {
        let list =
            |name: &'static str, n: usize, modulated: bool| (0..n).map(move |i| (format!("{name}.{i}"), modulated));
        list("context_refiner", self.refiners, false).chain(list("noise_refiner", self.refiners, true)).chain(list(
            "layers",
            self.layers,
            true,
        ))
    }

    /// Every tensor with its shape.
    pub fn shapes(&self) -> Shapes {
        let (d, head, p2) = (self.width, self.width / self.heads, self.patch * self.patch);
        let mut l = List::default();
        l.linear("t_embedder.mlp.0", TIME, self.time, true);
        l.linear("t_embedder.mlp.2", self.time, self.time, true);
        l.rms("cap_embedder.0", self.context);
        l.linear("cap_embedder.1", self.context, d, true);
        l.linear("x_embedder", p2 * self.channels, d, true);
        for (p, modulated) in self.blocks() {
            l.linear(&format!("{p}.attention.qkv"), d, d + 2 * self.kv_heads * head, false);
            l.linear(&format!("{p}.attention.out"), d, d, false);
            l.rms(&format!("{p}.attention.q_norm"), head);
            l.rms(&format!("{p}.attention.k_norm"), head);
            l.linear(&format!("{p}.feed_forward.w1"), d, self.ff, false);
            l.linear(&format!("{p}.feed_forward.w2"), self.ff, d, false);
            l.linear(&format!("{p}.feed_forward.w3"), d, self.ff, false);
            for name in ["attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"] {
                l.rms(&format!("{p}.{name}"), d);
            }
            if modulated {
                l.linear(&format!("{p}.adaLN_modulation.1"), self.time, 4 * d, true);
            }
        }
        l.linear("final_layer.linear", d, p2 * self.channels, true);
        l.linear("final_layer.adaLN_modulation.1", self.time, d, true);
        if self.norm_final {
            l.rms("norm_final", d);
        }
        l.0
    }

    /// Adds the segments; gives the velocity's slot (`z − ε`).
    pub fn build(&self, b: &mut Builder, part: &str, x: Slot, context: Slot) -> Slot {
        b.part(part);
        let c = b.push("t_embedder", &["t_embedder"], &[], |net, _| {
            let t = Var::constant(sinusoidal(net.cx, &net.inputs.timesteps, TIME, 1.0));
            // Every reader applies SiLU first.
            op::silu(net.cx, &net.mlp_silu("t_embedder.mlp.0", "t_embedder.mlp.2", &t))
        });
        let mut text = b.push("cap_embedder", &["cap_embedder"], &[context], |net, x| {
            net.linear("cap_embedder.1", &net.rms_norm("cap_embedder.0", &x[0], EPS))
        });
        let patch = self.patch;
        let mut img = b.push("x_embedder", &["x_embedder"], &[x], move |net, x| {
            net.linear("x_embedder", &op::patchify(net.cx, &x[0], patch, PatchOrder::ChannelLast))
        });
        let tables = RopeCache::default();
        let block = |b: &mut Builder, path: String, inputs: &[Slot], sees: Sees| {
            let (config, tables) = (self.clone(), tables.clone());
            let weights = path.clone();
            b.push(path.clone(), &[&weights], inputs, move |net, x| block(net, &path, &config, x, sees, &tables))
        };
        for i in 0..self.refiners {
            text = block(b, format!("context_refiner.{i}"), &[text], Sees::Text);
        }
        for i in 0..self.refiners {
            // The captions are read for their number of tokens alone.
            img = block(b, format!("noise_refiner.{i}"), &[img, c, text], Sees::Image);
        }
        let mut h = b.push("joint sequence", &[], &[text, img], |net, x| op::concat(net.cx, &[&x[0], &x[1]], 1));
        for i in 0..self.layers {
            h = block(b, format!("layers.{i}"), &[h, c], Sees::Both);
        }
        b.push("final_layer", &["final_layer"], &[h, c], move |net, x| {
            let [height, width] = net.inputs.latent;
            let (rows, columns) = (height / patch, width / patch);
            let n = rows * columns;
            let img = op::narrow(net.cx, &x[0], 1, x[0].dim(1) - n, n);
            let scale = net.linear("final_layer.adaLN_modulation.1", &x[1]);
            let y = op::modulate(net.cx, &op::layer_norm_plain(net.cx, &img, 1e-6), &scale, None);
            let y = net.linear("final_layer.linear", &y);
            op::unpatchify(net.cx, &y, rows, columns, patch, PatchOrder::ChannelLast)
        })
    }

    /// Caption token k of n stands at (k, 0, 0), image tokens at (n, row, column). `text` counts tokens with padding.
    fn table(&self, net: &Net, text: usize, sees: Sees, batch: usize, tables: &RopeCache) -> RopeTable {
        let [height, width] = net.inputs.latent;
        let (rows, columns) = (height / self.patch, width / self.patch);
        let lengths: Vec<usize> = match net.inputs.text_mask.as_slice() {
            [] => vec![text],
            rows => rows.iter().map(|r| r.iter().filter(|m| **m != 0.0).count()).collect(),
        };
        assert!(lengths.len() == 1 || lengths.len() == batch, "caption mask of another batch");
        let mut key = vec![sees as usize, text, rows, columns];
        key.extend(&lengths);
        tables.get(net.cx, &key, || {
            let axes = self.axes.map(|d| axis_frequencies(d, 10000.0));
            let half: usize = axes.iter().map(Vec::len).sum();
            let mut angles = Vec::new();
            let mut push = |position: [usize; 3]| {
                for (p, axis) in position.iter().zip(&axes) {
                    angles.extend(rope_angles(&[*p as f64], axis));
                }
            };
            let (with_text, with_image) = (sees != Sees::Image, sees != Sees::Text);
            for &n in &lengths {
                if with_text {
                    (0..text).for_each(|k| push([k, 0, 0]));
                }
                if with_image {
                    (0..rows * columns).for_each(|i| push([n, i / columns, i % columns]));
                }
            }
            let s = if with_text { text } else { 0 } + if with_image { rows * columns } else { 0 };
            (angles, [lengths.len(), s, half])
        })
    }
}

/// Which tokens a block works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    Text,
    Image,
    Both,
}

/// A block; with a condition as second input it is modulated.
fn block(net: &Net, path: &str, config: &Lumina2Config, x: &[Var], sees: Sees, tables: &RopeCache) -> Var {
    let cx = net.cx;
    let norm = |name: &str, x: &Var| net.rms_norm(&format!("{path}.{name}"), x, EPS);
    let m = x.get(1).map(|c| chunks(net, &format!("{path}.adaLN_modulation.1"), c, 4));
    let scaled = |x: Var, i: usize| match &m {
        Some(m) => op::modulate(cx, &x, &m[i], None),
        None => x,
    };
    let gated = |x: Var, i: usize| match &m {
        Some(m) => op::gate(cx, &x, &op::tanh(cx, &m[i])),
        None => x,
    };
    let text = x.get(2).map_or(0, |t| t.dim(1));
    let x = &x[0];
    let a = attend(net, path, config, &scaled(norm("attention_norm1", x), 0), sees, text, tables);
    let x = op::add(cx, x, &gated(norm("attention_norm2", &a), 1));
    let n = scaled(norm("ffn_norm1", &x), 2);
    let f = feed_forward(net, path, &n);
    op::add(cx, &x, &gated(norm("ffn_norm2", &f), 3))
}

/// SwiGLU: `w2(silu(w1·x)·w3·x)`.
pub(crate) fn feed_forward(net: &Net, path: &str, n: &Var) -> Var {
    let gate = op::silu(net.cx, &net.linear(&format!("{path}.feed_forward.w1"), n));
    let h = op::mul(net.cx, &gate, &net.linear(&format!("{path}.feed_forward.w3"), n));
    net.linear(&format!("{path}.feed_forward.w2"), &h)
}

fn attend(net: &Net, path: &str, c: &Lumina2Config, n: &Var, sees: Sees, text: usize, tables: &RopeCache) -> Var {
    let cx = net.cx;
    let p = format!("{path}.attention");
    let kv = c.width / c.heads * c.kv_heads;
    let fused = net.linear(&format!("{p}.qkv"), n);
    let q = net.head_norm(&format!("{p}.q_norm.weight"), &op::narrow(cx, &fused, 2, 0, c.width), EPS);
    let k = net.head_norm(&format!("{p}.k_norm.weight"), &op::narrow(cx, &fused, 2, c.width, kv), EPS);
    let v = op::narrow(cx, &fused, 2, c.width + kv, kv);
    let [height, width] = net.inputs.latent;
    let image = height / c.patch * (width / c.patch);
    let (text, mask) = match sees {
        Sees::Text => (n.dim(1), net.text_mask(0)),
        Sees::Image => (text, None),
        Sees::Both => (n.dim(1) - image, net.text_mask(image)),
    };
    let table = c.table(net, text, sees, n.dim(0), tables);
    let q = op::rope(cx, &q, c.heads, &table, Pairs::Adjacent);
    let k = op::rope(cx, &k, c.kv_heads, &table, Pairs::Adjacent);
    let args = AttentionArgs { kv_heads: Some(c.kv_heads), mask, ..AttentionArgs::heads(c.heads) };
    net.linear(&format!("{p}.out"), &op::attention(cx, &q, &k, &v, &args))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_its_size() {
        let config = Lumina2Config::image_2_0();
        let shapes = config.shapes();
        assert_eq!(shapes.len(), 400);
        assert_eq!(shapes.iter().map(|(_, s)| s.iter().product::<usize>()).sum::<usize>(), 2_609_771_456);
        let map: std::collections::HashMap<_, _> = shapes.into_iter().collect();
        assert_eq!(Lumina2Config::infer(&map, None), Ok(config));
    }
}
