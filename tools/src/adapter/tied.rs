//! Layers of a weight that a program holds several times.
//!
//! Diffusers' Lumina-Next has the query of an attention twice, once for the picture and once for the text; the model has it
//! once. A file that names both says one thing twice.

use std::collections::{HashMap, HashSet};

use super::file::{AdapterFile, Layer, Tensor};
use super::names::{Names, Place};
use crate::error::{Result, ToolError};

/// The layers of a file that repeat another for a copy of its weight.
///
/// # Errors
/// P0302 where they do not do the same to each copy: the model has one weight for both.
pub fn repeats(file: &AdapterFile, names: &Names) -> Result<HashSet<String>> {
    let mut first: HashMap<Place, (&str, &Layer, usize)> = HashMap::new();
    let mut out = HashSet::new();
    for (name, layer) in &file.layers {
        let Some(Place { copy: Some(number), component, path, rows, swapped }) = names.find(name) else { continue };
        let place = Place { component, path, rows, swapped, copy: None };
        let Some((before, other, copy)) = first.get(&place) else {
            first.insert(place, (name, layer, number));
            continue;
        };
        if *copy == number {
            continue;
        }
        if !same(file, (before, other), (name, layer))? {
            let message =
                format!("`{before}` and `{name}` are for one weight of the model, and do not change it alike");
            let help = "the file was trained where the two are apart; this model has one for both";
            return Err(ToolError::new("P0302", message).at(file.path()).help(help));
        }
        out.insert(name.clone());
    }
    Ok(out)
}

/// Whether two layers have the same tensors and scale.
fn same(file: &AdapterFile, (a_name, a): (&str, &Layer), (b_name, b): (&str, &Layer)) -> Result<bool> {
    let kinds = |layer: &Layer| layer.0.keys().copied().filter(|t| *t != Tensor::Alpha).collect::<Vec<_>>();
    if kinds(a) != kinds(b) || file.alpha(a_name, a, 1)? != file.alpha(b_name, b, 1)? {
        return Ok(false);
    }
    for tensor in kinds(a) {
        if file.shape(a, tensor) != file.shape(b, tensor) || file.values(a, tensor)? != file.values(b, tensor)? {
            return Ok(false);
        }
    }
    Ok(true)
}
