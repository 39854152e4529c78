//! What a document is, as hashes: of the whole, and of what training depends on.
//!
//! Hashes are BLAKE3 over canonical JSON (sorted keys, one form for each number), so the order of
//! keys, the syntax and comments do not matter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use crate::check::Checked;
use crate::registry::Registry;

/// Hashes of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Of the whole document.
    pub document: String,
    /// Of the settings that training depends on: seed, precision, batch size, accumulation, and whether numbers are read later.
    pub settings: String,
    /// Of each node that training depends on: all but those that only act on events.
    pub nodes: BTreeMap<String, String>,
}

/// A difference that training would notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Settings differ.
    Settings,
    /// A node differs.
    Node(String),
    /// A node is new.
    Added(String),
    /// A node is gone.
    Removed(String),
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Change::Settings => f.write_str("`seed`, `precision`, `batch_size`, `accumulate` or `read_every` changed"),
            Change::Node(name) => write!(f, "node `{name}` changed"),
            Change::Added(name) => write!(f, "node `{name}` is new"),
            Change::Removed(name) => write!(f, "node `{name}` is gone"),
        }
    }
}

impl Identity {
    /// Hashes of a checked document.
    pub fn of(registry: &Registry, checked: &Checked) -> Identity {
        let mut document = checked.document.tree.as_ref().map(|tree| tree.to_json()).unwrap_or_default();
        if let Some(map) = document.as_object_mut() {
            map.remove("$schema");
        }
        let train = checked.settings.as_ref().map(|settings| {
            let mut train = json!({
                "seed": settings.seed,
                "precision": settings.train.precision,
                "batch_size": settings.train.batch_size,
                "accumulate": settings.train.accumulate,
            });
            // Gradients are then clipped on the device, in other rounding.
            if settings.train.read_every > 1 {
                train["read_later"] = json!(true);
            }
            train
        });
        let mut nodes = BTreeMap::new();
        for (name, node) in &checked.nodes {
            if registry.kind(node.type_name).is_some_and(|kind| !kind.is_event()) {
                nodes.insert(name.clone(), hash(&document["nodes"][name.as_str()]));
            }
        }
        Identity { settings: hash(&train.unwrap_or_default()), document: hash(&document), nodes }
    }

    /// What changed since `before`.
    pub fn changes(&self, before: &Identity) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.settings != before.settings {
            changes.push(Change::Settings);
        }
        for (name, hash) in &self.nodes {
            match before.nodes.get(name) {
                None => changes.push(Change::Added(name.clone())),
                Some(old) if old != hash => changes.push(Change::Node(name.clone())),
                Some(_) => {}
            }
        }
        let gone = before.nodes.keys().filter(|name| !self.nodes.contains_key(*name));
        changes.extend(gone.map(|name| Change::Removed(name.clone())));
        changes
    }
}

/// The resolved pipeline: settings and fields with their defaults filled in, and the hashes.
pub fn resolved(registry: &Registry, checked: &Checked, identity: &Identity) -> Json {
    let document = checked.document.tree.as_ref().map(|tree| tree.to_json()).unwrap_or_default();
    let mut nodes = Map::new();
    for (name, node) in &checked.nodes {
        let mut fields = document["nodes"][name.as_str()].as_object().cloned().unwrap_or_default();
        let schema = registry.kind(node.type_name).map(|kind| &kind.schema["properties"]);
        for (field, schema) in schema.and_then(Json::as_object).into_iter().flatten() {
            if let Some(default) = schema.get("default")
                && !fields.contains_key(field)
            {
                fields.insert(field.clone(), default.clone());
            }
        }
        nodes.insert(name.clone(), Json::Object(fields));
    }
    json!({
        "format": 1,
        "pipe": env!("CARGO_PKG_VERSION"),
        "hash": identity.document,
        "identity": identity,
        "settings": checked.settings,
        "nodes": nodes,
    })
}

/// BLAKE3 of the canonical form.
pub fn hash(value: &Json) -> String {
    let mut text = String::new();
    canonical(value, &mut text);
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

fn canonical(value: &Json, out: &mut String) {
    match value {
        Json::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Json::from(key.as_str()).to_string());
                out.push(':');
                canonical(value, out);
            }
            out.push('}');
        }
        Json::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_order_does_not_matter() {
        let a = json!({ "a": 1, "b": { "c": [1, 2], "d": "x" } });
        let b: Json = serde_json::from_str(r#"{"b":{"d":"x","c":[1,2]},"a":1}"#).unwrap();
        assert_eq!(hash(&a), hash(&b));
        assert_ne!(hash(&a), hash(&json!({ "a": 1, "b": { "c": [2, 1], "d": "x" } })));
    }
}
