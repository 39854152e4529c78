//! `base_weights`: adapter files merged into the model before training.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use pipe_core::node::CheckCx;
use pipe_core::run::RunError;
use pipe_data::weights::{Component, Header, WeightFile, shown};
use pipe_networks::adapters::merge::Change;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::file::{AdapterFile, Layer, model_layers};
use crate::common::errors;

/// A file to merge.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct BaseWeights {
    /// LoRA, DoRA, LoHa, LoKr or OFT file with the names of kohya, Diffusers or PEFT.
    #[schemars(extend("x-path" = "file"))]
    pub path: String,
    /// Its strength; of DoRA and OFT the way from the old weight to the new one. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = -100.0, max = 100.0))]
    multiplier: f64,
}

fn one() -> f64 {
    1.0
}

/// Changes of each file, by component and path, with their strength.
pub type Changes = HashMap<Component, Vec<HashMap<String, (Change, f32)>>>;

/// The layers of a file and the endings of their tensors.
fn entries(file: &AdapterFile) -> BTreeMap<&str, Vec<&str>> {
    let mut out: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for key in file.names() {
        let (layer, ending) = key.split_once('.').unwrap_or((key, ""));
        out.entry(layer).or_default().push(ending);
    }
    out
}

/// What kind of adapter a layer of a file has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Lora,
    Dora,
    Loha,
    Lokr,
    /// OFT with so many parts; 0 is a whole layer.
    Oft(usize),
}

const LORA: [&str; 2] = ["lora_down.weight", "lora_up.weight"];
const DORA: [&str; 3] = ["lora_down.weight", "lora_up.weight", "dora_scale"];
const LOHA: [&str; 4] = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"];

impl Form {
    fn of(endings: &[&str]) -> Option<Form> {
        let mut own: Vec<&str> = endings.iter().copied().filter(|e| *e != "alpha").collect();
        own.sort_unstable();
        let is = |wanted: &[&str]| {
            let mut wanted = wanted.to_vec();
            wanted.sort_unstable();
            own == wanted
        };
        let factor = |name: &str| {
            own.contains(&name) || ["a", "b"].iter().all(|x| own.contains(&format!("{name}_{x}").as_str()))
        };
        let parts = own.iter().filter(|e| e.starts_with("oft_blocks.")).count();
        if is(&LORA) {
            Some(Form::Lora)
        } else if is(&DORA) {
            Some(Form::Dora)
        } else if is(&LOHA) {
            Some(Form::Loha)
        } else if own == ["oft_blocks"] {
            Some(Form::Oft(0))
        } else if parts > 0
            && (0..parts).all(|i| own.contains(&format!("oft_blocks.{i}").as_str()))
            && parts == own.len()
        {
            Some(Form::Oft(parts))
        } else if own.iter().all(|e| LOKR.contains(e)) && factor("lokr_w1") && factor("lokr_w2") {
            Some(Form::Lokr)
        } else {
            None
        }
    }
}

const LOKR: [&str; 6] = ["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"];

/// Reads a tensor of a layer by its ending.
type Get<'a> = &'a dyn Fn(&str) -> Result<(Vec<usize>, Vec<f32>), RunError>;

/// The change of a layer, and its strength at multiplier 1. `get` reads a tensor by its ending; of tensors of zeros only
/// sizes count.
fn change(form: Form, get: Get, alpha: Option<f32>) -> Result<(Change, f32), RunError> {
    let first = |shape: &[usize]| shape.first().copied().unwrap_or(0);
    let scale = |rank: usize| alpha.map_or(1.0, |a| a / rank.max(1) as f32);
    let pair = || {
        let ((shape, down), (_, up)) = (get("lora_down.weight")?, get("lora_up.weight")?);
        Ok::<_, RunError>((first(&shape), down, up))
    };
    Ok(match form {
        Form::Lora => {
            let (rank, down, up) = pair()?;
            (Change::LowRank { rank, down, up }, scale(rank))
        }
        Form::Dora => {
            let (rank, down, up) = pair()?;
            let magnitude = get("dora_scale")?.1;
            (Change::Decomposed { rank, down, up, magnitude, scale: scale(rank) }, 1.0)
        }
        Form::Loha => {
            let [a, b, c, d] = LOHA;
            let (shape, w1b) = get(b)?;
            let rank = first(&shape);
            (Change::Hadamard { rank, factors: [get(a)?.1, w1b, get(c)?.1, get(d)?.1] }, scale(rank))
        }
        Form::Lokr => {
            let mut rank = None;
            let mut factor = |name: &str| {
                let Ok((shape, a)) = get(&format!("{name}_a")) else {
                    let (shape, whole) = get(name)?;
                    return Ok::<_, RunError>((first(&shape), whole));
                };
                let (inner, b) = get(&format!("{name}_b"))?;
                rank = Some(first(&inner));
                Ok((first(&shape), product(&a, &b, first(&shape), first(&inner))))
            };
            let (small, large) = (factor("lokr_w1")?, factor("lokr_w2")?);
            // Two whole factors have the scale 1.
            (Change::Kronecker { small, large }, rank.map_or(1.0, scale))
        }
        Form::Oft(parts) => {
            let names = if parts == 0 {
                vec!["oft_blocks".into()]
            } else {
                (0..parts).map(|i| format!("oft_blocks.{i}")).collect()
            };
            let part = |name: String| {
                let (shape, values) = get(&name)?;
                Ok::<_, RunError>((first(&shape), shape.get(1).copied().unwrap_or(0), values))
            };
            let parts = names.into_iter().map(part).collect::<Result<_, _>>()?;
            (Change::Rotation { parts, constraint: alpha.unwrap_or(1e-3) }, 1.0)
        }
    })
}

/// `a·b`, with `rows` rows and `rank` columns of `a`.
fn product(a: &[f32], b: &[f32], rows: usize, rank: usize) -> Vec<f32> {
    if rank == 0 || a.len() != rows * rank || !b.len().is_multiple_of(rank) {
        return Vec::new();
    }
    let width = b.len() / rank;
    let mut out = vec![0.0; rows * width];
    for (row, out) in a.chunks(rank).zip(out.chunks_mut(width.max(1))) {
        for (x, b) in row.iter().zip(b.chunks(width.max(1))) {
            out.iter_mut().zip(b).for_each(|(o, b)| *o += x * b);
        }
    }
    out
}

/// What cannot be merged of a file.
fn fault(file: &AdapterFile, layers: &HashMap<String, Layer>) -> Option<String> {
    if let Some(key) = file.unknown.first() {
        return Some(format!("this model has no layer for `{}`", shown(key)));
    }
    for (name, endings) in entries(file) {
        let Some(layer) = layers.get(name) else { return Some(format!("this model has no layer `{}`", shown(name))) };
        let Some(form) = Form::of(&endings) else {
            let list: Vec<String> = endings.iter().map(|e| format!("`{}`", shown(e))).collect();
            return Some(format!("`{name}` has {}, which is no LoRA, DoRA, LoHa, LoKr or OFT", list.join(", ")));
        };
        let get = |ending: &str| {
            let shape = file.shape(&format!("{name}.{ending}"));
            let shape = shape.ok_or_else(|| RunError::new("P0305", "it is not there"))?.to_vec();
            let zeros = vec![0.0; shape.iter().product()];
            Ok((shape, zeros))
        };
        if !change(form, &get, None).is_ok_and(|(change, _)| change.fits(&layer.shape)) {
            return Some(format!("the factors of `{name}` do not fit its weight {:?}", layer.shape));
        }
    }
    None
}

/// Checks the files by their headers.
pub fn check(cx: &mut CheckCx, list: &[BaseWeights], parts: &Parts) {
    if list.is_empty() {
        return;
    }
    let layers = model_layers(parts);
    for (i, BaseWeights { path, multiplier }) in list.iter().enumerate() {
        if *multiplier == 0.0 {
            let message = "a file merged 0 times changes nothing";
            cx.error("P0402", &format!("base_weights.{i}.multiplier"), message, Some("leave the file out".into()));
        }
        let field = format!("base_weights.{i}.path");
        let path = cx.path(path);
        if cx.stands_in(&path) {
            continue;
        }
        match Header::read(path) {
            Ok(header) => {
                let file = AdapterFile::read(&header, parts);
                if let Some(message) = fault(&file, &layers) {
                    cx.error("P0305", &field, message, Some("`pipe inspect` shows what the file holds".into()));
                } else if file.names().next().is_none() {
                    let message = "the file changes nothing that learns or is computed here";
                    cx.error("P0402", &field, message, Some("leave it out".into()));
                } else if file.texts {
                    let message = "its changes of text encoders are left out: none of them is adapted here";
                    let help = "give the adapter the text encoders (`text: …`) to have them merged as well";
                    cx.warn("P0402", &field, message, Some(help.into()));
                }
            }
            Err(e) => cx.error(errors::file_code(&e), &field, e.to_string(), None),
        }
    }
}

/// Reads the files.
pub fn read(list: &[BaseWeights], parts: &Parts, path: impl Fn(&str) -> PathBuf) -> Result<Changes, RunError> {
    let mut out = Changes::new();
    if list.is_empty() {
        return Ok(out);
    }
    let layers = model_layers(parts);
    for (i, base) in list.iter().enumerate() {
        let field = format!("base_weights.{i}.path");
        let opened = WeightFile::open(path(&base.path)).map_err(|e| errors::file_error(&e, &field))?;
        let file = AdapterFile::read(opened.header(), parts);
        if let Some(message) = fault(&file, &layers) {
            return Err(RunError::new("P0305", message).at(&field));
        }
        let mut changed: HashMap<Component, HashMap<String, (Change, f32)>> = HashMap::new();
        for (name, endings) in entries(&file) {
            let (Some(layer), Some(form)) = (layers.get(name), Form::of(&endings)) else { continue };
            let get = |ending: &str| {
                let name = format!("{name}.{ending}");
                let shape = file.shape(&name).unwrap_or_default().to_vec();
                Ok((shape, file.values(&opened, &name)?))
            };
            let alpha = file.alpha(&opened, &format!("{name}.alpha")).map_err(|e| e.at(&field))?;
            let (change, strength) = change(form, &get, alpha).map_err(|e| e.at(&field))?;
            let strength = (base.multiplier * strength as f64) as f32;
            changed.entry(layer.component).or_default().insert(layer.path.clone(), (change, strength));
        }
        for (component, layers) in changed {
            out.entry(component).or_default().push(layers);
        }
    }
    Ok(out)
}
