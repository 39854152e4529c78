//! Which weight a layer of an adapter file is for, in every spelling that [`Spellings`] has. Where Diffusers keeps matrices
//! apart that are joined in the model, a layer is for some rows of the weight.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use pipe_data::lora_names::{Piece, Spellings, Wanted, targets};
use pipe_data::weights::{Component, Family};

/// Internal names and shapes of a part.
pub type Shapes = Vec<(String, Vec<usize>)>;

/// Where a layer of a file belongs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The part of the model.
    pub component: Component,
    /// Internal path of the weight.
    pub path: String,
    /// Its rows; nothing when it is all of them.
    pub rows: Option<Range<usize>>,
    /// Whether the halves of the rows are exchanged.
    pub swapped: bool,
    /// Which copy it is where a program holds the weight several times; nothing when it is the weight itself.
    pub copy: Option<usize>,
}

impl Place {
    fn of(component: Component, piece: &Piece) -> Place {
        let Piece { path, rows, swapped, copy } = piece.clone();
        Place { component, path, rows: rows.map(|(start, end)| start..end), swapped, copy }
    }
}

/// The names of a model's layers.
#[derive(Clone, Debug)]
pub struct Names {
    /// The family.
    pub family: Family,
    spellings: Vec<(Component, Spellings)>,
    shapes: HashMap<(Component, String), Vec<usize>>,
    targets: HashSet<(Component, String)>,
}

impl Names {
    /// The names in a model of these parts.
    pub fn new(family: Family, parts: &[(Component, Shapes)]) -> Names {
        let mut names = Names { family, spellings: Vec::new(), shapes: HashMap::new(), targets: HashSet::new() };
        for (component, shapes) in parts {
            let named = || shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
            names.spellings.push((*component, Spellings::new(family, *component, named())));
            for (name, shape) in named() {
                if let Some(path) = name.strip_suffix(".weight") {
                    names.shapes.insert((*component, path.to_owned()), shape.to_vec());
                }
            }
            let wanted = Wanted { conv: true, embedders: true };
            let wrapped = targets(family, *component, named(), wanted);
            names.targets.extend(wrapped.into_iter().map(|target| (*component, target.path)));
        }
        names
    }

    fn part(&self, component: Component) -> Option<&Spellings> {
        self.spellings.iter().find(|(part, _)| *part == component).map(|(_, spellings)| spellings)
    }

    /// Where a layer of a file belongs.
    pub fn find(&self, layer: &str) -> Option<Place> {
        self.spellings.iter().find_map(|(component, names)| Some(Place::of(*component, names.find(layer)?)))
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
        self.part(component)?.kohya(path)
    }

    /// A layer's names in Diffusers' files, each with the place it is for.
    pub fn diffusers(&self, component: Component, path: &str) -> Vec<(String, Place)> {
        let list = self.part(component).map_or(&[][..], |part| part.diffusers(path));
        list.iter().map(|(name, piece)| (name.clone(), Place::of(component, piece))).collect()
    }

    /// Whether adapters usually wrap a layer, convolutions and embedders included.
    pub fn is_target(&self, component: Component, path: &str) -> bool {
        self.targets.contains(&(component, path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use pipe_data::lora_names::kohya_name;

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
        let rows = |name: &str| names.find(name).map(|place| (place.path, place.rows));
        let qkv = "double_blocks.0.img_attn.qkv";
        for whole in ["lora_unet_double_blocks_0_img_attn_qkv", "diffusion_model.double_blocks.0.img_attn.qkv"] {
            assert_eq!(rows(whole), Some((qkv.to_owned(), None)), "{whole}");
        }
        for part in [
            "transformer.transformer_blocks.0.attn.to_k",
            "base_model.model.transformer_blocks.0.attn.to_k",
            "lora_transformer_transformer_blocks_0_attn_to_k",
        ] {
            assert_eq!(rows(part), Some((qkv.to_owned(), Some(2..4))), "{part}");
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
            assert_eq!(names.find(name).unwrap().path, path, "{name}");
        }
        let processor = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out";
        assert_eq!(names.find(processor).unwrap().path, path);
    }
}
