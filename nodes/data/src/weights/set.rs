//! One model's tensors from one file or several.
//!
//! A path may be a weight file, a shard index (`*.index.json`) or a Diffusers component folder.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component as Part, Path, PathBuf};

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value as Json;

use super::ckpt::Progress;
use super::diffusers::read_config;
use super::error::FileError;
use super::file::WeightFile;
use super::header::TensorInfo;
use super::json::{MAX_INDEX, Text, parse, read_limited};
use super::scale;

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

/// The same for torch files, which count where there are no safetensors.
const TORCH_FILES: [&str; 8] = [
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.fp16.bin",
    "diffusion_pytorch_model.bin.index.fp16.json",
    "pytorch_model.fp16.bin",
    "pytorch_model.bin.index.fp16.json",
];

/// Endings of torch files.
const TORCH_ENDINGS: [&str; 4] = ["bin", "ckpt", "pt", "pth"];

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
        let in_component_folder = path.is_dir() || FILES.contains(&named) || TORCH_FILES.contains(&named);
        let config = if in_component_folder { read_config(folder)? } else { None };
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
        let map = parse_index(index, &read_limited(index, MAX_INDEX)?)?;
        let folder = index.parent().unwrap_or(Path::new("."));
        let mut files: Vec<WeightFile> = Vec::new();
        let mut by_name = BTreeMap::new();
        let mut tensors = IndexMap::with_capacity(map.len());
        for (tensor, shard) in map {
            let number = match by_name.get(&shard) {
                Some(&number) => number,
                None => {
                    if !Path::new(&shard).components().all(|part| matches!(part, Part::Normal(_))) {
                        return Err(bad(format!("shard `{shard}` is outside the folder")));
                    }
                    files.push(WeightFile::open(folder.join(&shard))?);
                    by_name.insert(shard.clone(), files.len() - 1);
                    files.len() - 1
                }
            };
            if files[number].info(&tensor).is_none() {
                return Err(bad(format!("shard `{shard}` has no tensor `{tensor}`")));
            }
            tensors.insert(tensor, number);
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

    /// Number and count of a shard that was opened by itself.
    pub fn shard(&self) -> Option<(u32, u32)> {
        shard_of(&self.path)
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Type and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.files[*self.tensors.get(name)?].info(name)
    }

    /// A tensor's values as stored, row-major; copied only where a torch file holds a strided view.
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, FileError> {
        self.file_of(name)?.bytes(name)
    }

    /// A tensor of any float type as `f32`; scaled 8-bit weights with their scale.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>, FileError> {
        let mut values = self.file_of(name)?.unscaled(name)?;
        if let Some(scale) = self.scale(name)? {
            scale::multiply(&mut values, &scale);
        }
        Ok(values)
    }

    /// What the stored values of a scaled 8-bit weight are multiplied by: one number, or one a row. It may be in
    /// another shard than the weight.
    pub fn scale(&self, name: &str) -> Result<Option<Vec<f32>>, FileError> {
        self.check_scale(name)?.map(|scale| self.file_of(&scale)?.unscaled(&scale)).transpose()
    }

    /// Whether a tensor is a scale of an 8-bit weight or of its input, or the mark of such files, and so no weight.
    pub fn is_scale(&self, name: &str) -> bool {
        scale::is_beside_weight(name, |name| self.info(name))
    }

    /// Name of the scale of a weight, when it has one and that fits; no data are read.
    pub(crate) fn check_scale(&self, name: &str) -> Result<Option<String>, FileError> {
        match (scale::of_weight(name, |name| self.info(name)), self.info(name)) {
            (Some((scale, info)), Some(weight)) if scale::fits(info, weight) => Ok(Some(scale)),
            (Some((scale, info)), _) => Err(FileError::unfit_scale(&self.path, scale, info)),
            (None, _) => Ok(None),
        }
    }

    /// A tensor of any integer type as `i64`.
    pub fn i64(&self, name: &str) -> Result<Vec<i64>, FileError> {
        self.file_of(name)?.i64(name)
    }

    /// A metadata text of the first file that has it.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.files.iter().find_map(|file| file.header().metadata.get(key)).map(String::as_str)
    }

    /// How far the model was trained, where a torch checkpoint says so.
    pub fn progress(&self) -> Option<Progress> {
        self.files.iter().find_map(WeightFile::progress)
    }

    fn file_of(&self, name: &str) -> Result<&WeightFile, FileError> {
        let number = self.tensors.get(name);
        let missing = || FileError::NoTensor { path: self.path.clone(), tensor: name.into() };
        number.map(|&number| &self.files[number]).ok_or_else(missing)
    }
}

/// Number and count of a shard, by its usual name: `model-00001-of-00003.safetensors`.
pub fn shard_of(path: &Path) -> Option<(u32, u32)> {
    let (rest, all) = path.file_stem()?.to_str()?.rsplit_once("-of-")?;
    let (_, number) = rest.rsplit_once('-')?;
    let value = |digits: &str| digits.parse().ok().filter(|_| digits.len() == 5);
    Some((value(number)?, value(all)?)).filter(|(_, all)| *all > 1)
}

/// The weight file of a component folder.
fn find_weights(folder: &Path) -> Result<PathBuf, FileError> {
    let usual = |names: &[&str]| names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    if let Some(found) = usual(&FILES) {
        return Ok(found);
    }
    let entries = fs::read_dir(folder).map_err(|e| FileError::reading(folder, e))?;
    let names: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let ending = |ending: &'static str| names.iter().filter(move |p| p.extension().is_some_and(|e| e == ending));
    let mut safetensors = ending("safetensors");
    let mut torch = TORCH_ENDINGS.iter().flat_map(|e| ending(e));
    let found = match (safetensors.next(), safetensors.next()) {
        (Some(one), None) => return Ok(one.clone()),
        (None, _) if let Some(found) = usual(&TORCH_FILES) => return Ok(found),
        _ if folder.join("model_index.json").is_file() => "it is a whole Diffusers pipeline; name one of its folders",
        (Some(_), Some(_)) => "several safetensors files, none with the usual name; name one of them",
        _ => match (torch.next(), torch.next()) {
            (Some(one), None) => return Ok(one.clone()),
            (Some(_), Some(_)) => "several torch files, none with the usual name; name one of them",
            _ => "no safetensors file and no torch file is in it",
        },
    };
    Err(FileError::NoWeights { path: folder.into(), found: found.into() })
}

/// Reads the text of an index: name of each tensor → its shard. `path` is for messages.
pub(crate) fn parse_index(path: &Path, bytes: &[u8]) -> Result<IndexMap<String, String>, FileError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: Option<IndexMap<String, Text>>,
    }
    let bad = |problem: String| FileError::BadIndex { path: path.into(), problem };
    let map = parse::<Index>(path, bytes)?.weight_map;
    let map = map.ok_or_else(|| bad("it has no `weight_map` of tensor names to files".into()))?;
    let shard = |(tensor, Text(shard)): (String, Text)| match shard {
        Some(shard) => Ok((tensor, shard)),
        None => Err(bad(format!("the file of `{tensor}` is not a text"))),
    };
    map.into_iter().map(shard).collect()
}
