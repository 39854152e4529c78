//! The resolved configuration as loggers pass it on: without secrets, and of paths their last part alone.

use std::path::Path;

use pipe_core::folder::LOCK_JSON;
use pipe_core::registry::Registry;
use serde_json::{Value as Json, json};

/// The configuration in a run's folder: `settings` and `nodes` with their defaults. Empty where there is none.
pub fn resolved(folder: &Path) -> Json {
    let text = std::fs::read_to_string(folder.join(LOCK_JSON)).unwrap_or_default();
    let lock: Json = serde_json::from_str(&text).unwrap_or_default();
    public(&crate::registry(), &lock)
}

/// What may be passed on of a resolved pipeline. Secrets are not in it: fields that take one take `${env:NAME}` alone.
fn public(registry: &Registry, lock: &Json) -> Json {
    let mut nodes = lock["nodes"].clone();
    for node in nodes.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        let kind = node["type"].as_str().and_then(|name| registry.kind(name));
        let schema = kind.map(|kind| kind.schema.clone()).unwrap_or_default();
        shorten(node, &schema, &schema);
    }
    let mut settings = lock["settings"].clone();
    for place in ["/output", "/train/resume"] {
        settings.pointer_mut(place).into_iter().for_each(name_only);
    }
    shorten(&mut settings, &Json::Null, &Json::Null);
    json!({ "pipe": lock["pipe"], "settings": settings, "nodes": nodes })
}

/// Shortens the paths among a value's fields: those that the schema marks, and whatever else begins at a root or a home.
fn shorten(value: &mut Json, schema: &Json, root: &Json) {
    let target = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/"));
    let schema = target.map_or(schema, |name| &root["$defs"][name]);
    match value {
        Json::String(text) if !schema["x-path"].is_null() || Path::new(text).has_root() || text.starts_with("~/") => {
            name_only(value);
        }
        Json::Object(map) => map.iter_mut().for_each(|(name, field)| shorten(field, &schema["properties"][name], root)),
        Json::Array(items) => items.iter_mut().for_each(|item| shorten(item, &schema["items"], root)),
        _ => {}
    }
}

fn name_only(value: &mut Json) {
    let name = value.as_str().and_then(|path| Path::new(path).file_name()).map(|name| name.to_string_lossy().into());
    if let Some(name) = name {
        *value = Json::String(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_user_are_not_told() {
        let lock = json!({
            "pipe": "0.1.0",
            "settings": { "name": "fox", "seed": 3, "output": "/home/anna/runs/fox",
                "train": { "resume": "anna/state/step-00000004" } },
            "nodes": {
                "photos": { "type": "loader.images", "path": "/home/anna/photos", "resolution": 512 },
                "unet": { "type": "model.sd1", "weights": "/home/anna/models/sd15.safetensors" },
                "masked": { "type": "loader.images", "path": "p", "masks": "anna/masks" },
                "board": { "type": "logger.tensorboard", "folder": "/home/anna/boards" },
                "wandb": { "type": "logger.wandb", "update": "adamw", "api_key": "${env:MY_KEY}" },
            },
        });
        let public = public(&crate::registry(), &lock);
        assert!(!public.to_string().contains("anna"), "{public}");
        assert_eq!(public["nodes"]["unet"]["weights"], "sd15.safetensors");
        assert_eq!(public["nodes"]["photos"]["resolution"], 512);
        assert_eq!(public["settings"]["output"], "fox");
        assert_eq!(public["settings"]["train"]["resume"], "step-00000004");
        assert_eq!(public["nodes"]["board"]["folder"], "boards");
        assert_eq!(public["nodes"]["wandb"]["api_key"], "${env:MY_KEY}");
    }
}
