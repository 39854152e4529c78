//! U-Net names, LDM ↔ Diffusers, for any number of levels and layers.
//!
//! LDM counts every block of the way down and of the way up in one row (`input_blocks.4`), Diffusers by level and
//! layer (`down_blocks.1.resnets.0`). A level ends where there is a sampler, which is how levels are inferred.

use std::collections::{BTreeMap, BTreeSet};

use super::{after, number, swap_head};

/// Names outside the blocks.
const OUTER: [(&str, &str); 7] = [
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];

/// Names in a residual block.
const RESNET: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// What an LDM input block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Down {
    Layer(u32, u32),
    Sampler(u32),
}

/// The correspondence of one U-Net's blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnetMap {
    /// Input block ↔ place on the way down.
    input: BTreeMap<u32, Down>,
    /// Output block ↔ level and layer on the way up, deepest first.
    output: BTreeMap<u32, (u32, u32)>,
    /// Level on the way up → output block and slot of its up-sampler.
    upsampler: BTreeMap<u32, (u32, u32)>,
}

impl UnetMap {
    /// Infers the structure from LDM names without prefix; other names are passed over.
    pub fn from_ldm<'a>(names: impl IntoIterator<Item = &'a str>) -> UnetMap {
        let (mut inputs, mut outputs) = (BTreeMap::new(), BTreeMap::new());
        for name in names {
            if let Some((block, rest)) = after(name, "input_blocks").and_then(number) {
                *inputs.entry(block).or_insert(false) |= rest.starts_with("0.op.");
            } else if let Some((block, rest)) = after(name, "output_blocks").and_then(number) {
                let slot: &mut Option<u32> = outputs.entry(block).or_default();
                if let Some((n, tail)) = number(rest)
                    && tail.starts_with("conv.")
                {
                    *slot = Some(n);
                }
            }
        }
        let mut map = UnetMap::default();
        let (mut level, mut layer) = (0, 0);
        for (&block, &sampler) in inputs.iter().filter(|(block, _)| **block > 0) {
            if sampler {
                map.input.insert(block, Down::Sampler(level));
                (level, layer) = (level + 1, 0);
            } else {
                map.input.insert(block, Down::Layer(level, layer));
                layer += 1;
            }
        }
        (level, layer) = (0, 0);
        for (&block, &slot) in &outputs {
            map.output.insert(block, (level, layer));
            layer += 1;
            if let Some(slot) = slot {
                map.upsampler.insert(level, (block, slot));
                (level, layer) = (level + 1, 0);
            }
        }
        map
    }

    /// Infers the structure from Diffusers names; other names are passed over.
    pub fn from_diffusers<'a>(names: impl IntoIterator<Item = &'a str>) -> UnetMap {
        let (mut layers, mut samplers) = (BTreeSet::new(), BTreeSet::new());
        let mut attentions = BTreeSet::new();
        for name in names {
            for (up, side) in [(false, "down_blocks"), (true, "up_blocks")] {
                let Some((level, rest)) = after(name, side).and_then(number) else { continue };
                if let Some((layer, _)) = after(rest, "resnets").and_then(number) {
                    layers.insert((up, level, layer));
                } else if let Some((layer, _)) = after(rest, "attentions").and_then(number) {
                    attentions.insert((up, level, layer));
                } else if rest.starts_with("downsamplers.0.") || rest.starts_with("upsamplers.0.") {
                    samplers.insert((up, level));
                }
            }
        }
        let mut map = UnetMap::default();
        let (mut input, mut output) = (1, 0);
        let levels: BTreeSet<(bool, u32)> = layers.iter().map(|&(up, level, _)| (up, level)).collect();
        for &(up, level) in &levels {
            let of_level: Vec<u32> = layers.range((up, level, 0)..=(up, level, u32::MAX)).map(|l| l.2).collect();
            for &layer in &of_level {
                if up {
                    map.output.insert(output, (level, layer));
                    output += 1;
                } else {
                    map.input.insert(input, Down::Layer(level, layer));
                    input += 1;
                }
            }
            if samplers.contains(&(up, level)) {
                if up {
                    // After the attention where the level's last layer has one.
                    let last = of_level.last().copied().unwrap_or(0);
                    let slot = if attentions.contains(&(up, level, last)) { 2 } else { 1 };
                    map.upsampler.insert(level, (output - 1, slot));
                } else {
                    map.input.insert(input, Down::Sampler(level));
                    input += 1;
                }
            }
        }
        map
    }

    /// The Diffusers name of an LDM name without prefix.
    pub fn to_diffusers(&self, ldm: &str) -> Option<String> {
        if let Some(name) = swap_head(ldm, &OUTER, false) {
            return Some(name);
        }
        if let Some((part, rest)) = after(ldm, "middle_block").and_then(number) {
            return match part {
                0 | 2 => Some(format!("mid_block.resnets.{}.{}", part / 2, swap_head(rest, &RESNET, false)?)),
                1 => Some(format!("mid_block.attentions.0.{rest}")),
                _ => None,
            };
        }
        if let Some((block, rest)) = after(ldm, "input_blocks").and_then(number) {
            let (slot, rest) = number(rest)?;
            return match (*self.input.get(&block)?, slot) {
                (Down::Layer(level, layer), 0) => {
                    Some(format!("down_blocks.{level}.resnets.{layer}.{}", swap_head(rest, &RESNET, false)?))
                }
                (Down::Layer(level, layer), 1) => Some(format!("down_blocks.{level}.attentions.{layer}.{rest}")),
                (Down::Sampler(level), 0) => {
                    Some(format!("down_blocks.{level}.downsamplers.0.conv.{}", after(rest, "op")?))
                }
                _ => None,
            };
        }
        let (block, rest) = after(ldm, "output_blocks").and_then(number)?;
        let (slot, rest) = number(rest)?;
        let (level, layer) = *self.output.get(&block)?;
        if self.upsampler.get(&level) == Some(&(block, slot)) {
            return Some(format!("up_blocks.{level}.upsamplers.0.conv.{}", after(rest, "conv")?));
        }
        match slot {
            0 => Some(format!("up_blocks.{level}.resnets.{layer}.{}", swap_head(rest, &RESNET, false)?)),
            1 => Some(format!("up_blocks.{level}.attentions.{layer}.{rest}")),
            _ => None,
        }
    }

    /// The LDM name, without prefix, of a Diffusers name.
    pub fn to_ldm(&self, diffusers: &str) -> Option<String> {
        if let Some(name) = swap_head(diffusers, &OUTER, true) {
            return Some(name);
        }
        if let Some(rest) = after(diffusers, "mid_block") {
            if let Some((layer, rest)) = after(rest, "resnets").and_then(number) {
                let inner = swap_head(rest, &RESNET, true)?;
                return (layer < 2).then(|| format!("middle_block.{}.{inner}", 2 * layer));
            }
            return after(rest, "attentions.0").map(|rest| format!("middle_block.1.{rest}"));
        }
        if let Some((level, rest)) = after(diffusers, "down_blocks").and_then(number) {
            if let Some(rest) = after(rest, "downsamplers.0.conv") {
                return Some(format!("input_blocks.{}.0.op.{rest}", self.input_block(Down::Sampler(level))?));
            }
            if let Some((layer, rest)) = after(rest, "resnets").and_then(number) {
                let block = self.input_block(Down::Layer(level, layer))?;
                return Some(format!("input_blocks.{block}.0.{}", swap_head(rest, &RESNET, true)?));
            }
            let (layer, rest) = after(rest, "attentions").and_then(number)?;
            return Some(format!("input_blocks.{}.1.{rest}", self.input_block(Down::Layer(level, layer))?));
        }
        let (level, rest) = after(diffusers, "up_blocks").and_then(number)?;
        if let Some(rest) = after(rest, "upsamplers.0.conv") {
            let (block, slot) = self.upsampler.get(&level)?;
            return Some(format!("output_blocks.{block}.{slot}.conv.{rest}"));
        }
        let output_block =
            |layer| self.output.iter().find(|(_, place)| **place == (level, layer)).map(|(block, _)| *block);
        if let Some((layer, rest)) = after(rest, "resnets").and_then(number) {
            return Some(format!("output_blocks.{}.0.{}", output_block(layer)?, swap_head(rest, &RESNET, true)?));
        }
        let (layer, rest) = after(rest, "attentions").and_then(number)?;
        Some(format!("output_blocks.{}.1.{rest}", output_block(layer)?))
    }

    fn input_block(&self, wanted: Down) -> Option<u32> {
        self.input.iter().find(|(_, place)| **place == wanted).map(|(block, _)| *block)
    }
}
