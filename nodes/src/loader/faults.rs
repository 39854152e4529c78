//! What can be wrong with a folder of images, as its loader reports it.

use std::path::{Path, PathBuf};

use pipe_data::captions::{CaptionOptions, variants};
use pipe_data::tokenizer::parse_weights;

use super::sample::{CaptionRules, PreserveClass, Sample};

/// A fault of a field.
pub(super) struct Found {
    pub(super) code: &'static str,
    pub(super) field: &'static str,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

pub(super) fn found(code: &'static str, field: &'static str, message: impl Into<String>, help: Option<&str>) -> Found {
    Found { code, field, message: message.into(), help: help.map(String::from) }
}

/// Images without caption, and where their captions may be.
pub(super) fn uncaptioned(folder: &Path, extension: &str, missing: &[PathBuf]) -> Found {
    let example = missing[0].file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let others = pipe_data::images::caption_candidates(folder).unwrap_or_default();
    let other = others.iter().find(|e| e.as_str() != extension.trim_start_matches('.'));
    let help = match other {
        Some(e) => format!("there are `.{e}` files: set `caption_extension: .{e}`"),
        None => "write the captions, or set `default_caption` for images without one".into(),
    };
    let n = missing.len();
    let message =
        format!("{n} image{} without `{extension}` caption, the first is `{example}`", if n == 1 { "" } else { "s" });
    Found { code: "P0309", field: "caption_extension", message, help: Some(help) }
}

/// Images of a metadata file that says nothing of them.
pub(super) fn unwritten(missing: &[PathBuf]) -> Found {
    let example = missing[0].file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let (n, plural) = (missing.len(), if missing.len() == 1 { "" } else { "s" });
    let message = format!("{n} image{plural} with neither caption nor tags, the first is `{example}`");
    let help = "write the captions, or set `default_caption` for images without one";
    found("P0309", "metadata", message, Some(help))
}

/// What is wrong with a caption for text encoders that read emphasis; the others take brackets as text.
///
/// Each line and each alternative of a caption is read; of brackets that only shuffling breaks nothing can be said.
pub(super) fn emphasis(items: &[Sample], options: &CaptionOptions) -> Option<String> {
    items.iter().find_map(|sample| {
        let fault = variants(&sample.caption, options).iter().find_map(|text| parse_weights(text).err())?;
        let name = sample.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Some(format!("the caption of `{name}` cannot be read: {fault}"))
    })
}

/// Captions that lack the trigger of a class, in all of their lines and alternatives: what of them is to be kept is not
/// known. Those that lack it in some are told when it is known what is drawn.
pub(super) fn untriggered(class: &PreserveClass, items: &[Sample], rules: &CaptionRules) -> Option<Found> {
    if class.trigger == class.class {
        let message = "`trigger` and `class` are the same, so there is nothing to preserve";
        return Some(found("P0403", "preserve_class", message, None));
    }
    // As it stands in captions that are cut into tags and joined again.
    let class = &PreserveClass { trigger: rules.rejoined(&class.trigger), ..class.clone() };
    let options = &rules.options;
    let options = &CaptionOptions { warmup: None, shuffle: rules.cuts(), ..options.clone() };
    let lacks = |item: &&Sample| variants(&item.caption, options).iter().all(|text| class.caption(text).is_none());
    let lacking: Vec<&Sample> = items.iter().filter(lacks).collect();
    let first = lacking.first()?;
    let name = first.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let plural = if lacking.len() == 1 { "" } else { "s" };
    let trigger = &class.trigger;
    let message =
        format!("{} caption{plural} without the trigger `{trigger}`, the first is of `{name}`", lacking.len());
    let help = "write the trigger into every caption, or put it there with `caption_prefix`";
    Some(found("P0403", "preserve_class", message, Some(help)))
}
