//! Finds images and their captions in a folder, and reads captions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::error::ImageError;

/// Extensions of images, in any mixture of cases.
pub const EXTENSIONS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

/// An image and where its caption is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The image.
    pub path: PathBuf,
    /// Its caption file, if there is one.
    pub caption_path: Option<PathBuf>,
}

/// The images directly in a folder, sorted by path, each with the first caption file found among the extensions.
///
/// Whatever has the name of an image is listed, also a link to nothing or a folder: reading it then says what it is,
/// where passing over it would train on fewer images without a word.
///
/// A caption has the image's stem; when that has five or more parts joined by `_`, the stem without the last four (where
/// face-crop tools write a face's place) is tried too. A leading dot of an extension may be left out.
pub fn scan(folder: impl AsRef<Path>, caption_extensions: &[impl AsRef<str>]) -> Result<Vec<Entry>, ImageError> {
    let folder = folder.as_ref();
    let names = file_names(folder)?;
    let entry = |name: &String| {
        let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
        let short = stem.match_indices('_').rev().nth(3).map(|(at, _)| &stem[..at]);
        let caption = [Some(stem), short].into_iter().flatten().find_map(|stem| {
            caption_extensions.iter().find_map(|extension| {
                let caption = format!("{stem}.{}", extension.as_ref().trim_start_matches('.'));
                names.contains(&caption).then(|| folder.join(caption))
            })
        });
        Entry { path: folder.join(name), caption_path: caption }
    };
    let mut entries: Vec<Entry> = names.iter().filter(|name| has_image_name(name)).map(entry).collect();
    entries.sort();
    Ok(entries)
}

/// The images directly in a folder by stem, for masks beside images of the same name; each list is sorted.
pub fn by_stem(folder: impl AsRef<Path>) -> Result<BTreeMap<String, Vec<PathBuf>>, ImageError> {
    let folder = folder.as_ref();
    let mut all: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for name in file_names(folder)?.iter().filter(|name| has_image_name(name)) {
        let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
        all.entry(stem.to_owned()).or_default().push(folder.join(name));
    }
    Ok(all)
}

/// Images that [`scan`] passes over: those of formats that are not read, and sub-folders that hold some. Sorted.
pub fn unread(folder: impl AsRef<Path>) -> Result<Vec<String>, ImageError> {
    let folder = folder.as_ref();
    let failed = |e| ImageError::reading(folder, e);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if path.is_dir() {
            let mut inner = fs::read_dir(&path).into_iter().flatten().flatten().take(LOOKED_AT);
            if !has_image_name(&name) && inner.any(|one| has_image_name(&one.file_name().to_string_lossy())) {
                found.push(format!("{name}/"));
            }
        } else if extension(&name).is_some_and(|e| FOREIGN.iter().any(|known| e.eq_ignore_ascii_case(known)))
            || (has_image_name(&name) && entry.file_name().to_str().is_none())
        {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// Extensions of images in formats that are not read.
const FOREIGN: [&str; 13] =
    ["tif", "tiff", "gif", "avif", "heic", "heif", "jxl", "jp2", "psd", "tga", "jfif", "svg", "ico"];

/// Files of a sub-folder that are looked at to see whether it holds images.
const LOOKED_AT: usize = 1000;

/// Extensions, without dot, of text files in a folder that share their stem with an image: what the user may have meant
/// when no caption was found.
pub fn caption_candidates(folder: impl AsRef<Path>) -> Result<Vec<String>, ImageError> {
    let names = file_names(folder.as_ref())?;
    let split = |name: &String| name.rsplit_once('.').map(|(s, e)| (s.to_owned(), e.to_owned()));
    let is_image = |extension: &str| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known));
    let images: BTreeSet<String> =
        names.iter().filter_map(split).filter(|(_, e)| is_image(e)).map(|(s, _)| s).collect();
    let texts = names
        .iter()
        .filter_map(split)
        .filter(|(stem, e)| images.contains(stem) && CAPTIONS.iter().any(|known| e.eq_ignore_ascii_case(known)));
    Ok(texts.map(|(_, e)| e).collect::<BTreeSet<_>>().into_iter().collect())
}

/// Usual extensions of caption files.
const CAPTIONS: [&str; 4] = ["txt", "caption", "caption2", "tags"];

fn extension(name: &str) -> Option<&str> {
    Path::new(name).extension().and_then(|e| e.to_str())
}

pub(super) fn has_image_name(name: &str) -> bool {
    extension(name).is_some_and(|e| EXTENSIONS.iter().any(|known| e.eq_ignore_ascii_case(known)))
}

/// Names of the files directly in a folder, and of whatever else is called like an image; names that are not UTF-8 are
/// passed over.
fn file_names(folder: &Path) -> Result<BTreeSet<String>, ImageError> {
    let failed = |e| ImageError::reading(folder, e);
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string()
            && (has_image_name(&name) || entry.path().is_file())
        {
            names.insert(name);
        }
    }
    Ok(names)
}

/// The whole text of a caption file, without byte order mark; empty files are errors.
pub fn read_caption(path: impl AsRef<Path>) -> Result<String, ImageError> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(|e| ImageError::reading(path, e))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let text =
        std::str::from_utf8(bytes).map_err(|e| ImageError::NotUtf8 { path: path.into(), at: e.valid_up_to() })?;
    if text.trim().is_empty() {
        return Err(ImageError::EmptyCaption { path: path.into() });
    }
    Ok(text.to_owned())
}

/// What of a caption file's text is used: with `all_lines` (for wildcards) every line that is not blank, otherwise the
/// first of them. (sd-scripts takes the first line even when it is blank, and trains on an empty caption.)
pub fn caption_text(text: &str, all_lines: bool) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match all_lines {
        true => lines.collect::<Vec<_>>().join("\n"),
        false => lines.next().unwrap_or_default().to_owned(),
    }
}
