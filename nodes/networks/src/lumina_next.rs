//! Lumina-Next (Zhuo et al. 2024: Next-DiT with text cross-attention), the authors' weight names.
//!
//! `forward(x [B, C, H, W], t = 1 − σ, captions [B, S, 2048] with their mask) -> velocity z − ε [B, C, H, W]`.

use pipe_ops::op::{self, AttentionArgs, Pairs, PatchOrder, RopeTable};
use pipe_ops::{DType, Var};

use crate::embed::{RopeCache, sinusoidal};
use crate::lumina2::feed_forward;
use crate::mmdit::chunks;
use crate::net::Net;
use crate::segment::{Builder, Slot};
use crate::shapes::{List, Reader, Shapes, SizesError, Stored, split};

/// Width of the sinusoidal time embedding.
const TIME: usize = 256;
/// ε of norms.
const EPS: f32 = 1e-5;
/// Side of a patch.
const PATCH: usize = 2;

/// Sizes of a Lumina-Next transformer.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LuminaNextConfig {
    /// Width.
    pub width: usize,
    /// Layers.
    pub layers: usize,
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
    /// Latent channels in.
    pub channels: usize,
    /// Channels out; the first `channels` are used.
    pub out_channels: usize,
}

impl LuminaNextConfig {
    /// Reads sizes from shapes.
    pub fn infer(stored: &impl Stored) -> Result<Self, SizesError> {
        let r = Reader(stored);
        let x = r.need("x_embedder.weight", 2)?;
        let heads = r.need("layers.0.attention.gate", 1)?[0];
        let head = split("width by heads", x[0], heads)?;
        if head % 4 != 0 {
            return Err(SizesError::Odd(format!("heads of {head} have no two rotary axes")));
        }
        Ok(LuminaNextConfig {
            width: x[0],
            layers: r.count("layers.{}."),
            heads,
            kv_heads: split("key width by heads", r.need("layers.0.attention.wk.weight", 2)?[0], head)?,
            ff: r.need("layers.0.feed_forward.w1.weight", 2)?[0],
            context: r.need("layers.0.attention.wk_y.weight", 2)?[1],
            time: r.need("t_embedder.mlp.0.weight", 2)?[0],
            channels: split("input width by patches", x[1], PATCH * PATCH)?,
            out_channels: split("output width by patches", r.need("final_layer.linear.weight", 2)?[0], PATCH * PATCH)?,
        })
    }

    /// Lumina-Next-T2I and -SFT.
    pub fn t2i_2b() -> Self {
        LuminaNextConfig {
            width: 2304,
            layers: 24,
            heads: 32,
            kv_heads: 8,
            ff: 6144,
            context: 2048,
            time: 1024,
            channels: 4,
            out_channels: 8,
        }
    }

    /// Every tensor with its shape.
    pub fn shapes(&self) -> Shapes {
        let (d, p2) = (self.width, PATCH * PATCH);
        let kv = d / self.heads * self.kv_heads;
        let mut l = List::default();
        l.add("pad_token", &[d]);
        l.linear("x_embedder", self.channels * p2, d, true);
        l.linear("t_embedder.mlp.0", TIME, self.time, true);
        l.linear("t_embedder.mlp.2", self.time, self.time, true);
        l.norm("cap_embedder.0", self.context);
        l.linear("cap_embedder.1", self.context, self.time, true);
        for i in 0..self.layers {
            let p = format!("layers.{i}");
            l.linear(&format!("{p}.attention.wq"), d, d, false);
            l.linear(&format!("{p}.attention.wk"), d, kv, false);
            l.linear(&format!("{p}.attention.wv"), d, kv, false);
            l.linear(&format!("{p}.attention.wk_y"), self.context, kv, false);
            l.linear(&format!("{p}.attention.wv_y"), self.context, kv, false);
            l.linear(&format!("{p}.attention.wo"), d, d, false);
            l.add(format!("{p}.attention.gate"), &[self.heads]);
            l.norm(&format!("{p}.attention.q_norm"), d);
            l.norm(&format!("{p}.attention.k_norm"), kv);
            l.norm(&format!("{p}.attention.ky_norm"), kv);
            l.linear(&format!("{p}.feed_forward.w1"), d, self.ff, false);
            l.linear(&format!("{p}.feed_forward.w2"), self.ff, d, false);
            l.linear(&format!("{p}.feed_forward.w3"), d, self.ff, false);
            for name in ["attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"] {
                l.rms(&format!("{p}.{name}"), d);
            }
            l.rms(&format!("{p}.attention_y_norm"), self.context);
            l.linear(&format!("{p}.adaLN_modulation.1"), self.time, 4 * d, true);
        }
        l.linear("final_layer.linear", d, self.out_channels * p2, true);
        l.linear("final_layer.adaLN_modulation.1", self.time, d, true);
        l.0
    }

    /// Adds the segments; gives the velocity's slot (`z − ε`).
    pub fn build(&self, b: &mut Builder, part: &str, x: Slot, context: Slot) -> Slot {
        b.part(part);
        let c = b.push("conditions", &["t_embedder", "cap_embedder"], &[context], |net, x| {
            let cx = net.cx;
            let t = Var::constant(sinusoidal(cx, &net.inputs.timesteps, TIME, 1.0));
            let t = net.mlp_silu("t_embedder.mlp.0", "t_embedder.mlp.2", &t);
            let (batch, s) = (x[0].dim(0), x[0].dim(1));
            let mut weights = net.inputs.text_mask.clone();
            if weights.is_empty() {
                weights = vec![vec![1.0; s]; batch];
            }
            for row in &mut weights {
                let n: f32 = row.iter().sum::<f32>().max(1.0);
                row.iter_mut().for_each(|w| *w /= n);
            }
            let weights = cx.device.tensor(weights.concat(), &[batch, s], DType::F32);
            let mean = op::weighted_sum(cx, &x[0], &weights);
            let caption = net.linear("cap_embedder.1", &net.layer_norm("cap_embedder.0", &mean, EPS));
            // Every reader applies SiLU first.
            op::silu(cx, &op::add(cx, &t, &caption))
        });
        let mut h = b.push("x_embedder", &["x_embedder"], &[x], |net, x| {
            net.linear("x_embedder", &op::patchify(net.cx, &x[0], PATCH, PatchOrder::ChannelFirst))
        });
        let tables = RopeCache::default();
        for i in 0..self.layers {
            let (path, config, tables) = (format!("layers.{i}"), self.clone(), tables.clone());
            let weights = path.clone();
            h = b.push(path.clone(), &[&weights], &[h, c, context], move |net, x| {
                layer(net, &path, &config, [&x[0], &x[1], &x[2]], &tables)
            });
        }
        let channels = self.channels;
        b.push("final_layer", &["final_layer"], &[h, c], move |net, x| {
            let [height, width] = net.inputs.latent;
            let scale = net.linear("final_layer.adaLN_modulation.1", &x[1]);
            let y = op::modulate(net.cx, &op::layer_norm_plain(net.cx, &x[0], 1e-6), &scale, None);
            let y = net.linear("final_layer.linear", &y);
            let y = op::unpatchify(net.cx, &y, height / PATCH, width / PATCH, PATCH, PatchOrder::ChannelLast);
            op::narrow(net.cx, &y, 1, 0, channels)
        })
    }

    /// Pair 2j turns by row·ω_j, pair 2j + 1 by column·ω_j, ω_j = 10000^(−4j/D).
    fn table(&self, net: &Net, tables: &RopeCache) -> RopeTable {
        let [height, width] = net.inputs.latent;
        let (rows, columns, head) = (height / PATCH, width / PATCH, self.width / self.heads);
        tables.get(net.cx, &[rows, columns], || {
            let omega = |j: usize| 10000f64.powf(-4.0 * j as f64 / head as f64);
            let angles = (0..rows * columns)
                .flat_map(|i| {
                    let (row, column) = ((i / columns) as f64, (i % columns) as f64);
                    (0..head / 4).flat_map(move |j| [row * omega(j), column * omega(j)])
                })
                .collect();
            (angles, [1, rows * columns, head / 2])
        })
    }
}

fn layer(net: &Net, path: &str, config: &LuminaNextConfig, [x, c, text]: [&Var; 3], tables: &RopeCache) -> Var {
    let cx = net.cx;
    let norm = |name: &str, x: &Var| net.rms_norm(&format!("{path}.{name}"), x, EPS);
    let m = chunks(net, &format!("{path}.adaLN_modulation.1"), c, 4);
    let n = op::modulate(cx, &norm("attention_norm1", x), &m[0], None);
    let y = norm("attention_y_norm", text);
    let a = attend(net, &format!("{path}.attention"), config, &n, &y, tables);
    let x = op::add(cx, x, &op::gate(cx, &norm("attention_norm2", &a), &op::tanh(cx, &m[1])));
    let n = op::modulate(cx, &norm("ffn_norm1", &x), &m[2], None);
    let f = norm("ffn_norm2", &feed_forward(net, path, &n));
    op::add(cx, &x, &op::gate(cx, &f, &op::tanh(cx, &m[3])))
}

/// Self-attention and gated cross-attention of the same queries.
fn attend(net: &Net, p: &str, c: &LuminaNextConfig, n: &Var, y: &Var, tables: &RopeCache) -> Var {
    let cx = net.cx;
    let project = |name: &str, x: &Var| net.linear(&format!("{p}.{name}"), x);
    let norm = |name: &str, x: &Var| net.layer_norm(&format!("{p}.{name}"), x, EPS);
    let table = c.table(net, tables);
    let q = op::rope(cx, &norm("q_norm", &project("wq", n)), c.heads, &table, Pairs::Adjacent);
    let k = op::rope(cx, &norm("k_norm", &project("wk", n)), c.kv_heads, &table, Pairs::Adjacent);
    let args = AttentionArgs { kv_heads: Some(c.kv_heads), ..AttentionArgs::heads(c.heads) };
    let own = op::attention(cx, &q, &k, &project("wv", n), &args);
    let ky = norm("ky_norm", &project("wk_y", y));
    let args = AttentionArgs { mask: net.text_mask(0), ..args };
    let cross = op::attention(cx, &q, &ky, &project("wv_y", y), &args);
    // One gate a head, for every element of the head and every sample.
    let (batch, head) = (n.dim(0), c.width / c.heads);
    let gate = op::tanh(cx, &net.weight(&format!("{p}.gate")));
    let ids: Vec<u32> = (0..batch * c.width).map(|i| (i % c.width / head) as u32).collect();
    let gate = op::embedding(cx, &op::reshape(cx, &gate, &[c.heads, 1]), &ids);
    let gate = op::reshape(cx, &gate, &[batch, c.width]);
    project("wo", &op::add(cx, &own, &op::gate(cx, &cross, &gate)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_its_size() {
        let config = LuminaNextConfig::t2i_2b();
        let shapes = config.shapes();
        assert_eq!(shapes.len(), 567);
        assert_eq!(shapes.iter().map(|(_, s)| s.iter().product::<usize>()).sum::<usize>(), 1_627_386_400);
        let map: std::collections::HashMap<_, _> = shapes.into_iter().collect();
        assert_eq!(LuminaNextConfig::infer(&map), Ok(config));
    }
}
