//! The FLUX.1 transformer (Black Forest Labs 2024), the authors' weight names.
//!
//! `forward(x [B, C, H, W], t = σ, guidance, context [B, S, 4096], pooled [B, 768]) -> velocity ε − z [B, C, H, W]`.
//! The latent is packed to tokens of 2×2 pixels inside.

use pipe_ops::Var;
use pipe_ops::op::{self, AttentionArgs, Pairs, PatchOrder, RopeTable};

use crate::embed::{RopeCache, rope_angles, sinusoidal};
use crate::mmdit::chunks;
use crate::net::Net;
use crate::segment::{Builder, Slot};
use crate::shapes::{List, Reader, Shapes, SizesError, Stored, split};

/// Width of the sinusoidal embeddings.
const TIME: usize = 256;
/// ε of norms.
const EPS: f32 = 1e-6;
/// Side of a patch.
const PATCH: usize = 2;

/// Sizes of a FLUX transformer.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct FluxConfig {
    /// Width.
    pub width: usize,
    /// Heads.
    pub heads: usize,
    /// Blocks with separate weights for text and image.
    pub double: usize,
    /// Blocks with shared weights.
    pub single: usize,
    /// Latent channels.
    pub channels: usize,
    /// Width of the text embeddings.
    pub context: usize,
    /// Width of the pooled text.
    pub pooled: usize,
    /// Width of the MLPs.
    pub mlp: usize,
    /// The guidance scale is an input (dev).
    pub guidance: bool,
    /// Rotary dimensions of a head for each of the three position axes.
    pub axes: [usize; 3],
}

impl FluxConfig {
    /// Reads sizes from shapes; `axes` defaults to 16, 56, 56 parts of 128.
    pub fn infer(stored: &impl Stored, axes: Option<[usize; 3]>) -> Result<Self, SizesError> {
        let r = Reader(stored);
        let img = r.need("img_in.weight", 2)?;
        let txt = r.need("txt_in.weight", 2)?;
        let head = r.need("double_blocks.0.img_attn.norm.query_norm.scale", 1)?[0];
        let axes = axes.unwrap_or([head / 8, head / 16 * 7, head / 16 * 7]);
        if axes.iter().sum::<usize>() != head || axes.iter().any(|a| a % 2 != 0) {
            return Err(SizesError::Odd(format!("position axes {axes:?} do not make up a head of {head}")));
        }
        Ok(FluxConfig {
            width: img[0],
            heads: split("width by heads", img[0], head)?,
            double: r.count("double_blocks.{}."),
            single: r.count("single_blocks.{}."),
            channels: split("input width by patches", img[1], PATCH * PATCH)?,
            context: txt[1],
            pooled: r.need("vector_in.in_layer.weight", 2)?[1],
            mlp: r.need("double_blocks.0.img_mlp.0.weight", 2)?[0],
            guidance: r.has("guidance_in.in_layer.weight"),
            axes,
        })
    }

    /// FLUX.1 dev.
    pub fn dev() -> Self {
        FluxConfig {
            width: 3072,
            heads: 24,
            double: 19,
            single: 38,
            channels: 16,
            context: 4096,
            pooled: 768,
            mlp: 12288,
            guidance: true,
            axes: [16, 56, 56],
        }
    }
    /// FLUX.1 schnell.
    pub fn schnell() -> Self {
        FluxConfig { guidance: false, ..Self::dev() }
    }

    /// Every tensor with its shape.
    pub fn shapes(&self) -> Shapes {
        let (d, head) = (self.width, self.width / self.heads);
        let mut l = List::default();
        l.linear("img_in", self.channels * PATCH * PATCH, d, true);
        l.linear("txt_in", self.context, d, true);
        let embedders =
            [("time_in", TIME, true), ("vector_in", self.pooled, true), ("guidance_in", TIME, self.guidance)];
        for (name, input, _) in embedders.into_iter().filter(|e| e.2) {
            l.linear(&format!("{name}.in_layer"), input, d, true);
            l.linear(&format!("{name}.out_layer"), d, d, true);
        }
        let norms = |l: &mut List, path: &str| {
            l.add(format!("{path}.query_norm.scale"), &[head]);
            l.add(format!("{path}.key_norm.scale"), &[head]);
        };
        for i in 0..self.double {
            for stream in ["img", "txt"] {
                let p = format!("double_blocks.{i}.{stream}");
                l.linear(&format!("{p}_mod.lin"), d, 6 * d, true);
                l.linear(&format!("{p}_attn.qkv"), d, 3 * d, true);
                norms(&mut l, &format!("{p}_attn.norm"));
                l.linear(&format!("{p}_attn.proj"), d, d, true);
                l.linear(&format!("{p}_mlp.0"), d, self.mlp, true);
                l.linear(&format!("{p}_mlp.2"), self.mlp, d, true);
            }
        }
        for i in 0..self.single {
            let p = format!("single_blocks.{i}");
            l.linear(&format!("{p}.linear1"), d, 3 * d + self.mlp, true);
            l.linear(&format!("{p}.linear2"), d + self.mlp, d, true);
            norms(&mut l, &format!("{p}.norm"));
            l.linear(&format!("{p}.modulation.lin"), d, 3 * d, true);
        }
        l.linear("final_layer.linear", d, self.channels * PATCH * PATCH, true);
        l.linear("final_layer.adaLN_modulation.1", d, 2 * d, true);
        l.0
    }

    /// Adds the segments; gives the velocity's slot.
    pub fn build(&self, b: &mut Builder, part: &str, x: Slot, context: Slot, pooled: Slot) -> Slot {
        b.part(part);
        let guided = self.guidance;
        let vec = b.push("conditions", &["time_in", "vector_in", "guidance_in"], &[pooled], move |net, x| {
            let embed =
                |name: &str, x: &Var| net.mlp_silu(&format!("{name}.in_layer"), &format!("{name}.out_layer"), x);
            let sin = |values: &[f32]| Var::constant(sinusoidal(net.cx, values, TIME, 1000.0));
            let mut v = embed("time_in", &sin(&net.inputs.timesteps));
            if guided {
                v = op::add(net.cx, &v, &embed("guidance_in", &sin(&net.inputs.guidance)));
            }
            v = op::add(net.cx, &v, &embed("vector_in", &x[0]));
            // Every reader applies SiLU first.
            op::silu(net.cx, &v)
        });
        let mut img = b.push("img_in", &["img_in"], &[x], |net, x| {
            net.linear("img_in", &op::patchify(net.cx, &x[0], PATCH, PatchOrder::ChannelFirst))
        });
        let mut txt = b.push("txt_in", &["txt_in"], &[context], |net, x| net.linear("txt_in", &x[0]));
        let tables = RopeCache::default();
        for i in 0..self.double {
            let (path, config, tables) = (format!("double_blocks.{i}"), self.clone(), tables.clone());
            let (name, weights) = (path.clone(), self.double_weights(i));
            let weights: Vec<&str> = weights.iter().map(String::as_str).collect();
            [img, txt] = b.push_two(name, &weights, &[img, txt, vec], move |net, x| {
                double_block(net, &path, &config, [&x[0], &x[1], &x[2]], &tables)
            });
        }
        let mut h = b.push("joint sequence", &[], &[txt, img], |net, x| op::concat(net.cx, &[&x[0], &x[1]], 1));
        for i in 0..self.single {
            let (path, config, tables) = (format!("single_blocks.{i}"), self.clone(), tables.clone());
            let weights = path.clone();
            h = b.push(path.clone(), &[&weights], &[h, vec], move |net, x| {
                single_block(net, &path, &config, &x[0], &x[1], &tables)
            });
        }
        b.push("final_layer", &["final_layer"], &[h, vec], |net, x| {
            let [height, width] = net.inputs.latent;
            let (rows, columns) = (height / PATCH, width / PATCH);
            let n = rows * columns;
            let img = op::narrow(net.cx, &x[0], 1, x[0].dim(1) - n, n);
            let m = chunks(net, "final_layer.adaLN_modulation.1", &x[1], 2);
            let y = op::modulate(net.cx, &op::layer_norm_plain(net.cx, &img, EPS), &m[1], Some(&m[0]));
            let y = net.linear("final_layer.linear", &y);
            op::unpatchify(net.cx, &y, rows, columns, PATCH, PatchOrder::ChannelFirst)
        })
    }

    fn double_weights(&self, i: usize) -> Vec<String> {
        let names = ["mod", "attn", "mlp"];
        ["img", "txt"].iter().flat_map(|s| names.map(|n| format!("double_blocks.{i}.{s}_{n}"))).collect()
    }

    /// Text tokens stand at (0, 0, 0), image tokens at (0, row, column).
    fn table(&self, net: &Net, text: usize, tables: &RopeCache) -> RopeTable {
        let [height, width] = net.inputs.latent;
        let (rows, columns) = (height / PATCH, width / PATCH);
        tables.get(net.cx, &[text, rows, columns], || {
            let axes = self.axes.map(|d| axis_frequencies(d, 10000.0));
            let half: usize = axes.iter().map(Vec::len).sum();
            let mut angles = vec![0.0; text * half];
            for row in 0..rows {
                for column in 0..columns {
                    for (position, axis) in [0, row, column].iter().zip(&axes) {
                        angles.extend(rope_angles(&[*position as f64], axis));
                    }
                }
            }
            (angles, [1, text + rows * columns, half])
        })
    }
}

/// `θ^(−2k/d)`, k = 0..d/2.
pub(crate) fn axis_frequencies(d: usize, theta: f64) -> Vec<f64> {
    (0..d / 2).map(|k| theta.powf(-2.0 * k as f64 / d as f64)).collect()
}

/// q, k and v out of a fused projection, q and k normalised by head.
fn split_qkv(net: &Net, norm: &str, fused: &Var, d: usize) -> [Var; 3] {
    let part = |i: usize| op::narrow(net.cx, fused, 2, i * d, d);
    let q = net.head_norm(&format!("{norm}.query_norm.scale"), &part(0), EPS);
    let k = net.head_norm(&format!("{norm}.key_norm.scale"), &part(1), EPS);
    [q, k, part(2)]
}

fn attend(net: &Net, c: &FluxConfig, [q, k, v]: [&Var; 3], text: usize, tables: &RopeCache) -> Var {
    let table = c.table(net, text, tables);
    let q = op::rope(net.cx, q, c.heads, &table, Pairs::Adjacent);
    let k = op::rope(net.cx, k, c.heads, &table, Pairs::Adjacent);
    let args = AttentionArgs { mask: net.text_mask(q.dim(1) - text), ..AttentionArgs::heads(c.heads) };
    op::attention(net.cx, &q, &k, v, &args)
}

fn double_block(net: &Net, path: &str, c: &FluxConfig, [img, txt, vec]: [&Var; 3], tables: &RopeCache) -> [Var; 2] {
    let cx = net.cx;
    let streams = [("img", img), ("txt", txt)].map(|(name, x)| {
        let m = chunks(net, &format!("{path}.{name}_mod.lin"), vec, 6);
        let n = op::modulate(cx, &op::layer_norm_plain(cx, x, EPS), &m[1], Some(&m[0]));
        let fused = net.linear(&format!("{path}.{name}_attn.qkv"), &n);
        (m, split_qkv(net, &format!("{path}.{name}_attn.norm"), &fused, c.width))
    });
    let [(mi, qi), (mt, qt)] = streams;
    let joined: Vec<Var> = qt.iter().zip(&qi).map(|(t, i)| op::concat(cx, &[t, i], 1)).collect();
    let a = attend(net, c, [&joined[0], &joined[1], &joined[2]], txt.dim(1), tables);
    let (st, si) = (txt.dim(1), img.dim(1));
    let parts = [("img", img, mi, op::narrow(cx, &a, 1, st, si)), ("txt", txt, mt, op::narrow(cx, &a, 1, 0, st))];
    parts.map(|(name, x, m, a)| {
        let x = op::add(cx, x, &op::gate(cx, &net.linear(&format!("{path}.{name}_attn.proj"), &a), &m[2]));
        let n = op::modulate(cx, &op::layer_norm_plain(cx, &x, EPS), &m[4], Some(&m[3]));
        let h = op::gelu_tanh(cx, &net.linear(&format!("{path}.{name}_mlp.0"), &n));
        op::add(cx, &x, &op::gate(cx, &net.linear(&format!("{path}.{name}_mlp.2"), &h), &m[5]))
    })
}

fn single_block(net: &Net, path: &str, c: &FluxConfig, x: &Var, vec: &Var, tables: &RopeCache) -> Var {
    let cx = net.cx;
    let m = chunks(net, &format!("{path}.modulation.lin"), vec, 3);
    let n = op::modulate(cx, &op::layer_norm_plain(cx, x, EPS), &m[1], Some(&m[0]));
    let fused = net.linear(&format!("{path}.linear1"), &n);
    let [q, k, v] = split_qkv(net, &format!("{path}.norm"), &fused, c.width);
    let h = op::gelu_tanh(cx, &op::narrow(cx, &fused, 2, 3 * c.width, c.mlp));
    let [height, width] = net.inputs.latent;
    let text = x.dim(1) - height / PATCH * (width / PATCH);
    let a = attend(net, c, [&q, &k, &v], text, tables);
    let y = net.linear(&format!("{path}.linear2"), &op::concat(cx, &[&a, &h], 2));
    op::add(cx, x, &op::gate(cx, &y, &m[2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_sizes() {
        for (config, tensors, parameters) in
            [(FluxConfig::dev(), 780, 11_901_408_320usize), (FluxConfig::schnell(), 776, 11_891_178_560)]
        {
            let shapes = config.shapes();
            assert_eq!(shapes.len(), tensors);
            assert_eq!(shapes.iter().map(|(_, s)| s.iter().product::<usize>()).sum::<usize>(), parameters);
            let map: std::collections::HashMap<_, _> = shapes.into_iter().collect();
            assert_eq!(FluxConfig::infer(&map, None), Ok(config));
        }
    }
}
