//! MMDiT of Stable Diffusion 3 and 3.5 (Esser et al. 2024), the authors' weight names.
//!
//! `forward(x [B, C, H, W], t = 1000·σ, context [B, S, 4096], pooled [B, 2048]) -> velocity ε − z [B, C, H, W]`.

mod positions;

use pipe_ops::Var;
use pipe_ops::op::{self, AttentionArgs, PatchOrder};

use crate::embed::sinusoidal;
use crate::net::Net;
use crate::segment::{Builder, Slot};
use crate::shapes::{List, Reader, Shapes, SizesError, Stored, split};

pub use positions::Options;

/// Width of the sinusoidal time embedding.
const TIME: usize = 256;
/// ε of norms.
const EPS: f32 = 1e-6;

/// Sizes of an MMDiT.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct MmditConfig {
    /// Width.
    pub width: usize,
    /// Joint blocks.
    pub depth: usize,
    /// Heads.
    pub heads: usize,
    /// Latent channels.
    pub channels: usize,
    /// Side of a patch.
    pub patch: usize,
    /// Width of the text embeddings.
    pub context: usize,
    /// Width of the pooled text.
    pub pooled: usize,
    /// Side of the square position table.
    pub positions: usize,
    /// Queries and keys are normalised by head (3.5).
    pub qk_norm: bool,
    /// The first blocks with a second, image-only attention (3.5 Medium: 13).
    pub dual: usize,
    /// What a document changes of positions and text.
    #[serde(default)]
    pub options: Options,
}

impl MmditConfig {
    /// Reads sizes from shapes; `heads` defaults to heads of width 64.
    pub fn infer(stored: &impl Stored, heads: Option<usize>) -> Result<Self, SizesError> {
        let r = Reader(stored);
        let patch = r.need("x_embedder.proj.weight", 4)?;
        let context = r.need("context_embedder.weight", 2)?;
        let pooled = r.need("y_embedder.mlp.0.weight", 2)?[1];
        let table = r.need("pos_embed", 3)?;
        let width = patch[0];
        let depth = r.count("joint_blocks.{}.");
        let qk = (0..depth).find_map(|i| r.shape(&format!("joint_blocks.{i}.x_block.attn.ln_q.weight")));
        let heads = match (&qk, heads) {
            (_, Some(heads)) => heads,
            (Some(d), None) => split("width by heads", width, d.first().copied().unwrap_or(0))?,
            (None, None) => (width / 64).max(1),
        };
        split("width by heads", width, heads)?;
        let positions = (table[1] as f64).sqrt().round() as usize;
        if positions * positions != table[1] {
            return Err(SizesError::Odd(format!("`pos_embed` has {} positions, not a square", table[1])));
        }
        Ok(MmditConfig {
            width,
            depth,
            heads,
            channels: patch[1],
            patch: patch[2],
            context: context[1],
            pooled,
            positions,
            qk_norm: qk.is_some(),
            dual: r.count("joint_blocks.{}.x_block.attn2."),
            options: Options::default(),
        })
    }

    fn standard(depth: usize, positions: usize, qk_norm: bool, dual: usize) -> Self {
        MmditConfig {
            width: 64 * depth,
            depth,
            heads: depth,
            channels: 16,
            patch: 2,
            context: 4096,
            pooled: 2048,
            positions,
            qk_norm,
            dual,
            options: Options::default(),
        }
    }
    /// SD3 Medium.
    pub fn sd3_medium() -> Self {
        Self::standard(24, 192, false, 0)
    }
    /// SD3.5 Medium.
    pub fn sd35_medium() -> Self {
        Self::standard(24, 384, true, 13)
    }
    /// SD3.5 Large.
    pub fn sd35_large() -> Self {
        Self::standard(38, 192, true, 0)
    }

    /// Every tensor with its shape.
    pub fn shapes(&self) -> Shapes {
        let (d, p) = (self.width, self.patch);
        let mut l = List::default();
        l.add("pos_embed", &[1, self.positions * self.positions, d]);
        l.conv("x_embedder.proj", self.channels, d, p);
        for (name, input) in [("t_embedder", TIME), ("y_embedder", self.pooled)] {
            l.linear(&format!("{name}.mlp.0"), input, d, true);
            l.linear(&format!("{name}.mlp.2"), d, d, true);
        }
        l.linear("context_embedder", self.context, d, true);
        for i in 0..self.depth {
            for (stream, last) in [("context_block", i + 1 == self.depth), ("x_block", false)] {
                let b = format!("joint_blocks.{i}.{stream}");
                let dual = stream == "x_block" && i < self.dual;
                self.attention_shapes(&mut l, &format!("{b}.attn"), !last);
                if dual {
                    self.attention_shapes(&mut l, &format!("{b}.attn2"), true);
                }
                if !last {
                    l.linear(&format!("{b}.mlp.fc1"), d, 4 * d, true);
                    l.linear(&format!("{b}.mlp.fc2"), 4 * d, d, true);
                }
                let chunks = if last { 2 } else { 6 + 3 * dual as usize };
                l.linear(&format!("{b}.adaLN_modulation.1"), d, chunks * d, true);
            }
        }
        l.linear("final_layer.linear", d, p * p * self.channels, true);
        l.linear("final_layer.adaLN_modulation.1", d, 2 * d, true);
        l.0
    }

    fn attention_shapes(&self, l: &mut List, path: &str, projected: bool) {
        let d = self.width;
        l.linear(&format!("{path}.qkv"), d, 3 * d, true);
        if projected {
            l.linear(&format!("{path}.proj"), d, d, true);
        }
        if self.qk_norm {
            l.rms(&format!("{path}.ln_q"), d / self.heads);
            l.rms(&format!("{path}.ln_k"), d / self.heads);
        }
    }

    /// Adds the segments; gives the velocity's slot.
    pub fn build(&self, b: &mut Builder, part: &str, x: Slot, context: Slot, pooled: Slot) -> Slot {
        b.part(part);
        let c = b.push("conditions", &["t_embedder", "y_embedder"], &[pooled], |net, x| {
            let t = Var::constant(sinusoidal(net.cx, &net.inputs.timesteps, TIME, 1.0));
            let t = net.mlp_silu("t_embedder.mlp.0", "t_embedder.mlp.2", &t);
            let y = net.mlp_silu("y_embedder.mlp.0", "y_embedder.mlp.2", &x[0]);
            // Every reader applies SiLU first.
            op::silu(net.cx, &op::add(net.cx, &t, &y))
        });
        let mut text = b.push("context_embedder", &["context_embedder"], &[context], |net, x| {
            net.linear("context_embedder", &x[0])
        });
        let config = self.clone();
        let mut h = b.push("x_embedder", &["x_embedder", "pos_embed"], &[x], move |net, x| {
            let p = config.patch;
            let y = net.conv("x_embedder.proj", &x[0], p, [0; 4]);
            let crop = config.positions_of(net, y.dim(2), y.dim(3));
            op::add_positions(net.cx, &op::to_tokens(net.cx, &y), &crop)
        });
        for i in 0..self.depth {
            let (path, config) = (format!("joint_blocks.{i}"), self.clone());
            let weights = path.clone();
            let name = path.clone();
            if i + 1 == self.depth {
                h = b.push(name, &[&weights], &[h, text, c], move |net, x| {
                    joint_block(net, &path, &config, [&x[0], &x[1], &x[2]], i, true).0
                });
            } else {
                [h, text] = b.push_two(name, &[&weights], &[h, text, c], move |net, x| {
                    let (h, text) = joint_block(net, &path, &config, [&x[0], &x[1], &x[2]], i, false);
                    [h, text.unwrap_or_else(|| x[1].clone())]
                });
            }
        }
        let p = self.patch;
        b.push("final_layer", &["final_layer"], &[h, c], move |net, x| {
            let m = chunks(net, "final_layer.adaLN_modulation.1", &x[1], 2);
            let n = op::layer_norm_plain(net.cx, &x[0], EPS);
            let y = net.linear("final_layer.linear", &op::modulate(net.cx, &n, &m[1], Some(&m[0])));
            let [height, width] = net.inputs.latent;
            op::unpatchify(net.cx, &y, height / p, width / p, p, PatchOrder::ChannelLast)
        })
    }
}

/// `n` equal parts of the modulation of `c [B, D]` (already through SiLU).
pub(crate) fn chunks(net: &Net, path: &str, c: &Var, n: usize) -> Vec<Var> {
    let m = net.linear(path, c);
    let d = m.dim(1) / n;
    (0..n).map(|i| op::narrow(net.cx, &m, 1, i * d, d)).collect()
}

/// q, k and v of `n`, normalised by head where the model does so.
fn qkv(net: &Net, path: &str, n: &Var, config: &MmditConfig) -> [Var; 3] {
    let fused = net.linear(&format!("{path}.qkv"), n);
    let d = config.width;
    let [q, k, v] = [0, 1, 2].map(|i| op::narrow(net.cx, &fused, 2, i * d, d));
    if config.qk_norm {
        let norm = |name: &str, x: &Var| net.head_norm(&format!("{path}.{name}.weight"), x, EPS);
        [norm("ln_q", &q), norm("ln_k", &k), v]
    } else {
        [q, k, v]
    }
}

fn joint_block(
    net: &Net,
    path: &str,
    config: &MmditConfig,
    [x, text, c]: [&Var; 3],
    index: usize,
    last: bool,
) -> (Var, Option<Var>) {
    let cx = net.cx;
    let dual = index < config.dual;
    let (xb, tb) = (format!("{path}.x_block"), format!("{path}.context_block"));
    let mx = chunks(net, &format!("{xb}.adaLN_modulation.1"), c, if dual { 9 } else { 6 });
    let mt = chunks(net, &format!("{tb}.adaLN_modulation.1"), c, if last { 2 } else { 6 });
    let plain = op::layer_norm_plain(cx, x, EPS);
    let nx = op::modulate(cx, &plain, &mx[1], Some(&mx[0]));
    let nt = op::modulate(cx, &op::layer_norm_plain(cx, text, EPS), &mt[1], Some(&mt[0]));
    let [qx, kx, vx] = qkv(net, &format!("{xb}.attn"), &nx, config);
    let [qt, kt, vt] = qkv(net, &format!("{tb}.attn"), &nt, config);
    let join = |a: &Var, b: &Var| op::concat(cx, &[a, b], 1);
    let a = op::attention(cx, &join(&qt, &qx), &join(&kt, &kx), &join(&vt, &vx), &AttentionArgs::heads(config.heads));
    let (st, sx) = (text.dim(1), x.dim(1));
    let (at, ax) = (op::narrow(cx, &a, 1, 0, st), op::narrow(cx, &a, 1, st, sx));
    let mut x = op::add(cx, x, &op::gate(cx, &net.linear(&format!("{xb}.attn.proj"), &ax), &mx[2]));
    if dual {
        let n2 = op::modulate(cx, &plain, &mx[7], Some(&mx[6]));
        let [q, k, v] = qkv(net, &format!("{xb}.attn2"), &n2, config);
        let a2 = op::attention(cx, &q, &k, &v, &AttentionArgs::heads(config.heads));
        x = op::add(cx, &x, &op::gate(cx, &net.linear(&format!("{xb}.attn2.proj"), &a2), &mx[8]));
    }
    let x = feed_forward(net, &xb, &x, &mx);
    if last {
        return (x, None);
    }
    let text = op::add(cx, text, &op::gate(cx, &net.linear(&format!("{tb}.attn.proj"), &at), &mt[2]));
    (x, Some(feed_forward(net, &tb, &text, &mt)))
}

fn feed_forward(net: &Net, path: &str, x: &Var, m: &[Var]) -> Var {
    let cx = net.cx;
    let n = op::modulate(cx, &op::layer_norm_plain(cx, x, EPS), &m[4], Some(&m[3]));
    let h = op::gelu_tanh(cx, &net.linear(&format!("{path}.mlp.fc1"), &n));
    op::add(cx, x, &op::gate(cx, &net.linear(&format!("{path}.mlp.fc2"), &h), &m[5]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_sizes() {
        for (config, tensors, parameters) in [
            (MmditConfig::sd3_medium(), 491, 2_028_328_000 + 56_623_104usize),
            (MmditConfig::sd35_medium(), 665, 2_243_171_520 + 226_492_416),
            (MmditConfig::sd35_large(), 923, 8_056_627_520 + 89_653_248),
        ] {
            let shapes = config.shapes();
            assert_eq!(shapes.iter().map(|(_, s)| s.iter().product::<usize>()).sum::<usize>(), parameters);
            assert_eq!(shapes.len(), tensors);
            let map: std::collections::HashMap<_, _> = shapes.into_iter().collect();
            assert_eq!(MmditConfig::infer(&map, None), Ok(config));
        }
    }
}
