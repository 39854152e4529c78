//! Names of the same weight in different checkpoints.
//!
//! Inside the program a U-Net and a VAE use Diffusers' names, a CLIP text encoder those of Hugging Face Transformers
//! with `text_model.`, T5 and Gemma those of Transformers too, and a diffusion transformer those of its authors.
//! Single-file checkpoints use the names of the original code behind a prefix for each part. The maps work on names
//! alone and infer the number of levels and layers from them; where one side keeps several matrices in one, or turns
//! a tensor round, they say how it is made ([`Recipe`](super::recipe::Recipe)).

pub mod clip;
mod flux;
mod lumina;
mod mapped;
mod parts;
mod rules;
mod save;
mod sd3;
#[cfg(test)]
mod tests;
mod text;
pub mod unet;
pub mod vae;

use super::component::{Component, Family};
pub use super::recipe::Recipe;
use super::recipe::Source;
pub(crate) use mapped::{Fault, Given, Mapped};
pub(crate) use parts::{Naming, naming, stored_names, to_internal};
pub(crate) use save::NORM_FINAL;
pub use save::{Form, PlanError, StoredTensor, plan};
pub use unet::UnetMap;
pub use vae::VaeMap;

/// Where a weight goes in a single-file checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SingleFileEntry {
    /// Internal name.
    pub internal: String,
    /// Name in the file, prefix included.
    pub name: String,
    /// Shape in the file; the values are in the same order.
    pub shape: Vec<usize>,
}

/// Names and shapes of a whole component in an SD1 single-file checkpoint; the internal names it cannot place
/// otherwise. [`plan`] does the same for every family and layout.
pub fn to_single_file<'a>(
    component: Component,
    weights: impl IntoIterator<Item = (&'a str, &'a [usize])>,
) -> Result<Vec<SingleFileEntry>, Vec<String>> {
    let weights: Vec<(&str, &[usize])> = weights.into_iter().collect();
    let planned = plan(component, Family::Sd1, Form::SingleFile, weights.iter().copied());
    let stored = planned.map_err(|error| match error {
        PlanError::Unknown { names, .. } => names,
        PlanError::NoPart { .. } => weights.iter().map(|(name, _)| (*name).to_owned()).collect(),
        PlanError::Missing { name } | PlanError::Shape { name, .. } => vec![name],
    })?;
    let entry = |tensor: StoredTensor| match tensor.recipe.source {
        // SD1's parts differ in names and shapes alone.
        Source::Whole(internal) => Ok(SingleFileEntry { internal, name: tensor.name, shape: tensor.recipe.shape }),
        _ => Err(vec![tensor.name]),
    };
    stored.into_iter().map(entry).collect()
}

/// Splits `rest` of `head.rest` when `name` starts with `head.`.
fn after<'a>(name: &'a str, head: &str) -> Option<&'a str> {
    name.strip_prefix(head)?.strip_prefix('.')
}

/// Splits `12.rest` into 12 and `rest`.
fn number(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_once('.')?;
    // No signs, and no second way to write the same number.
    if digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0')) {
        Some((digits.parse().ok()?, rest))
    } else {
        None
    }
}

/// Replaces the head of a name by the table's other column: `from.rest` becomes `to.rest`.
fn swap_head(name: &str, table: &[(&str, &str)], backwards: bool) -> Option<String> {
    table.iter().find_map(|&(a, b)| {
        let (from, to) = if backwards { (b, a) } else { (a, b) };
        after(name, from).map(|rest| format!("{to}.{rest}"))
    })
}
