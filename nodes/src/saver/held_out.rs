//! What files of adapters say of the validation of their run: the `ss_validation_…` keys.
//!
//! A saver need not be connected to what measures, so this is read from the resolved pipeline of the run.

use std::collections::BTreeMap;
use std::path::Path;

use pipe_core::folder::LOCK_JSON;
use pipe_data::metadata::py_float;
use serde_json::Value as Json;

/// The keys of the run in a folder; empty where nothing is measured.
pub fn of_run(folder: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(folder.join(LOCK_JSON)).unwrap_or_default();
    of_pipeline(&serde_json::from_str(&text).unwrap_or_default())
}

fn of_pipeline(lock: &Json) -> BTreeMap<String, String> {
    let nodes = || lock["nodes"].as_object().into_iter().flat_map(|nodes| nodes.values());
    let Some(measures) = nodes().find(|node| node["type"] == "logger.validation") else { return BTreeMap::new() };
    let splits = nodes().find(|node| !node["validation_split"].is_null()).unwrap_or(&Json::Null);
    let whole = |value: &Json| value.as_u64().map(|n| n.to_string());
    // A number of images is no part, and the reference knows parts alone.
    let part = splits["validation_split"].as_f64().map(py_float);
    let keys = [
        ("ss_validation_split", part),
        ("ss_validation_seed", whole(&splits["validation_seed"]).or(whole(&measures["seed"]))),
        ("ss_max_validation_steps", whole(&measures["batches"])),
        ("ss_validate_every_n_epochs", whole(&measures["every"]["epochs"])),
        ("ss_validate_every_n_steps", whole(&measures["every"]["steps"])),
    ];
    keys.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_given_is_told() {
        let loader = json!({ "type": "loader.images", "validation_split": 0.1, "validation_seed": 9 });
        let measures =
            json!({ "type": "logger.validation", "seed": 4, "batches": 1, "every": { "steps": 3, "epochs": 2 } });
        let found = of_pipeline(&json!({ "nodes": { "photos": loader, "validation": measures } }));
        let text = |key: &str| found[key].as_str();
        assert_eq!((text("ss_validation_split"), text("ss_validation_seed")), ("0.1", "9"));
        assert_eq!((text("ss_max_validation_steps"), text("ss_validate_every_n_epochs")), ("1", "2"));
        assert_eq!((text("ss_validate_every_n_steps"), found.len()), ("3", 5));
        assert!(of_pipeline(&json!({ "nodes": { "photos": loader } })).is_empty());
        let bare = of_pipeline(&json!({ "nodes": { "v": { "type": "logger.validation", "seed": 4 } } }));
        assert_eq!((bare.len(), bare["ss_validation_seed"].as_str()), (1, "4"));
    }
}
