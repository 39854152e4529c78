//! The block of every weight of a denoiser, for settings by block that are not of adapters.

use std::collections::HashMap;

use super::class::Group;
use super::unet::{block_index, sdxl_block_index};
use crate::weights::component::Family;
use crate::weights::keymap::UnetMap;

/// Transformers' lists of blocks.
const LISTS: [(&str, Group); 6] = [
    ("double_blocks", Group::Double),
    ("single_blocks", Group::Single),
    ("joint_blocks", Group::Joint),
    ("layers", Group::Layers),
    ("noise_refiner", Group::NoiseRefiner),
    ("context_refiner", Group::ContextRefiner),
];

/// The block that each weight of a denoiser is in, by internal name: of a U-Net the index for settings by block, of a
/// transformer its list and its place there. What is in no block is left out: in SD1 and SD2 the embedder of the time
/// and the output.
pub fn weight_blocks<'a>(family: Family, names: impl IntoIterator<Item = &'a str>) -> HashMap<&'a str, (Group, usize)> {
    let names: Vec<&str> = names.into_iter().collect();
    let sgm = (family == Family::Sdxl).then(|| UnetMap::from_diffusers(names.iter().copied()));
    let place = |name: &str| match family {
        Family::Sdxl => Some((Group::Unet, sdxl_block_index(&sgm.as_ref()?.to_ldm(name)?)?)),
        Family::Sd1 | Family::Sd2 if name.starts_with("conv_in.") => Some((Group::Unet, 0)),
        Family::Sd1 | Family::Sd2 => Some((Group::Unet, block_index(name)?)),
        _ => {
            let (list, rest) = name.split_once('.')?;
            let (_, group) = LISTS.iter().find(|(own, _)| *own == list)?;
            Some((*group, rest.split('.').next()?.parse().ok()?))
        }
    };
    names.into_iter().filter_map(|name| Some((name, place(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_has_its_block() {
        let sd1 = [
            "conv_in.weight",
            "down_blocks.1.resnets.0.norm1.bias",
            "mid_block.resnets.1.conv1.weight",
            "conv_out.bias",
        ];
        let found = weight_blocks(Family::Sd1, sd1);
        assert_eq!(found["conv_in.weight"], (Group::Unet, 0));
        assert_eq!(found["down_blocks.1.resnets.0.norm1.bias"], (Group::Unet, 4));
        assert_eq!(found["mid_block.resnets.1.conv1.weight"], (Group::Unet, 12));
        assert!(!found.contains_key("conv_out.bias"));
        let flux = ["double_blocks.3.img_attn.norm.query_norm.scale", "single_blocks.37.linear1.bias", "img_in.weight"];
        let found = weight_blocks(Family::Flux, flux);
        assert_eq!(found[flux[0]], (Group::Double, 3));
        assert_eq!(found[flux[1]], (Group::Single, 37));
        assert!(!found.contains_key("img_in.weight"));
    }

    /// All of SDXL's weights are in one of the 23 blocks.
    #[test]
    fn sdxl_has_no_weight_outside() {
        let names = [
            "time_embedding.linear_1.weight",
            "add_embedding.linear_2.bias",
            "conv_in.weight",
            "down_blocks.0.resnets.0.conv1.weight",
            "down_blocks.0.resnets.1.conv1.weight",
            "down_blocks.0.downsamplers.0.conv.weight",
            "down_blocks.1.resnets.0.conv1.weight",
            "down_blocks.1.attentions.0.norm.weight",
            "mid_block.resnets.0.conv1.weight",
            "mid_block.attentions.0.proj_in.weight",
            "mid_block.resnets.1.conv1.weight",
            "up_blocks.0.resnets.0.conv1.weight",
            "conv_norm_out.weight",
            "conv_out.weight",
        ];
        let found = weight_blocks(Family::Sdxl, names);
        let list: Vec<usize> = names.iter().map(|name| found[name].1).collect();
        assert_eq!(list, [0, 0, 1, 2, 3, 4, 5, 5, 10, 11, 12, 13, 22, 22]);
    }
}
