//! The layers of U-Nets, by their Diffusers paths.

use super::class::{Group, ModuleClass};

/// Where a layer is, if an adapter wraps it.
pub(super) fn place(path: &str, conv: bool) -> Option<(Group, Option<usize>, ModuleClass)> {
    let in_block = ["down_blocks.", "mid_block.", "up_blocks."].iter().any(|head| path.starts_with(head));
    let has = |module: &str| path.split('.').any(|part| part == module);
    let class = if !in_block {
        return None;
    } else if has("attentions") {
        match path {
            _ if has("attn1") => ModuleClass::SelfAttn,
            _ if has("attn2") => ModuleClass::CrossAttn,
            _ if has("ff") => ModuleClass::Mlp,
            _ => ModuleClass::Proj,
        }
    } else if conv && has("resnets") {
        ModuleClass::Resnet
    } else if conv && (has("downsamplers") || has("upsamplers")) {
        ModuleClass::Sampler
    } else {
        return None;
    };
    Some((Group::Unet, block_index(path), class))
}

/// The index of a U-Net layer in SD1's and SD2's 25 blocks of block-wise settings; `conv_in`, index 0, is never
/// wrapped.
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

/// The index of an SDXL layer, by the path of SDXL's own code, in the 23 blocks of block-wise settings.
///
/// 0 are the embedders of time and size, 1 to 9 `input_blocks`, 10 to 12 `middle_block`, 13 to 21 `output_blocks`,
/// 22 is `out`.
pub fn sdxl_block_index(ldm_path: &str) -> Option<usize> {
    let mut parts = ldm_path.split('.');
    let (first, count) = match parts.next()? {
        "time_embed" | "label_emb" => return Some(0),
        "out" => return Some(22),
        "input_blocks" => (1, 9),
        "middle_block" => (10, 3),
        "output_blocks" => (13, 9),
        _ => return None,
    };
    let block: usize = parts.next()?.parse().ok()?;
    (block < count).then(|| first + block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_sdxl() {
        for (path, index) in [
            ("time_embed.0", Some(0)),
            ("label_emb.0.2", Some(0)),
            ("input_blocks.0.0", Some(1)),
            ("input_blocks.8.1.proj_in", Some(9)),
            ("middle_block.0.in_layers.2", Some(10)),
            ("middle_block.2.in_layers.2", Some(12)),
            ("output_blocks.0.0.in_layers.2", Some(13)),
            ("output_blocks.8.0.in_layers.2", Some(21)),
            ("out.2", Some(22)),
            ("output_blocks.9.0", None),
            ("input_blocks.99999999999999999999.0", None),
            ("else.1", None),
        ] {
            assert_eq!(sdxl_block_index(path), index, "{path}");
        }
    }
}
