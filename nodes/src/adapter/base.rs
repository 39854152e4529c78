//! `base_weights`: adapter files merged into the model before training.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use pipe_core::node::CheckCx;
use pipe_core::run::RunError;
use pipe_data::weights::{Component, Header, WeightFile, shown};
use pipe_networks::adapters::merge::Change;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::file::{AdapterFile, Layer, model_layers};
use super::form::Form;
use crate::common::errors;

/// A file to merge.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct BaseWeights {
    /// LoRA, LoCon, DoRA, LoHa, LoKr, GLoRA, (IA)³, OFT, Diag-OFT or BOFT file, or one of differences, with the names of kohya,
    /// LyCORIS, Diffusers or PEFT.
    #[schemars(extend("x-path" = "file"))]
    pub path: String,
    /// Its strength; of DoRA and the rotations the way from the old weight to the new one. Default 1.
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

/// What cannot be merged of a file.
fn fault(file: &AdapterFile, layers: &HashMap<String, Layer>) -> Option<String> {
    if let Some(message) = file.clashes.first() {
        return Some(message.clone());
    }
    if let Some(key) = file.unknown.first() {
        return Some(format!("this model has no layer for `{}`", shown(key)));
    }
    for (name, endings) in entries(file) {
        let Some(layer) = layers.get(name) else { return Some(format!("this model has no layer `{}`", shown(name))) };
        let Some(form) = Form::of(&endings) else {
            let list: Vec<String> = endings.iter().map(|e| format!("`{}`", shown(e))).collect();
            return Some(format!("`{name}` has {}, which is of no known kind", list.join(", ")));
        };
        // What scales inputs is told from what scales outputs by a value.
        let fits = |on_input: f32| {
            let get = |ending: &str| {
                let shape = file.shape(&format!("{name}.{ending}"));
                let shape = shape.ok_or_else(|| RunError::new("P0305", "it is not there"))?.to_vec();
                let fill = if ending == "on_input" { on_input } else { 0.0 };
                let values = vec![fill; shape.iter().product()];
                Ok((shape, values))
            };
            form.change(&layer.shape, &get, None).is_ok_and(|(change, _)| change.fits(&layer.shape))
        };
        if !(fits(0.0) || form == Form::Ia3 && fits(1.0)) {
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
        match Header::read(&path) {
            Ok(header) => {
                let file = AdapterFile::read(&header, parts);
                if let Some(message) = fault(&file, &layers) {
                    cx.error("P0305", &field, message, Some("`pipe inspect` shows what the file holds".into()));
                } else if let Err(e) = verified(&file, &path) {
                    cx.error(e.code, &field, e.message, e.help);
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

/// Whether what has to be the same in a file is, which only its values tell.
pub(super) fn verified(file: &AdapterFile, path: &Path) -> Result<(), RunError> {
    if !file.has_copies() {
        return Ok(());
    }
    file.verify(&WeightFile::open(path).map_err(|e| errors::file_error(&e, "weights"))?)
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
        file.verify(&opened).map_err(|e| e.at(&field))?;
        let mut changed: HashMap<Component, HashMap<String, (Change, f32)>> = HashMap::new();
        for (name, endings) in entries(&file) {
            let (Some(layer), Some(form)) = (layers.get(name), Form::of(&endings)) else { continue };
            let get = |ending: &str| {
                let name = format!("{name}.{ending}");
                let shape = file.shape(&name).unwrap_or_default().to_vec();
                Ok((shape, file.values(&opened, &name).map_err(|e| e.at(&field))?))
            };
            let alpha = file.alpha(&opened, &format!("{name}.alpha")).map_err(|e| e.at(&field))?;
            let (change, strength) = form.change(&layer.shape, &get, alpha).map_err(|e| e.at(&field))?;
            let strength = (base.multiplier * strength as f64) as f32;
            changed.entry(layer.component).or_default().insert(layer.path.clone(), (change, strength));
        }
        for (component, layers) in changed {
            out.entry(component).or_default().push(layers);
        }
    }
    Ok(out)
}
