//! `base_weights`: adapter files merged into the model before training.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use pipe_core::node::CheckCx;
use pipe_core::run::RunError;
use pipe_data::lora_names::Wanted;
use pipe_data::weights::{Component, Header, shown};
use pipe_networks::adapters::merge::Change;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::spelled::{AdapterFile, View};
use super::targeting::layers;
use crate::common::errors;

/// A file to merge.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct BaseWeights {
    /// LoRA file with kohya's, PEFT's or Diffusers' names, or LoHa file.
    #[schemars(extend("x-path" = "file"))]
    path: String,
    /// Its strength. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = -100.0, max = 100.0))]
    multiplier: f64,
}

fn one() -> f64 {
    1.0
}

const LORA: [&str; 2] = ["lora_down.weight", "lora_up.weight"];
const LOHA: [&str; 4] = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"];

/// Changes of each file, by component and path, with their scale.
pub type Changes = HashMap<Component, Vec<HashMap<String, (Change, f32)>>>;

/// Component, path and shape of every layer, by its name in files.
fn names(parts: &Parts) -> HashMap<String, (Component, String, Vec<usize>)> {
    let all = Wanted { conv: true, embedders: true };
    let of = |component: Component| {
        layers(parts, component, all).into_iter().map(move |(l, shape)| (l.name, (component, l.path, shape)))
    };
    parts.components().into_iter().flat_map(|(component, _)| of(component)).collect()
}

/// The layers of a file and the endings of their tensors.
fn entries(header: &Header) -> BTreeMap<&str, Vec<&str>> {
    let mut out: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for key in header.tensors.keys() {
        let (layer, ending) = key.split_once('.').unwrap_or((key, ""));
        out.entry(layer).or_default().push(ending);
    }
    out
}

fn complete(endings: &[&str], wanted: &[&str]) -> bool {
    wanted.iter().all(|w| endings.contains(w)) && endings.iter().all(|e| *e == "alpha" || wanted.contains(e))
}

/// What cannot be merged of a file; and whether it adapts text encoders that are not here.
fn faults(header: &Header, names: &HashMap<String, (Component, String, Vec<usize>)>) -> (Option<String>, bool) {
    let mut left_out = false;
    for (layer, endings) in entries(header) {
        let Some((_, _, shape)) = names.get(layer) else {
            if layer.starts_with("lora_te") {
                left_out = true;
                continue;
            }
            return (Some(format!("this model has no layer `{}`", shown(layer))), left_out);
        };
        if !complete(&endings, &LORA) && !complete(&endings, &LOHA) {
            let list: Vec<String> = endings.iter().map(|e| format!("`{}`", shown(e))).collect();
            return (Some(format!("`{layer}` is neither a LoRA nor a LoHa: it has {}", list.join(", "))), left_out);
        }
        let size = |ending: &str| header.tensors.get(&format!("{layer}.{ending}")).map_or(0, |t| t.elements());
        let pairs = if complete(&endings, &LORA) {
            vec![("lora_up.weight", "lora_down.weight")]
        } else {
            vec![("hada_w1_a", "hada_w1_b"), ("hada_w2_a", "hada_w2_b")]
        };
        for (up, down) in pairs {
            let rank =
                header.tensors.get(&format!("{layer}.{down}")).and_then(|t| t.shape.first().copied()).unwrap_or(0);
            let row: usize = shape[1..].iter().product();
            if size(up) != rank * shape[0] || size(down) != rank * row {
                return (Some(format!("the factors of `{layer}` do not fit its weight {shape:?}")), left_out);
            }
        }
    }
    (None, left_out)
}

/// Checks the files by their headers.
pub fn check(cx: &mut CheckCx, list: &[BaseWeights], parts: &Parts) {
    if list.is_empty() {
        return;
    }
    let names = names(parts);
    for (i, BaseWeights { path, .. }) in list.iter().enumerate() {
        let field = format!("base_weights.{i}.path");
        let path = cx.path(path);
        if cx.stands_in(&path) {
            continue;
        }
        match Header::read(path) {
            Ok(header) => {
                let (fault, left_out) = faults(&View::of(&header, parts).header, &names);
                if let Some(message) = fault {
                    cx.error("P0305", &field, message, Some("`pipe inspect` shows what the file holds".into()));
                }
                if left_out {
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
    let names = names(parts);
    for (i, base) in list.iter().enumerate() {
        let field = format!("base_weights.{i}.path");
        let error = |e| errors::file_error(&e, &field);
        let file = AdapterFile::open(path(&base.path), parts).map_err(error)?;
        if let (Some(message), _) = faults(file.header(), &names) {
            return Err(RunError::new("P0305", message).at(&field));
        }
        let mut layers: HashMap<Component, HashMap<String, (Change, f32)>> = HashMap::new();
        for (layer, endings) in entries(file.header()) {
            let Some((component, path, _)) = names.get(layer) else { continue };
            let get = |ending: &str| file.f32(&format!("{layer}.{ending}")).map_err(error);
            let rank = |ending: &str| file.info(&format!("{layer}.{ending}")).map_or(0, |t| t.shape[0]);
            let (change, rank) = if complete(&endings, &LORA) {
                let rank = rank("lora_down.weight");
                (Change::LowRank { rank, down: get("lora_down.weight")?, up: get("lora_up.weight")? }, rank)
            } else {
                let rank = rank("hada_w1_b");
                let [a, b, c, d] = LOHA;
                (Change::Hadamard { rank, factors: [get(a)?, get(b)?, get(c)?, get(d)?] }, rank)
            };
            let alpha = match endings.contains(&"alpha") {
                true => file.number(&format!("{layer}.alpha"))?,
                false => None,
            };
            let scale = base.multiplier * alpha.map_or(1.0, |a| a as f64 / rank.max(1) as f64);
            layers.entry(*component).or_default().insert(path.clone(), (change, scale as f32));
        }
        for (component, layers) in layers {
            out.entry(component).or_default().push(layers);
        }
    }
    Ok(out)
}
