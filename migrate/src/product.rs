//! What this build of `pipe` has: node types and fields, read from its own JSON Schema.
//!
//! The migrator knows where every option belongs; whether that place exists yet is asked here, so that a target is
//! used from the moment the product has it, and refused honestly until then.

use serde_json::{Map, Value as Json};

/// Node types and fields that exist.
#[derive(Clone, Debug, Default)]
pub struct Product {
    schema: Option<Json>,
}

/// Most schemas that are looked at for one place.
const LIMIT: usize = 512;

impl Product {
    /// From the JSON Schema that `pipe schema` prints.
    pub fn from_schema(schema: Json) -> Product {
        Product { schema: Some(schema) }
    }

    /// One that takes everything, to see where options will go.
    pub fn everything() -> Product {
        Product { schema: None }
    }

    /// Whether there is a node type.
    pub fn has_type(&self, node_type: &str) -> bool {
        self.schema.as_ref().is_none_or(|schema| schema["definitions"].get(node_type).is_some())
    }

    /// Whether a node type's field takes a value; `path` is `timesteps.scheme.type`.
    pub fn takes(&self, node_type: &str, path: &str, value: &Json) -> bool {
        let Some(schema) = &self.schema else { return true };
        let Some(start) = schema["definitions"].get(node_type) else { return false };
        self.walk(schema, start, path, value)
    }

    /// Whether a node type has a field, whatever it takes.
    pub fn has_field(&self, node_type: &str, path: &str) -> bool {
        let Some(schema) = &self.schema else { return true };
        schema["definitions"].get(node_type).is_some_and(|start| !find(schema, start, path).is_empty())
    }

    /// Whether the document's head takes a value; `path` is `train.precision`.
    pub fn head_takes(&self, path: &str, value: &Json) -> bool {
        self.schema.as_ref().is_none_or(|schema| self.walk(schema, schema, path, value))
    }

    fn walk(&self, root: &Json, start: &Json, path: &str, value: &Json) -> bool {
        let here = find(root, start, path);
        !here.is_empty() && accepts(root, &here, value)
    }
}

/// The schemas of a field, none where it does not exist.
fn find<'s>(root: &'s Json, start: &'s Json, path: &str) -> Vec<&'s Map<String, Json>> {
    let mut here = alternatives(root, vec![start]);
    for key in path.split('.') {
        here = alternatives(root, below(&here, key));
    }
    here
}

/// The schemas of a key: those of its name, else those of any name.
fn below<'s>(here: &[&'s Map<String, Json>], key: &str) -> Vec<&'s Json> {
    let named = here.iter().filter_map(|map| map.get("properties")?.get(key));
    // `false` there says: not beside another field.
    let named: Vec<&Json> = named.filter(|schema| **schema != Json::Bool(false)).collect();
    if !named.is_empty() {
        return named;
    }
    let free = |map: &&'s Map<String, Json>| map.get("additionalProperties").filter(|schema| schema.is_object());
    let patterns = |map: &&'s Map<String, Json>| map.get("patternProperties")?.as_object()?.values().next();
    here.iter().filter_map(|map| free(map).or_else(|| patterns(map))).collect()
}

/// A schema and all that it refers to for the same value.
fn alternatives<'s>(root: &'s Json, start: Vec<&'s Json>) -> Vec<&'s Map<String, Json>> {
    let (mut open, mut found) = (start, Vec::new());
    while let Some(next) = open.pop().filter(|_| found.len() < LIMIT) {
        let Json::Object(map) = next else { continue };
        if let Some(name) = map.get("$ref").and_then(Json::as_str).and_then(|r| r.strip_prefix("#/definitions/")) {
            open.extend(root["definitions"].get(name));
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            open.extend(map.get(key).and_then(Json::as_array).into_iter().flatten().filter(|s| s.is_object()));
        }
        open.extend(["then", "else"].iter().filter_map(|key| map.get(*key)).filter(|s| s.is_object()));
        found.push(map);
    }
    found
}

/// Whether a value is one of the listed ones and of a listed type, as far as either is said. Looks into tables.
fn accepts(root: &Json, here: &[&Map<String, Json>], value: &Json) -> bool {
    let listed: Vec<&Json> =
        here.iter().flat_map(|m| m.get("enum").and_then(Json::as_array).into_iter().flatten()).collect();
    let consts: Vec<&Json> = here.iter().filter_map(|m| m.get("const")).collect();
    let types: Vec<&str> = here.iter().flat_map(|m| names(m.get("type"))).collect();
    if value.is_string() && !listed.is_empty() && !listed.contains(&value) {
        return false;
    }
    if value.is_boolean() && !consts.is_empty() && !consts.contains(&value) {
        return false;
    }
    if !types.is_empty() && !types.iter().any(|name| is(name, value)) {
        return false;
    }
    let Json::Object(fields) = value else { return true };
    fields.iter().all(|(key, value)| {
        let next = below(here, key);
        !next.is_empty() && accepts(root, &alternatives(root, next), value)
    })
}

fn names(value: Option<&Json>) -> Vec<&str> {
    match value {
        Some(Json::String(one)) => vec![one],
        Some(Json::Array(many)) => many.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

fn is(name: &str, value: &Json) -> bool {
    match name {
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn product() -> Product {
        Product::from_schema(json!({
            "properties": { "train": { "$ref": "#/definitions/Train" } },
            "definitions": {
                "Train": {
                    "type": "object",
                    "properties": { "precision": { "type": "string", "enum": ["f32"] }, "epochs": { "type": "integer" } },
                    "then": { "properties": { "epochs": false } },
                },
                "Loop": { "allOf": [{ "$ref": "#/definitions/Loop" }] },
                "loss.flow": { "properties": {
                    "loop": { "$ref": "#/definitions/Loop" },
                    "shift": { "type": "number" },
                    "limit": { "anyOf": [{ "type": "number" }, { "type": "boolean", "const": false }] },
                    "times": { "anyOf": [true, { "properties": { "min": { "type": "integer" } } }] },
                    "text": { "type": ["string", "array"] },
                    "ranks": { "type": "object", "additionalProperties": { "type": "integer" } },
                } },
            },
        }))
    }

    #[test]
    fn fields_and_values() {
        let product = product();
        assert!(product.has_type("loss.flow") && !product.has_type("loss.other"));
        for (path, value, takes) in [
            ("shift", json!(3), true),
            ("shift", json!("3"), false),
            ("scheme", json!(3), false),
            ("times.min", json!(1), true),
            ("times.min", json!(1.5), false),
            ("times.max", json!(1), false),
            ("times", json!({ "min": 1 }), true),
            ("times", json!({ "min": 1, "max": 2 }), false),
            ("text", json!(["a"]), true),
            ("limit", json!(false), true),
            ("limit", json!(true), false),
            ("limit", json!(1.5), true),
            ("loop", json!(1), true),
            ("ranks.any", json!(1), true),
            ("ranks", json!({ "a": "b" }), false),
        ] {
            assert_eq!(product.takes("loss.flow", path, &value), takes, "{path} {value}");
        }
        assert!(product.head_takes("train.precision", &json!("f32")));
        assert!(!product.head_takes("train.precision", &json!("f8")));
        assert!(product.head_takes("train.epochs", &json!(1)));
        assert!(Product::everything().takes("x", "y", &json!(1)));
    }
}
