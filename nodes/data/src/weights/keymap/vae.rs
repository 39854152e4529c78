//! VAE names, LDM ↔ Diffusers, for any number of levels.
//!
//! LDM counts the decoder's levels from the full size inwards, Diffusers in the order they run, so that `up.0` is the
//! last of `up_blocks`. The middle attention has three spellings; its matrices are 1×1 convolutions in LDM files.

use super::{after, number, swap_head};

/// Names at the top of encoder and decoder.
const OUTER: [(&str, &str); 3] = [("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out")];

/// Names in a residual block.
const RESNET: [(&str, &str); 5] =
    [("norm1", "norm1"), ("conv1", "conv1"), ("norm2", "norm2"), ("conv2", "conv2"), ("nin_shortcut", "conv_shortcut")];

/// Names in the attention block.
const ATTENTION: [(&str, &str); 5] =
    [("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")];

/// Names in the attention block, as Diffusers wrote them before version 0.15.
const OLD_ATTENTION: [(&str, &str); 5] =
    [("norm", "group_norm"), ("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];

/// Convolutions outside encoder and decoder, named alike everywhere.
const QUANT: [&str; 2] = ["quant_conv", "post_quant_conv"];

/// Whether an internal name is a matrix of the middle attention, a 1×1 convolution in LDM files.
pub fn is_attention_matrix(internal: &str) -> bool {
    internal.contains(".attentions.") && internal.ends_with(".weight") && !internal.ends_with("group_norm.weight")
}

/// The current Diffusers name for a Diffusers name of any age.
pub fn current_name(diffusers: &str) -> String {
    let Some((block, inner)) = diffusers.split_once(".mid_block.attentions.0.") else {
        return diffusers.to_owned();
    };
    match swap_head(inner, &OLD_ATTENTION[1..], false) {
        Some(inner) => format!("{block}.mid_block.attentions.0.{inner}"),
        None => diffusers.to_owned(),
    }
}

/// The correspondence of one VAE's levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VaeMap {
    /// Number of decoder levels.
    levels: u32,
}

impl VaeMap {
    /// Infers the number of levels from LDM names without prefix.
    pub fn from_ldm<'a>(names: impl IntoIterator<Item = &'a str>) -> VaeMap {
        Self::count(names, "decoder.up")
    }

    /// Infers the number of levels from Diffusers names.
    pub fn from_diffusers<'a>(names: impl IntoIterator<Item = &'a str>) -> VaeMap {
        Self::count(names, "decoder.up_blocks")
    }

    fn count<'a>(names: impl IntoIterator<Item = &'a str>, head: &str) -> VaeMap {
        let indices = names.into_iter().filter_map(|name| Some(after(name, head).and_then(number)?.0));
        VaeMap { levels: indices.max().map_or(0, |last| last.saturating_add(1)) }
    }

    /// The Diffusers name of an LDM name without prefix.
    pub fn to_diffusers(&self, ldm: &str) -> Option<String> {
        if QUANT.iter().any(|head| after(ldm, head).is_some()) {
            return Some(ldm.to_owned());
        }
        let (side, rest) = ldm.split_once('.').filter(|(side, _)| matches!(*side, "encoder" | "decoder"))?;
        if let Some(inner) = swap_head(rest, &OUTER, false) {
            return Some(format!("{side}.{inner}"));
        }
        if let Some(rest) = after(rest, "mid") {
            if let Some(inner) = after(rest, "attn_1") {
                return Some(format!("{side}.mid_block.attentions.0.{}", swap_head(inner, &ATTENTION, false)?));
            }
            let (block, inner) = number(rest.strip_prefix("block_")?)?;
            let inner = swap_head(inner, &RESNET, false)?;
            return (1..=2).contains(&block).then(|| format!("{side}.mid_block.resnets.{}.{inner}", block - 1));
        }
        let encoder = side == "encoder";
        let (way, sampler) = if encoder { ("down", "downsample") } else { ("up", "upsample") };
        let (level, rest) = after(rest, way).and_then(number)?;
        let level = if encoder { level } else { self.levels.checked_sub(1)?.checked_sub(level)? };
        if let Some(inner) = after(rest, sampler) {
            return Some(format!("{side}.{way}_blocks.{level}.{sampler}rs.0.{inner}"));
        }
        let (layer, inner) = after(rest, "block").and_then(number)?;
        Some(format!("{side}.{way}_blocks.{level}.resnets.{layer}.{}", swap_head(inner, &RESNET, false)?))
    }

    /// The LDM name, without prefix, of a Diffusers name of any age.
    pub fn to_ldm(&self, diffusers: &str) -> Option<String> {
        if QUANT.iter().any(|head| after(diffusers, head).is_some()) {
            return Some(diffusers.to_owned());
        }
        let (side, rest) = diffusers.split_once('.').filter(|(side, _)| matches!(*side, "encoder" | "decoder"))?;
        if let Some(inner) = swap_head(rest, &OUTER, true) {
            return Some(format!("{side}.{inner}"));
        }
        if let Some(rest) = after(rest, "mid_block") {
            if let Some(inner) = after(rest, "attentions.0") {
                let current = swap_head(inner, &OLD_ATTENTION, false).unwrap_or_else(|| inner.to_owned());
                return Some(format!("{side}.mid.attn_1.{}", swap_head(&current, &ATTENTION, true)?));
            }
            let (block, inner) = after(rest, "resnets").and_then(number)?;
            let inner = swap_head(inner, &RESNET, true)?;
            return (block < 2).then(|| format!("{side}.mid.block_{}.{inner}", block + 1));
        }
        let encoder = side == "encoder";
        let (way, sampler) = if encoder { ("down", "downsample") } else { ("up", "upsample") };
        let (level, rest) = after(rest, &format!("{way}_blocks")).and_then(number)?;
        let level = if encoder { level } else { self.levels.checked_sub(1)?.checked_sub(level)? };
        if let Some(inner) = after(rest, &format!("{sampler}rs.0")) {
            return Some(format!("{side}.{way}.{level}.{sampler}.{inner}"));
        }
        let (layer, inner) = after(rest, "resnets").and_then(number)?;
        Some(format!("{side}.{way}.{level}.block.{layer}.{}", swap_head(inner, &RESNET, true)?))
    }
}
