//! Which of a file's tensors belong to a component.

use std::collections::BTreeSet;
use std::path::Path;

use super::Component;
use crate::weights::detect::lora_kind;
use crate::weights::error::FileError;
use crate::weights::set::WeightSet;

/// The stored tensors of a component.
pub(super) struct Selected<'a> {
    /// Whether they have the component's prefix.
    pub prefixed: bool,
    /// Stored name, and name without prefix.
    pub stored: Vec<(&'a str, &'a str)>,
}

/// Finds the stored tensors of a component.
pub(super) fn select(set: &WeightSet, component: Component) -> Result<Selected<'_>, FileError> {
    let path = set.path();
    let of_prefix = |name: &'_ str| component.prefixes().iter().find(|prefix| name.starts_with(**prefix)).copied();
    let marked = |stored: &[(&str, &str)]| stored.iter().any(|(_, name)| component.markers().contains(name));
    let prefixed: Vec<(&str, &str)> =
        set.names().filter_map(|name| Some((name, &name[of_prefix(name)?.len()..]))).collect();
    let (is_prefixed, stored) = if marked(&prefixed) {
        (true, prefixed)
    } else {
        let bare: Vec<(&str, &str)> =
            set.names().filter(|name| !is_foreign(component, name)).map(|name| (name, name)).collect();
        if !marked(&bare) {
            let found = describe(set);
            return Err(FileError::NoComponent { path: path.into(), component: component.name(), found });
        }
        (false, bare)
    };
    for (source, _) in &stored {
        set.check_scale(source)?;
    }
    Ok(Selected { prefixed: is_prefixed, stored })
}

/// Top-level names in files of one part that belong to no network: training leftovers.
fn is_foreign(component: Component, name: &str) -> bool {
    let head = name.split('.').next().unwrap_or(name);
    match component {
        Component::Vae => !matches!(head, "encoder" | "decoder" | "quant_conv" | "post_quant_conv"),
        _ => matches!(head, "model_ema" | "loss" | "discriminator"),
    }
}

/// What a file holds, in a few words, for the message that something else was wanted.
fn describe(set: &WeightSet) -> String {
    let known = [Component::Unet, Component::Vae, Component::TextEncoder].into_iter().filter(|part| {
        set.names().any(|name| {
            let prefix = part.prefixes().iter().find(|prefix| name.starts_with(**prefix));
            part.markers().contains(&prefix.map_or(name, |prefix| &name[prefix.len()..]))
        })
    });
    let known: Vec<_> = known.map(|part| format!("a {}", part.name())).collect();
    if !known.is_empty() {
        return known.join(" and ");
    }
    if set.names().len() == 0 {
        return "no tensors".into();
    }
    if let Some(what) = lora_kind(set.names()) {
        return format!("a LoRA ({what})");
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
