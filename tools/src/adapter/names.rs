//! Which weight a layer of an adapter file is for, in every spelling.
//!
//! Known are kohya's names (`lora_unet_…`, also with Diffusers' block names), those of LyCORIS and OFT with their own
//! prefixes, PEFT's and Diffusers' paths (`unet.…`, `transformer.…`, `base_model.model.…`), the paths of the authors'
//! code behind `diffusion_model.`, and the attention processors of old Diffusers. Where Diffusers keeps matrices apart
//! that are joined in the model, a layer is for some rows of the weight.

use std::collections::HashMap;
use std::ops::Range;

use pipe_data::lora_names::{Wanted, kohya_name, prefix, targets};
use pipe_data::weights::keymap::{Form, UnetMap, plan};
use pipe_data::weights::{Component, Family, Source};

/// Internal names and shapes of a part.
pub type Shapes = Vec<(String, Vec<usize>)>;

/// Where a layer of a file belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The part of the model.
    pub component: Component,
    /// Internal path of the weight.
    pub path: String,
    /// Its rows; nothing when it is all of them.
    pub rows: Option<Range<usize>>,
    /// Whether the halves of the rows are exchanged.
    pub swapped: bool,
}

/// The names of a model's layers.
#[derive(Clone, Debug)]
pub struct Names {
    /// The family.
    pub family: Family,
    places: HashMap<String, Place>,
    shapes: HashMap<(Component, String), Vec<usize>>,
    kohya: HashMap<(Component, String), String>,
    diffusers: HashMap<(Component, String), Vec<(String, Place)>>,
    targets: HashMap<(Component, String), ()>,
}

impl Names {
    /// The names in a model of these parts.
    pub fn new(family: Family, parts: &[(Component, Shapes)]) -> Names {
        let mut names = Names {
            family,
            places: HashMap::new(),
            shapes: HashMap::new(),
            kohya: HashMap::new(),
            diffusers: HashMap::new(),
            targets: HashMap::new(),
        };
        for (component, shapes) in parts {
            names.add(*component, shapes);
        }
        names
    }

    fn add(&mut self, component: Component, shapes: &Shapes) {
        let family = self.family;
        let named = || shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
        let kohya = prefix(family, component);
        let denoiser = component == family.denoiser();
        let ldm = (component == Component::Unet).then(|| UnetMap::from_diffusers(named().map(|(name, _)| name)));
        let whole = |path: &str| Place { component, path: path.into(), rows: None, swapped: false };
        for (name, shape) in named() {
            let Some(path) = name.strip_suffix(".weight") else { continue };
            let key = (component, path.to_owned());
            self.shapes.insert(key.clone(), shape.to_vec());
            let original = match &ldm {
                Some(map) => map.to_ldm(name).and_then(|ldm| Some(ldm.strip_suffix(".weight")?.to_owned())),
                None => Some(path.to_owned()),
            };
            // SDXL files name the blocks as its own code does.
            let in_file = if family == Family::Sdxl { original.as_deref() } else { Some(path) };
            if let Some(in_file) = in_file {
                self.kohya.insert(key, kohya_name(kohya, in_file));
            }
            let mut spelled = vec![kohya_name(kohya, path)];
            for original in original.iter() {
                spelled.push(kohya_name(kohya, original));
                if denoiser {
                    spelled.push(format!("diffusion_model.{original}"));
                    spelled.push(format!("model.diffusion_model.{original}"));
                }
            }
            for name in spelled {
                self.spell(name, whole(path));
            }
        }
        let wanted = Wanted { conv: true, embedders: true };
        for target in targets(family, component, named(), wanted) {
            self.targets.insert((component, target.path), ());
        }
        // Reduced models may lack what a plan needs; then their files have the other names only.
        let stored = plan(component, family, Form::Diffusers, named()).unwrap_or_default();
        let folder = family.folder(component).unwrap_or_default();
        for tensor in stored {
            let Some(name) = tensor.name.strip_suffix(".weight") else { continue };
            let Some(path) = tensor.recipe.names().first().and_then(|n| n.strip_suffix(".weight")) else { continue };
            let place = match tensor.recipe.source {
                Source::Rows { start, end, .. } => Place { rows: Some(start..end), ..whole(path) },
                Source::SwappedHalves(_) => Place { swapped: true, ..whole(path) },
                Source::Whole(_) => whole(path),
                _ => continue,
            };
            let written = format!("{folder}.{name}");
            self.diffusers.entry((component, path.into())).or_default().push((written.clone(), place.clone()));
            self.spell(written, place.clone());
            self.spell(kohya_name(kohya, name), place.clone());
            if denoiser {
                self.spell(kohya_name("lora_transformer", name), place.clone());
                self.spell(name.to_owned(), place.clone());
            }
            if let Some(short) = name.strip_prefix("text_model.") {
                self.spell(format!("{folder}.{short}"), place.clone());
            }
        }
    }

    fn spell(&mut self, name: String, place: Place) {
        self.places.entry(name).or_insert(place);
    }

    /// Where a layer of a file belongs.
    pub fn find(&self, layer: &str) -> Option<&Place> {
        let layer = layer.strip_prefix("base_model.model.").unwrap_or(layer);
        if let Some(place) = self.places.get(layer) {
            return Some(place);
        }
        for (other, kohya) in [("oft_", "lora_"), ("lycoris_", "lora_unet_"), ("lora_transformer_", "lora_unet_")] {
            if let Some(rest) = layer.strip_prefix(other)
                && let Some(place) = self.places.get(&format!("{kohya}{rest}"))
            {
                return Some(place);
            }
        }
        // Attention processors: `attn1.processor.to_out` stands for `attn1.to_out.0`.
        let plain = layer.replace(".processor.", ".");
        self.places.get(&plain).or_else(|| self.places.get(&format!("{plain}.0")))
    }

    /// Shape of a weight.
    pub fn shape(&self, component: Component, path: &str) -> Option<&[usize]> {
        self.shapes.get(&(component, path.to_owned())).map(Vec::as_slice)
    }

    /// Rows, columns and kernel that a place has of its weight.
    pub fn shape_at(&self, place: &Place) -> Option<Vec<usize>> {
        let mut shape = self.shape(place.component, &place.path)?.to_vec();
        if let (Some(rows), Some(first)) = (&place.rows, shape.first_mut()) {
            *first = rows.len();
        }
        Some(shape)
    }

    /// A layer's name in kohya's files.
    pub fn kohya(&self, component: Component, path: &str) -> Option<&str> {
        self.kohya.get(&(component, path.to_owned())).map(String::as_str)
    }

    /// A layer's names in Diffusers' files, each with the place it is for.
    pub fn diffusers(&self, component: Component, path: &str) -> &[(String, Place)] {
        self.diffusers.get(&(component, path.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// Whether adapters usually wrap a layer, convolutions and embedders included.
    pub fn is_target(&self, component: Component, path: &str) -> bool {
        self.targets.contains_key(&(component, path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_layer() {
        let shapes: Shapes = vec![
            ("single_blocks.0.linear1.weight".into(), vec![14, 2]),
            ("single_blocks.0.linear2.weight".into(), vec![2, 10]),
            ("double_blocks.0.img_attn.qkv.weight".into(), vec![6, 2]),
            ("double_blocks.0.img_attn.proj.weight".into(), vec![2, 2]),
            ("final_layer.adaLN_modulation.1.weight".into(), vec![4, 2]),
        ];
        let names = Names::new(Family::Flux, &[(Component::Flux, shapes)]);
        let rows = |name: &str| names.find(name).map(|place| (place.path.as_str(), place.rows.clone()));
        let qkv = "double_blocks.0.img_attn.qkv";
        for whole in ["lora_unet_double_blocks_0_img_attn_qkv", "diffusion_model.double_blocks.0.img_attn.qkv"] {
            assert_eq!(rows(whole), Some((qkv, None)), "{whole}");
        }
        for part in [
            "transformer.transformer_blocks.0.attn.to_k",
            "base_model.model.transformer_blocks.0.attn.to_k",
            "lora_transformer_transformer_blocks_0_attn_to_k",
        ] {
            assert_eq!(rows(part), Some((qkv, Some(2..4))), "{part}");
        }
        assert!(names.find("transformer.norm_out.linear").unwrap().swapped);
        assert_eq!(names.diffusers(Component::Flux, "single_blocks.0.linear1").len(), 4);
        assert!(
            names.is_target(Component::Flux, qkv)
                && !names.is_target(Component::Flux, "final_layer.adaLN_modulation.1")
        );
        assert_eq!(rows("lora_unet_nothing"), None);
    }

    #[test]
    fn sdxl_has_the_names_of_its_code() {
        let shapes: Shapes = pipe_networks::unet::UnetConfig::sdxl().shapes();
        let names = Names::new(Family::Sdxl, &[(Component::Unet, shapes)]);
        let path = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0";
        let kohya = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0";
        assert_eq!(names.kohya(Component::Unet, path), Some(kohya));
        for name in [kohya, &format!("unet.{path}"), &kohya_name("lora_unet", path), &kohya_name("lycoris", path)] {
            assert_eq!(names.find(name).map(|p| p.path.as_str()), Some(path), "{name}");
        }
        let processor = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out";
        assert_eq!(names.find(processor).map(|p| p.path.as_str()), Some(path));
    }
}
