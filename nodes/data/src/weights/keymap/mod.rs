//! Names of the same weight in different checkpoints.
//!
//! Inside the program a U-Net and a VAE use Diffusers' names, a CLIP text encoder those of Hugging Face Transformers
//! with `text_model.`. Single-file checkpoints use the names of the original (LDM) code behind a prefix for each part.
//! The maps work on names alone and infer the number of levels and layers from them.

pub mod clip;
pub mod unet;
pub mod vae;

use super::component::Component;
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

/// Names and shapes of a whole component in an SD1/SD2 single-file checkpoint; the internal names it cannot place
/// otherwise.
pub fn to_single_file<'a>(
    component: Component,
    weights: impl IntoIterator<Item = (&'a str, &'a [usize])>,
) -> Result<Vec<SingleFileEntry>, Vec<String>> {
    let weights: Vec<(&str, &[usize])> = weights.into_iter().collect();
    let names = || weights.iter().map(|(name, _)| *name);
    let unet = UnetMap::from_diffusers(names());
    let vae = VaeMap::from_diffusers(names());
    let mut entries = Vec::with_capacity(weights.len());
    let mut unknown = Vec::new();
    for (internal, shape) in weights {
        let mut shape = shape.to_vec();
        let name = match component {
            Component::Unet => unet.to_ldm(internal).map(|name| format!("model.diffusion_model.{name}")),
            Component::Vae => {
                if vae::is_attention_matrix(internal) && shape.len() == 2 {
                    shape.extend([1, 1]);
                }
                vae.to_ldm(internal).map(|name| format!("first_stage_model.{name}"))
            }
            Component::TextEncoder => {
                internal.starts_with("text_model.").then(|| format!("cond_stage_model.transformer.{internal}"))
            }
        };
        match name {
            Some(name) => entries.push(SingleFileEntry { internal: internal.into(), name, shape }),
            None => unknown.push(internal.to_owned()),
        }
    }
    if unknown.is_empty() { Ok(entries) } else { Err(unknown) }
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
