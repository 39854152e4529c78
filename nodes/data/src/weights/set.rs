//! One model's tensors from one file or several.
//!
//! A path may be a safetensors file, a shard index (`*.safetensors.index.json`) or a Diffusers component folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component as Part, Path, PathBuf};

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::error::FileError;
use super::file::WeightFile;
use super::header::TensorInfo;

/// Names of weight files in a component folder, best first: full precision before `fp16`, one file before shards.
const FILES: [&str; 8] = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
];

/// Longest configuration or index file read.
const MAX_JSON: u64 = 64 << 20;

/// The tensors of one model, whatever files they are in.
#[derive(Debug)]
pub struct WeightSet {
    path: PathBuf,
    files: Vec<WeightFile>,
    tensors: IndexMap<String, usize>,
    /// `config.json` beside the weights, if there is one.
    pub config: Option<Json>,
}

impl WeightSet {
    /// Opens a file, an index or a component folder.
    pub fn open(path: impl AsRef<Path>) -> Result<WeightSet, FileError> {
        let path = path.as_ref();
        let weights = if path.is_dir() { find_weights(path)? } else { path.to_path_buf() };
        let set = if weights.extension().is_some_and(|e| e == "json") {
            Self::open_shards(&weights)?
        } else {
            Self::of_files(&weights, vec![WeightFile::open(&weights)?])
        };
        let folder = weights.parent().unwrap_or(Path::new("."));
        let named = weights.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let in_component_folder = path.is_dir() || FILES.contains(&named);
        let config = if in_component_folder { optional_table(&folder.join("config.json"))? } else { None };
        Ok(WeightSet { path: path.into(), config, ..set })
    }

    fn of_files(path: &Path, files: Vec<WeightFile>) -> WeightSet {
        let mut tensors = IndexMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.names() {
                tensors.entry(name.to_owned()).or_insert(i);
            }
        }
        WeightSet { path: path.into(), files, tensors, config: None }
    }

    fn open_shards(index: &Path) -> Result<WeightSet, FileError> {
        let bad = |problem: String| FileError::BadIndex { path: index.into(), problem };
        let json = read_json(index)?;
        let map = json.get("weight_map").and_then(Json::as_object);
        let map = map.ok_or_else(|| bad("it has no `weight_map` of tensor names to files".into()))?;
        let folder = index.parent().unwrap_or(Path::new("."));
        let mut files: Vec<WeightFile> = Vec::new();
        let mut by_name = BTreeMap::new();
        let mut tensors = IndexMap::with_capacity(map.len());
        for (tensor, shard) in map {
            let shard = shard.as_str().ok_or_else(|| bad(format!("the file of `{tensor}` is not a text")))?;
            let number = match by_name.get(shard) {
                Some(&number) => number,
                None => {
                    if !Path::new(shard).components().all(|part| matches!(part, Part::Normal(_))) {
                        return Err(bad(format!("shard `{shard}` is outside the folder")));
                    }
                    files.push(WeightFile::open(folder.join(shard))?);
                    by_name.insert(shard.to_owned(), files.len() - 1);
                    files.len() - 1
                }
            };
            if files[number].info(tensor).is_none() {
                return Err(bad(format!("shard `{shard}` has no tensor `{tensor}`")));
            }
            tensors.insert(tensor.clone(), number);
        }
        Ok(WeightSet { path: index.into(), files, tensors, config: None })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files it consists of.
    pub fn files(&self) -> &[WeightFile] {
        &self.files
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Type and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.files[*self.tensors.get(name)?].info(name)
    }

    /// A tensor's bytes as stored.
    pub fn bytes(&self, name: &str) -> Result<&[u8], FileError> {
        self.file_of(name)?.bytes(name)
    }

    /// A tensor of any float type as `f32`.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>, FileError> {
        self.file_of(name)?.f32(name)
    }

    /// A tensor of any integer type as `i64`.
    pub fn i64(&self, name: &str) -> Result<Vec<i64>, FileError> {
        self.file_of(name)?.i64(name)
    }

    /// A `__metadata__` text of the first file that has it.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.files.iter().find_map(|file| file.header().metadata.get(key)).map(String::as_str)
    }

    fn file_of(&self, name: &str) -> Result<&WeightFile, FileError> {
        let number = self.tensors.get(name);
        let missing = || FileError::NoTensor { path: self.path.clone(), tensor: name.into() };
        number.map(|&number| &self.files[number]).ok_or_else(missing)
    }
}

/// The weight file of a component folder.
fn find_weights(folder: &Path) -> Result<PathBuf, FileError> {
    if let Some(found) = FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
        return Ok(found);
    }
    let entries = fs::read_dir(folder).map_err(|e| FileError::reading(folder, e))?;
    let names: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let ending = |ending: &'static str| names.iter().filter(move |p| p.extension().is_some_and(|e| e == ending));
    let mut safetensors = ending("safetensors");
    let found = match (safetensors.next(), safetensors.next()) {
        (Some(one), None) => return Ok(one.clone()),
        _ if folder.join("model_index.json").is_file() => "it is a whole Diffusers pipeline; name one of its folders",
        (Some(_), Some(_)) => "several safetensors files, none with the usual name; name one of them",
        _ if ["bin", "ckpt", "pt", "pth"].iter().any(|e| ending(e).next().is_some()) => {
            "only PyTorch files; convert them to safetensors first"
        }
        _ => "no safetensors file is in it",
    };
    Err(FileError::NoWeights { path: folder.into(), found: found.into() })
}

/// Reads a JSON table that need not be there. One that is there and cannot be used is an error: what it says of the
/// model (heads, groups, scale) would be guessed otherwise.
fn optional_table(path: &Path) -> Result<Option<Json>, FileError> {
    match read_json(path) {
        Ok(json) if json.is_object() => Ok(Some(json)),
        Ok(_) => Err(FileError::BadJson { path: path.into(), problem: "it is no table of settings".into() }),
        Err(FileError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a JSON file of reasonable size.
pub(crate) fn read_json(path: &Path) -> Result<Json, FileError> {
    let about = fs::metadata(path).map_err(|e| FileError::reading(path, e))?;
    let bad = |problem: String| FileError::BadJson { path: path.into(), problem };
    if about.is_dir() {
        return Err(FileError::IsFolder { path: path.into() });
    }
    // Opening a pipe would wait for someone to write into it.
    if !about.is_file() {
        return Err(FileError::NotFile { path: path.into(), what: "a pipe or a device" });
    }
    if about.len() > MAX_JSON {
        return Err(bad(format!("it has {} bytes, too many for such a file", about.len())));
    }
    let bytes = fs::read(path).map_err(|e| FileError::reading(path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| bad(format!("it is not valid JSON: {e}")))
}
