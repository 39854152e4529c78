//! `weights`: the file that an adapter starts from.

use std::collections::HashMap;

use pipe_core::node::CheckCx;
use pipe_core::run::RunError;
use pipe_data::weights::{Header, WeightFile, shown};
use pipe_networks::adapters::{Kind, Target};

use super::Parts;
use super::base::verified;
use super::file::AdapterFile;
use crate::common::errors;

/// Looks at the header of the file at `weights`.
pub(super) fn header(cx: &mut CheckCx, path: Option<&String>) -> Option<Header> {
    let path = path.map(|p| cx.path(p)).filter(|p| !cx.stands_in(p))?;
    match Header::read(path) {
        Ok(header) => Some(header),
        Err(e) => {
            cx.error(errors::file_code(&e), "weights", e.to_string(), None);
            None
        }
    }
}

/// Compares the file with the adapter, by its header; of layers in parts and of (IA)³ by its values as well. `own_ranks` is false
/// where the ranks are the file's.
pub(super) fn check(cx: &mut CheckCx, path: &str, file: &AdapterFile, targets: &[Target], own_ranks: bool) {
    if let Some(problem) = misfit(file, targets) {
        let fixed = |t: &Target| turns(t) || matches!(t.kind, Kind::Scale { .. });
        let help = match own_ranks {
            _ if uneven(file, targets).is_some() => UNSPLIT,
            true if targets.iter().any(fixed) => {
                "set the adapter's own fields as they were when the file was trained, or take a file of its kind"
            }
            true => "set `rank` and `conv` as they were when the file was trained; `pipe inspect` shows them",
            false => "the file is of another model or another kind of adapter; `pipe inspect` shows what it holds",
        };
        cx.error("P0305", "weights", problem, Some(help.into()));
        return;
    }
    if file.texts {
        let message = "its factors of text encoders are left out: none of them is adapted here";
        let help = "give the adapter the text encoders (`text: …`) to have them trained as well";
        cx.warn("P0402", "weights", message, Some(help.into()));
    }
    if let Err(error) = verified(file, &cx.path(path)) {
        cx.error(error.code, "weights", error.message, error.help);
        return;
    }
    let split: Vec<Target> = targets.iter().filter(|t| by_values(t)).cloned().collect();
    if split.is_empty() {
        return;
    }
    let path = cx.path(path);
    let read = WeightFile::open(&path).map_err(|e| errors::file_error(&e, "weights"));
    let read =
        read.and_then(|opened| split.into_iter().try_for_each(|mut t| unpacked(&opened, file, &mut t).map(drop)));
    if let Err(error) = read {
        cx.error(error.code, "weights", error.message, error.help);
    }
}

/// What helps where a file is not of split parts.
const UNSPLIT: &str = "leave `split_qkv` out for this file";

/// A layer in parts whose rank in the file is none that parts of one rank add up to.
fn uneven<'a>(file: &AdapterFile, targets: &'a [Target]) -> Option<&'a Target> {
    targets.iter().find(|target| {
        let Kind::Lora { parts, .. } = &target.kind else { return false };
        let down = file.shape(&format!("{}.lora_down.weight", target.name));
        let rank = down.and_then(|shape| shape.first().copied()).unwrap_or(0);
        !parts.is_empty() && !rank.is_multiple_of(parts.len())
    })
}

/// Whether its α is the constraint of a rotation.
fn turns(target: &Target) -> bool {
    matches!(target.kind, Kind::Rotation { .. } | Kind::Diagonal { .. } | Kind::Butterfly { .. })
}

/// Whether only its values tell that a file fits.
fn by_values(target: &Target) -> bool {
    matches!(&target.kind, Kind::Lora { parts, .. } if !parts.is_empty()) || matches!(target.kind, Kind::Scale { .. })
}

/// How a file differs from the modules and ranks asked for.
fn misfit(file: &AdapterFile, targets: &[Target]) -> Option<String> {
    if let Some(message) = file.clashes.first() {
        return Some(message.clone());
    }
    let expected: HashMap<String, Vec<usize>> = targets.iter().flat_map(Target::file_shapes).collect();
    let missing = expected.keys().filter(|k| file.shape(k).is_none()).count();
    let others = file.names().filter(|k| !k.ends_with(".alpha") && !expected.contains_key(*k));
    let unknown: Vec<&str> = others.chain(file.unknown.iter().map(String::as_str)).collect();
    let example = unknown.first().map(|k| format!(", such as `{}`", shown(k))).unwrap_or_default();
    if expected.is_empty() {
        return Some(format!(
            "the file adapts no layer of this model; it has {} other tensors{example}",
            unknown.len()
        ));
    }
    if missing > 0 || !unknown.is_empty() {
        let what = match targets.first().map(|t| &t.kind) {
            Some(Kind::Lora { .. }) | None => "LoRA",
            _ => "adapter",
        };
        return Some(format!(
            "the {what} file lacks {missing} of the {} factors and has {} others{example}",
            expected.len(),
            unknown.len()
        ));
    }
    if let Some(target) = uneven(file, targets) {
        return Some(format!("the up factor of `{}` is not one of split parts", target.name));
    }
    let mut expected: Vec<_> = expected.into_iter().collect();
    expected.sort();
    expected.iter().find_map(|(name, shape)| {
        let found = file.shape(name)?;
        (found.iter().product::<usize>() != shape.iter().product::<usize>() || found.first() != shape.first())
            .then(|| format!("`{name}` has shape {found:?}, the adapter {shape:?}"))
    })
}

/// Reads the factors of a file as the first values of the adapter's tensors, and sets each layer's α.
pub(super) fn read(
    opened: &WeightFile,
    parts: &Parts,
    targets: &mut [Target],
) -> Result<HashMap<String, Vec<f32>>, RunError> {
    let file = AdapterFile::read(opened.header(), parts);
    if let Some(problem) = misfit(&file, targets) {
        return Err(RunError::new("P0305", problem).at("weights"));
    }
    file.verify(opened)?;
    let mut initial = HashMap::new();
    for target in targets {
        initial.extend(unpacked(opened, &file, target)?);
    }
    Ok(initial)
}

/// The values of one layer's tensors; its α becomes the file's.
fn unpacked(
    opened: &WeightFile,
    file: &AdapterFile,
    target: &mut Target,
) -> Result<HashMap<String, Vec<f32>>, RunError> {
    let mut values = HashMap::new();
    for (name, _) in target.file_shapes() {
        let tensor = file.values(opened, &name)?;
        values.insert(name, tensor);
    }
    let Some(pieces) = target.unpack(values) else {
        let (message, help) = match target.kind {
            Kind::Scale { .. } => {
                let message =
                    format!("the file has factors of inputs for `{}` where those of outputs learn, or", target.name);
                (format!("{message} the other way round"), "set `layers` as it was when the file was trained")
            }
            _ => {
                let message = format!("the up factor of `{}` is not one of split parts", target.name);
                (message, UNSPLIT)
            }
        };
        return Err(RunError::new("P0305", message).at("weights").help(help));
    };
    target.alpha = match file.alpha(opened, &target.alpha_name())? {
        Some(alpha) => target.alpha_from_file(alpha),
        // Without α the scale is 1; a rotation keeps the constraint it is given.
        None if turns(target) => target.alpha,
        None => target.rank as f32,
    };
    Ok(pieces)
}
