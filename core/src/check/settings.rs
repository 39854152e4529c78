//! Settings from the tree, as far as they can be read.

use serde_json::{Map, Value as Json, json};

use crate::diagnostic::{Diagnostic, Span};
use crate::document::Tree;
use crate::settings::Settings;

/// Settings to check nodes with, and the same again when they are right. Wrong fields are left
/// out of the first, so that nodes are checked with what the document does say.
pub(super) fn read(tree: &Tree, right: bool, out: &mut Vec<Diagnostic>) -> (Settings, Option<Settings>) {
    let mut all = tree.to_json();
    if let Some(map) = all.as_object_mut() {
        map.retain(|key, _| key != "nodes" && key != "$schema");
    }
    if right {
        match serde_json::from_value::<Settings>(all.clone()) {
            Ok(settings) => return (settings.clone(), Some(settings)),
            Err(error) => {
                let span = Span { end: tree.span.start, ..tree.span };
                out.push(Diagnostic::error("P0199", span, format!("the settings could not be read: {error}")));
            }
        }
    }
    (salvage(&all), None)
}

/// A file where the run's folder would have to be.
pub(super) fn output(settings: &Settings, tree: &Tree) -> Option<Diagnostic> {
    let folder = crate::execute::default_folder(settings);
    let file = folder.ancestors().find(|place| place.exists()).filter(|place| !place.is_dir())?;
    let span = match tree.deepest("output") {
        place if place.depth > 0 => place.span(),
        _ => tree.deepest("name").span(),
    };
    let message = format!("`{}` is a file, so the run's folder `{}` cannot be made", file.display(), folder.display());
    Some(Diagnostic::error("P0302", span, message).help("give `output` another folder, or move the file away"))
}

fn salvage(all: &Json) -> Settings {
    let mut best = json!({ "version": 1, "name": "unnamed", "train": {} });
    let mut settings: Settings = serde_json::from_value(best.clone()).expect("the least settings");
    let empty = Map::new();
    let top = all.as_object().unwrap_or(&empty);
    let train = top.get("train").and_then(Json::as_object).unwrap_or(&empty);
    let fields = top.iter().filter(|(key, _)| *key != "train").map(|(key, value)| (false, key, value));
    for (inner, key, value) in fields.chain(train.iter().map(|(key, value)| (true, key, value))) {
        let mut attempt = best.clone();
        let table = if inner { &mut attempt["train"] } else { &mut attempt };
        table[key.as_str()] = value.clone();
        if let Ok(read) = serde_json::from_value(attempt.clone()) {
            settings = read;
            best = attempt;
        }
    }
    settings
}
