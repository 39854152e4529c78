//! The U-Net of Stable Diffusion 1.x and 2.x at any size (Rombach et al. 2022), Diffusers weight names.
//!
//! `forward(x [B, C, H, W], t [B], context [B, S, D]) -> [B, C, H, W]`. Sizes come from the weights'
//! shapes; only head counts and the number of norm groups cannot be seen there.

use pipe_ops::Var;
use pipe_ops::op::{self, AttentionArgs};

use crate::embed::sinusoidal;
use crate::net::Net;
use crate::segment::{Builder, Slot};

/// Shapes of a U-Net.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct UnetConfig {
    /// Latent channels in and out.
    pub channels: usize,
    /// Width of each level, from full resolution down.
    pub widths: Vec<usize>,
    /// Residual blocks of a level on the way down (one more on the way up).
    pub layers: usize,
    /// Transformer blocks of a level's attention; 0 where a level has none.
    pub depth: Vec<usize>,
    /// Transformer blocks of the middle.
    pub mid_depth: usize,
    /// Attention heads of each level.
    pub heads: Vec<usize>,
    /// Width of the text embeddings.
    pub context: usize,
    /// Width of the time embedding.
    pub time: usize,
    /// Groups of the group norms.
    pub groups: usize,
    /// `proj_in` and `proj_out` are linear layers rather than 1×1 convolutions.
    pub linear_projection: bool,
}

/// What shapes cannot tell, from `config.json` or the document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UnetHints {
    /// Heads of each level (one value stands for all).
    pub heads: Option<Vec<usize>>,
    /// Width of a head, instead of `heads`.
    pub head_dim: Option<usize>,
    /// Groups of the group norms.
    pub groups: Option<usize>,
}

/// The U-Net's tensors as `(name, shape)`.
pub type Shapes = Vec<(String, Vec<usize>)>;

impl UnetConfig {
    /// Reads sizes from shapes of internal names; says which tensor is missing or odd.
    pub fn infer(shape: impl Fn(&str) -> Option<Vec<usize>>, hints: &UnetHints) -> Result<Self, String> {
        let need = |name: &str| shape(name).ok_or_else(|| format!("tensor `{name}` is missing"));
        let conv_in = need("conv_in.weight")?;
        if conv_in.len() != 4 {
            return Err(format!("`conv_in.weight` has shape {conv_in:?}, not four axes"));
        }
        let mut widths = Vec::new();
        let mut depth = Vec::new();
        while let Some(s) = shape(&format!("down_blocks.{}.resnets.0.conv1.weight", widths.len())) {
            let level = widths.len();
            widths.push(s.first().copied().unwrap_or(0));
            let mut n = 0;
            while shape(&format!("down_blocks.{level}.attentions.0.transformer_blocks.{n}.norm1.weight")).is_some() {
                n += 1;
            }
            depth.push(n);
        }
        if widths.is_empty() {
            return Err("tensor `down_blocks.0.resnets.0.conv1.weight` is missing".into());
        }
        let mut layers = 0;
        while shape(&format!("down_blocks.0.resnets.{layers}.conv1.weight")).is_some() {
            layers += 1;
        }
        let mut mid_depth = 0;
        while shape(&format!("mid_block.attentions.0.transformer_blocks.{mid_depth}.norm1.weight")).is_some() {
            mid_depth += 1;
        }
        let key = need("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")?;
        let context = key.get(1).copied().unwrap_or(0);
        let linear_projection = need("mid_block.attentions.0.proj_in.weight")?.len() == 2;
        let time = need("time_embedding.linear_1.weight")?.first().copied().unwrap_or(0);
        let heads = match (&hints.heads, hints.head_dim) {
            (Some(h), _) if h.len() == 1 => vec![h[0]; widths.len()],
            (Some(h), _) if h.len() == widths.len() => h.clone(),
            (Some(h), _) => return Err(format!("{} head counts for {} levels", h.len(), widths.len())),
            (None, Some(d)) => widths.iter().map(|w| w / d.max(1)).collect(),
            // SD 2.x has heads of width 64, SD 1.x eight heads everywhere.
            (None, None) if context == 1024 => widths.iter().map(|w| (w / 64).max(1)).collect(),
            (None, None) => vec![8; widths.len()],
        };
        let groups = hints.groups.unwrap_or(32);
        for (w, h) in widths.iter().zip(&heads) {
            if groups == 0 || !w.is_multiple_of(groups) {
                return Err(format!(
                    "{w} channels cannot be normalised in {groups} groups; set `config: {{ norm_groups: … }}`"
                ));
            }
            if *h == 0 || !w.is_multiple_of(*h) {
                return Err(format!("{w} channels cannot be split into {h} heads; set `config: {{ heads: … }}`"));
            }
        }
        Ok(UnetConfig {
            channels: conv_in[1],
            widths,
            layers,
            depth,
            mid_depth,
            heads,
            context,
            time,
            groups,
            linear_projection,
        })
    }

    /// SD 1.5 at full size.
    pub fn sd15() -> Self {
        UnetConfig {
            channels: 4,
            widths: vec![320, 640, 1280, 1280],
            layers: 2,
            depth: vec![1, 1, 1, 0],
            mid_depth: 1,
            heads: vec![8; 4],
            context: 768,
            time: 1280,
            groups: 32,
            linear_projection: false,
        }
    }

    /// Down-sampling factor of the latent.
    pub fn factor(&self) -> usize {
        1 << (self.widths.len() - 1)
    }

    /// Every tensor with its shape.
    pub fn shapes(&self) -> Shapes {
        let mut s = ShapeList { list: Vec::new(), c: self };
        let (first, last) = (self.widths[0], self.widths[self.widths.len() - 1]);
        s.conv("conv_in", self.channels, first, 3);
        s.linear("time_embedding.linear_1", first, self.time, true);
        s.linear("time_embedding.linear_2", self.time, self.time, true);
        let mut width = first;
        let mut skips = vec![first];
        for (i, &w) in self.widths.iter().enumerate() {
            for j in 0..self.layers {
                s.resnet(&format!("down_blocks.{i}.resnets.{j}"), width, w);
                width = w;
                if self.depth[i] > 0 {
                    s.transformer(&format!("down_blocks.{i}.attentions.{j}"), w, self.depth[i]);
                }
                skips.push(w);
            }
            if i + 1 < self.widths.len() {
                s.conv(&format!("down_blocks.{i}.downsamplers.0.conv"), w, w, 3);
                skips.push(w);
            }
        }
        s.resnet("mid_block.resnets.0", last, last);
        s.transformer("mid_block.attentions.0", last, self.mid_depth);
        s.resnet("mid_block.resnets.1", last, last);
        let levels = self.widths.len();
        for i in 0..levels {
            let level = levels - 1 - i;
            let w = self.widths[level];
            for j in 0..=self.layers {
                let skip = skips.pop().unwrap_or(0);
                s.resnet(&format!("up_blocks.{i}.resnets.{j}"), width + skip, w);
                width = w;
                if self.depth[level] > 0 {
                    s.transformer(&format!("up_blocks.{i}.attentions.{j}"), w, self.depth[level]);
                }
            }
            if level > 0 {
                s.conv(&format!("up_blocks.{i}.upsamplers.0.conv"), w, w, 3);
            }
        }
        s.norm("conv_norm_out", first);
        s.conv("conv_out", first, self.channels, 3);
        s.list
    }

    /// Adds the segments; `x` is the noisy latent, `context` the text embeddings. Gives the prediction's slot.
    pub fn build(&self, b: &mut Builder, x: Slot, context: Slot) -> Slot {
        b.part("unet");
        let c = self.clone();
        let first = self.widths[0];
        let emb = b.push("time_embedding", &["time_embedding"], &[], move |net, _| {
            let e = Var::constant(sinusoidal(net.cx, &net.inputs.timesteps, first, 1.0));
            let e = op::silu(net.cx, &net.linear("time_embedding.linear_1", &e));
            op::silu(net.cx, &net.linear("time_embedding.linear_2", &e))
        });
        let mut h = b.push("conv_in", &["conv_in"], &[x], |net, x| net.conv("conv_in", &x[0], 1, [1; 4]));
        let mut skips = vec![h];
        for (i, &w) in self.widths.iter().enumerate() {
            for j in 0..self.layers {
                h = self.unit(b, &format!("down_blocks.{i}"), j, i, w, &[h, emb, context], None);
                skips.push(h);
            }
            if i + 1 < self.widths.len() {
                let path = format!("down_blocks.{i}.downsamplers.0.conv");
                h = b.push(path.clone(), &[&path], &[h], {
                    let path = path.clone();
                    move |net, x| net.conv(&path, &x[0], 2, [1; 4])
                });
                skips.push(h);
            }
        }
        let last = self.widths.len() - 1;
        let heads = self.heads[last];
        h = b.push("mid_block", &["mid_block"], &[h, emb, context], {
            let c = c.clone();
            move |net, x| {
                let h = resnet(net, "mid_block.resnets.0", &x[0], &x[1], c.groups);
                let h = transformer(net, "mid_block.attentions.0", &h, &x[2], c.mid_depth, heads, c.groups);
                resnet(net, "mid_block.resnets.1", &h, &x[1], c.groups)
            }
        });
        for i in 0..self.widths.len() {
            let level = last - i;
            for j in 0..=self.layers {
                let skip = skips.pop().unwrap_or(h);
                h = self.unit(
                    b,
                    &format!("up_blocks.{i}"),
                    j,
                    level,
                    self.widths[level],
                    &[h, emb, context],
                    Some(skip),
                );
            }
            if level > 0 {
                let path = format!("up_blocks.{i}.upsamplers.0.conv");
                // The skip that comes next gives the size: odd latents are not simply doubled.
                let like = skips.last().copied().unwrap_or(h);
                h = b.push(path.clone(), &[&path], &[h, like], {
                    let path = path.clone();
                    move |net, x| {
                        let up = op::upsample(net.cx, &x[0], x[1].dim(2), x[1].dim(3));
                        net.conv(&path, &up, 1, [1; 4])
                    }
                });
            }
        }
        b.push("conv_out", &["conv_norm_out", "conv_out"], &[h], move |net, x| {
            let h = net.group_norm("conv_norm_out", &x[0], c.groups, 1e-5, true);
            net.conv("conv_out", &h, 1, [1; 4])
        })
    }

    /// One residual block and, where the level has it, the attention behind it.
    fn unit(
        &self,
        b: &mut Builder,
        block: &str,
        j: usize,
        level: usize,
        _w: usize,
        inputs: &[Slot],
        skip: Option<Slot>,
    ) -> Slot {
        let (groups, depth, heads) = (self.groups, self.depth[level], self.heads[level]);
        let res = format!("{block}.resnets.{j}");
        let attn = format!("{block}.attentions.{j}");
        let mut slots = inputs.to_vec();
        slots.extend(skip);
        if depth == 0 {
            slots.remove(2); // the context is not read
        }
        let name = if depth > 0 { format!("{res} + attention") } else { res.clone() };
        b.push(name, &[&res.clone(), &attn.clone()], &slots, move |net, x| {
            let h = match (depth > 0, x.len()) {
                (true, 4) | (false, 3) => op::concat(net.cx, &[&x[0], &x[x.len() - 1]], 1),
                _ => x[0].clone(),
            };
            let h = resnet(net, &res, &h, &x[1], groups);
            if depth > 0 { transformer(net, &attn, &h, &x[2], depth, heads, groups) } else { h }
        })
    }
}

/// Residual block; `emb` is already through SiLU.
fn resnet(net: &Net, path: &str, x: &Var, emb: &Var, groups: usize) -> Var {
    let h = net.group_norm(&format!("{path}.norm1"), x, groups, 1e-5, true);
    let h = net.conv(&format!("{path}.conv1"), &h, 1, [1; 4]);
    let e = net.linear(&format!("{path}.time_emb_proj"), emb);
    let h = op::add_channels(net.cx, &h, &e);
    let h = net.group_norm(&format!("{path}.norm2"), &h, groups, 1e-5, true);
    let h = net.conv(&format!("{path}.conv2"), &h, 1, [1; 4]);
    let shortcut = format!("{path}.conv_shortcut");
    let x = if net.optional(&format!("{shortcut}.weight")).is_some() {
        net.conv(&shortcut, x, 1, [0; 4])
    } else {
        x.clone()
    };
    op::add(net.cx, &x, &h)
}

/// Spatial transformer: group norm, projection, transformer blocks on pixels as tokens, projection, residual.
fn transformer(net: &Net, path: &str, x: &Var, context: &Var, depth: usize, heads: usize, groups: usize) -> Var {
    let (h, w) = (x.dim(2), x.dim(3));
    let y = net.group_norm(&format!("{path}.norm"), x, groups, 1e-6, false);
    let mut y = net.linear(&format!("{path}.proj_in"), &op::to_tokens(net.cx, &y));
    for i in 0..depth {
        y = block(net, &format!("{path}.transformer_blocks.{i}"), &y, context, heads);
    }
    let y = net.linear(&format!("{path}.proj_out"), &y);
    op::add(net.cx, &op::from_tokens(net.cx, &y, h, w), x)
}

fn block(net: &Net, path: &str, x: &Var, context: &Var, heads: usize) -> Var {
    let cx = net.cx;
    let attend = |name: &str, x: &Var, source: &Var| {
        let q = net.linear(&format!("{path}.{name}.to_q"), x);
        let k = net.linear(&format!("{path}.{name}.to_k"), source);
        let v = net.linear(&format!("{path}.{name}.to_v"), source);
        let o = op::attention(cx, &q, &k, &v, &AttentionArgs::heads(heads));
        net.linear(&format!("{path}.{name}.to_out.0"), &o)
    };
    let n = net.layer_norm(&format!("{path}.norm1"), x, 1e-5);
    let x = op::add(cx, x, &attend("attn1", &n, &n));
    let n = net.layer_norm(&format!("{path}.norm2"), &x, 1e-5);
    let x = op::add(cx, &x, &attend("attn2", &n, context));
    let n = net.layer_norm(&format!("{path}.norm3"), &x, 1e-5);
    let h = op::geglu(cx, &net.linear(&format!("{path}.ff.net.0.proj"), &n));
    op::add(cx, &x, &net.linear(&format!("{path}.ff.net.2"), &h))
}

struct ShapeList<'a> {
    list: Shapes,
    c: &'a UnetConfig,
}

impl ShapeList<'_> {
    fn add(&mut self, name: String, shape: &[usize]) {
        self.list.push((name, shape.to_vec()));
    }
    fn linear(&mut self, path: &str, i: usize, o: usize, bias: bool) {
        self.add(format!("{path}.weight"), &[o, i]);
        if bias {
            self.add(format!("{path}.bias"), &[o]);
        }
    }
    fn conv(&mut self, path: &str, i: usize, o: usize, k: usize) {
        self.add(format!("{path}.weight"), &[o, i, k, k]);
        self.add(format!("{path}.bias"), &[o]);
    }
    fn norm(&mut self, path: &str, c: usize) {
        self.add(format!("{path}.weight"), &[c]);
        self.add(format!("{path}.bias"), &[c]);
    }
    fn resnet(&mut self, path: &str, i: usize, o: usize) {
        self.norm(&format!("{path}.norm1"), i);
        self.conv(&format!("{path}.conv1"), i, o, 3);
        self.linear(&format!("{path}.time_emb_proj"), self.c.time, o, true);
        self.norm(&format!("{path}.norm2"), o);
        self.conv(&format!("{path}.conv2"), o, o, 3);
        if i != o {
            self.conv(&format!("{path}.conv_shortcut"), i, o, 1);
        }
    }
    fn transformer(&mut self, path: &str, w: usize, depth: usize) {
        self.norm(&format!("{path}.norm"), w);
        let projection = |s: &mut Self, name: &str| {
            if s.c.linear_projection {
                s.linear(&format!("{path}.{name}"), w, w, true);
            } else {
                s.conv(&format!("{path}.{name}"), w, w, 1);
            }
        };
        projection(self, "proj_in");
        for i in 0..depth {
            let p = format!("{path}.transformer_blocks.{i}");
            for (name, source) in [("attn1", w), ("attn2", self.c.context)] {
                self.linear(&format!("{p}.{name}.to_q"), w, w, false);
                self.linear(&format!("{p}.{name}.to_k"), source, w, false);
                self.linear(&format!("{p}.{name}.to_v"), source, w, false);
                self.linear(&format!("{p}.{name}.to_out.0"), w, w, true);
            }
            self.linear(&format!("{p}.ff.net.0.proj"), w, 8 * w, true);
            self.linear(&format!("{p}.ff.net.2"), 4 * w, w, true);
            for n in 1..=3 {
                self.norm(&format!("{p}.norm{n}"), w);
            }
        }
        projection(self, "proj_out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sd15_has_its_size_and_is_inferred_from_shapes() {
        let config = UnetConfig::sd15();
        let shapes = config.shapes();
        assert_eq!(shapes.len(), 686);
        assert_eq!(shapes.iter().map(|(_, s)| s.iter().product::<usize>()).sum::<usize>(), 859_520_964);
        let map: std::collections::HashMap<_, _> = shapes.into_iter().collect();
        assert_eq!(UnetConfig::infer(|n| map.get(n).cloned(), &UnetHints::default()), Ok(config));
    }
}
