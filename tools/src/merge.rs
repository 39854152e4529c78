//! Merges adapters into a model.

use std::path::{Path, PathBuf};

use pipe_data::weights::DType;

use crate::adapter::file::Tensor;
use crate::adapter::tied::repeats;
use crate::adapter::{AdapterFile, Change};
use crate::edits::Edits;
use crate::error::{Result, ToolError};
use crate::model::Model;
use crate::output::{Content, Format, Output, check_types};
use crate::write::{How, write};

/// An adapter file and its strength.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighted {
    /// The file.
    pub path: PathBuf,
    /// What its ΔW is multiplied by.
    pub ratio: f64,
}

impl Weighted {
    /// As metadata tell it.
    pub fn text(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        if self.ratio == 1.0 { name.into_owned() } else { format!("{name} × {}", self.ratio) }
    }
}

/// What is merged, and how.
#[derive(Clone, Copy, Debug)]
pub struct Merge<'a> {
    /// The model.
    pub base: &'a Path,
    /// The adapters, in the order in which they are merged.
    pub adapters: &'a [Weighted],
    /// Layout of the result; nothing: that of the base.
    pub format: Option<Format>,
    /// Element type; nothing: that of the base.
    pub dtype: Option<DType>,
    /// A pipeline with the configurations of a folder.
    pub like: Option<&'a Path>,
    /// Leave out what nothing is known about.
    pub skip_unknown: bool,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Layers merged, of each adapter.
    pub layers: Vec<usize>,
    /// Names that were left out.
    pub skipped: Vec<String>,
    /// Family of the base.
    pub family: String,
}

/// Merges adapters into a model.
///
/// # Errors
/// P0320 for names that match nothing, P0305 for layers of another size, and what reading and writing say.
pub fn merge(what: Merge, output: &Output) -> Result<Merged> {
    let model = Model::open(what.base)?;
    let format = what.format.unwrap_or_else(|| model.format());
    check_types(format, what.dtype)?;
    let mut inputs: Vec<&Path> = vec![what.base];
    inputs.extend(what.adapters.iter().map(|adapter| adapter.path.as_path()));
    let folder = format.is_folder() && (what.format.is_some() || what.base.is_dir());
    output.check(&inputs, Content::of(format, folder))?;
    let files: Vec<AdapterFile> =
        what.adapters.iter().map(|adapter| AdapterFile::open(&adapter.path)).collect::<Result<_>>()?;
    let mut report = Merged { family: model.family.to_string(), ..Merged::default() };
    let mut edits = Edits::default();
    for (file, adapter) in files.iter().zip(what.adapters) {
        let unknown = add(&mut edits, &mut report.layers, &model, file, adapter.ratio)?;
        if !unknown.is_empty() && !what.skip_unknown {
            let error = file.unknown(&unknown, ["matches nothing in the base", "match nothing in the base"]);
            return Err(error.help("leave them out with `--skip-unknown`, or give the base that the file is for"));
        }
        report.skipped.extend(unknown);
    }
    if report.layers.iter().sum::<usize>() == 0 {
        let message = "nothing of the adapters matches the base";
        return Err(ToolError::new("P0320", message).at(what.base).help("`pipe inspect` shows what a file is for"));
    }
    let changes_layout = format != model.format();
    if let Some(error) = model.unexpected().filter(|_| changes_layout && !what.skip_unknown) {
        return Err(error.help("leave them out with `--skip-unknown`"));
    }
    let merged: Vec<String> = what.adapters.iter().map(Weighted::text).collect();
    write(&model, &edits, How { format: what.format, dtype: what.dtype, like: what.like, merged: &merged }, output)?;
    Ok(report)
}

/// Adds the layers of a file; gives the names that match nothing.
fn add<'a>(
    edits: &mut Edits<'a>,
    layers: &mut Vec<usize>,
    model: &Model,
    file: &'a AdapterFile,
    ratio: f64,
) -> Result<Vec<String>> {
    let names = model.names();
    let mut unknown = file.others.clone();
    let mut count = 0;
    let repeats = repeats(file, &names)?;
    for (name, layer) in file.layers.iter().filter(|(name, _)| !repeats.contains(*name)) {
        let Some(place) = names.find(name) else {
            unknown.push(name.clone());
            continue;
        };
        let change = Change { file, name, layer, place: place.clone(), ratio };
        let shape = names.shape_at(&place).unwrap_or_default();
        if let Err(why) = change.check(&shape) {
            let message = format!("`{name}` of `{}` cannot be merged: {why}", file.path().display());
            return Err(ToolError::new("P0305", message).at(file.path()));
        }
        if layer.has(Tensor::DiffBias) {
            let bias = format!("{}.bias", place.path);
            if model.part(place.component).is_none_or(|part| part.recipe(&bias).is_none()) {
                unknown.push(format!("{name}.diff_b"));
                continue;
            }
            edits.push(place.component, bias, change.clone());
        }
        if !layer.0.keys().all(|t| matches!(t, Tensor::DiffBias | Tensor::Alpha)) {
            edits.push(place.component, format!("{}.weight", place.path), change);
        }
        count += 1;
    }
    layers.push(count);
    Ok(unknown)
}
