//! Adapter files in any spelling, read as if their tensors had kohya's names.
//!
//! Where a file adapts the rows of a joined layer by themselves (PEFT's `to_q`, `to_k`, `to_v` of a FLUX block) the
//! pieces become one LoRA: their down factors behind each other, their up factors as blocks of one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use pipe_core::run::RunError;
use pipe_data::lora_names::{Piece, Spellings, Wanted, split_tensor};
use pipe_data::weights::{Component, Header, WeightFile};

use super::Parts;
use super::extras::norm_targets;
use super::targeting::layers;
use crate::common::errors;

/// A layer that a file may adapt.
pub(super) struct Layer {
    /// Its component.
    pub component: Component,
    /// Its path there.
    pub path: String,
    /// Shape of its weight.
    pub shape: Vec<usize>,
}

/// The tensors of an adapter file, by kohya's names.
pub struct AdapterFile {
    tensors: BTreeMap<String, (Vec<usize>, Made)>,
    /// Keys that are of no layer of the model.
    pub unknown: Vec<String>,
    /// Whether it adapts text encoders that are not adapted here; their tensors are left out.
    pub texts: bool,
    /// PEFT's settings of each part, which Diffusers keeps in the metadata: α of layers without one of their own.
    peft: serde_json::Value,
}

/// Where a tensor's values come from.
#[derive(Clone)]
enum Made {
    Same(String),
    Down(Vec<Part>),
    Up(Vec<Part>),
    Alpha(Vec<Part>),
}

/// A LoRA on some rows of a layer.
#[derive(Clone)]
struct Part {
    down: String,
    up: String,
    alpha: Option<String>,
    rank: usize,
    rows: (usize, usize),
    swapped: bool,
}

/// The layers of a model by kohya's names, `oft_` ones and norms included.
pub(super) fn model_layers(parts: &Parts) -> HashMap<String, Layer> {
    let all = Wanted { conv: true, embedders: true };
    let mut out = HashMap::new();
    for (component, _) in parts.components() {
        for (layer, shape) in layers(parts, component, all) {
            for name in [layer.name.clone(), layer.name.replacen("lora_", "oft_", 1)] {
                out.insert(name, Layer { component, path: layer.path.clone(), shape: shape.clone() });
            }
        }
    }
    for norm in norm_targets(parts, true) {
        let component = Component::Unet;
        out.insert(norm.name, Layer { component, path: norm.path, shape: norm.weight });
    }
    out
}

/// Layers by their name in the file, each with the keys of its tensors by ending.
type Groups<'h> = BTreeMap<&'h str, BTreeMap<String, &'h str>>;

impl AdapterFile {
    /// Finds out what each tensor of a file is to the model.
    pub(super) fn read(header: &Header, parts: &Parts) -> Self {
        let peft = header.metadata.get("lora_adapter_metadata");
        let mut file = AdapterFile {
            tensors: BTreeMap::new(),
            unknown: Vec::new(),
            texts: false,
            peft: peft.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
        };
        let all = Wanted { conv: true, embedders: true };
        let mut spellings = Vec::new();
        for (component, shapes) in parts.components() {
            let found = layers(parts, component, all);
            let targets: Vec<_> = found.iter().map(|(layer, _)| layer.clone()).collect();
            let named = shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
            let spelled = Spellings::new(parts.family, component, &targets, named);
            let by_path: HashMap<String, (String, Vec<usize>)> =
                found.into_iter().map(|(layer, shape)| (layer.path, (layer.name, shape))).collect();
            spellings.push((spelled, by_path));
        }
        let norms: BTreeSet<String> = norm_targets(parts, true).into_iter().map(|norm| norm.name).collect();
        let mut groups = Groups::new();
        for key in header.tensors.keys() {
            match split_tensor(key) {
                Some((layer, ending)) => {
                    groups.entry(layer).or_default().insert(ending, key);
                }
                None => file.unknown.push(key.clone()),
            }
        }
        // Several layers of a file may be of one layer of the model.
        let mut joined: BTreeMap<String, (Vec<usize>, Vec<Part>)> = BTreeMap::new();
        for (layer, tensors) in &groups {
            let plain = layer.strip_prefix("oft_").map(|rest| format!("lora_{rest}"));
            let search = plain.as_deref().unwrap_or(layer);
            let found = spellings.iter().find_map(|(spelled, by_path)| {
                let piece = spelled.find(search)?;
                by_path.get(&piece.path).map(|own| (piece, own))
            });
            let Some((piece, (name, shape))) = found else {
                if norms.contains(*layer) {
                    for (ending, key) in tensors {
                        let shape = header.tensors[*key].shape.clone();
                        file.tensors.insert(format!("{layer}.{ending}"), (shape, Made::Same((*key).to_owned())));
                    }
                } else if is_text(layer) {
                    // Gemma's output is read before its last layer: what a file has for that changes nothing.
                    file.texts |= parts.texts.iter().all(|(component, _)| *component != Component::Gemma);
                } else {
                    file.unknown.extend(tensors.values().map(|key| (*key).to_owned()));
                }
                continue;
            };
            if piece.rows.is_none() && !piece.swapped {
                let name = if plain.is_some() { name.replacen("lora_", "oft_", 1) } else { name.clone() };
                for (ending, key) in tensors {
                    let shape = header.tensors[*key].shape.clone();
                    file.tensors.insert(format!("{name}.{ending}"), (shape, Made::Same((*key).to_owned())));
                }
                continue;
            }
            match part(header, piece, tensors, shape) {
                Some(part) => joined.entry(name.clone()).or_insert((shape.clone(), Vec::new())).1.push(part),
                None => file.unknown.extend(tensors.values().map(|key| (*key).to_owned())),
            }
        }
        for (name, (shape, mut list)) in joined {
            list.sort_by_key(|part| part.rows);
            let rank = list.iter().map(|part| part.rank).sum();
            let mut down = shape.clone();
            down[0] = rank;
            file.tensors.insert(format!("{name}.lora_up.weight"), (vec![shape[0], rank], Made::Up(list.clone())));
            file.tensors.insert(format!("{name}.alpha"), (Vec::new(), Made::Alpha(list.clone())));
            file.tensors.insert(format!("{name}.lora_down.weight"), (down, Made::Down(list)));
        }
        file
    }

    /// Names of the tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Shape of a tensor.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|(shape, _)| shape.as_slice())
    }

    /// Values of a tensor.
    pub(super) fn values(&self, file: &WeightFile, name: &str) -> Result<Vec<f32>, RunError> {
        let get = |key: &str| file.f32(key).map_err(|e| errors::file_error(&e, "weights"));
        let Some((shape, made)) = self.tensors.get(name) else {
            return Err(RunError::new("P0305", format!("the file has no `{name}`")));
        };
        match made {
            // (IA)³ says whether it scales inputs by a whole number.
            Made::Same(key) if name.ends_with(".on_input") => Ok(number(file, key)?.into_iter().collect()),
            Made::Same(key) => get(key),
            Made::Down(parts) => {
                let mut values = Vec::new();
                for part in parts {
                    values.extend(get(&part.down)?);
                }
                Ok(values)
            }
            Made::Up(parts) => {
                let (rows, rank) = (shape[0], shape[1]);
                let mut values = vec![0.0; rows * rank];
                let scales = self.scales(file, parts)?;
                let common = common(&scales);
                let mut column = 0;
                for (part, scale) in parts.iter().zip(scales) {
                    let up = get(&part.up)?;
                    let factor = if common.is_some() { 1.0 } else { scale };
                    let (first, last) = part.rows;
                    let half = (last - first) / 2;
                    for (i, row) in up.chunks(part.rank).enumerate().take(last - first) {
                        let to = if part.swapped { (i + half) % (last - first) } else { i };
                        let place = (first + to) * rank + column;
                        values[place..place + row.len()].iter_mut().zip(row).for_each(|(to, x)| *to = x * factor);
                    }
                    column += part.rank;
                }
                Ok(values)
            }
            Made::Alpha(_) => Ok(self.alpha(file, name)?.into_iter().collect()),
        }
    }

    /// α of a layer; `name` is that of its α. Nothing where the file does not say it.
    pub(super) fn alpha(&self, file: &WeightFile, name: &str) -> Result<Option<f32>, RunError> {
        match self.tensors.get(name) {
            Some((_, Made::Same(key))) => number(file, key),
            Some((_, Made::Alpha(parts))) => {
                let rank = parts.iter().map(|part| part.rank).sum::<usize>() as f32;
                Ok(Some(rank * common(&self.scales(file, parts)?).unwrap_or(1.0)))
            }
            _ => {
                let down = format!("{}.lora_down.weight", name.strip_suffix(".alpha").unwrap_or(name));
                Ok(match self.tensors.get(&down) {
                    Some((_, Made::Same(key))) => self.usual_alpha(key),
                    _ => None,
                })
            }
        }
    }

    /// α of the metadata for a key of the file: `{"unet.lora_alpha": 8, "unet.alpha_pattern": {…}}`.
    fn usual_alpha(&self, key: &str) -> Option<f32> {
        let (layer, _) = split_tensor(key)?;
        let (part, path) = layer.strip_prefix("base_model.model.").unwrap_or(layer).split_once('.')?;
        let pattern = self.peft.get(format!("{part}.alpha_pattern")).and_then(|list| list.get(path));
        let alpha = pattern.or_else(|| self.peft.get(format!("{part}.lora_alpha")))?.as_f64()?;
        Some(alpha as f32)
    }

    /// α/r of each part.
    fn scales(&self, file: &WeightFile, parts: &[Part]) -> Result<Vec<f32>, RunError> {
        let scale = |part: &Part| {
            let alpha = match &part.alpha {
                Some(key) => number(file, key)?,
                None => self.usual_alpha(&part.down),
            };
            Ok(alpha.unwrap_or(part.rank as f32) / part.rank as f32)
        };
        parts.iter().map(scale).collect()
    }
}

/// The scale that all parts have.
fn common(scales: &[f32]) -> Option<f32> {
    let first = *scales.first()?;
    scales.iter().all(|scale| *scale == first).then_some(first)
}

/// A LoRA on some rows of a weight of this shape, if these tensors are one.
fn part(header: &Header, piece: &Piece, tensors: &BTreeMap<String, &str>, shape: &[usize]) -> Option<Part> {
    let (&out, row) = shape.split_first()?;
    let width: usize = row.iter().product();
    let known = ["lora_down.weight", "lora_up.weight", "alpha"];
    if tensors.keys().any(|ending| !known.contains(&ending.as_str())) {
        return None;
    }
    let (down, up) = (*tensors.get(known[0])?, *tensors.get(known[1])?);
    let rank = *header.tensors[down].shape.first()?;
    let rows = piece.rows.unwrap_or((0, out));
    let size = |key: &str| header.tensors[key].elements();
    let fits = rank > 0 && rows.0 < rows.1 && rows.1 <= out;
    (fits && size(up) == rank * (rows.1 - rows.0) && size(down) == rank * width).then(|| Part {
        down: down.to_owned(),
        up: up.to_owned(),
        alpha: tensors.get(known[2]).map(|key| (*key).to_owned()),
        rank,
        rows,
        swapped: piece.swapped,
    })
}

/// Whether a layer of a file is of a text encoder.
fn is_text(layer: &str) -> bool {
    let layer = layer.strip_prefix("base_model.model.").unwrap_or(layer);
    layer.starts_with("lora_te") || layer.starts_with("text_encoder")
}

/// A number of a file, whole or not.
fn number(file: &WeightFile, name: &str) -> Result<Option<f32>, RunError> {
    let whole = || file.i64(name).map(|v| v.into_iter().map(|x| x as f32).collect::<Vec<f32>>());
    let values = file.f32(name).or_else(|_| whole()).map_err(|e| errors::file_error(&e, "weights"))?;
    Ok(values.first().copied())
}

/// Names the content of a file: equal fingerprints mean equal tensors.
pub(super) fn fingerprint(path: &Path) -> Result<String, RunError> {
    let error = |e| errors::file_error(&e, "weights");
    let file = WeightFile::open(path).map_err(error)?;
    let mut names: Vec<&str> = file.names().collect();
    names.sort_unstable();
    let mut hasher = blake3::Hasher::new();
    for name in names {
        let shape = file.info(name).map(|info| format!(" {:?} {:?}", info.dtype, info.shape)).unwrap_or_default();
        hasher.update(name.as_bytes());
        hasher.update(shape.as_bytes());
        hasher.update_rayon(&file.bytes(name).map_err(error)?);
    }
    if let Some(text) = file.header().metadata.get("lora_adapter_metadata") {
        hasher.update(text.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}
