//! The public models at full size: what an adapter file is compared with when no base model is given.

use pipe_data::weights::{Component, Family};
use pipe_networks::Shapes;
use pipe_networks::clip::ClipConfig;
use pipe_networks::flux::FluxConfig;
use pipe_networks::gemma::GemmaConfig;
use pipe_networks::lumina_next::LuminaNextConfig;
use pipe_networks::lumina2::Lumina2Config;
use pipe_networks::mmdit::MmditConfig;
use pipe_networks::t5::T5Config;
use pipe_networks::unet::UnetConfig;

use crate::adapter::{AdapterFile, Change, Names};
use crate::error::{Result, ToolError};

/// Denoisers at full size.
fn denoisers() -> [(Family, Shapes); 9] {
    [
        (Family::Sd1, UnetConfig::sd15().shapes()),
        (Family::Sd2, UnetConfig::sd2().shapes()),
        (Family::Sdxl, UnetConfig::sdxl().shapes()),
        (Family::Flux, FluxConfig::dev().shapes()),
        (Family::Sd3, MmditConfig::sd3_medium().shapes()),
        (Family::Sd3, MmditConfig::sd35_medium().shapes()),
        (Family::Sd3, MmditConfig::sd35_large().shapes()),
        (Family::Lumina2, Lumina2Config::image_2_0().shapes()),
        (Family::LuminaNext, LuminaNextConfig::t2i_2b().shapes()),
    ]
}

/// A text encoder of a family at full size.
fn text(family: Family, component: Component) -> Shapes {
    match (component, family) {
        (Component::TextEncoder, Family::Sd2) => ClipConfig::vit_h().shapes(),
        (Component::TextEncoder, _) => ClipConfig::vit_l().shapes(),
        (Component::ClipG, _) => ClipConfig::vit_big_g().shapes(),
        (Component::T5, _) => T5Config::xxl().shapes(),
        (_, Family::LuminaNext) => GemmaConfig::gemma1_2b().all_shapes(),
        _ => GemmaConfig::gemma2_2b().all_shapes(),
    }
}

/// The names of the public model that a file was made for: the one whose layers all of the file's are, with shapes that
/// fit.
///
/// # Errors
/// P0320, with the layers that are not in the model that fits best.
pub fn names_for(files: &[&AdapterFile]) -> Result<Names> {
    let mut best: Option<(Names, Vec<String>)> = None;
    for names in every() {
        let unknown = strangers(files, &names);
        if unknown.is_empty() {
            return Ok(names);
        }
        if best.as_ref().is_none_or(|(_, before)| unknown.len() < before.len()) {
            best = Some((names, unknown));
        }
    }
    let Some((names, unknown)) = best else { return Err(ToolError::new("P0302", "there are no layers")) };
    let what = ["is", "are"].map(|are| format!("{are} not of {} at full size, which fits best", names.family));
    let help = "`--for MODEL` names the model that the file is for, where it is of another size";
    Err(files[0].unknown(&unknown, [&what[0], &what[1]]).help(help))
}

/// The names of the first public model that has all layers of each file, whatever their sizes are, of the given family if
/// there is one. Nothing where a file has
/// layers of none.
///
/// # Errors
/// P0305 where each file is of a model, and they are of no one family.
pub fn names_alike(files: &[AdapterFile], family: Option<Family>) -> Result<Option<Names>> {
    let has = |names: &Names, file: &AdapterFile| file.layers.keys().all(|name| names.find(name).is_some());
    let mut own: Vec<Option<Family>> = vec![None; files.len()];
    let mut other = None;
    for names in every() {
        let mut all = true;
        for (file, family) in files.iter().zip(&mut own) {
            let found = has(&names, file);
            all &= found;
            if found {
                family.get_or_insert(names.family);
            }
        }
        if all && family.is_none_or(|family| family == names.family) {
            return Ok(Some(names));
        }
        if all {
            other.get_or_insert(names);
        }
    }
    if other.is_some() {
        return Ok(other);
    }
    let known: Vec<(&AdapterFile, Family)> = files.iter().zip(&own).filter_map(|(f, own)| Some((f, (*own)?))).collect();
    let other = known.iter().find(|(_, family)| *family != known[0].1).filter(|_| known.len() == files.len());
    if let Some((file, family)) = other {
        return Err(different(known[0], (file, *family)));
    }
    Ok(None)
}

/// That two files are for different models.
pub fn different((a, of_a): (&AdapterFile, Family), (b, of_b): (&AdapterFile, Family)) -> ToolError {
    let (a, place) = (a.path().display(), b.path());
    let message = format!("the files are for different models: `{a}` for {of_a}, `{}` for {of_b}", place.display());
    ToolError::new("P0305", message).at(place).help("join files of one model")
}

/// The names of each public model.
fn every() -> impl Iterator<Item = Names> {
    denoisers().into_iter().map(|(family, denoiser)| {
        let texts = family.text_encoders().iter().map(|component| (*component, text(family, *component)));
        let parts: Vec<_> = std::iter::once((family.denoiser(), denoiser)).chain(texts).collect();
        Names::new(family, &parts)
    })
}

/// Layers that a model does not have, or in another size.
fn strangers(files: &[&AdapterFile], names: &Names) -> Vec<String> {
    let mut unknown = Vec::new();
    for file in files.iter().copied() {
        for (name, layer) in &file.layers {
            let fits = names.find(name).is_some_and(|place| {
                let change = Change { file, name, layer, place: place.clone(), ratio: 1.0 };
                names.shape_at(&place).is_some_and(|shape| change.check(&shape).is_ok())
            });
            if !fits {
                unknown.push(name.clone());
            }
        }
    }
    unknown
}
