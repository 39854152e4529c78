//! The previews of a moment, for loggers that show pictures.

use std::path::{Path, PathBuf};

use pipe_core::run::EventCx;

/// A picture that a sampler made.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// The PNG file.
    pub path: PathBuf,
    /// Its name, the same at every step: `samples/preview/00`.
    pub tag: String,
}

/// The pictures made at this moment. Samplers tell of the first of a step; the others lie beside it.
pub fn of(cx: &EventCx) -> Vec<Picture> {
    let step = format!("step{:08}", cx.position.step);
    let mut list = Vec::new();
    for told in cx.made.iter().filter(|artifact| artifact.kind == "preview") {
        let Some(folder) = told.path.parent() else { continue };
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let of_step = |path: &PathBuf| stem(path).is_some_and(|stem| stem.starts_with(&step));
        for path in entries.filter(of_step).chain([told.path.clone()]) {
            list.extend(picture(path, folder, &step));
        }
    }
    list.sort_by(|a, b| a.path.cmp(&b.path));
    list.dedup();
    list
}

fn stem(path: &Path) -> Option<&str> {
    (path.extension()? == "png").then(|| path.file_stem()?.to_str())?
}

fn picture(path: PathBuf, folder: &Path, step: &str) -> Option<Picture> {
    let stem = stem(&path)?;
    let name = stem.strip_prefix(step).unwrap_or(stem).trim_start_matches('-');
    let tag = format!("samples/{}/{name}", folder.file_name()?.to_str()?);
    Some(Picture { path, tag })
}
