//! Masks in a folder of their own: one for each image, of the same stem and shape.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pipe_core::node::missing_help;
use pipe_data::images::{ImageError, by_stem, probe};

use super::faults::{Found, found};
use super::sample::{MaskSource, Sample};

/// Gives every image its mask, and says what is missing, left over or of another shape.
pub(super) fn assign(folder: &Path, items: &mut [Sample]) -> Vec<Found> {
    let masks = match by_stem(folder) {
        Ok(masks) => masks,
        Err(e) => {
            let code = if matches!(e, ImageError::Missing { .. }) { "P0301" } else { "P0302" };
            let help = (code == "P0301").then(|| missing_help(folder));
            return vec![Found { code, field: "masks", message: e.to_string(), help }];
        }
    };
    let mut problems = Vec::new();
    let mut lacking = Vec::new();
    let mut used = BTreeSet::new();
    for item in items {
        let stem = item.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        match masks.get(stem).map(Vec::as_slice) {
            Some([mask]) if is_same(mask, &item.path) => {
                let help = "give the folder of the masks, or for the images' alpha channels `alpha_mask: true`";
                let message = format!("the mask of `{stem}` is the image itself");
                return vec![found("P0403", "masks", message, Some(help))];
            }
            Some([mask]) => match shape(mask, item.size) {
                Ok(()) => {
                    used.insert(stem.to_owned());
                    item.mask = Some(MaskSource::File(mask.clone()));
                }
                Err(message) => {
                    used.insert(stem.to_owned());
                    problems.push(found("P0307", "masks", message, None));
                }
            },
            Some(several) => {
                used.insert(stem.to_owned());
                let message = format!("{} masks of the image `{stem}`: which one counts?", several.len());
                problems.push(found("P0307", "masks", message, Some("leave one file of this name")));
            }
            None => lacking.push(stem.to_owned()),
        }
    }
    if let Some(first) = lacking.first() {
        let plural = if lacking.len() == 1 { "" } else { "s" };
        let message = format!("{} image{plural} without mask, the first is `{first}`", lacking.len());
        let help = "a mask is a picture of the image's name: white where it counts; a white picture lets all count";
        problems.push(found("P0307", "masks", message, Some(help)));
    }
    problems.extend(left_over(&masks, &used));
    problems
}

/// Whether two paths are of one file.
fn is_same(mask: &Path, image: &Path) -> bool {
    mask == image || mask.canonicalize().is_ok_and(|mask| image.canonicalize().is_ok_and(|image| mask == image))
}

/// Masks that no image has.
fn left_over(masks: &BTreeMap<String, Vec<PathBuf>>, used: &BTreeSet<String>) -> Option<Found> {
    let list: Vec<&String> = masks.keys().filter(|stem| !used.contains(*stem)).collect();
    let first = list.first()?;
    let plural = if list.len() == 1 { "" } else { "s" };
    let message = format!("{} mask{plural} without image, the first is `{first}`", list.len());
    Some(found("P0307", "masks", message, Some("masks and images go together by the name before the extension")))
}

/// A mask may be smaller or larger than its image, but is cut as the image is: its sides must be in the same relation.
fn shape(mask: &Path, (w, h): (usize, usize)) -> Result<(), String> {
    let (mw, mh) = probe(mask).map_err(|e| e.to_string())?;
    let (mw, mh) = (mw as usize, mh as usize);
    // Rounding a side to whole pixels moves a product by at most the other side.
    if (mw * h).abs_diff(mh * w) <= w.max(h).max(mw).max(mh) {
        return Ok(());
    }
    Err(format!("the mask `{}` has {mw}×{mh} pixels, which is another shape than the image's {w}×{h}", mask.display()))
}
