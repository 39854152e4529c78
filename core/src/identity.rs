//! What a document is, as hashes: of the whole, and of what training depends on.
//!
//! Hashes are BLAKE3 over canonical JSON with sorted keys, so the order of keys, the syntax and comments do not matter.
//! Of a node only its [`essence`] counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use petgraph::Direction;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use crate::check::Checked;
use crate::registry::Registry;

/// Form of the hashes of nodes: 0 were those of the text, of all nodes that are no event nodes.
const FORM: u32 = 1;

/// Hashes of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Of the whole document.
    pub document: String,
    /// Of the settings that training depends on: seed, precision, batch size, accumulation, and whether numbers are read later.
    pub settings: String,
    /// Of each node that training depends on: those that the driver is reached from.
    pub nodes: BTreeMap<String, String>,
    /// Form of these hashes.
    #[serde(default)]
    form: u32,
    /// Of the same nodes in form 0, for states of that form.
    #[serde(skip)]
    plain: BTreeMap<String, String>,
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
        let driving = driving(checked);
        let (mut nodes, mut plain) = (BTreeMap::new(), BTreeMap::new());
        for (name, node) in &checked.nodes {
            let Some(kind) = registry.kind(node.type_name).filter(|kind| !kind.is_event()) else { continue };
            if driving.as_ref().is_none_or(|driving| driving.contains(name.as_str())) {
                let fields = &document["nodes"][name.as_str()];
                nodes.insert(name.clone(), hash(&essence(fields, &kind.schema)));
                plain.insert(name.clone(), hash(fields));
            }
        }
        Identity { settings: hash(&train.unwrap_or_default()), document: hash(&document), nodes, form: FORM, plain }
    }

    /// What changed since `before`.
    pub fn changes(&self, before: &Identity) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.settings != before.settings {
            changes.push(Change::Settings);
        }
        let now = if before.form == FORM { &self.nodes } else { &self.plain };
        for (name, hash) in now {
            match before.nodes.get(name) {
                None => changes.push(Change::Added(name.clone())),
                Some(old) if old != hash => changes.push(Change::Node(name.clone())),
                Some(_) => {}
            }
        }
        // The older form held nodes that nothing trains on. One that something did is missed by what named it.
        let gone = before.nodes.keys().filter(|name| before.form == FORM && !self.nodes.contains_key(*name));
        changes.extend(gone.map(|name| Change::Removed(name.clone())));
        changes
    }
}

/// Names of the nodes that the driver is reached from, and its own; nothing where there is no driver.
fn driving(checked: &Checked) -> Option<BTreeSet<&str>> {
    let graph = checked.graph.as_ref()?;
    let mut found = BTreeSet::new();
    let mut rest = vec![graph.driver?];
    while let Some(index) = rest.pop() {
        if found.insert(graph.dag[index].name.as_str()) {
            rest.extend(graph.dag.neighbors_directed(index, Direction::Incoming));
        }
    }
    Some(found)
}

/// What the fields of a node say: without those that are at their default or nothing, numbers and paths in one form. So
/// a default that is written out changes nothing, and neither does a field that a later version brings.
pub fn essence(fields: &Json, schema: &Json) -> Json {
    essence_in(fields, schema, schema)
}

fn essence_in(value: &Json, schema: &Json, root: &Json) -> Json {
    let is_path = !schema["x-path"].is_null();
    let schema = variant(schema, root, value);
    match value {
        Json::Object(map) => {
            let mut out = Map::new();
            for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
                let field = &schema["properties"][name.as_str()];
                let value = essence_in(value, field, root);
                if field.get("default").is_none_or(|default| essence_in(default, field, root) != value) {
                    out.insert(name.clone(), value);
                }
            }
            Json::Object(out)
        }
        Json::Array(items) => items.iter().map(|item| essence_in(item, &schema["items"], root)).collect(),
        Json::String(text) if is_path => Json::from(plain_path(text)),
        // `1` and `1.0` are one number.
        Json::Number(number) if number.is_f64() => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 9e15 => Json::from(float as i64),
            _ => value.clone(),
        },
        other => other.clone(),
    }
}

/// The schema that a value follows: behind references, and among alternatives the one of its `type`, or else the only
/// one that has fields.
fn variant<'s>(schema: &'s Json, root: &'s Json, value: &Json) -> &'s Json {
    let mut all = Vec::new();
    with_fields(schema, root, &mut all);
    let kind = |one: &&&Json| !value["type"].is_null() && one["properties"]["type"]["const"] == value["type"];
    let one = all.iter().find(kind).or(all.first().filter(|_| all.len() == 1)).copied();
    one.unwrap_or_else(|| target(schema, root))
}

/// The alternatives of a schema that have fields.
fn with_fields<'s>(schema: &'s Json, root: &'s Json, out: &mut Vec<&'s Json>) {
    let schema = target(schema, root);
    match schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        Some(all) => all.iter().for_each(|one| with_fields(one, root, out)),
        None if schema["properties"].is_object() => out.push(schema),
        None => {}
    }
}

/// What a schema refers to.
fn target<'s>(schema: &'s Json, root: &'s Json) -> &'s Json {
    match schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
        Some(name) => &root["$defs"][name],
        None => schema,
    }
}

/// A path without `.` and `a/..`.
fn plain_path(text: &str) -> String {
    let mut out = PathBuf::new();
    for part in Path::new(text).components() {
        match (part, out.components().next_back()) {
            (Component::CurDir, _) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => drop(out.pop()),
            (part, _) => out.push(part),
        }
    }
    out.display().to_string()
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
    fn what_fields_say_is_not_how_they_are_written() {
        let schema = json!({
            "properties": {
                "decay": { "type": "number", "default": 1.0 },
                "path": { "type": "string", "x-path": "folder" },
                "schedule": { "anyOf": [{ "$ref": "#/$defs/Schedule" }, { "type": "null" }], "default": null },
            },
            "$defs": { "Schedule": { "oneOf": [
                { "properties": { "type": { "const": "cosine" }, "floor": { "default": 0.0 } } },
                { "properties": { "type": { "const": "linear" }, "floor": { "default": 0.5 } } },
            ] } },
        });
        let of = |fields: Json| essence(&fields, &schema);
        let plain = of(json!({ "path": "b", "schedule": { "type": "cosine" } }));
        let long = json!({ "decay": 1, "path": "./a/../b/", "schedule": { "type": "cosine", "floor": 0 } });
        assert_eq!(of(long), plain);
        assert_eq!(of(json!({ "path": "b", "schedule": null })), json!({ "path": "b" }));
        for other in [
            json!({ "decay": 2, "path": "b", "schedule": { "type": "cosine" } }),
            json!({ "path": "../b", "schedule": { "type": "cosine" } }),
            json!({ "path": "b", "schedule": { "type": "cosine", "floor": 0.5 } }),
        ] {
            assert_ne!(of(other.clone()), plain, "{other}");
        }
    }

    #[test]
    fn key_order_does_not_matter() {
        let a = json!({ "a": 1, "b": { "c": [1, 2], "d": "x" } });
        let b: Json = serde_json::from_str(r#"{"b":{"d":"x","c":[1,2]},"a":1}"#).unwrap();
        assert_eq!(hash(&a), hash(&b));
        assert_ne!(hash(&a), hash(&json!({ "a": 1, "b": { "c": [2, 1], "d": "x" } })));
    }
}
