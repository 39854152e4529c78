//! The U-Nets of Stable Diffusion 1.x, 2.x and XL at any size (Rombach et al. 2022; Podell et al. 2023), Diffusers
//! weight names.
//!
//! `forward(x [B, C, H, W], t [B], context [B, S, D], pooled [B, P]) -> [B, C, H, W]`. Sizes come from the weights'
//! shapes; only head counts and the number of norm groups cannot be seen there.

mod sizes;

use pipe_ops::op::{self, AttentionArgs};
use pipe_ops::{DType, Tensor, Var};

use crate::embed::{sinusoidal, sinusoidal_values};
use crate::net::Net;
use crate::segment::{Builder, Slot};

pub use sizes::{SizeConditions, UnetConfig, UnetHints};

impl UnetConfig {
    /// Adds the segments; `x` is the noisy latent, `context` the text embeddings, `pooled` the pooled text of a model
    /// with size conditions. Gives the prediction's slot.
    pub fn build(&self, b: &mut Builder, part: &str, x: Slot, context: Slot, pooled: Option<Slot>) -> Slot {
        b.part(part);
        let c = self.clone();
        let (first, sizes) = (self.widths[0], self.sizes);
        let conditions: Vec<Slot> = pooled.filter(|_| sizes.is_some()).into_iter().collect();
        let emb = b.push("time_embedding", &["time_embedding", "add_embedding"], &conditions, move |net, x| {
            let e = Var::constant(sinusoidal(net.cx, &net.inputs.timesteps, first, 1.0));
            let mut e = net.mlp_silu("time_embedding.linear_1", "time_embedding.linear_2", &e);
            if let (Some(sizes), Some(pooled)) = (sizes, x.first()) {
                let y = Var::constant(size_embedding(net, sizes));
                let y = op::concat(net.cx, &[pooled, &y], 1);
                let y = net.mlp_silu("add_embedding.linear_1", "add_embedding.linear_2", &y);
                e = op::add(net.cx, &e, &y);
            }
            op::silu(net.cx, &e)
        });
        let mut h = b.push("conv_in", &["conv_in"], &[x], |net, x| net.conv("conv_in", &x[0], 1, [1; 4]));
        let mut skips = vec![h];
        for i in 0..self.widths.len() {
            for j in 0..self.layers {
                h = self.unit(b, &format!("down_blocks.{i}"), j, i, [h, emb, context], None);
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
        let groups = self.groups;
        h = b.push("mid_block.resnets.0", &["mid_block.resnets.0"], &[h, emb], move |net, x| {
            resnet(net, "mid_block.resnets.0", &x[0], &x[1], groups)
        });
        h = self.transformer(b, "mid_block.attentions.0", self.mid_depth, self.heads[last], h, context);
        h = b.push("mid_block.resnets.1", &["mid_block.resnets.1"], &[h, emb], move |net, x| {
            resnet(net, "mid_block.resnets.1", &x[0], &x[1], groups)
        });
        for i in 0..self.widths.len() {
            let level = last - i;
            for j in 0..=self.layers {
                let skip = skips.pop().unwrap_or(h);
                h = self.unit(b, &format!("up_blocks.{i}"), j, level, [h, emb, context], Some(skip));
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
        [h, emb, context]: [Slot; 3],
        skip: Option<Slot>,
    ) -> Slot {
        let groups = self.groups;
        let res = format!("{block}.resnets.{j}");
        let mut slots = vec![h, emb];
        slots.extend(skip);
        let h = b.push(res.clone(), &[&res.clone()], &slots, move |net, x| {
            let h = match x.get(2) {
                Some(skip) => op::concat(net.cx, &[&x[0], skip], 1),
                None => x[0].clone(),
            };
            resnet(net, &res, &h, &x[1], groups)
        });
        self.transformer(b, &format!("{block}.attentions.{j}"), self.depth[level], self.heads[level], h, context)
    }

    /// Spatial transformer: group norm, projection, transformer blocks on pixels as tokens, projection, residual.
    /// One block is one segment with its projections; of several, each is a segment of its own.
    fn transformer(&self, b: &mut Builder, path: &str, depth: usize, heads: usize, h: Slot, context: Slot) -> Slot {
        let (groups, path) = (self.groups, path.to_string());
        if depth == 0 {
            return h;
        }
        let weights = path.clone();
        if depth == 1 {
            return b.push(path.clone(), &[&weights], &[h, context], move |net, x| {
                let y = enter(net, &path, &x[0], groups);
                let y = block(net, &format!("{path}.transformer_blocks.0"), &y, &x[1], heads);
                leave(net, &path, &y, &x[0])
            });
        }
        let entry = path.clone();
        let parts = [format!("{path}.norm"), format!("{path}.proj_in")];
        let mut y = b.push(format!("{path}.proj_in"), &[&parts[0], &parts[1]], &[h], move |net, x| {
            enter(net, &entry, &x[0], groups)
        });
        for i in 0..depth {
            let layer = format!("{path}.transformer_blocks.{i}");
            let weights = layer.clone();
            y = b
                .push(layer.clone(), &[&weights], &[y, context], move |net, x| block(net, &layer, &x[0], &x[1], heads));
        }
        let out = format!("{path}.proj_out");
        b.push(out.clone(), &[&out], &[y, h], move |net, x| leave(net, &path, &x[0], &x[1]))
    }
}

/// Sinusoidal embeddings of the six sizes of each sample, `[B, 6·E]`.
fn size_embedding(net: &Net, c: SizeConditions) -> Tensor {
    let sizes = &net.inputs.sizes;
    let values = sinusoidal_values(sizes.as_flattened(), c.embedding, 1.0);
    net.cx.device.tensor(values, &[sizes.len(), 6 * c.embedding], DType::F32).cast(net.cx.compute)
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

/// Pixels as tokens, normalised and projected.
fn enter(net: &Net, path: &str, x: &Var, groups: usize) -> Var {
    let y = net.group_norm(&format!("{path}.norm"), x, groups, 1e-6, false);
    net.linear(&format!("{path}.proj_in"), &op::to_tokens(net.cx, &y))
}

/// Tokens back to pixels, added to what entered.
fn leave(net: &Net, path: &str, y: &Var, x: &Var) -> Var {
    let y = net.linear(&format!("{path}.proj_out"), y);
    op::add(net.cx, &op::from_tokens(net.cx, &y, x.dim(2), x.dim(3)), x)
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
