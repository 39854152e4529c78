//! How much single images count: factors by file name.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::sample::Sample;

/// What the loss of an image is multiplied by.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct Factor(#[schemars(range(min = 0.000001, max = 1000.0))] f64);

/// Multiplies the weights of images by the factors of the patterns that their file names match. A pattern that no image
/// matches is a mistake, and so are two that match the same one: their order in a document says nothing.
pub(super) fn apply(factors: &BTreeMap<String, Factor>, items: &mut [Sample]) -> Result<(), (String, String)> {
    let mut by: Vec<Option<&str>> = vec![None; items.len()];
    for (pattern, factor) in factors {
        let mut used = false;
        for (item, by) in items.iter_mut().zip(&mut by) {
            let name = item.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !matches(pattern, name) {
                continue;
            }
            if let Some(other) = by.replace(pattern) {
                let message = format!("`{other}` and `{pattern}` both match the image `{name}`");
                return Err((message, "write patterns that have no image in common".into()));
            }
            used = true;
            item.weight *= factor.0 as f32;
        }
        if !used {
            let message = format!("no image matches `{pattern}`");
            return Err((message, "a pattern is a file name with its extension; `*` stands for any characters".into()));
        }
    }
    Ok(())
}

/// Whether factors change nothing.
pub(super) fn are_one(factors: &BTreeMap<String, Factor>) -> bool {
    factors.values().all(|factor| factor.0 == 1.0)
}

/// Whether a name matches a pattern, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, name, fits) in [
            ("a.png", "a.png", true),
            ("a.png", "aa.png", false),
            ("*.png", "b.png", true),
            ("b*.png", "b.jpg", false),
            ("*", "anything", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
