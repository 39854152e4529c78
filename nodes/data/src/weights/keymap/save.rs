//! Which tensors a saved part consists of, and how each is made from the internal ones.

use thiserror::Error;

use super::clip;
use super::mapped::{Fault, Given, Mapped};
use super::parts::{Naming, to_stored};
use crate::weights::component::{Component, Family};
use crate::weights::recipe::{Recipe, Source};

/// The form of a saved part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// In a file of the whole model: the original code's names behind the part's prefix.
    SingleFile,
    /// A file of this part alone as the model's users have it: a denoiser or autoencoder with the original code's names
    /// and no prefix, a text encoder with those of Transformers.
    OwnFile,
    /// In a Diffusers folder.
    Diffusers,
}

/// A tensor of a saved part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// Its name in the file, prefix included.
    pub name: String,
    /// How it is made from internal tensors, and its shape in the file.
    pub recipe: Recipe,
}

/// Internal tensors that cannot be saved in the wanted form.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// The family has no such part.
    #[error("{family} has no {}", component.name())]
    NoPart {
        /// The family.
        family: Family,
        /// The part.
        component: Component,
    },
    /// Names without a place.
    #[error("there is no place for `{}` in a {} of {family}", names.join("`, `"), component.name())]
    Unknown {
        /// The family.
        family: Family,
        /// The part.
        component: Component,
        /// The names.
        names: Vec<String>,
    },
    /// A tensor that is joined with others is there without them.
    #[error("tensor `{name}` is missing")]
    Missing {
        /// Its internal name.
        name: String,
    },
    /// A shape that does not fit.
    #[error("tensor `{name}` has shape {shape:?}, {wanted} needed")]
    Shape {
        /// Its internal name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// What was needed.
        wanted: &'static str,
    },
}

/// Layers of SD2's text encoder in its single files, one more than are used.
const OPEN_CLIP_H_LAYERS: u32 = 24;

/// The tensors a part is saved as.
///
/// `weights` are internal names and shapes. Tensors no network needs (see
/// [`ComponentWeights::optional`](crate::weights::ComponentWeights::optional)) may be among them: they are written
/// where the form has a place for them and left out elsewhere. What a form needs without them is made up: in SD2
/// single files the unused last layer as a copy of the one before, a projection of ones and a scale of one; the
/// identity as projection of SD3's CLIP-L folder; ones for Lumina-Image-2.0's unused last norm. Other programs insist
/// on these.
pub fn plan<'a>(
    component: Component,
    family: Family,
    form: Form,
    weights: impl IntoIterator<Item = (&'a str, &'a [usize])>,
) -> Result<Vec<StoredTensor>, PlanError> {
    if !family.has(component) {
        return Err(PlanError::NoPart { family, component });
    }
    let given: Vec<Given> = weights
        .into_iter()
        .filter(|(name, _)| has_place(component, family, form, name))
        .map(|(name, shape)| Given { name, source: name, shape })
        .collect();
    let naming = naming(component, family, form);
    let mut mapped = to_stored(component, naming, &given);
    keep_unused(component, form, &given, &mut mapped);
    if let Some(fault) = mapped.faults.into_iter().next() {
        return Err(match fault {
            Fault::Missing { name } => PlanError::Missing { name },
            Fault::Shape { source, shape, wanted } => PlanError::Shape { name: source, shape, wanted },
        });
    }
    if !mapped.unknown.is_empty() {
        return Err(PlanError::Unknown { family, component, names: mapped.unknown });
    }
    let prefix = prefix(component, family, form);
    let tensors = mapped.tensors.into_iter();
    let mut stored: Vec<StoredTensor> =
        tensors.map(|(name, recipe)| StoredTensor { name: format!("{prefix}{name}"), recipe }).collect();
    make_up(component, family, form, &given, prefix, &mut stored);
    Ok(stored)
}

fn naming(component: Component, family: Family, form: Form) -> Naming {
    let open_clip = match component {
        Component::TextEncoder => family == Family::Sd2,
        Component::ClipG => family == Family::Sdxl,
        Component::T5 | Component::Gemma => false,
        _ => return if form == Form::Diffusers { Naming::Diffusers } else { Naming::Original },
    };
    if open_clip && form == Form::SingleFile { Naming::Original } else { Naming::Diffusers }
}

fn prefix(component: Component, family: Family, form: Form) -> &'static str {
    match (form, component) {
        (Form::Diffusers, _) => "",
        (Form::OwnFile, Component::Gemma) => "model.",
        (Form::OwnFile, _) => "",
        (Form::SingleFile, Component::Vae) if matches!(family, Family::Flux | Family::Lumina2) => "vae.",
        (Form::SingleFile, Component::Vae) => "first_stage_model.",
        (Form::SingleFile, Component::TextEncoder) => match family {
            Family::Sd1 => "cond_stage_model.transformer.",
            Family::Sd2 => "cond_stage_model.model.",
            Family::Sdxl => "conditioner.embedders.0.transformer.",
            _ => "text_encoders.clip_l.transformer.",
        },
        (Form::SingleFile, Component::ClipG) if family == Family::Sdxl => "conditioner.embedders.1.model.",
        (Form::SingleFile, Component::ClipG) => "text_encoders.clip_g.transformer.",
        (Form::SingleFile, Component::T5) => "text_encoders.t5xxl.transformer.",
        (Form::SingleFile, Component::Gemma) => "text_encoders.gemma2_2b.transformer.model.",
        (Form::SingleFile, _) => "model.diffusion_model.",
    }
}

/// Whether a form has a place for a tensor; `true` for all but those no network needs.
fn has_place(component: Component, family: Family, form: Form, name: &str) -> bool {
    match component {
        Component::TextEncoder | Component::ClipG => match name {
            "logit_scale" => form != Form::Diffusers,
            "text_projection.weight" => {
                let class = family.class(component).map(|(_, class)| class);
                form != Form::Diffusers || class == Some("CLIPTextModelWithProjection")
            }
            _ if component == Component::TextEncoder && form != Form::SingleFile => {
                clip::layer(name) != Some(OPEN_CLIP_H_LAYERS - 1)
            }
            _ => true,
        },
        Component::Lumina2 => form != Form::Diffusers || name != NORM_FINAL,
        _ => true,
    }
}

/// Lumina-Image-2.0's norm that nothing uses.
pub(crate) const NORM_FINAL: &str = "norm_final.weight";

/// Lets a tensor that no table has through where it has a place.
fn keep_unused(component: Component, form: Form, given: &[Given], mapped: &mut Mapped) {
    if component == Component::Lumina2
        && form != Form::Diffusers
        && let Some(norm) = given.iter().find(|tensor| tensor.name == NORM_FINAL)
    {
        mapped.unknown.retain(|name| name != NORM_FINAL);
        mapped.add(NORM_FINAL.into(), Recipe::whole(norm.source, norm.shape), norm);
    }
}

/// Adds what other programs insist on and nothing uses.
fn make_up(
    component: Component,
    family: Family,
    form: Form,
    given: &[Given],
    prefix: &str,
    stored: &mut Vec<StoredTensor>,
) {
    let shape = |name: &str| given.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.shape);
    let has =
        |name: &str, stored: &[StoredTensor]| stored.iter().any(|tensor| tensor.name == format!("{prefix}{name}"));
    let add = |name: &str, source: Source, shape: Vec<usize>, stored: &mut Vec<StoredTensor>| {
        if !has(name, stored) {
            stored.push(StoredTensor { name: format!("{prefix}{name}"), recipe: Recipe { source, shape } });
        }
    };
    let width = shape("text_model.embeddings.token_embedding.weight").and_then(|shape| shape.get(1).copied());
    match (component, family, form, width) {
        (Component::TextEncoder, Family::Sd2, Form::SingleFile, Some(width)) => {
            let layers = given.iter().filter_map(|tensor| clip::layer(tensor.name)).max();
            if layers == Some(OPEN_CLIP_H_LAYERS - 2) {
                let [used, unused] =
                    [2, 1].map(|back| format!("{prefix}transformer.resblocks.{}.", OPEN_CLIP_H_LAYERS - back));
                let copies: Vec<StoredTensor> = stored
                    .iter()
                    .filter_map(|tensor| {
                        let rest = tensor.name.strip_prefix(&used)?;
                        Some(StoredTensor { name: format!("{unused}{rest}"), recipe: tensor.recipe.clone() })
                    })
                    .collect();
                stored.extend(copies);
            }
            add("text_projection", Source::Ones, vec![width, width], stored);
            add("logit_scale", Source::Ones, Vec::new(), stored);
        }
        (Component::TextEncoder, Family::Sd3, Form::Diffusers, Some(width)) => {
            add("text_projection.weight", Source::Identity, vec![width, width], stored);
        }
        (Component::Lumina2, _, Form::SingleFile | Form::OwnFile, _) => {
            if let Some(width) = shape("final_layer.linear.weight").and_then(|shape| shape.get(1).copied()) {
                add(NORM_FINAL, Source::Ones, vec![width], stored);
            }
        }
        _ => {}
    }
}
