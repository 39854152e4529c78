//! Metadata files of kohya's tools: images with captions and tags in one `.json` or `.jsonl` file.
//!
//! JSON is one object, `{ "KEY": { "caption": …, "tags": … }, … }`; JSON lines have an object each, with the key as
//! `image_path`. A key is a path, absolute or relative to the folder of the images, or a bare name without extension, as
//! the tools write it. Other fields, such as `image_size`, are passed over: sizes are read from the images.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::error::ImageError;
use super::scan::{EXTENSIONS, by_stem, has_image_name};

/// Most bytes of a metadata file: some ten million captions.
const MOST: u64 = 4 << 30;

/// What is written of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The key.
    pub key: String,
    /// Its caption, which may be empty.
    pub caption: String,
    /// Its tags, as written; may be empty.
    pub tags: String,
}

/// Why a metadata file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] ImageError),
    /// It is not what it should be; line and column, from 1.
    #[error("`{}` line {line}, column {column}: {reason}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column.
        column: usize,
        /// What is wrong.
        reason: String,
    },
    /// It is larger than any list of images.
    #[error("`{}` has {bytes} bytes, which is no list of images", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
}

/// Fields of an entry.
#[derive(Deserialize)]
struct Entry {
    caption: Option<String>,
    tags: Option<String>,
}

/// A line.
#[derive(Deserialize)]
struct Line {
    image_path: String,
    caption: Option<String>,
    tags: Option<String>,
}

/// An object as a list of its entries, in order; a key that stands twice is a fault.
struct Object(Vec<Listed>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object with a key for each image")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let (mut list, mut seen) = (Vec::new(), HashSet::new());
                while let Some(key) = map.next_key::<String>()? {
                    if !seen.insert(key.clone()) {
                        return Err(A::Error::custom(format_args!("the key `{key}` stands twice")));
                    }
                    let Entry { caption, tags } = map.next_value()?;
                    list.push(listed(key, caption, tags));
                }
                Ok(Object(list))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

fn listed(key: String, caption: Option<String>, tags: Option<String>) -> Listed {
    let text = |text: Option<String>| text.unwrap_or_default().trim().to_owned();
    Listed { key, caption: text(caption), tags: text(tags) }
}

impl Listed {
    /// The caption with its tags behind a separator: of the first line, or with `all_lines` of every line that is not blank.
    pub fn text(&self, separator: &str, all_lines: bool) -> String {
        let tags = self.tags.lines().collect::<Vec<_>>().join(separator);
        let lines = self.caption.lines().map(str::trim).filter(|line| !line.is_empty());
        let lines: Vec<&str> = lines.take(if all_lines { usize::MAX } else { 1 }).collect();
        let with = |line: &&str| if tags.is_empty() { (*line).to_owned() } else { format!("{line}{separator}{tags}") };
        if lines.is_empty() { tags } else { lines.iter().map(with).collect::<Vec<_>>().join("\n") }
    }
}

/// Reads a metadata file: JSON lines when its name ends in `.jsonl`, else JSON.
pub fn read_list(path: impl AsRef<Path>) -> Result<Vec<Listed>, ListError> {
    let path = path.as_ref();
    let failed = |e| ImageError::reading(path, e);
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if bytes > MOST {
        return Err(ListError::TooLarge { path: path.into(), bytes });
    }
    let bytes = fs::read(path).map_err(failed)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let before = &bytes[..e.valid_up_to()];
        let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        ListError::Text { path: path.into(), line, column: before.len() - start + 1, reason: "not UTF-8 text".into() }
    })?;
    let fault = |line: usize, e: serde_json::Error| ListError::Text {
        path: path.into(),
        line: line + e.line().max(1) - 1,
        column: e.column(),
        reason: reason(&e),
    };
    if !path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl")) {
        return serde_json::from_str::<Object>(text).map(|object| object.0).map_err(|e| fault(1, e));
    }
    let (mut list, mut seen) = (Vec::new(), HashSet::new());
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let Line { image_path, caption, tags } = serde_json::from_str(line).map_err(|e| fault(number, e))?;
        if !seen.insert(image_path.clone()) {
            let again = serde_json::Error::custom(format_args!("the image `{image_path}` stands twice"));
            return Err(fault(number, again));
        }
        list.push(listed(image_path, caption, tags));
    }
    Ok(list)
}

/// The decoder's reason without the place, which stands elsewhere.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(reason, _)| reason.to_owned())
}

/// Finds the images that keys stand for, in a folder.
pub struct Keys<'f> {
    folder: &'f Path,
    stems: BTreeMap<String, Vec<PathBuf>>,
}

impl<'f> Keys<'f> {
    /// Of a folder of images.
    pub fn of(folder: &'f Path) -> Result<Self, ImageError> {
        Ok(Keys { folder, stems: by_stem(folder)? })
    }

    /// The image of a key, or why there is none.
    pub fn image(&self, key: &str) -> Result<PathBuf, String> {
        if key.trim().is_empty() {
            return Err("a key is empty".into());
        }
        let spelled = [key.to_owned(), key.replace('\\', "/")];
        for key in &spelled {
            let path = self.folder.join(key);
            if has_image_name(key) && path.is_file() {
                return Ok(path);
            }
        }
        if let Some(images) = self.stems.get(key) {
            let [image] = images.as_slice() else {
                return Err(format!("`{key}` may be one of {} images of this name", images.len()));
            };
            return Ok(image.clone());
        }
        // A stem in another folder.
        for key in spelled.iter().filter(|key| key.contains('/')) {
            let with = |extension: &str| self.folder.join(format!("{key}.{extension}"));
            let found: Vec<PathBuf> = EXTENSIONS
                .iter()
                .flat_map(|extension| [with(extension), with(&extension.to_uppercase())])
                .filter(|path| path.is_file())
                .collect();
            if let [image] = found.as_slice() {
                return Ok(image.clone());
            }
        }
        Err(format!("there is no image `{key}`"))
    }
}
