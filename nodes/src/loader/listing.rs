//! Which images there are, and what is written of each: a folder with caption files, or a metadata file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use pipe_core::node::missing_help;
use pipe_data::images::{ImageError, Keys, ListError, caption_candidates, caption_text, read_caption, read_list, scan};

use super::captions::CaptionFields;
use super::faults::{Found, found};
use super::notices::{self, Notice};
use super::sample::Sample;

/// An image and its caption.
pub(super) struct Entry {
    pub(super) path: PathBuf,
    caption: Written,
}

/// Where a caption is.
enum Written {
    File(PathBuf),
    Text(String),
    Nowhere,
}

impl Entry {
    /// The caption, if there is one.
    pub(super) fn caption(&self, fields: &CaptionFields) -> Result<Option<String>, Found> {
        match &self.caption {
            Written::File(path) => match read_caption(path) {
                Ok(text) => Ok(Some(caption_text(&text, fields.wildcards))),
                Err(e) => {
                    let (code, help) = notices::caption_fault(&e);
                    Err(found(code, "path", e.to_string(), Some(help)))
                }
            },
            Written::Text(text) => Ok(Some(text.clone())),
            Written::Nowhere => Ok(fields.of_others()),
        }
    }
}

fn folder_fault(folder: &Path, e: &ImageError) -> Found {
    let (code, help) = match e {
        ImageError::Missing { .. } => ("P0301", Some(missing_help(folder))),
        ImageError::NotFolder { .. } => ("P0302", Some("name the folder that the images are in".into())),
        _ => ("P0310", None),
    };
    Found { code, field: "path", message: e.to_string(), help }
}

/// The images of a folder with their caption files.
pub(super) fn of_folder(folder: &Path, extension: &str) -> Result<Vec<Entry>, Vec<Found>> {
    let entries = scan(folder, &[extension]).map_err(|e| vec![folder_fault(folder, &e)])?;
    if entries.is_empty() {
        let help = "put png, jpg, webp or bmp files directly into the folder; sub-folders are not read";
        return Err(vec![found("P0306", "path", format!("no images in `{}`", folder.display()), Some(help))]);
    }
    let entry = |entry: pipe_data::images::Entry| Entry {
        path: entry.path,
        caption: entry.caption_path.map_or(Written::Nowhere, Written::File),
    };
    Ok(entries.into_iter().map(entry).collect())
}

/// The images that a metadata file lists, with its captions and tags.
pub(super) fn of_metadata(folder: &Path, metadata: &Path, fields: &CaptionFields) -> Result<Vec<Entry>, Vec<Found>> {
    let list = read_list(metadata).map_err(|e| {
        let (code, help) = match &e {
            ListError::File(ImageError::Missing { .. }) => ("P0301", Some(missing_help(metadata))),
            ListError::Text { .. } => ("P0313", Some(FORM.to_owned())),
            _ => ("P0313", None),
        };
        vec![Found { code, field: "metadata", message: e.to_string(), help }]
    })?;
    if list.is_empty() {
        let message = format!("no images in `{}`", metadata.display());
        return Err(vec![found("P0306", "metadata", message, Some(FORM))]);
    }
    let keys = Keys::of(folder).map_err(|e| vec![folder_fault(folder, &e)])?;
    let (mut entries, mut problems, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    let name = metadata.file_name().unwrap_or_default().to_string_lossy();
    for listed in list {
        let path = match keys.image(&listed.key) {
            Ok(path) => path,
            Err(why) => {
                let help = "a key is a path from `path`, or an image's name without extension";
                problems.push(found("P0313", "metadata", format!("`{name}`: {why}"), Some(help)));
                continue;
            }
        };
        if !seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
            let message = format!("`{name}`: a second key for `{}`, `{}`", path.display(), listed.key);
            problems.push(found("P0313", "metadata", message, Some("leave one of the two")));
            continue;
        }
        let text = listed.text(fields.separator(), fields.wildcards);
        let caption = if text.is_empty() { Written::Nowhere } else { Written::Text(text) };
        entries.push(Entry { path, caption });
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    // The order of a folder, whatever the order of the file.
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// Images that take the default caption although there are caption files of another extension; or none that takes it.
pub(super) fn passed_over(folder: &Path, fields: &CaptionFields) -> Option<Notice> {
    fields.default_caption.as_ref()?;
    let entries = scan(folder, &[fields.extension()]).ok()?;
    let without = entries.iter().filter(|entry| entry.caption_path.is_none()).count();
    if without == 0 {
        let message = "`default_caption` has no effect: every image has a caption file".to_owned();
        return Some(("P0402", "default_caption", message, "leave it out".to_owned()));
    }
    let own = fields.extension().trim_start_matches('.');
    let other = caption_candidates(folder).ok()?.into_iter().find(|other| other != own)?;
    let plural = if without == 1 { " takes" } else { "s take" };
    let message = format!("{without} image{plural} `default_caption`, and there are caption files with `.{other}`");
    let help = format!("if they are meant, set `caption_extension: .{other}`");
    Some(("P0309", "caption_extension", message, help))
}

const FORM: &str = "write `{ \"name\": { \"caption\": \"…\", \"tags\": \"…\" } }`, or for `.jsonl` a line with `image_path` for each image";

/// Images of a folder that its metadata file does not list.
pub(super) fn unlisted(folder: &Path, items: &[Sample]) -> Option<Notice> {
    let known: HashSet<&Path> = items.iter().map(|item| item.path.as_path()).collect();
    let all = scan(folder, &[""; 0]).ok()?;
    let list: Vec<_> = all.iter().filter(|entry| !known.contains(entry.path.as_path())).collect();
    let first = list.first()?.path.file_name()?.to_string_lossy().into_owned();
    let plural = if list.len() == 1 { "" } else { "s" };
    let message =
        format!("{} image{plural} of the folder not in the metadata file, the first is `{first}`", list.len());
    let help = "they are not trained on; list them, or take them out of the folder";
    Some(("P0330", "metadata", message, help.to_owned()))
}
