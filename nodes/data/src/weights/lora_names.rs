//! Which layers an adapter wraps, found from weight names and shapes, and what they are called in an adapter file.
//!
//! Follows the discovery of kohya's `networks.lora` for SD1 and SD2: in the U-Net every linear layer and convolution
//! inside a `Transformer2DModel` and, when convolutions are asked for, inside residual blocks and samplers; in the
//! text encoder the attention projections and the MLPs.

use std::cmp::Ordering;

/// What a wrapped layer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetKind {
    /// A matrix.
    Linear,
    /// A 1×1 convolution: rank and alpha as a matrix.
    Conv1x1,
    /// A larger convolution, with its own rank and alpha.
    Conv {
        /// Side of the kernel.
        k: usize,
    },
}

/// A layer an adapter wraps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoraTarget {
    /// Internal name without `.weight`.
    pub path: String,
    /// What it computes.
    pub kind: TargetKind,
    /// Input channels or features.
    pub inputs: usize,
    /// Output channels or features.
    pub outputs: usize,
    /// Kernel height and width; 1, 1 for a matrix.
    pub kernel: (usize, usize),
    /// Index of the U-Net block for block-wise settings, 1 to 24.
    pub block_index: Option<usize>,
}

/// The name of a layer in a kohya file: `lora_unet`, `mid_block.attentions.0.proj_in` →
/// `lora_unet_mid_block_attentions_0_proj_in`.
pub fn kohya_name(prefix: &str, path: &str) -> String {
    format!("{prefix}_{}", path.replace('.', "_"))
}

/// The layers to wrap among these internal weights, in natural order of their paths.
///
/// `conv` adds residual blocks and samplers: their 3×3 convolutions, time projections and shortcuts.
pub fn discover<'a, S: AsRef<[usize]>>(shapes: impl IntoIterator<Item = (&'a str, S)>, conv: bool) -> Vec<LoraTarget> {
    let mut targets: Vec<LoraTarget> = Vec::new();
    for (name, shape) in shapes {
        let Some(path) = name.strip_suffix(".weight") else { continue };
        let wanted = in_text_layer(path) || in_unet(path, "attentions") || conv && in_resnet_or_sampler(path);
        if !wanted {
            continue;
        }
        let (kind, inputs, outputs, kernel) = match *shape.as_ref() {
            [outputs, inputs] => (TargetKind::Linear, inputs, outputs, (1, 1)),
            [outputs, inputs, 1, 1] => (TargetKind::Conv1x1, inputs, outputs, (1, 1)),
            [outputs, inputs, h, w] => (TargetKind::Conv { k: h.max(w) }, inputs, outputs, (h, w)),
            _ => continue,
        };
        let block_index = block_index(path);
        targets.push(LoraTarget { path: path.to_owned(), kind, inputs, outputs, kernel, block_index });
    }
    targets.sort_by(|a, b| natural(&a.path, &b.path));
    targets
}

/// The index of a U-Net layer in the 25 blocks of block-wise settings; `conv_in`, index 0, is never wrapped.
pub fn block_index(path: &str) -> Option<usize> {
    let mut parts = path.split('.');
    let side = parts.next()?;
    if side == "mid_block" {
        return Some(12);
    }
    let level: usize = parts.next()?.parse().ok()?;
    let layer = match parts.next()? {
        "downsamplers" | "upsamplers" => 2,
        "resnets" | "attentions" => parts.next()?.parse().ok()?,
        _ => return None,
    };
    if level > 3 || layer > 2 {
        return None;
    }
    match side {
        "down_blocks" => Some(1 + 3 * level + layer),
        "up_blocks" => Some(13 + 3 * level + layer),
        _ => None,
    }
}

fn in_unet(path: &str, module: &str) -> bool {
    let block = ["down_blocks.", "mid_block.", "up_blocks."].iter().any(|head| path.starts_with(head));
    block && path.split('.').any(|part| part == module)
}

fn in_resnet_or_sampler(path: &str) -> bool {
    ["resnets", "downsamplers", "upsamplers"].iter().any(|module| in_unet(path, module))
}

fn in_text_layer(path: &str) -> bool {
    path.starts_with("text_model.encoder.layers.") && path.split('.').any(|part| part == "self_attn" || part == "mlp")
}

/// Compares dotted paths with numbers by value.
fn natural(a: &str, b: &str) -> Ordering {
    let key = |part: &str| part.parse::<u64>().ok();
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, _) => Ordering::Less,
            (_, None) => Ordering::Greater,
            (Some(a), Some(b)) => match (key(a), key(b)) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a.cmp(b),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::weights::shapes::{ClipSize, Shapes, UnetSize, clip_shapes, sd1_shapes};

    fn found(shapes: &Shapes, conv: bool) -> Vec<LoraTarget> {
        discover(shapes.iter().map(|(name, shape)| (name.as_str(), shape)), conv)
    }

    #[test]
    fn module_counts_of_sd15() {
        assert_eq!(found(&clip_shapes(&ClipSize::clip_l()), false).len(), 72);
        let unet = sd1_shapes(&UnetSize::sd15());
        assert_eq!(found(&unet, false).len(), 192);
        let all = found(&unet, true);
        assert_eq!(all.len(), 278);
        let names: BTreeSet<String> = all.iter().map(|t| kohya_name("lora_unet", &t.path)).collect();
        assert_eq!(names.len(), 278);
        for name in [
            "lora_unet_down_blocks_0_attentions_0_proj_in",
            "lora_unet_down_blocks_1_attentions_1_transformer_blocks_0_attn2_to_k",
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj",
            "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn1_to_out_0",
            "lora_unet_down_blocks_0_resnets_0_conv1",
            "lora_unet_down_blocks_0_resnets_0_time_emb_proj",
            "lora_unet_down_blocks_1_resnets_0_conv_shortcut",
            "lora_unet_up_blocks_0_upsamplers_0_conv",
        ] {
            assert!(names.contains(name), "{name}");
        }
        assert!(!names.contains("lora_unet_conv_in") && !names.contains("lora_unet_time_embedding_linear_1"));
    }

    #[test]
    fn kinds_and_blocks() {
        let unet = found(&sd1_shapes(&UnetSize::sd15()), true);
        let get = |path: &str| unet.iter().find(|t| t.path == path).unwrap();
        let proj_in = get("down_blocks.0.attentions.0.proj_in");
        assert_eq!((proj_in.kind, proj_in.inputs, proj_in.block_index), (TargetKind::Conv1x1, 320, Some(1)));
        let conv = get("up_blocks.1.upsamplers.0.conv");
        assert_eq!((conv.kind, conv.kernel, conv.block_index), (TargetKind::Conv { k: 3 }, (3, 3), Some(18)));
        assert_eq!(block_index(&format!("up_blocks.{}.resnets.0.conv1", usize::MAX)), None);
        let blocks = |conv| {
            let mut count = BTreeMap::new();
            for target in found(&sd1_shapes(&UnetSize::sd15()), conv) {
                *count.entry(target.block_index.unwrap()).or_insert(0) += 1;
            }
            Vec::from_iter(count.into_keys())
        };
        assert_eq!(blocks(false), [1, 2, 4, 5, 7, 8, 12, 16, 17, 18, 19, 20, 21, 22, 23, 24]);
        assert_eq!(blocks(true), Vec::from_iter(1..=24));
    }

    #[test]
    fn order_does_not_depend_on_the_file() {
        let shapes = clip_shapes(&ClipSize { layers: 12, ..ClipSize::clip_l() });
        let forward = found(&shapes, false);
        let backward = discover(shapes.iter().rev().map(|(name, shape)| (name.as_str(), shape)), false);
        assert_eq!(forward, backward);
        assert!(forward[0].path.contains("layers.0.") && forward[71].path.contains("layers.11."));
    }
}
