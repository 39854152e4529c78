//! What is worth knowing of a folder of images although nothing is wrong with it, and how faults of many files are told.

use std::path::Path;

use pipe_data::images::{ImageError, has_alpha, unread};

use super::faults::Found;
use super::sample::Sample;

/// Faults told of one kind; the rest are counted.
const MOST: usize = 10;
/// From this on an enlarged image has no detail to learn.
const ENLARGED: f64 = 2.0;

/// A warning: code, field, message and help.
pub(super) type Notice = (&'static str, &'static str, String, String);

/// Images that are passed over, and those too small for what they are trained at.
pub(super) fn of(folder: &Path, items: &[Sample]) -> Vec<Notice> {
    let mut notices = Vec::new();
    let passed = unread(folder).unwrap_or_default();
    if let Some(first) = passed.first() {
        let message = match passed.len() {
            1 => format!("`{first}` is not read"),
            n => format!("{n} files or folders with images are not read, the first is `{first}`"),
        };
        let help = "png, jpg, webp and bmp files directly in the folder are read: convert the others, and give a sub-folder a loader of its own";
        notices.push(("P0330", "path", message, help.to_owned()));
    }
    let scale = |item: &Sample| {
        let side = |to: usize, from: usize| to as f64 / from.max(1) as f64;
        side(item.fit.resized.0, item.size.0).max(side(item.fit.resized.1, item.size.1))
    };
    let small: Vec<&Sample> = items.iter().filter(|item| scale(item) >= ENLARGED).collect();
    if let Some(least) = small.iter().min_by_key(|item| item.size.0 * item.size.1) {
        let name = least.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (count, all, (width, height)) = (small.len(), items.len(), least.size);
        let message = format!(
            "{count} of {all} images are enlarged to twice their size or more, the smallest is `{name}` with {width}×{height} pixels"
        );
        let help = "lower `resolution`, set `buckets.no_upscale: true`, or leave the small images out";
        notices.push(("P0331", "resolution", message, help.to_owned()));
    }
    notices
}

/// What is wrong where masks are to come from alpha channels and no image has one.
pub(super) fn opaque(items: &[Sample]) -> Option<String> {
    // One that cannot be read now is told of when it is decoded.
    if items.is_empty() || items.iter().any(|item| has_alpha(&item.path).unwrap_or(true)) {
        return None;
    }
    let which =
        if items.len() == 1 { "the image has no".into() } else { format!("none of the {} images has an", items.len()) };
    Some(format!("`alpha_mask` has no effect: {which} alpha channel"))
}

/// The first faults of each kind, and how many more there are of it.
pub(super) fn limit(problems: Vec<Found>) -> Vec<Found> {
    let mut told: Vec<Found> = Vec::new();
    let mut more: Vec<(Found, usize)> = Vec::new();
    for problem in problems {
        if told.iter().filter(|one| one.code == problem.code).count() < MOST {
            told.push(problem);
            continue;
        }
        match more.iter_mut().find(|(one, _)| one.code == problem.code) {
            Some((_, count)) => *count += 1,
            None => more.push((problem, 1)),
        }
    }
    told.extend(more.into_iter().map(|(one, count)| {
        let what = match one.code {
            "P0308" => "captions that are not UTF-8",
            "P0309" => "captions that are empty",
            _ => "images with problems",
        };
        Found { message: format!("and {count} more {what}"), ..one }
    }));
    told
}

/// What to do about an image that cannot be read.
pub(super) fn image_help(error: &ImageError) -> &'static str {
    match error.is_denied() {
        true => "let this user read the file, or remove it from the folder",
        false => "remove the file, or save it again from an image editor",
    }
}

/// Code and help of a caption that cannot be read.
pub(super) fn caption_fault(error: &ImageError) -> (&'static str, &'static str) {
    match error {
        ImageError::EmptyCaption { .. } => ("P0309", "write the caption, or delete the file and set `default_caption`"),
        error if error.is_denied() => ("P0308", "let this user read the file"),
        _ => ("P0308", "save the caption as UTF-8 text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_faults_are_counted_by_kind() {
        let of =
            |code, n: usize| (0..n).map(move |i| Found { code, field: "path", message: i.to_string(), help: None });
        let told = limit(of("P0308", 300).chain(of("P0307", 12)).collect());
        let codes = |code: &str| told.iter().filter(|one| one.code == code).count();
        assert_eq!((codes("P0308"), codes("P0307")), (11, 11));
        assert!(
            told.iter().any(|one| one.code == "P0308" && one.message == "and 290 more captions that are not UTF-8")
        );
        assert!(told.iter().any(|one| one.code == "P0307" && one.message == "and 2 more images with problems"));
    }
}
