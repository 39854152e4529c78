//! Other spellings of an adapter file's layers: Diffusers' block names behind kohya's prefix, and PEFT's paths.
//!
//! Where Diffusers keeps matrices apart that are joined here, a layer of the file adapts some rows of the target.

use std::collections::HashMap;

use super::{kohya_name, prefix};
use crate::weights::component::{Component, Family};
use crate::weights::keymap::{Form, UnetMap, plan};
use crate::weights::recipe::Source;

/// What a tensor of an adapter file is to its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Factor {
    /// The first factor, `[rank, in, …]`.
    Down,
    /// The second factor, `[out, rank, …]`.
    Up,
    /// The scale's numerator.
    Alpha,
}

/// Splits the name of an adapter's tensor into its layer and what it is to it: `X.lora_down.weight`, PEFT's
/// `X.lora_A.weight` and `X.lora_A.default.weight`, old Diffusers' `X.lora.down.weight`.
pub fn split_key(key: &str) -> Option<(&str, Factor)> {
    const ENDINGS: [(&str, Factor); 11] = [
        (".lora_down.weight", Factor::Down),
        (".lora_up.weight", Factor::Up),
        (".lora_A.weight", Factor::Down),
        (".lora_B.weight", Factor::Up),
        (".lora_A.default.weight", Factor::Down),
        (".lora_B.default.weight", Factor::Up),
        (".lora.down.weight", Factor::Down),
        (".lora.up.weight", Factor::Up),
        ("_lora.down.weight", Factor::Down),
        ("_lora.up.weight", Factor::Up),
        (".alpha", Factor::Alpha),
    ];
    ENDINGS.iter().find_map(|(ending, factor)| Some((key.strip_suffix(ending)?, *factor)))
}

/// Splits the name of a tensor of any kind of adapter into its layer and its ending as kohya's and LyCORIS' files have
/// it: `X.lora_A.weight` is `X` and `lora_down.weight`.
pub fn split_tensor(key: &str) -> Option<(&str, String)> {
    if let Some((layer, factor)) = split_key(key) {
        let ending = match factor {
            Factor::Down => "lora_down.weight",
            Factor::Up => "lora_up.weight",
            Factor::Alpha => "alpha",
        };
        return Some((layer, ending.to_owned()));
    }
    // PEFT's DoRA has a magnitude for each row, in a module of its own or not.
    const MAGNITUDES: [&str; 4] =
        ["dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight"];
    for ending in MAGNITUDES {
        if let Some(layer) = key.strip_suffix(ending).and_then(|rest| rest.strip_suffix('.')) {
            return Some((layer, "dora_scale".to_owned()));
        }
    }
    // LyCORIS' differences of weights, biases and norms.
    for ending in ["diff", "diff_b", "w_norm", "b_norm"] {
        if let Some(layer) = key.strip_suffix(ending).and_then(|rest| rest.strip_suffix('.')) {
            return Some((layer, ending.to_owned()));
        }
    }
    // LyCORIS' GLoRA, (IA)³ and rescaled rotations. Only with a name of one word can `weight` be an adapter's.
    for ending in ["a1.weight", "a2.weight", "b1.weight", "b2.weight", "bm.weight", "on_input", "rescale", "weight"] {
        if let Some(layer) = key.strip_suffix(ending).and_then(|rest| rest.strip_suffix('.'))
            && (ending != "weight" || layer.starts_with("lora_") && !layer.contains('.'))
        {
            return Some((layer, ending.to_owned()));
        }
    }
    let start = [".hada_", ".lokr_", ".oft_blocks", ".lora_"].iter().find_map(|mark| key.rfind(mark))?;
    Some((&key[..start], key[start + 1..].to_owned()))
}

/// Which part of a weight a layer of a file adapts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// The weight's internal path.
    pub path: String,
    /// Its rows, first and one past the last; nothing when it is all of them.
    pub rows: Option<(usize, usize)>,
    /// Whether the halves of the rows are exchanged.
    pub swapped: bool,
    /// Which copy it is where a program holds the weight several times; nothing when it is the weight itself.
    pub copy: Option<usize>,
}

/// The names that a part's layers may have in adapter files: kohya's (`lora_unet_…`, also with Diffusers' block names),
/// those of LyCORIS and OneTrainer with their own prefixes, PEFT's and Diffusers' paths (`unet.…`, `transformer.…`,
/// `base_model.model.…`), the paths of the authors' code, behind `diffusion_model.` or bare, and the attention processors of
/// old Diffusers.
#[derive(Clone, Debug, Default)]
pub struct Spellings {
    pieces: HashMap<String, Piece>,
    kohya: HashMap<String, String>,
    diffusers: HashMap<String, Vec<(String, Piece)>>,
}

impl Spellings {
    /// The spellings of a part with these internal weights.
    pub fn new<'a>(
        family: Family,
        component: Component,
        shapes: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    ) -> Spellings {
        let shapes: Vec<(&str, &[usize])> = shapes.into_iter().collect();
        let mut names = Spellings::default();
        let kohya = prefix(family, component);
        let denoiser = component == family.denoiser();
        let ldm = (component == Component::Unet).then(|| UnetMap::from_diffusers(shapes.iter().map(|(name, _)| *name)));
        let folder = family.folder(component).unwrap_or_default();
        let whole = |path: &str| Piece { path: path.to_owned(), rows: None, swapped: false, copy: None };
        for (name, _) in &shapes {
            let Some(path) = name.strip_suffix(".weight") else { continue };
            let original = match &ldm {
                Some(map) => map.to_ldm(name).and_then(|ldm| Some(ldm.strip_suffix(".weight")?.to_owned())),
                None => Some(path.to_owned()),
            };
            // SDXL files name the blocks as its own code does.
            let in_file = if family == Family::Sdxl { original.as_deref() } else { Some(path) };
            let mut spelled = vec![kohya_name(kohya, path), format!("{folder}.{path}")];
            if denoiser {
                // Files of one part may leave its name out.
                spelled.extend([format!("diffusion_model.{path}"), path.to_owned()]);
            }
            if let Some(in_file) = in_file {
                let name = kohya_name(kohya, in_file);
                spelled.push(name.clone());
                names.kohya.insert(path.to_owned(), name);
            }
            for original in original.iter() {
                spelled.push(kohya_name(kohya, original));
                if denoiser {
                    spelled.push(format!("diffusion_model.{original}"));
                    spelled.push(format!("model.diffusion_model.{original}"));
                    spelled.push(original.clone());
                }
            }
            for name in spelled {
                names.pieces.entry(name).or_insert_with(|| whole(path));
            }
        }
        // Reduced models may lack what a plan needs; then their files have the other names only.
        let stored = plan(component, family, Form::Diffusers, shapes.iter().copied()).unwrap_or_default();
        let mut list: Vec<(&str, Piece)> = Vec::new();
        for tensor in &stored {
            let Some(name) = tensor.name.strip_suffix(".weight") else { continue };
            let Some(path) = tensor.recipe.names().first().and_then(|n| n.strip_suffix(".weight")) else { continue };
            let piece = match tensor.recipe.source {
                Source::Rows { start, end, .. } => Piece { rows: Some((start, end)), ..whole(path) },
                Source::SwappedHalves(_) => Piece { swapped: true, ..whole(path) },
                Source::Whole(_) => whole(path),
                _ => continue,
            };
            list.push((name, piece));
        }
        let mut copies: HashMap<Piece, usize> = HashMap::new();
        for (_, piece) in &list {
            *copies.entry(piece.clone()).or_default() += 1;
        }
        let mut count: HashMap<Piece, usize> = HashMap::new();
        for (name, mut piece) in list {
            if copies[&piece] > 1 {
                let number = count.entry(piece.clone()).or_default();
                piece.copy = Some(*number);
                *number += 1;
            }
            let written = format!("{folder}.{name}");
            names.diffusers.entry(piece.path.clone()).or_default().push((written.clone(), piece.clone()));
            let mut spelled = vec![written, kohya_name(kohya, name)];
            if denoiser {
                spelled.extend([kohya_name("lora_transformer", name), name.to_owned()]);
            }
            spelled.extend(name.strip_prefix("text_model.").map(|short| format!("{folder}.{short}")));
            for name in spelled {
                names.pieces.entry(name).or_insert_with(|| piece.clone());
            }
        }
        names
    }

    /// What a layer of a file adapts.
    pub fn find(&self, layer: &str) -> Option<&Piece> {
        let layer = layer.strip_prefix("base_model.model.").unwrap_or(layer);
        if let Some(piece) = self.pieces.get(layer) {
            return Some(piece);
        }
        for (other, kohya) in [("oft_", "lora_"), ("lycoris_", "lora_unet_"), ("lora_transformer_", "lora_unet_")] {
            if let Some(rest) = layer.strip_prefix(other)
                && let Some(piece) = self.pieces.get(&format!("{kohya}{rest}"))
            {
                return Some(piece);
            }
        }
        // Attention processors: `attn1.processor.to_out` stands for `attn1.to_out.0`.
        let plain = layer.replace(".processor.", ".");
        self.pieces.get(&plain).or_else(|| self.pieces.get(&format!("{plain}.0")))
    }

    /// A layer's name in kohya's files.
    pub fn kohya(&self, path: &str) -> Option<&str> {
        self.kohya.get(path).map(String::as_str)
    }

    /// A layer's names in Diffusers' files, each with what it adapts.
    pub fn diffusers(&self, path: &str) -> &[(String, Piece)] {
        self.diffusers.get(path).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_every_spelling() {
        for (key, found) in [
            ("lora_unet_x.lora_down.weight", Some(("lora_unet_x", Factor::Down))),
            ("lora_unet_x.alpha", Some(("lora_unet_x", Factor::Alpha))),
            ("unet.x.to_q.lora_A.weight", Some(("unet.x.to_q", Factor::Down))),
            ("x.lora_B.default.weight", Some(("x", Factor::Up))),
            ("unet.x.processor.to_q_lora.up.weight", Some(("unet.x.processor.to_q", Factor::Up))),
            ("x.lora_mid.weight", None),
            ("x.weight", None),
        ] {
            assert_eq!(split_key(key), found, "{key}");
        }
    }

    #[test]
    fn endings_of_every_kind() {
        for (key, found) in [
            ("lora_unet_x.lora_up.weight", Some(("lora_unet_x", "lora_up.weight"))),
            ("unet.x.lora_B.weight", Some(("unet.x", "lora_up.weight"))),
            ("lora_unet_x.alpha", Some(("lora_unet_x", "alpha"))),
            ("x.y.lora_magnitude_vector", Some(("x.y", "dora_scale"))),
            ("x.lora_magnitude_vector.default.weight", Some(("x", "dora_scale"))),
            ("lora_unet_x.dora_scale", Some(("lora_unet_x", "dora_scale"))),
            ("lora_unet_x.hada_w1_a", Some(("lora_unet_x", "hada_w1_a"))),
            ("lora_unet_x.lokr_w2", Some(("lora_unet_x", "lokr_w2"))),
            ("oft_unet_x.oft_blocks.3", Some(("oft_unet_x", "oft_blocks.3"))),
            ("lora_unet_x.lora_mid.weight", Some(("lora_unet_x", "lora_mid.weight"))),
            ("lora_unet_x.diff_b", Some(("lora_unet_x", "diff_b"))),
            ("lora_unet_x.w_norm", Some(("lora_unet_x", "w_norm"))),
            ("lora_unet_x.a1.weight", Some(("lora_unet_x", "a1.weight"))),
            ("lora_unet_x.weight", Some(("lora_unet_x", "weight"))),
            ("lora_unet_x.on_input", Some(("lora_unet_x", "on_input"))),
            ("lora_unet_x.rescale", Some(("lora_unet_x", "rescale"))),
            ("conv_in.weight", None),
        ] {
            let expected = found.map(|(layer, ending): (&str, &str)| (layer, ending.to_owned()));
            assert_eq!(split_tensor(key), expected, "{key}");
        }
    }

    #[test]
    fn diffusers_names_of_joined_layers() {
        let shapes: Vec<(&str, Vec<usize>)> = vec![
            ("single_blocks.0.linear1.weight", vec![14, 2]),
            ("single_blocks.0.linear2.weight", vec![2, 10]),
            ("double_blocks.1.img_attn.qkv.weight", vec![6, 2]),
            ("double_blocks.1.img_attn.proj.weight", vec![2, 2]),
        ];
        let list = || shapes.iter().map(|(name, shape)| (*name, shape.as_slice()));
        let spellings = Spellings::new(Family::Flux, Component::Flux, list());
        let rows = |name: &str| spellings.find(name).map(|piece| (piece.path.as_str(), piece.rows));
        let linear1 = "single_blocks.0.linear1";
        assert_eq!(rows("lora_unet_single_blocks_0_linear1"), Some((linear1, None)));
        let single = "transformer.single_transformer_blocks.0";
        assert_eq!(rows(&format!("{single}.attn.to_k")), Some((linear1, Some((2, 4)))));
        assert_eq!(rows(&format!("base_model.model.{single}.proj_mlp")), Some((linear1, Some((6, 14)))));
        assert_eq!(rows(&format!("{single}.proj_out")), Some(("single_blocks.0.linear2", None)));
        let qkv = "double_blocks.1.img_attn.qkv";
        assert_eq!(rows("lora_unet_transformer_blocks_1_attn_to_v"), Some((qkv, Some((4, 6)))));
        for name in ["lora_transformer_transformer_blocks_1_attn_to_v", "transformer_blocks.1.attn.to_v"] {
            assert_eq!(rows(name), Some((qkv, Some((4, 6)))), "{name}");
        }
        for name in [
            "lycoris_double_blocks_1_img_attn_qkv",
            "double_blocks.1.img_attn.qkv",
            &format!("model.diffusion_model.{qkv}"),
        ] {
            assert_eq!(rows(name), Some((qkv, None)), "{name}");
        }
        assert_eq!(rows("transformer.transformer_blocks.1.attn.to_x"), None);
    }
}
