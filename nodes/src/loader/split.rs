//! Images set aside for validation.
//!
//! The choice depends on the files' names and a seed alone, so it is the same in every run, and no image is in both
//! parts: files with the same bytes go to the same one. (sd-scripts shuffles the two parts apart, so that they overlap.)

use std::collections::BTreeMap;
use std::path::Path;

use pipe_data::images::content_hash;
use schemars::JsonSchema;
use serde::Deserialize;

use super::sample::Sample;

/// How many images are set aside.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Split {
    /// A part of all images.
    Part(#[schemars(range(min = 0.000001, max = 0.999999))] f64),
    /// A number of images.
    Images(Count),
}

/// A number of images.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub struct Count {
    /// Images that are set aside.
    #[schemars(range(min = 1))]
    images: u64,
}

impl Split {
    /// Images to set aside of so many.
    fn of(self, all: usize) -> u64 {
        match self {
            Split::Part(part) => ((part * all as f64).round() as u64).max(1),
            Split::Images(count) => count.images,
        }
    }
}

/// Marks the images that are set aside. Fails when none would be left to train on.
pub fn hold_out(items: &mut [Sample], split: Split, seed: u64) -> Result<(), String> {
    let (all, wanted) = (items.len(), split.of(items.len()));
    let mut groups = equal(items);
    groups.sort_by_cached_key(|group| group.iter().map(|&i| rank(&items[i].path, seed)).min());
    let mut held = 0u64;
    for group in groups {
        if held >= wanted {
            return Ok(());
        }
        held += group.len() as u64;
        group.into_iter().for_each(|i| items[i].held_out = true);
    }
    Err(format!("{wanted} of {all} images are to be set aside, which leaves none to train on"))
}

/// The place of an image in the order of choice.
fn rank(path: &Path, seed: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"pipe split 1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes());
    *hasher.finalize().as_bytes()
}

/// Groups of images with the same bytes, each in order. Only files of the same length are read.
fn equal(items: &[Sample]) -> Vec<Vec<usize>> {
    let mut by_length: BTreeMap<Option<u64>, Vec<usize>> = BTreeMap::new();
    for (i, item) in items.iter().enumerate() {
        let length = std::fs::metadata(&item.path).map(|about| about.len()).ok();
        by_length.entry(length).or_default().push(i);
    }
    let mut groups = Vec::new();
    for (length, list) in by_length {
        if list.len() == 1 || length.is_none() {
            groups.extend(list.into_iter().map(|i| vec![i]));
            continue;
        }
        let mut by_content: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        for i in list {
            // What cannot be read is reported when it is used; until then it is like no other.
            let name = || items[i].path.as_os_str().as_encoded_bytes().to_vec();
            let content = content_hash(&items[i].path).map_or_else(|_| name(), |hash| hash.to_vec());
            by_content.entry(content).or_default().push(i);
        }
        groups.extend(by_content.into_values());
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use pipe_data::images::buckets;

    use super::*;

    fn samples(folder: &Path, count: usize) -> Vec<Sample> {
        let size = (64, 64);
        let sample = |i: usize| {
            let path = folder.join(format!("{i:03}.png"));
            // Every fifth file is a copy of the one before it.
            let of = if i % 5 == 4 { i - 1 } else { i };
            std::fs::write(&path, format!("picture {of:03}")).unwrap();
            Sample {
                path,
                caption: String::new(),
                size,
                fit: buckets::cover(size, size),
                weight: 1.0,
                mask: None,
                held_out: false,
            }
        };
        (0..count).map(sample).collect()
    }

    fn held(items: &[Sample]) -> BTreeSet<usize> {
        items.iter().enumerate().filter(|(_, item)| item.held_out).map(|(i, _)| i).collect()
    }

    #[test]
    fn the_parts_share_no_image_and_are_the_same_every_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut items = samples(folder.path(), 50);
        hold_out(&mut items, Split::Part(0.2), 0).unwrap();
        let first = held(&items);
        assert!((10..=11).contains(&first.len()), "{first:?}");
        let copies = |i: &usize| i % 5 != 4 || first.contains(i) == first.contains(&(i - 1));
        assert!((0..50).all(|i| copies(&i)), "copies are in the same part: {first:?}");

        let mut again = samples(folder.path(), 50);
        again.reverse();
        hold_out(&mut again, Split::Images(Count { images: 10 }), 0).unwrap();
        let reversed: BTreeSet<usize> = held(&again).into_iter().map(|i| 49 - i).collect();
        assert_eq!(reversed, first, "neither order nor the way of counting matters");

        let mut other = samples(folder.path(), 50);
        hold_out(&mut other, Split::Part(0.2), 1).unwrap();
        assert_ne!(held(&other), first);
        let error = hold_out(&mut samples(folder.path(), 3), Split::Images(Count { images: 3 }), 0);
        assert!(error.unwrap_err().contains("leaves none"));
    }
}
