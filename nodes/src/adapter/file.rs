//! Adapter files in any spelling, read as if their tensors had kohya's names.
//!
//! Where a file adapts the rows of a joined layer by themselves (PEFT's `to_q`, `to_k`, `to_v` of a FLUX block) the
//! pieces become one LoRA: their down factors behind each other, their up factors as blocks of one. So do LoRAs of one
//! layer in several spellings, whose sum that is.

use std::collections::{BTreeMap, HashMap};

use pipe_core::run::RunError;
use pipe_data::lora_names::{Piece, Spellings, Wanted, split_tensor};
use pipe_data::weights::{Component, Header, WeightFile, shown};

use super::Parts;
use super::extras::norm_targets;
use super::targeting::layers;
use super::values::{number, values};

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
    /// What is there in several spellings that cannot be one.
    pub clashes: Vec<String>,
    /// Keys of tensors that have to be the same, for they are of one weight that another program holds twice.
    copies: Vec<(String, String)>,
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
    Magnitude(Vec<Part>),
}

/// A LoRA on some rows of a layer.
#[derive(Clone)]
struct Part {
    down: String,
    up: String,
    alpha: Option<String>,
    magnitude: Option<String>,
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

/// The keys of a layer's tensors by ending.
type Keys<'h> = BTreeMap<String, &'h str>;

/// Layers by their name in the file.
type Groups<'h> = BTreeMap<&'h str, Keys<'h>>;

/// A layer of the model by kohya's name: its shape, and the layers of the file that are for it.
type Found<'h> = BTreeMap<String, (Vec<usize>, Vec<(Piece, &'h str, Keys<'h>)>)>;

impl AdapterFile {
    /// Finds out what each tensor of a file is to the model.
    pub(super) fn read(header: &Header, parts: &Parts) -> Self {
        let peft = header.metadata.get("lora_adapter_metadata");
        let mut file = AdapterFile {
            tensors: BTreeMap::new(),
            unknown: Vec::new(),
            clashes: Vec::new(),
            copies: Vec::new(),
            texts: false,
            peft: peft.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
        };
        let mut spellings = Vec::new();
        for (component, shapes) in parts.components() {
            let named = shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
            let spelled = Spellings::new(parts.family, component, named);
            let found = layers(parts, component, Wanted { conv: true, embedders: true });
            let norms = norm_targets(parts, true).into_iter().filter(|_| component == Component::Unet);
            let norms = norms.map(|norm| (norm.path, (norm.name, norm.weight)));
            let own: HashMap<String, (String, Vec<usize>)> =
                found.into_iter().map(|(layer, shape)| (layer.path, (layer.name, shape))).chain(norms).collect();
            spellings.push((spelled, own));
        }
        let mut groups = Groups::new();
        for key in header.tensors.keys() {
            let Some((layer, ending)) = split_tensor(key) else {
                file.unknown.push(key.clone());
                continue;
            };
            if let Some(before) = groups.entry(layer).or_default().insert(ending, key) {
                file.clashes.push(format!(
                    "`{}` and `{}` are the same tensor in two spellings",
                    shown(before),
                    shown(key)
                ));
            }
        }
        let mut all = Found::new();
        for (layer, keys) in groups {
            let found = spellings.iter().find_map(|(spelled, by_path)| {
                let piece = spelled.find(layer)?;
                by_path.get(&piece.path).map(|own| (piece, own))
            });
            let Some((piece, (name, shape))) = found else {
                if is_text(layer) {
                    // Gemma's output is read before its last layer: what a file has for that changes nothing.
                    file.texts |= parts.texts.iter().all(|(component, _)| *component != Component::Gemma);
                } else {
                    file.unknown.extend(keys.values().map(|key| (*key).to_owned()));
                }
                continue;
            };
            let name = if layer.starts_with("oft_") { name.replacen("lora_", "oft_", 1) } else { name.clone() };
            all.entry(name).or_insert((shape.clone(), Vec::new())).1.push((piece.clone(), layer, keys));
        }
        for (name, (shape, mut list)) in all {
            file.drop_copies(header, &mut list);
            file.add(header, &name, &shape, &list);
        }
        file
    }

    /// Leaves out what is there again for a copy of a weight, and notes what has to be the same then.
    fn drop_copies(&mut self, header: &Header, list: &mut Vec<(Piece, &str, Keys)>) {
        let Some((Piece { copy: Some(first), .. }, layer, own)) = list.first().cloned() else { return };
        list.retain(|(piece, other, keys)| {
            if piece.copy.is_none_or(|copy| copy == first) {
                return true;
            }
            let alike = own.keys().eq(keys.keys())
                && own.iter().all(|(ending, key)| header.tensors[*key].shape == header.tensors[keys[ending]].shape);
            if alike {
                self.copies.extend(own.iter().map(|(end, key)| ((*key).to_owned(), keys[end].to_owned())));
            } else {
                self.clashes.push(unlike(layer, other));
            }
            false
        });
    }

    /// Adds a layer of the model; several of the file are added up.
    fn add(&mut self, header: &Header, name: &str, shape: &[usize], list: &[(Piece, &str, Keys)]) {
        if let [(piece, _, keys)] = list
            && piece.rows.is_none()
            && !piece.swapped
        {
            for (ending, key) in keys {
                let mut shape = header.tensors[*key].shape.clone();
                // PEFT's magnitudes are of rows, and those of a convolution have the axes of its kernel.
                if key.contains("lora_magnitude_vector") {
                    shape = vec![shape.iter().product(), 1];
                }
                self.tensors.insert(format!("{name}.{ending}"), (shape, Made::Same((*key).to_owned())));
            }
            return;
        }
        let mut parts = Vec::with_capacity(list.len());
        for (piece, _, keys) in list {
            match part(header, piece, keys, shape) {
                Some(part) => parts.push(part),
                None if list.len() == 1 => return self.unknown.extend(keys.values().map(|key| (*key).to_owned())),
                None => {
                    let (a, b) = (shown(list[0].1), shown(list[1].1));
                    return self.clashes.push(format!("`{a}` and `{b}` are for one layer, and only LoRA can be added"));
                }
            }
        }
        parts.sort_by_key(|part| part.rows);
        let rank = parts.iter().map(|part| part.rank).sum();
        let magnitudes = parts.iter().filter(|part| part.magnitude.is_some()).count();
        if magnitudes > 0 {
            // A row has one length, whatever is added to it.
            let apart = parts.windows(2).all(|pair| pair[0].rows.1 == pair[1].rows.0);
            let ends =
                parts.first().map(|part| part.rows.0) == Some(0) && parts.last().map(|p| p.rows.1) == Some(shape[0]);
            if magnitudes < parts.len() || !apart || !ends {
                let names: Vec<String> = list.iter().map(|(_, layer, _)| format!("`{}`", shown(layer))).collect();
                let message = format!("{} do not have one magnitude (DoRA) for each row of a layer", names.join(", "));
                return self.clashes.push(message);
            }
            self.tensors.insert(format!("{name}.dora_scale"), (vec![shape[0], 1], Made::Magnitude(parts.clone())));
        }
        let mut down = shape.to_vec();
        down[0] = rank;
        self.tensors.insert(format!("{name}.lora_up.weight"), (vec![shape[0], rank], Made::Up(parts.clone())));
        self.tensors.insert(format!("{name}.alpha"), (Vec::new(), Made::Alpha(parts.clone())));
        self.tensors.insert(format!("{name}.lora_down.weight"), (down, Made::Down(parts)));
    }

    /// Compares what has to be the same.
    pub(super) fn verify(&self, file: &WeightFile) -> Result<(), RunError> {
        for (a, b) in &self.copies {
            let (first, second) = match a.ends_with(".alpha") {
                true => (number(file, a)?.into_iter().collect(), number(file, b)?.into_iter().collect()),
                false => (values(file, a)?, values(file, b)?),
            };
            if first != second {
                return Err(RunError::new("P0305", unlike(a, b)).at("weights"));
            }
        }
        Ok(())
    }

    /// Whether [`verify`](Self::verify) has something to do.
    pub(super) fn has_copies(&self) -> bool {
        !self.copies.is_empty()
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
        let get = |key: &str| values(file, key);
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
            Made::Magnitude(parts) => {
                let mut all = Vec::new();
                for part in parts {
                    let mut own = part.magnitude.as_deref().map_or(Ok(Vec::new()), get)?;
                    if part.swapped {
                        let half = own.len() / 2;
                        own.rotate_left(half);
                    }
                    all.extend(own);
                }
                Ok(all)
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
fn part(header: &Header, piece: &Piece, tensors: &Keys, shape: &[usize]) -> Option<Part> {
    let (&out, row) = shape.split_first()?;
    let width: usize = row.iter().product();
    let known = ["lora_down.weight", "lora_up.weight", "alpha", "dora_scale"];
    if tensors.keys().any(|ending| !known.contains(&ending.as_str())) {
        return None;
    }
    let (down, up) = (*tensors.get(known[0])?, *tensors.get(known[1])?);
    let rank = *header.tensors[down].shape.first()?;
    let rows = piece.rows.unwrap_or((0, out));
    let size = |key: &str| header.tensors[key].elements();
    let magnitude = tensors.get(known[3]).copied();
    let of_rows = |key: &str| {
        size(key) == rows.1 - rows.0
            && (key.contains("lora_magnitude_vector") || header.tensors[key].shape.first() == Some(&(rows.1 - rows.0)))
    };
    let fits = rank > 0 && rows.0 < rows.1 && rows.1 <= out && magnitude.is_none_or(of_rows);
    (fits && size(up) == rank * (rows.1 - rows.0) && size(down) == rank * width).then(|| Part {
        down: down.to_owned(),
        up: up.to_owned(),
        alpha: tensors.get(known[2]).map(|key| (*key).to_owned()),
        magnitude: magnitude.map(str::to_owned),
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

/// What is said of layers that differ where a model has one.
fn unlike(a: &str, b: &str) -> String {
    let (a, b) = (shown(a), shown(b));
    format!("`{a}` and `{b}` are for one weight of this model, and do not change it alike")
}
