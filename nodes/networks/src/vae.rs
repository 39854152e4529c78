//! Convolutional autoencoder (AutoencoderKL, Rombach et al. 2022), Diffusers weight names, any size.
//!
//! Encoder: image `[B, 3, H, W]` in [−1, 1] → moments `[B, 2Z, H/f, W/f]` (mean | logvar).
//! Decoder: latent `[B, Z, h, w]` → image. All group norms have ε 1e-6; attention only in the middle.

use pipe_ops::Var;
use pipe_ops::op::{self, AttentionArgs};

use crate::net::Net;
use crate::segment::{Builder, Slot};
use crate::shapes::{Reader, SizesError, Stored};

/// Sizes of an autoencoder.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct VaeConfig {
    /// Width of each level, from full resolution down.
    pub widths: Vec<usize>,
    /// Residual blocks of an encoder level (the decoder has one more).
    pub layers: usize,
    /// Latent channels Z.
    pub latent: usize,
    /// 1×1 convolutions around the latent.
    pub quant: bool,
    /// Groups of the group norms.
    pub groups: usize,
    /// The middle has attention.
    pub attention: bool,
}

impl VaeConfig {
    /// Reads sizes from shapes of internal names.
    pub fn infer(stored: &impl Stored, groups: Option<usize>) -> Result<Self, SizesError> {
        let r = Reader(stored);
        let level = |i: usize| format!("encoder.down_blocks.{i}.resnets.");
        let levels = r.count("encoder.down_blocks.{}.").max(1);
        let widths = (0..levels).map(|i| Ok(r.need(&format!("{}0.conv1.weight", level(i)), 4)?[0]));
        let widths: Vec<usize> = widths.collect::<Result<_, SizesError>>()?;
        let layers = (0..levels).map(|i| r.count(&format!("{}{{}}.", level(i)))).max().unwrap_or(1);
        let latent = r.need("decoder.conv_in.weight", 4)?[1];
        let groups = groups.unwrap_or(32);
        if let Some(w) = widths.iter().find(|w| groups == 0 || !w.is_multiple_of(groups)) {
            return Err(SizesError::Odd(format!(
                "{w} channels cannot be normalised in {groups} groups; set `config: {{ norm_groups: … }}`"
            )));
        }
        Ok(VaeConfig {
            widths,
            layers,
            latent,
            quant: r.has("quant_conv.weight") || r.has("post_quant_conv.weight"),
            groups,
            attention: r.count("encoder.mid_block.attentions.{}.") > 0,
        })
    }

    /// The autoencoder of SD 1.x, 2.x and SDXL (`latent` 4) or SD3 and FLUX (`latent` 16, no quant convolutions).
    pub fn standard(latent: usize) -> Self {
        VaeConfig {
            widths: vec![128, 256, 512, 512],
            layers: 2,
            latent,
            quant: latent == 4,
            groups: 32,
            attention: true,
        }
    }

    /// Pixels of a latent cell along one axis.
    pub fn factor(&self) -> usize {
        1 << (self.widths.len() - 1)
    }

    /// Every tensor with its shape.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let mut s = Vec::new();
        let conv = |s: &mut Vec<_>, path: &str, i: usize, o: usize, k: usize| {
            s.push((format!("{path}.weight"), vec![o, i, k, k]));
            s.push((format!("{path}.bias"), vec![o]));
        };
        let norm = |s: &mut Vec<_>, path: &str, c: usize| {
            s.push((format!("{path}.weight"), vec![c]));
            s.push((format!("{path}.bias"), vec![c]));
        };
        let res = |s: &mut Vec<_>, path: &str, i: usize, o: usize| {
            norm(s, &format!("{path}.norm1"), i);
            conv(s, &format!("{path}.conv1"), i, o, 3);
            norm(s, &format!("{path}.norm2"), o);
            conv(s, &format!("{path}.conv2"), o, o, 3);
            if i != o {
                conv(s, &format!("{path}.conv_shortcut"), i, o, 1);
            }
        };
        let mid = |s: &mut Vec<_>, side: &str, c: usize| {
            res(s, &format!("{side}.mid_block.resnets.0"), c, c);
            if self.attention {
                let p = format!("{side}.mid_block.attentions.0");
                norm(s, &format!("{p}.group_norm"), c);
                for name in ["to_q", "to_k", "to_v", "to_out.0"] {
                    s.push((format!("{p}.{name}.weight"), vec![c, c]));
                    s.push((format!("{p}.{name}.bias"), vec![c]));
                }
            }
            res(s, &format!("{side}.mid_block.resnets.1"), c, c);
        };
        let (first, last) = (self.widths[0], self.widths[self.widths.len() - 1]);
        conv(&mut s, "encoder.conv_in", 3, first, 3);
        let mut width = first;
        for (i, &w) in self.widths.iter().enumerate() {
            for j in 0..self.layers {
                res(&mut s, &format!("encoder.down_blocks.{i}.resnets.{j}"), width, w);
                width = w;
            }
            if i + 1 < self.widths.len() {
                conv(&mut s, &format!("encoder.down_blocks.{i}.downsamplers.0.conv"), w, w, 3);
            }
        }
        mid(&mut s, "encoder", last);
        norm(&mut s, "encoder.conv_norm_out", last);
        conv(&mut s, "encoder.conv_out", last, 2 * self.latent, 3);
        if self.quant {
            conv(&mut s, "quant_conv", 2 * self.latent, 2 * self.latent, 1);
            conv(&mut s, "post_quant_conv", self.latent, self.latent, 1);
        }
        conv(&mut s, "decoder.conv_in", self.latent, last, 3);
        mid(&mut s, "decoder", last);
        let mut width = last;
        for (i, &w) in self.widths.iter().rev().enumerate() {
            for j in 0..=self.layers {
                res(&mut s, &format!("decoder.up_blocks.{i}.resnets.{j}"), width, w);
                width = w;
            }
            if i + 1 < self.widths.len() {
                conv(&mut s, &format!("decoder.up_blocks.{i}.upsamplers.0.conv"), w, w, 3);
            }
        }
        norm(&mut s, "decoder.conv_norm_out", first);
        conv(&mut s, "decoder.conv_out", first, 3, 3);
        s
    }

    /// Adds the encoder; `image` is a slot. Gives the slot of the moments.
    pub fn build_encoder(&self, b: &mut Builder, image: Slot) -> Slot {
        b.part("vae");
        let mut h = b.push("encoder.conv_in", &["encoder.conv_in"], &[image], |net, x| {
            net.conv("encoder.conv_in", &x[0], 1, [1; 4])
        });
        let groups = self.groups;
        for i in 0..self.widths.len() {
            for j in 0..self.layers {
                h = push_res(b, format!("encoder.down_blocks.{i}.resnets.{j}"), h, groups);
            }
            if i + 1 < self.widths.len() {
                let path = format!("encoder.down_blocks.{i}.downsamplers.0.conv");
                h = b.push(path.clone(), &[&path.clone()], &[h], move |net, x| {
                    net.conv(&path, &x[0], 2, op::downsample_pad())
                });
            }
        }
        h = self.push_mid(b, "encoder", h);
        let quant = self.quant;
        b.push("encoder.conv_out", &["encoder.conv_norm_out", "encoder.conv_out", "quant_conv"], &[h], move |net, x| {
            let h = net.group_norm("encoder.conv_norm_out", &x[0], groups, 1e-6, true);
            let h = net.conv("encoder.conv_out", &h, 1, [1; 4]);
            if quant { net.conv("quant_conv", &h, 1, [0; 4]) } else { h }
        })
    }

    /// Adds the decoder; `latent` is a slot with unscaled latents. Gives the slot of the image.
    pub fn build_decoder(&self, b: &mut Builder, latent: Slot) -> Slot {
        b.part("vae");
        let (quant, groups) = (self.quant, self.groups);
        let mut h = b.push("decoder.conv_in", &["post_quant_conv", "decoder.conv_in"], &[latent], move |net, x| {
            let z = if quant { net.conv("post_quant_conv", &x[0], 1, [0; 4]) } else { x[0].clone() };
            net.conv("decoder.conv_in", &z, 1, [1; 4])
        });
        h = self.push_mid(b, "decoder", h);
        for i in 0..self.widths.len() {
            for j in 0..=self.layers {
                h = push_res(b, format!("decoder.up_blocks.{i}.resnets.{j}"), h, groups);
            }
            if i + 1 < self.widths.len() {
                let path = format!("decoder.up_blocks.{i}.upsamplers.0.conv");
                h = b.push(path.clone(), &[&path.clone()], &[h], move |net, x| {
                    let up = op::upsample(net.cx, &x[0], 2 * x[0].dim(2), 2 * x[0].dim(3));
                    net.conv(&path, &up, 1, [1; 4])
                });
            }
        }
        b.push("decoder.conv_out", &["decoder.conv_norm_out", "decoder.conv_out"], &[h], move |net, x| {
            let h = net.group_norm("decoder.conv_norm_out", &x[0], groups, 1e-6, true);
            net.conv("decoder.conv_out", &h, 1, [1; 4])
        })
    }

    fn push_mid(&self, b: &mut Builder, side: &str, h: Slot) -> Slot {
        let (groups, attention) = (self.groups, self.attention);
        let path = format!("{side}.mid_block");
        b.push(path.clone(), &[&path.clone()], &[h], move |net, x| {
            let mut h = resnet(net, &format!("{path}.resnets.0"), &x[0], groups);
            if attention {
                h = middle_attention(net, &format!("{path}.attentions.0"), &h, groups);
            }
            resnet(net, &format!("{path}.resnets.1"), &h, groups)
        })
    }
}

fn push_res(b: &mut Builder, path: String, h: Slot, groups: usize) -> Slot {
    b.push(path.clone(), &[&path.clone()], &[h], move |net, x| resnet(net, &path, &x[0], groups))
}

fn resnet(net: &Net, path: &str, x: &Var, groups: usize) -> Var {
    let h = net.group_norm(&format!("{path}.norm1"), x, groups, 1e-6, true);
    let h = net.conv(&format!("{path}.conv1"), &h, 1, [1; 4]);
    let h = net.group_norm(&format!("{path}.norm2"), &h, groups, 1e-6, true);
    let h = net.conv(&format!("{path}.conv2"), &h, 1, [1; 4]);
    let shortcut = format!("{path}.conv_shortcut");
    let x = if net.optional(&format!("{shortcut}.weight")).is_some() {
        net.conv(&shortcut, x, 1, [0; 4])
    } else {
        x.clone()
    };
    op::add(net.cx, &x, &h)
}

/// One head over all channels.
fn middle_attention(net: &Net, path: &str, x: &Var, groups: usize) -> Var {
    let (h, w) = (x.dim(2), x.dim(3));
    let n = net.group_norm(&format!("{path}.group_norm"), x, groups, 1e-6, false);
    let n = op::to_tokens(net.cx, &n);
    let q = net.linear(&format!("{path}.to_q"), &n);
    let k = net.linear(&format!("{path}.to_k"), &n);
    let v = net.linear(&format!("{path}.to_v"), &n);
    let a = op::attention(net.cx, &q, &k, &v, &AttentionArgs::heads(1));
    let y = net.linear(&format!("{path}.to_out.0"), &a);
    op::add(net.cx, x, &op::from_tokens(net.cx, &y, h, w))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_sizes() {
        for (latent, tensors, parameters) in [(4, 248, 83_653_863), (16, 244, 83_819_683)] {
            let config = VaeConfig::standard(latent);
            let shapes = config.shapes();
            assert_eq!(shapes.len(), tensors);
            assert_eq!(shapes.iter().map(|(_, s)| s.iter().product::<usize>()).sum::<usize>(), parameters);
            let map: std::collections::HashMap<_, _> = shapes.into_iter().collect();
            assert_eq!(VaeConfig::infer(&map, None), Ok(config));
        }
    }
}
