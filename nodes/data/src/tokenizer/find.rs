//! Where the tokenizer of a model's weights is.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use super::error::{TokenizerError, read};
use super::is_json;
use super::json::ModelType;
use super::spiece::{SpKind, SpModel};
use super::t5::embedded_bytes;
use crate::weights::{WeightFile, WeightSet};

/// A family of tokenizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// T5, for SD3 and FLUX.
    T5,
    /// Gemma 1 and 2, for Lumina.
    Gemma,
}

impl fmt::Display for TokenizerKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            TokenizerKind::T5 => "T5",
            TokenizerKind::Gemma => "Gemma",
        })
    }
}

/// A place that holds a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This program.
    Embedded,
    /// A `tokenizer.json`, `tokenizer.model` or `spiece.model`.
    File(PathBuf),
    /// A tensor of bytes in a safetensors file.
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Origin::Embedded => f.write_str("the embedded vocabulary"),
            Origin::File(path) => write!(f, "`{}`", path.display()),
            Origin::Tensor { path, name } => write!(f, "tensor `{name}` of `{}`", path.display()),
        }
    }
}

impl Origin {
    /// The file, for messages.
    pub(super) fn path(&self) -> &Path {
        match self {
            Origin::Embedded => Path::new("the embedded T5 vocabulary"),
            Origin::File(path) | Origin::Tensor { path, .. } => path,
        }
    }

    pub(super) fn read(&self) -> Result<Cow<'static, [u8]>, TokenizerError> {
        Ok(match self {
            Origin::Embedded => embedded_bytes().into(),
            Origin::File(path) => read(path)?.into(),
            Origin::Tensor { path, name } => WeightFile::open(path)?.bytes(name)?.to_vec().into(),
        })
    }
}

const NAMES: [&str; 3] = ["tokenizer.json", "tokenizer.model", "spiece.model"];

/// Finds the tokenizer that belongs to weights: a file, an index of shards, a component's folder or a whole Diffusers
/// folder. Only files of that kind of tokenizer count, those of others are passed over. In this order:
///
/// 1. the tensor `spiece_model` inside the weights,
/// 2. `tokenizer.json`, `tokenizer.model` or `spiece.model` in the folders `tokenizer*` beside the weights,
/// 3. the same beside the weights themselves,
/// 4. the same in the folders `tokenizer*` one level up, where Diffusers has them,
/// 5. for T5, the embedded vocabulary.
///
/// # Errors
/// When there is none, with each place that was looked at; when a file named like a tokenizer is damaged.
pub fn find_tokenizer(weights: impl AsRef<Path>, kind: TokenizerKind) -> Result<Origin, TokenizerError> {
    let weights = weights.as_ref();
    let mut looked = Vec::new();
    if let Some(found) = in_tensors(weights, kind, &mut looked)? {
        return Ok(found);
    }
    let folder = if weights.is_dir() { weights } else { weights.parent().unwrap_or(Path::new("")) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut folders = tokenizer_folders(folder, &mut looked);
    folders.push(folder.into());
    let above = match (folder.file_name(), folder.parent()) {
        (Some(_), Some(above)) if above.as_os_str().is_empty() => PathBuf::from("."),
        (Some(_), Some(above)) => above.into(),
        _ => folder.join(".."),
    };
    folders.extend(tokenizer_folders(&above, &mut looked));
    for folder in folders {
        if let Some(found) = in_folder(&folder, kind, &mut looked)? {
            return Ok(found);
        }
    }
    match kind {
        TokenizerKind::T5 => Ok(Origin::Embedded),
        TokenizerKind::Gemma => Err(TokenizerError::NotFound { kind, weights: weights.into(), looked }),
    }
}

fn in_tensors(weights: &Path, kind: TokenizerKind, looked: &mut Vec<String>) -> Result<Option<Origin>, TokenizerError> {
    // What is wrong with the weights is for their loader to say.
    let Ok(set) = WeightSet::open(weights) else {
        looked.push(format!("tensors of `{}`, which is no safetensors file or folder of them", weights.display()));
        return Ok(None);
    };
    let mut found = false;
    for file in set.files() {
        for name in file.names().filter(|name| *name == "spiece_model" || name.ends_with(".spiece_model")) {
            let origin = Origin::Tensor { path: file.path().into(), name: name.into() };
            if kind_of(&file.bytes(name)?, file.path())? == Some(kind) {
                return Ok(Some(origin));
            }
            looked.push(format!("{origin}, of another kind"));
            found = true;
        }
    }
    if !found {
        looked.push(format!("tensor `spiece_model` of `{}`, not there", weights.display()));
    }
    Ok(None)
}

/// The folders whose names begin with `tokenizer`, in order of their names.
fn tokenizer_folders(folder: &Path, looked: &mut Vec<String>) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"tokenizer"));
    let mut folders: Vec<PathBuf> = entries.filter(|path| named(path) && path.is_dir()).collect();
    folders.sort();
    if folders.is_empty() {
        looked.push(format!("folder `{}`, not there", folder.join("tokenizer").display()));
    }
    folders
}

fn in_folder(folder: &Path, kind: TokenizerKind, looked: &mut Vec<String>) -> Result<Option<Origin>, TokenizerError> {
    let files: Vec<PathBuf> = NAMES.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect();
    for path in &files {
        if kind_of(&read(path)?, path)? == Some(kind) {
            return Ok(Some(Origin::File(path.clone())));
        }
        looked.push(format!("`{}`, of another kind", path.display()));
    }
    if files.is_empty() {
        let [json, model, spiece] = NAMES;
        looked.push(format!("`{}`, without `{json}`, `{model}` or `{spiece}`", folder.display()));
    }
    Ok(None)
}

/// Whose tokenizer it seems to be.
fn kind_of(bytes: &[u8], path: &Path) -> Result<Option<TokenizerKind>, TokenizerError> {
    #[derive(serde::Deserialize)]
    struct File<'a> {
        #[serde(borrow)]
        model: Option<ModelType<'a>>,
    }
    let invalid = |problem: String| TokenizerError::invalid(path, "tokenizer", problem);
    let (name, byte_fallback) = if is_json(bytes) {
        let file: File = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
        let model = file.model.unwrap_or_default();
        (model.name.map(|name| name.0.into_owned()).unwrap_or_default(), model.byte_fallback)
    } else {
        let model = SpModel::read(bytes).map_err(invalid)?;
        let name = match model.kind {
            SpKind::Unigram => "Unigram",
            SpKind::Bpe => "BPE",
            SpKind::Other => "",
        };
        (name.into(), model.byte_fallback)
    };
    Ok(match (name.as_str(), byte_fallback) {
        ("Unigram", false) => Some(TokenizerKind::T5),
        ("BPE", true) => Some(TokenizerKind::Gemma),
        _ => None,
    })
}
