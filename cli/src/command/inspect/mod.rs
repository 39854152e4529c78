//! `pipe inspect`: what a weight file or model folder is, from its headers alone.

mod adapter;
mod show;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use pipe_data::weights::{Architecture, Detected, FileError, Layout, WeightSet, detect_set};
use serde::Serialize;

use super::{Form, json_text};
use crate::exit::{Exit, Failure, Outcome};
use crate::terminal::Terminal;

/// Say what a weight file or a model folder is: architecture, layout, types, size, metadata.
///
/// Reads safetensors files, torch checkpoints, shard indices, folders of one model part and Diffusers folders. Nothing
/// is loaded but headers, so any size is answered at once; nothing in a checkpoint is ever run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A safetensors file, a torch checkpoint, a shard index, or a folder.
    #[arg(value_name = "FILE")]
    pub path: PathBuf,
    /// List every tensor with its type and shape.
    #[arg(long)]
    pub tensors: bool,
    /// How to print it.
    #[arg(long, value_enum, default_value = "human")]
    pub format: Form,
}

/// What was found at a path.
#[derive(Debug, Serialize)]
struct Inspection {
    path: String,
    /// The parts of a Diffusers folder, or the one thing there is.
    parts: Vec<Part>,
}

/// A file, or the files of one model part.
#[derive(Debug, Serialize)]
struct Part {
    name: String,
    architecture: String,
    layout: Option<&'static str>,
    contains: Vec<String>,
    files: Vec<String>,
    tensors: usize,
    parameters: u64,
    bytes: u64,
    dtypes: BTreeMap<&'static str, Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<adapter::Summary>,
    metadata: BTreeMap<String, String>,
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensor_list: Option<Vec<TensorLine>>,
}

/// Tensors of one type.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Amount {
    tensors: usize,
    parameters: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct TensorLine {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let found = inspect(&args.path, args.tensors)?;
    terminal.out(&match args.format {
        Form::Json => json_text(&found),
        Form::Human => show::human(&found, terminal.paint()),
    })?;
    Ok(Exit::Done)
}

fn inspect(path: &Path, tensors: bool) -> Result<Inspection, Failure> {
    // Opening a pipe would wait for someone to write into it.
    if fs::metadata(path).is_ok_and(|about| !about.is_file() && !about.is_dir()) {
        return Err(Failure::new(format!("`{}` is a pipe or a device, not a file", path.display())));
    }
    let mut parts = Vec::new();
    for (name, folder) in sub_folders(path) {
        match WeightSet::open(&folder) {
            Ok(set) => parts.push(part(name, &set, tensors)),
            // Tokenizers, schedulers and the like hold no weights.
            Err(FileError::NoWeights { .. }) => {}
            Err(error) => return Err(failure(&error)),
        }
    }
    if parts.is_empty() {
        let set = WeightSet::open(path).map_err(|error| failure(&error))?;
        parts.push(part(String::new(), &set, tensors));
    }
    Ok(Inspection { path: path.display().to_string(), parts })
}

fn failure(error: &FileError) -> Failure {
    let failure = Failure::new(error.to_string());
    match error {
        FileError::NotSafetensors { .. } => {
            failure.help("`pipe` reads safetensors and torch checkpoints; see `pipe explain P0302`")
        }
        FileError::Damaged { .. } => failure.help("get the file again and compare its size; see `pipe explain P0303`"),
        _ => failure,
    }
}

/// Folders that may be parts of a Diffusers model, sorted.
fn sub_folders(path: &Path) -> Vec<(String, PathBuf)> {
    if !path.join("model_index.json").is_file() && !path.join("unet").is_dir() {
        return Vec::new();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut folders: Vec<_> = entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .filter(|(_, path)| path.is_dir())
        .collect();
    folders.sort();
    folders
}

fn part(name: String, set: &WeightSet, list: bool) -> Part {
    let detected = detect_set(set);
    let mut dtypes: BTreeMap<&'static str, Amount> = BTreeMap::new();
    let mut total = Amount::default();
    let mut lines = Vec::new();
    for (tensor, info) in set.names().filter_map(|name| Some((name, set.info(name)?))) {
        for amount in [dtypes.entry(info.dtype.name()).or_default(), &mut total] {
            amount.tensors += 1;
            amount.parameters += info.elements() as u64;
            amount.bytes += (info.end - info.start) as u64;
        }
        if list {
            lines.push(TensorLine { name: tensor.into(), dtype: info.dtype.name(), shape: info.shape.clone() });
        }
    }
    let metadata = set.files().iter().flat_map(|file| file.header().metadata.clone()).collect();
    let dylora = adapter::note(&metadata);
    let is_adapter = matches!(detected.architecture, Architecture::Lora(_));
    Part {
        name,
        architecture: detected.architecture.to_string(),
        layout: layout(&detected, set.path()),
        contains: detected.components.iter().map(ToString::to_string).collect(),
        files: set.files().iter().map(|file| file.path().display().to_string()).collect(),
        tensors: total.tensors,
        parameters: total.parameters,
        bytes: total.bytes,
        dtypes,
        adapter: is_adapter.then(|| adapter::summary(set, &metadata)),
        metadata,
        notes: notes(&detected).into_iter().chain(dylora.filter(|_| is_adapter)).collect(),
        tensor_list: list.then_some(lines),
    }
}

fn layout(detected: &Detected, path: &Path) -> Option<&'static str> {
    if matches!(detected.architecture, Architecture::Lora(_)) {
        return None;
    }
    Some(match (detected.layout?, path.is_dir()) {
        (_, true) | (Layout::ComponentDir | Layout::DiffusersDir, _) => "Diffusers folder",
        (Layout::SingleFileLdm, _) => "single file, names of the original code",
        (Layout::LdmFile, _) => "one part, names of the original code",
        (Layout::DiffusersFile, _) => "one part, Diffusers names",
    })
}

fn notes(detected: &Detected) -> Vec<String> {
    let declared = detected.declared.iter().map(|declared| format!("its metadata calls it `{declared}`"));
    detected.notes.iter().cloned().chain(declared).collect()
}
