//! Which layers an adapter wraps, found from weight names and shapes, and what they are called in an adapter file.
//!
//! Follows the discovery of kohya's network modules. In a U-Net: every linear layer and convolution inside a
//! transformer and, when convolutions are asked for, inside residual blocks and samplers. In a diffusion transformer:
//! the matrices of its blocks, in Lumina those of the last layer too, and the embedders when asked for. In a text
//! encoder: the attention projections and the MLPs.
//!
//! ```
//! use pipe_data::lora_names::{Wanted, targets};
//! use pipe_data::weights::{Component, Family};
//! let weights = [("double_blocks.3.img_attn.qkv.weight", [9216, 3072])];
//! let found = targets(Family::Flux, Component::Flux, weights, Wanted::default());
//! assert_eq!(found[0].name, "lora_unet_double_blocks_3_img_attn_qkv");
//! assert_eq!((found[0].class.name(), found[0].block_index), ("img_attn", Some(3)));
//! ```

mod blocks;
mod class;
mod spelling;
mod transformer;
mod unet;

use std::cmp::Ordering;

use super::component::{Component, Family};
pub use blocks::weight_blocks;
pub use class::{Group, ModuleClass};
pub use spelling::{Factor, Piece, Spellings, split_key, split_tensor};
pub use unet::{block_index, sdxl_block_index};

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
    /// Name in a kohya file, prefix included.
    pub name: String,
    /// What it computes.
    pub kind: TargetKind,
    /// Input channels or features.
    pub inputs: usize,
    /// Output channels or features.
    pub outputs: usize,
    /// Kernel height and width; 1, 1 for a matrix.
    pub kernel: (usize, usize),
    /// The list of blocks it is in.
    pub group: Group,
    /// Index for block-wise settings: of SD1's and SD2's 25 blocks, of SDXL's 23, or of the transformer's block in its
    /// group. Nothing for layers outside the blocks and in text encoders.
    pub block_index: Option<usize>,
    /// What the layer is for, for settings by type.
    pub class: ModuleClass,
}

/// Which layers are wanted besides the usual ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// In a U-Net also residual blocks and samplers: their 3×3 convolutions, time projections and shortcuts.
    pub conv: bool,
    /// In a diffusion transformer also the embedders, and SD3's last layer.
    pub embedders: bool,
}

/// Prefix of a part's layers in kohya files of a family.
pub fn prefix(family: Family, component: Component) -> &'static str {
    match component {
        Component::TextEncoder if matches!(family, Family::Sd1 | Family::Sd2) => "lora_te",
        Component::Gemma => "lora_te",
        Component::TextEncoder => "lora_te1",
        Component::ClipG => "lora_te2",
        Component::T5 => "lora_te3",
        _ => "lora_unet",
    }
}

/// The name of a layer in a kohya file: `lora_unet`, `mid_block.attentions.0.proj_in` →
/// `lora_unet_mid_block_attentions_0_proj_in`.
pub fn kohya_name(prefix: &str, path: &str) -> String {
    format!("{prefix}_{}", path.replace('.', "_"))
}

/// The layers to wrap among a part's internal weights, in natural order of their paths.
pub fn targets<'a, S: AsRef<[usize]>>(
    family: Family,
    component: Component,
    shapes: impl IntoIterator<Item = (&'a str, S)>,
    wanted: Wanted,
) -> Vec<LoraTarget> {
    let shapes: Vec<(&str, S)> = shapes.into_iter().collect();
    let sgm = (component == Component::Unet && family == Family::Sdxl)
        .then(|| super::keymap::UnetMap::from_diffusers(shapes.iter().map(|(name, _)| *name)));
    let prefix = prefix(family, component);
    let mut targets: Vec<LoraTarget> = Vec::new();
    for (name, shape) in &shapes {
        let Some(path) = name.strip_suffix(".weight") else { continue };
        let Some((kind, inputs, outputs, kernel)) = size(shape.as_ref()) else { continue };
        let place = match component {
            Component::Unet => unet::place(path, wanted.conv),
            Component::Vae => None,
            _ => transformer::place(component, path, wanted.embedders),
        };
        let Some((group, mut block_index, class)) = place else { continue };
        let mut in_file = path.to_owned();
        if let Some(map) = &sgm {
            // SDXL files name the blocks as its own code does.
            let Some(ldm) = map.to_ldm(name) else { continue };
            in_file = ldm.strip_suffix(".weight").unwrap_or(&ldm).to_owned();
            block_index = sdxl_block_index(&in_file);
        }
        let name = kohya_name(prefix, &in_file);
        let path = path.to_owned();
        targets.push(LoraTarget { path, name, kind, inputs, outputs, kernel, group, block_index, class });
    }
    targets.sort_by(|a, b| natural(&a.path, &b.path));
    targets
}

/// A norm layer inside a U-Net's transformers and, with `conv`, residual blocks: path, name in a file, channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormTarget {
    /// Internal name without `.weight`.
    pub path: String,
    /// Name in a file.
    pub name: String,
    /// Values of its weight, and of its bias.
    pub channels: usize,
}

/// The norm layers that LyCORIS trains in a U-Net, in natural order of their paths; other networks' have no names in its
/// files.
pub fn norms<'a, S: AsRef<[usize]>>(
    family: Family,
    shapes: impl IntoIterator<Item = (&'a str, S)>,
    conv: bool,
) -> Vec<NormTarget> {
    let shapes: Vec<(&str, S)> = shapes.into_iter().collect();
    let sgm =
        (family == Family::Sdxl).then(|| super::keymap::UnetMap::from_diffusers(shapes.iter().map(|(name, _)| *name)));
    let prefix = prefix(family, Component::Unet);
    let mut found = Vec::new();
    for (name, shape) in &shapes {
        let (Some(path), [channels]) = (name.strip_suffix(".weight"), shape.as_ref()) else { continue };
        if unet::place(path, conv).is_none() {
            continue;
        }
        let in_file = match &sgm {
            Some(map) => map.to_ldm(name).map(|ldm| ldm.strip_suffix(".weight").unwrap_or(&ldm).to_owned()),
            None => Some(path.to_owned()),
        };
        let Some(in_file) = in_file else { continue };
        found.push(NormTarget { path: path.to_owned(), name: kohya_name(prefix, &in_file), channels: *channels });
    }
    found.sort_by(|a, b| natural(&a.path, &b.path));
    found
}

/// The layers to wrap in SD1's or SD2's U-Net or text encoder.
///
/// `conv` adds residual blocks and samplers: their 3×3 convolutions, time projections and shortcuts.
pub fn discover<'a, S: AsRef<[usize]>>(shapes: impl IntoIterator<Item = (&'a str, S)>, conv: bool) -> Vec<LoraTarget> {
    let shapes: Vec<(&str, S)> = shapes.into_iter().collect();
    let parts = [Component::TextEncoder, Component::Unet].into_iter();
    parts
        .flat_map(|part| {
            let shapes = shapes.iter().map(|(name, shape)| (*name, shape.as_ref()));
            targets(Family::Sd1, part, shapes, Wanted { conv, embedders: false })
        })
        .collect()
}

/// Kind, input and output features, and kernel of a weight.
fn size(shape: &[usize]) -> Option<(TargetKind, usize, usize, (usize, usize))> {
    Some(match *shape {
        [outputs, inputs] => (TargetKind::Linear, inputs, outputs, (1, 1)),
        [outputs, inputs, 1, 1] => (TargetKind::Conv1x1, inputs, outputs, (1, 1)),
        [outputs, inputs, h, w] => (TargetKind::Conv { k: h.max(w) }, inputs, outputs, (h, w)),
        _ => return None,
    })
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
        assert_eq!(names, all.iter().map(|t| t.name.clone()).collect());
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
