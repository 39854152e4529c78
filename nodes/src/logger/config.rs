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
        if let Some(kind) = kind {
            shorten(node, &kind.schema);
        }
    }
    let mut settings = lock["settings"].clone();
    if let Some(output) = settings.get_mut("output") {
        name_only(output);
    }
    json!({ "pipe": lock["pipe"], "settings": settings, "nodes": nodes })
}

/// Shortens the paths among a value's fields: those that the schema marks.
fn shorten(value: &mut Json, schema: &Json) {
    if !schema["x-path"].is_null() {
        return name_only(value);
    }
    match value {
        Json::Object(map) => map.iter_mut().for_each(|(name, field)| shorten(field, &schema["properties"][name])),
        Json::Array(items) => items.iter_mut().for_each(|item| shorten(item, &schema["items"])),
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
            "settings": { "name": "fox", "seed": 3, "output": "/home/anna/runs/fox" },
            "nodes": {
                "photos": { "type": "loader.images", "path": "/home/anna/photos", "resolution": 512 },
                "unet": { "type": "model.sd1", "weights": "/home/anna/models/sd15.safetensors" },
                "wandb": { "type": "logger.wandb", "update": "adamw", "api_key": "${env:MY_KEY}" },
            },
        });
        let public = public(&crate::registry(), &lock);
        assert!(!public.to_string().contains("anna"), "{public}");
        assert_eq!(public["nodes"]["unet"]["weights"], "sd15.safetensors");
        assert_eq!(public["nodes"]["photos"]["resolution"], 512);
        assert_eq!(public["settings"]["output"], "fox");
        assert_eq!(public["nodes"]["wandb"]["api_key"], "${env:MY_KEY}");
    }
}
