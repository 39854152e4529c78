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

/// Whether a place takes a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It does.
    Yes,
    /// There is no such place, or not for values of this kind.
    Absent,
    /// The value is out of a range, which is told in words: `from 1 to 4096`.
    Outside(String),
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
        self.fit(node_type, path, value) == Fit::Yes
    }

    /// As [`Product::takes`], with the reason.
    pub fn fit(&self, node_type: &str, path: &str, value: &Json) -> Fit {
        let Some(schema) = &self.schema else { return Fit::Yes };
        let Some(start) = schema["definitions"].get(node_type) else { return Fit::Absent };
        fit(schema, &find(schema, start, path), value)
    }

    /// Whether a node type has a field, whatever it takes.
    pub fn has_field(&self, node_type: &str, path: &str) -> bool {
        let Some(schema) = &self.schema else { return true };
        schema["definitions"].get(node_type).is_some_and(|start| !find(schema, start, path).is_empty())
    }

    /// Whether the document's head takes a value; `path` is `train.precision`.
    pub fn head_fit(&self, path: &str, value: &Json) -> Fit {
        self.schema.as_ref().map_or(Fit::Yes, |schema| fit(schema, &find(schema, schema, path), value))
    }

    /// Whether the document's head has a field, whatever it takes.
    pub fn has_head(&self, path: &str) -> bool {
        self.schema.as_ref().is_none_or(|schema| !find(schema, schema, path).is_empty())
    }

    /// Every node type there is; none where everything is taken.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        let definitions = self.schema.as_ref().and_then(|schema| schema["definitions"].as_object());
        definitions.into_iter().flatten().map(|(name, _)| name.as_str()).filter(|name| name.contains('.'))
    }
}

/// The schemas of a field, none where it does not exist. `prompts.seed` is a field of a list's items.
fn find<'s>(root: &'s Json, start: &'s Json, path: &str) -> Vec<&'s Map<String, Json>> {
    let mut here = alternatives(root, vec![start]);
    for key in path.split('.') {
        let items: Vec<&Json> = here.iter().filter_map(|map| map.get("items")).filter(|i| i.is_object()).collect();
        let mut next = below(&here, key);
        if next.is_empty() {
            next = below(&alternatives(root, items), key);
        }
        here = alternatives(root, next);
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

/// The type that a branch is for: `{ "if": { "type": "boolean" }, "then": { "enum": [false] } }`.
fn branch(map: &Map<String, Json>) -> Option<&Json> {
    map.get("then").and(map.get("if")?.get("type"))
}

/// Whether a value is one of the listed ones, of a listed type and in a range, as far as any is said. Looks into
/// tables and lists.
fn fit(root: &Json, here: &[&Map<String, Json>], value: &Json) -> Fit {
    let types: Vec<&str> = here.iter().flat_map(|m| [m.get("type"), branch(m)]).flat_map(names).collect();
    let listed = here.iter().flat_map(|m| m.get("enum").and_then(Json::as_array).into_iter().flatten());
    let listed = listed.chain(here.iter().filter_map(|m| m.get("const")));
    // Of the listed values those of its own kind count.
    let kind = std::mem::discriminant(value);
    let alike: Vec<&Json> = listed.filter(|one| std::mem::discriminant(*one) == kind).collect();
    let choice = (value.is_string() || value.is_boolean()) && !alike.is_empty() && !alike.contains(&value);
    let other = choice || !types.is_empty() && !types.iter().any(|name| is(name, value));
    if here.is_empty() || other {
        return Fit::Absent;
    }
    match value {
        Json::Number(n) => range(here, n.as_f64().unwrap_or_default()),
        Json::Object(fields) => {
            first_fault(fields.iter().map(|(key, value)| fit(root, &alternatives(root, below(here, key)), value)))
        }
        Json::Array(list) => {
            let items: Vec<&Json> = here.iter().filter_map(|m| m.get("items")).filter(|i| i.is_object()).collect();
            if items.is_empty() {
                return Fit::Yes;
            }
            let items = alternatives(root, items);
            first_fault(list.iter().map(|value| fit(root, &items, value)))
        }
        _ => Fit::Yes,
    }
}

fn first_fault(mut parts: impl Iterator<Item = Fit>) -> Fit {
    parts.find(|fit| *fit != Fit::Yes).unwrap_or(Fit::Yes)
}

/// Whether a number is in the range of one of the schemas; those without any say nothing.
fn range(here: &[&Map<String, Json>], n: f64) -> Fit {
    let limit = |map: &Map<String, Json>, key: &str| map.get(key).and_then(Json::as_f64);
    let ranges = here.iter().map(|map| {
        let (least, most) = (limit(map, "minimum"), limit(map, "maximum"));
        let above = limit(map, "exclusiveMinimum");
        (least, most, above)
    });
    let ranges: Vec<_> = ranges.filter(|r| *r != (None, None, None)).collect();
    let inside = |(least, most, above): &(Option<f64>, Option<f64>, Option<f64>)| {
        least.is_none_or(|l| n >= l) && most.is_none_or(|m| n <= m) && above.is_none_or(|a| n > a)
    };
    if ranges.is_empty() || ranges.iter().any(inside) {
        return Fit::Yes;
    }
    let words = |x: f64| crate::draft::number(&crate::python::number(x));
    Fit::Outside(match ranges[0] {
        (Some(least), Some(most), _) => format!("from {} to {}", words(least), words(most)),
        (Some(least), None, _) => format!("at least {}", words(least)),
        (_, Some(most), Some(above)) => format!("above {} and at most {}", words(above), words(most)),
        (_, Some(most), None) => format!("at most {}", words(most)),
        (_, None, above) => format!("above {}", words(above.unwrap_or_default())),
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
                    "rank": { "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 8 }, { "const": "file" }] },
                    "size": {
                        "if": { "type": ["boolean"] }, "then": { "enum": [false] },
                        "else": { "if": { "type": ["string"] }, "then": { "enum": ["file"] }, "else": { "type": "integer" } },
                    },
                    "list": { "type": "array", "items": { "type": "object", "properties": {
                        "rate": { "type": "number", "exclusiveMinimum": 0 } } } },
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
            ("size", json!(false), true),
            ("size", json!(true), false),
            ("size", json!("file"), true),
            ("size", json!("other"), false),
            ("size", json!(3), true),
            ("size", json!([3]), false),
            ("ranks.any", json!(1), true),
            ("ranks", json!({ "a": "b" }), false),
        ] {
            assert_eq!(product.takes("loss.flow", path, &value), takes, "{path} {value}");
        }
        for (path, value, words) in
            [("rank", json!(9), "from 1 to 8"), ("list", json!([{ "rate": 1 }, { "rate": 0 }]), "above 0")]
        {
            assert_eq!(product.fit("loss.flow", path, &value), Fit::Outside(words.into()), "{path}");
        }
        assert_eq!(product.fit("loss.flow", "list", &json!([{ "rat": 1 }])), Fit::Absent);
        assert_eq!(product.head_fit("train.precision", &json!("f32")), Fit::Yes);
        assert_eq!(product.head_fit("train.precision", &json!("f8")), Fit::Absent);
        assert_eq!(product.head_fit("train.epochs", &json!(1)), Fit::Yes);
        assert!(product.has_head("train.epochs") && !product.has_head("train.resume"));
        assert_eq!(product.types().collect::<Vec<_>>(), ["loss.flow"]);
        assert!(Product::everything().takes("x", "y", &json!(1)));
    }
}
