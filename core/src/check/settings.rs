//! Settings from the tree, as far as they can be read.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::diagnostic::{Diagnostic, Span, did_you_mean, suggest};
use crate::document::Tree;
use crate::node::resolve;
use crate::settings::{LATEST, Settings};

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

/// When to write states of which none is kept.
pub(super) fn states(settings: &Settings, tree: &Tree) -> Vec<Diagnostic> {
    if !settings.train.save_state.is_off() {
        return Vec::new();
    }
    let given = ["steps", "epochs", "minutes", "at_end"].into_iter().filter_map(|field| {
        let place = tree.deepest(&format!("train.save_state.{field}"));
        (place.depth == 3).then(|| {
            let message = format!("`{field}` has no effect: with `keep_last: {{ count: 0 }}` no state is written");
            Diagnostic::error("P0402", place.span(), message).help("leave one of them out")
        })
    });
    given.collect()
}

/// A state to go on from that is not there, or none.
pub(super) fn resume(settings: &Settings, tree: &Tree, base: &Path, without_files: bool) -> Option<Diagnostic> {
    let text = settings.train.resume.as_deref().filter(|text| *text != LATEST)?;
    let path = resolve(base, text);
    let span = tree.deepest("train.resume").span();
    let help = "a state is a folder such as `runs/NAME/state/step-00000100`; `latest` takes the newest of this run";
    if !path.exists() {
        let missing = Diagnostic::error("P0301", span, format!("`{}` does not exist", path.display()));
        // A slip in the word, or a path.
        let near = did_you_mean(&suggest(text, [LATEST]));
        return (!without_files).then(|| missing.note(near).help(help));
    }
    let whole = path.join("state.json").is_file();
    (!whole).then(|| {
        let message = format!("`{}` is no saved state: it has no `state.json`", path.display());
        Diagnostic::error("P0302", span, message).help(help)
    })
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
