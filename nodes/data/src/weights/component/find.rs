//! Which of a file's tensors belong to a component.

use std::collections::BTreeSet;
use std::path::Path;

use super::Component;
use super::kind::CLIP_EMBEDDINGS;
use crate::weights::detect::{Architecture, detect_set, detect_shapes, lora_kind};
use crate::weights::error::FileError;
use crate::weights::keymap::clip;
use crate::weights::scale;
use crate::weights::set::WeightSet;

/// The stored tensors of a component.
pub(super) struct Selected<'a> {
    /// The component's prefix in this file; empty where it has none.
    pub prefix: &'static str,
    /// Stored name, and name without prefix.
    pub stored: Vec<(&'a str, &'a str)>,
}

/// Finds the stored tensors of a component.
pub(super) fn select(set: &WeightSet, component: Component) -> Result<Selected<'_>, FileError> {
    let path = set.path();
    let Some(selected) = find(set, component) else {
        return Err(FileError::NoComponent {
            path: path.into(),
            component: component.name(),
            found: describe(set, component),
        });
    };
    if let Some(problem) = unsupported(set, component, &selected) {
        return Err(FileError::Unsupported { path: path.into(), problem });
    }
    let marked = selected.stored.iter().any(|(_, name)| scale::is_marker(name));
    for (source, name) in &selected.stored {
        let scale = set.check_scale(source)?;
        // Without its scale a weight would be read as something else by some power of two.
        if marked && scale.is_none() && set.info(source).is_some_and(|info| scale::needs_scale(name, info)) {
            return Err(FileError::NoScale { path: path.into(), tensor: (*source).into() });
        }
    }
    Ok(selected)
}

/// The tensors of a component, if the file has it.
fn find(set: &WeightSet, component: Component) -> Option<Selected<'_>> {
    let markers = component.markers();
    // Prefixes of other parts may begin alike (`model.`, `model.diffusion_model.`), so the one with a marker counts.
    let marked = |prefix: &&str| markers.iter().any(|marker| set.info(&format!("{prefix}{marker}")).is_some());
    if let Some(prefix) = component.prefixes().iter().copied().find(marked) {
        let stored = set.names().filter_map(|name| Some((name, name.strip_prefix(prefix)?))).collect();
        return Some(Selected { prefix, stored });
    }
    if !marked(&"") || other_clip(set, component) {
        return None;
    }
    let stored = set.names().filter(|name| !is_foreign(component, name)).map(|name| (name, name)).collect();
    Some(Selected { prefix: "", stored })
}

/// Whether a file of one CLIP text encoder is, by its width, another than the wanted.
fn other_clip(set: &WeightSet, component: Component) -> bool {
    let width = || CLIP_EMBEDDINGS.iter().find_map(|name| set.info(name)?.shape.get(1).copied());
    match component {
        Component::TextEncoder => width() == Some(1280),
        Component::ClipG => matches!(width(), Some(768 | 1024)),
        _ => false,
    }
}

/// Beginnings of the noise schedule's buffers.
const SCHEDULE: [&str; 8] =
    ["betas", "alphas_cumprod", "sqrt_", "log_one_minus_", "posterior_", "logvar", "lvlb_weights", "denoiser."];

/// The stored tensors that belong to no part of any model, in a file whose parts are told apart by prefixes, and beside
/// the autoencoder, which takes nothing else from its file. A denoiser without prefix has all that is not another's, so
/// that what is strange there is its own.
///
/// A whole model is opened once for each part; the tensors are listed with its denoiser.
pub(super) fn strays<'a>(set: &'a WeightSet, component: Component, prefix: &str) -> Vec<&'a str> {
    let denoises = |part: Component| part == Component::Unet || part.is_transformer();
    if prefix.is_empty() && component != Component::Vae {
        return Vec::new();
    }
    let parts = Component::ALL.into_iter().filter_map(|part| Some((part, find(set, part)?.prefix)));
    let parts: Vec<(Component, &str)> = parts.collect();
    if !denoises(component) && parts.iter().any(|(part, _)| denoises(*part)) {
        return Vec::new();
    }
    // Beside the part itself and the others that are there, what programs write around them.
    const AROUND: [&str; 9] = [
        "model.diffusion_model.",
        "model_ema.",
        "first_stage_model.",
        "cond_stage_model.",
        "conditioner.",
        "text_encoders.",
        "loss.",
        "discriminator.",
        "vae.",
    ];
    const MARKS: [&str; 6] = ["v_pred", "ztsnr", "edm_mean", "edm_std", "scale_factor", "global_step"];
    let known = |name: &str| {
        AROUND.iter().chain(&SCHEDULE).any(|head| name.starts_with(head))
            || MARKS.contains(&name)
            || parts.iter().any(|(part, prefix)| match *prefix {
                "" => !is_foreign(*part, name) && *part == Component::Vae,
                prefix => name.starts_with(prefix),
            })
            || set.is_scale(name)
            || clip::is_ignored(name)
            || name == "lm_head.weight"
            || name.rsplit('.').next() == Some("spiece_model")
    };
    set.names().filter(|name| !known(name)).collect()
}

/// Top-level names that belong to no part, or to another, in a file where the wanted part has no prefix.
fn is_foreign(component: Component, name: &str) -> bool {
    let head = name.split('.').next().unwrap_or(name);
    match component {
        Component::Vae => !matches!(head, "encoder" | "decoder" | "quant_conv" | "post_quant_conv"),
        _ => {
            matches!(head, "model_ema" | "loss" | "discriminator" | "first_stage_model" | "vae")
                || matches!(head, "cond_stage_model" | "conditioner" | "text_encoders")
                || matches!(head, "v_pred" | "ztsnr" | "edm_mean" | "edm_std")
                || SCHEDULE.iter().any(|start| name.starts_with(start))
        }
    }
}

/// Why the component cannot be used, if it cannot.
fn unsupported(set: &WeightSet, component: Component, selected: &Selected) -> Option<String> {
    if !component.is_transformer() {
        return None;
    }
    let shapes = selected.stored.iter().filter_map(|(source, name)| Some((*name, set.info(source)?.shape.as_slice())));
    match detect_shapes(shapes, None).architecture {
        Architecture::Unsupported(what) => Some(format!("it is {what}, which is not supported")),
        _ => None,
    }
}

/// What a file holds, in a few words, for the message that something else was wanted.
fn describe(set: &WeightSet, wanted: Component) -> String {
    let architecture = detect_set(set).architecture;
    if let Some((number, all)) = set.shard() {
        let of = if architecture == Architecture::Unknown { "a model".into() } else { architecture.to_string() };
        return format!("shard {number} of {all} of {of}");
    }
    if architecture.family().is_some_and(|family| family.denoiser() == wanted) {
        return format!("only some tensors of one ({architecture})");
    }

    let known: Vec<_> = Component::ALL.into_iter().filter(|part| find(set, *part).is_some()).collect();
    // A CLIP of unusual width counts as the first kind alone.
    let first = known.contains(&Component::TextEncoder);
    let only_prefixed = |part: &Component| {
        *part != Component::ClipG || !first || find(set, *part).is_some_and(|selected| !selected.prefix.is_empty())
    };
    let known: Vec<String> = known.iter().filter(|part| only_prefixed(part)).map(|part| part.a_name()).collect();
    if !known.is_empty() {
        return known.join(" and ");
    }
    if set.names().len() == 0 {
        return "no tensors".into();
    }
    if let Some(what) = lora_kind(set.names()) {
        return format!("a LoRA ({what})");
    }
    match architecture {
        Architecture::Unknown | Architecture::Lora(_) => {}
        known => return known.to_string(),
    }
    let heads: BTreeSet<&str> = set.names().map(|name| name.split('.').next().unwrap_or(name)).take(10_000).collect();
    let heads: Vec<String> = heads.into_iter().take(4).map(|head| format!("`{head}`")).collect();
    format!("tensors named {}, …", heads.join(", "))
}

/// The folders in a folder, for messages.
pub(super) fn folders_of(path: &Path) -> String {
    let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    let folders = entries.filter(|e| e.path().is_dir()).filter_map(|e| e.file_name().into_string().ok());
    let folders: BTreeSet<String> = folders.map(|name| format!("`{name}`")).collect();
    if folders.is_empty() { "no folders".into() } else { Vec::from_iter(folders).join(", ") }
}
