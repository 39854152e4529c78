//! LoRA files in other spellings than kohya's, read as if they had kohya's names: PEFT's and Diffusers' paths, with
//! matrices apart that are joined here, and kohya's prefix before Diffusers' block names.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use pipe_core::run::RunError;
use pipe_data::lora_names::{Factor, Piece, Spellings, Wanted, split_key};
use pipe_data::weights::{DType, FileError, Header, TensorInfo, WeightFile};
use serde_json::Value as Json;

use super::Parts;
use super::targeting::layers;
use crate::common::errors;

/// What a file has for a layer, or for some rows of it.
#[derive(Clone, Debug)]
struct Source {
    piece: Piece,
    down: String,
    up: String,
    alpha: Option<String>,
    /// α from the file's metadata.
    told: Option<f32>,
    rank: usize,
}

/// The layers of a file that it spells in another way, under kohya's names.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The header as a file with kohya's names would have it.
    pub header: Header,
    /// Kohya's name of a layer → rows of its weight, and what the file has for it.
    layers: HashMap<String, (usize, Vec<Source>)>,
}

const DOWN: &str = "lora_down.weight";
const UP: &str = "lora_up.weight";

/// A layer's name without what old Diffusers files put into it.
fn plain(layer: &str) -> Vec<String> {
    let layer = layer.strip_prefix("base_model.model.").unwrap_or(layer).replace(".processor", "");
    let out = layer.ends_with(".to_out").then(|| format!("{layer}.0"));
    std::iter::once(layer).chain(out).collect()
}

/// α that PEFT keeps in the metadata, in JSON under the name of the part.
fn told(metadata: &Json, folder: &str, layer: &str) -> Option<f32> {
    let layer = layer.strip_prefix(&format!("{folder}.")).unwrap_or(layer);
    let own = metadata.get(format!("{folder}.alpha_pattern")).and_then(|p| p.get(layer));
    let number = own.or_else(|| metadata.get(format!("{folder}.lora_alpha")))?.as_f64()?;
    Some(number as f32)
}

impl View {
    /// The view of a file with this header.
    pub fn of(header: &Header, parts: &Parts) -> View {
        let metadata = header.metadata.get("lora_adapter_metadata").and_then(|text| serde_json::from_str(text).ok());
        let metadata: Json = metadata.unwrap_or_default();
        let mut found: BTreeMap<String, (usize, Vec<Source>)> = BTreeMap::new();
        let mut rest = header.tensors.clone();
        let keys: HashMap<(&str, Factor), &String> =
            header.tensors.keys().filter_map(|key| Some((split_key(key)?, key))).collect();
        for (component, shapes) in parts.components() {
            let list = layers(parts, component, Wanted { conv: true, embedders: true });
            let targets: Vec<_> = list.iter().map(|(target, _)| target.clone()).collect();
            let by_path: HashMap<&str, usize> =
                list.iter().enumerate().map(|(i, (target, _))| (target.path.as_str(), i)).collect();
            let named = shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
            let spellings = Spellings::new(parts.family, component, &targets, named);
            let folder = parts.family.folder(component).unwrap_or_default();
            for key in header.tensors.keys() {
                let Some((layer, Factor::Down)) = split_key(key) else { continue };
                let mut names = plain(layer);
                names.extend(plain(layer).iter().map(|name| format!("{folder}.{name}")));
                let Some(piece) = names.iter().find_map(|name| spellings.find(name)) else { continue };
                let Some((target, shape)) = by_path.get(piece.path.as_str()).map(|&i| &list[i]) else { continue };
                let other = |factor| keys.get(&(layer, factor)).map(|key| (*key).clone());
                let (Some(up), alpha) = (other(Factor::Up), other(Factor::Alpha)) else { continue };
                let rank = header.tensors[key].shape.first().copied().unwrap_or(0);
                if layer == target.name && key.ends_with(DOWN) && up.ends_with(UP) {
                    continue; // Kohya's own spelling.
                }
                for used in [Some(key), Some(&up), alpha.as_ref()].into_iter().flatten() {
                    rest.shift_remove(used);
                }
                let told = told(&metadata, folder, &names[0]);
                let source = Source { piece: piece.clone(), down: key.clone(), up, alpha, told, rank };
                found.entry(target.name.clone()).or_insert((shape[0], Vec::new())).1.push(source);
            }
        }
        let mut tensors = rest;
        for (name, (out, sources)) in &mut found {
            sources.sort_by_key(|source| source.piece.rows);
            let rank: usize = sources.iter().map(|source| source.rank).sum();
            let mut down = header.tensors[&sources[0].down].shape.clone();
            let mut up = header.tensors[&sources[0].up].shape.clone();
            down.iter_mut().take(1).for_each(|r| *r = rank);
            if sources.iter().any(|source| source.piece.rows.is_some()) {
                up = vec![*out, rank];
            }
            for (ending, shape) in [(DOWN, down), (UP, up), ("alpha", Vec::new())] {
                let end = 4 * shape.iter().product::<usize>();
                let info = TensorInfo { dtype: DType::F32, shape, start: 0, end };
                tensors.insert(format!("{name}.{ending}"), info);
            }
        }
        let header = Header { tensors, metadata: header.metadata.clone(), data_start: header.data_start };
        View { header, layers: found.into_iter().collect() }
    }
}

/// A LoRA file with kohya's names, whatever it has.
pub struct AdapterFile {
    file: WeightFile,
    view: View,
}

impl AdapterFile {
    /// Opens a file for a model.
    pub fn open(path: impl AsRef<Path>, parts: &Parts) -> Result<Self, FileError> {
        let file = WeightFile::open(path)?;
        let view = View::of(file.header(), parts);
        Ok(AdapterFile { file, view })
    }

    /// Names and shapes.
    pub fn header(&self) -> &Header {
        &self.view.header
    }

    /// Shape of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.view.header.tensors.get(name)
    }

    /// Values of a tensor.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>, FileError> {
        let (layer, ending) = name.split_once('.').unwrap_or((name, ""));
        let Some((out, sources)) = self.view.layers.get(layer) else { return self.file.f32(name) };
        let rank: usize = sources.iter().map(|source| source.rank).sum();
        let scales = sources.iter().map(|source| self.scale(source)).collect::<Result<Vec<f32>, FileError>>()?;
        match ending {
            "alpha" => Ok(vec![rank as f32 * scales[0]]),
            DOWN => {
                let mut values = Vec::new();
                for source in sources {
                    values.extend(self.file.f32(&source.down)?);
                }
                Ok(values)
            }
            UP => {
                // One scale stands for all: what others differ in goes into the factors.
                let mut values = vec![0.0; out * rank];
                let mut column = 0;
                for (source, scale) in sources.iter().zip(&scales) {
                    let factor = scale / scales[0];
                    let own = self.file.f32(&source.up)?;
                    let (first, last) = source.piece.rows.unwrap_or((0, *out));
                    let rows = own.len() / source.rank.max(1);
                    let half = if source.piece.swapped { rows / 2 } else { 0 };
                    for (row, from) in (first..last).zip(own.chunks(source.rank.max(1))) {
                        let row = first + (row - first + half) % rows.max(1);
                        for (to, x) in values[row * rank + column..][..source.rank].iter_mut().zip(from) {
                            *to = factor * x;
                        }
                    }
                    column += source.rank;
                }
                Ok(values)
            }
            _ => self.file.f32(name),
        }
    }

    /// `α/r` of what the file has; 1 where it does not tell.
    fn scale(&self, source: &Source) -> Result<f32, FileError> {
        let own = match &source.alpha {
            Some(name) => number(&self.file, name)?,
            None => source.told,
        };
        Ok(own.map_or(1.0, |alpha| alpha / source.rank.max(1) as f32))
    }

    /// A number of the file, whole or not.
    pub fn number(&self, name: &str) -> Result<Option<f32>, RunError> {
        let layer = name.split_once('.').map_or(name, |(layer, _)| layer);
        let values = match self.view.layers.contains_key(layer) {
            true => self.f32(name).map(|values| values.first().copied()),
            false => number(&self.file, name),
        };
        values.map_err(|e| errors::file_error(&e, "weights"))
    }
}

/// A number, whole or not.
fn number(file: &WeightFile, name: &str) -> Result<Option<f32>, FileError> {
    let whole = || file.i64(name).map(|v| v.into_iter().map(|x| x as f32).collect::<Vec<f32>>());
    Ok(file.f32(name).or_else(|_| whole())?.first().copied())
}
