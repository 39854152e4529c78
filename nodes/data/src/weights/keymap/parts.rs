//! Each part's names: from stored to internal and back.

use super::mapped::{Given, Mapped};
use super::rules::{Rule, Table};
use super::{UnetMap, VaeMap, clip, flux, lumina, sd3, text, vae};
use crate::weights::component::Component;
use crate::weights::recipe::Recipe;

/// Whose names a part has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// Those of the model's own code.
    Original,
    /// Those of Diffusers or Transformers.
    Diffusers,
}

/// The rules of a part that has a table, and where its blocks are on both sides.
fn table(component: Component) -> Option<(&'static [&'static [Rule]], [&'static str; 2])> {
    Some(match component {
        Component::Mmdit => (sd3::RULES, ["joint_blocks", "transformer_blocks"]),
        Component::Flux => (flux::RULES, ["double_blocks", "transformer_blocks"]),
        Component::Lumina2 => (lumina::LUMINA2, ["layers", "layers"]),
        Component::LuminaNext => (lumina::LUMINA_NEXT, ["layers", "layers"]),
        Component::T5 => (text::T5, ["encoder.block", "encoder.block"]),
        Component::Gemma => (text::GEMMA, ["layers", "layers"]),
        Component::TextEncoder | Component::ClipG => {
            (clip::OPEN_CLIP, ["transformer.resblocks", "text_model.encoder.layers"])
        }
        Component::Unet | Component::Vae => return None,
    })
}

/// Whose names these stored ones are.
pub(crate) fn naming<'a>(component: Component, mut names: impl Iterator<Item = &'a str>) -> Naming {
    let original = match component {
        Component::Unet => names.any(|n| n == "input_blocks.0.0.weight"),
        Component::Vae => names.any(|n| n.starts_with("decoder.up.") || n.starts_with("encoder.down.")),
        Component::TextEncoder | Component::ClipG => names.any(|n| n == "token_embedding.weight"),
        Component::Mmdit => names.any(|n| n.starts_with("joint_blocks.")),
        Component::Flux => names.any(|n| n.starts_with("double_blocks.")),
        Component::Lumina2 | Component::LuminaNext => names.any(|n| n.contains(".attention.")),
        Component::T5 | Component::Gemma => false,
    };
    if original { Naming::Original } else { Naming::Diffusers }
}

/// Internal tensors from stored ones.
pub(crate) fn to_internal(component: Component, naming: Naming, given: &[Given]) -> Mapped {
    use Component::*;
    let names = || given.iter().map(|tensor| tensor.name);
    let table = || table(component).map(|(rules, heads)| Table::new(rules, heads, names()));
    match (component, naming) {
        (Unet, Naming::Original) => {
            let map = UnetMap::from_ldm(names());
            one_to_one(given, |name| map.to_diffusers(name))
        }
        (Unet, Naming::Diffusers) => {
            let map = UnetMap::from_diffusers(names());
            one_to_one(given, |name| map.to_ldm(name).map(|_| name.to_owned()))
        }
        (Vae, Naming::Original) => {
            let map = VaeMap::from_ldm(names());
            attention_as_matrices(given, |name| map.to_diffusers(name))
        }
        (Vae, Naming::Diffusers) => {
            let map = VaeMap::from_diffusers(names());
            attention_as_matrices(given, |name| map.to_ldm(name).map(|_| vae::current_name(name)))
        }
        (TextEncoder | ClipG, Naming::Diffusers) => one_to_one(given, clip::to_internal),
        (T5, _) => embedding_once(given, |given| table().map(|t| t.keep(given)).unwrap_or_default()),
        (TextEncoder | ClipG, Naming::Original) => table().map(|t| t.split(given)).unwrap_or_default(),
        (Gemma, _) | (_, Naming::Original) => table().map(|t| t.keep(given)).unwrap_or_default(),
        (_, Naming::Diffusers) => table().map(|t| t.join(given)).unwrap_or_default(),
    }
}

/// Stored tensors from internal ones, without prefix.
pub(crate) fn to_stored(component: Component, naming: Naming, given: &[Given]) -> Mapped {
    use Component::*;
    let names = || given.iter().map(|tensor| tensor.name);
    let table = || table(component).map(|(rules, heads)| Table::new(rules, heads, names()));
    match (component, naming) {
        (Unet, naming) => {
            let map = UnetMap::from_diffusers(names());
            one_to_one(given, |name| {
                map.to_ldm(name).map(|ldm| if naming == Naming::Original { ldm } else { name.to_owned() })
            })
        }
        (Vae, naming) => {
            let map = VaeMap::from_diffusers(names());
            let mut mapped = one_to_one(given, |name| {
                map.to_ldm(name).map(|ldm| if naming == Naming::Original { ldm } else { name.to_owned() })
            });
            if naming == Naming::Original {
                for recipe in mapped.tensors.values_mut() {
                    let matrix = recipe.names().first().is_some_and(|name| vae::is_attention_matrix(name));
                    if matrix && recipe.shape.len() == 2 {
                        recipe.shape.extend([1, 1]);
                    }
                }
            }
            mapped
        }
        (TextEncoder | ClipG, Naming::Diffusers) => one_to_one(given, clip::to_internal),
        (TextEncoder | ClipG, Naming::Original) => table().map(|t| t.join(given)).unwrap_or_default(),
        (T5 | Gemma, _) | (_, Naming::Original) => table().map(|t| t.keep(given)).unwrap_or_default(),
        (_, Naming::Diffusers) => table().map(|t| t.split(given)).unwrap_or_default(),
    }
}

/// What a file calls an internal tensor, without prefix; `names` are the internal names of its others. A name that no
/// table has stays as it is.
pub(crate) fn stored_names(component: Component, naming: Naming, names: &[&str], name: &str) -> Vec<String> {
    use Component::*;
    let others = || names.iter().copied();
    let renamed = |to_split: bool| {
        let renamed = |(rules, heads)| Table::new(rules, heads, others()).rename(name, to_split);
        table(component).map(renamed).unwrap_or_default()
    };
    let found = match (component, naming) {
        (Unet, Naming::Original) => Vec::from_iter(UnetMap::from_diffusers(others()).to_ldm(name)),
        (Vae, Naming::Original) => Vec::from_iter(VaeMap::from_diffusers(others()).to_ldm(name)),
        (TextEncoder | ClipG, Naming::Original) => renamed(false),
        (Mmdit | Flux | Lumina2 | LuminaNext, Naming::Diffusers) => renamed(true),
        _ => Vec::new(),
    };
    if found.is_empty() { vec![name.to_owned()] } else { found }
}

fn one_to_one(given: &[Given], rename: impl Fn(&str) -> Option<String>) -> Mapped {
    let mut mapped = Mapped::default();
    for tensor in given {
        match rename(tensor.name) {
            Some(name) => mapped.add(name, Recipe::whole(tensor.source, tensor.shape), tensor),
            None => mapped.unknown.push(tensor.source.to_owned()),
        }
    }
    mapped
}

/// The matrices of the autoencoder's attention are 1×1 convolutions in some files, even with one side left out.
fn attention_as_matrices(given: &[Given], rename: impl Fn(&str) -> Option<String>) -> Mapped {
    let mut mapped = one_to_one(given, rename);
    for (name, recipe) in &mut mapped.tensors {
        if vae::is_attention_matrix(name) {
            match *recipe.shape {
                [_, _] => {}
                [out, inputs, 1] | [out, inputs, 1, 1] => recipe.shape = vec![out, inputs],
                _ => {
                    let source = recipe.names().first().cloned().unwrap_or_default();
                    let wanted = "a matrix or a 1×1 convolution is";
                    let shape = recipe.shape.clone();
                    mapped.faults.push(super::mapped::Fault::Shape { source, shape, wanted });
                }
            }
        }
    }
    mapped
}

/// T5's embedding goes by one name, whichever of the two a file has, and counts once where it has both.
fn embedding_once(given: &[Given], map: impl Fn(&[Given]) -> Mapped) -> Mapped {
    let [name, second] = text::T5_EMBEDDING;
    let has_first = given.iter().any(|tensor| tensor.name == name);
    let mut list = given.to_vec();
    let mut copies = Vec::new();
    list.retain_mut(|tensor| {
        if tensor.name != second {
            return true;
        }
        tensor.name = name;
        if has_first {
            copies.push(tensor.source.to_owned());
        }
        !has_first
    });
    let mut mapped = map(&list);
    mapped.copies.extend(copies);
    mapped
}
