//! From the registry's schemas to shapes.

use serde_json::{Map, Value as Json};

use super::{Field, Kind, Limits, List, Port, Shape, Table, Text, paragraphs, union};

/// Keywords that are read here or in [`union`], and those that only annotate.
const KNOWN: &[&str] = &[
    "$ref",
    "$defs",
    "$schema",
    "additionalProperties",
    "anyOf",
    "const",
    "default",
    "deprecated",
    "description",
    "enum",
    "examples",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "oneOf",
    "pattern",
    "prefixItems",
    "properties",
    "readOnly",
    "required",
    "title",
    "type",
    "uniqueItems",
    "writeOnly",
];

/// The table that a schema of the registry describes.
///
/// # Panics
/// When the schema holds a keyword that the structural check does not know either: a limit that
/// nobody would check is a mistake in the node's config struct, found by any test.
pub(crate) fn table_of(root: &Json) -> Table {
    Reader { root, depth: 0 }.table(root)
}

/// Reads schemas whose `$ref`s point into `root`.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub root: &'a Json,
    depth: u32,
}

impl<'a> Reader<'a> {
    pub fn shape(self, schema: &'a Json) -> Shape {
        let title = self.root["title"].as_str().unwrap_or_default();
        assert!(self.depth < 32, "the fields of `{title}` contain themselves");
        let reader = Reader { depth: self.depth + 1, ..self };
        let (target, def) = reader.resolve(schema);
        let mut kind = reader.kind(target);
        if let Kind::Number { limits, .. } = &mut kind
            && !std::ptr::eq(schema, target)
        {
            limits.tighten(&Limits::read(schema));
        }
        Shape { kind, def, description: description(target) }
    }

    /// Follows `$ref`s; the name of the last one.
    pub fn resolve(self, mut schema: &'a Json) -> (&'a Json, Option<String>) {
        let mut name = None;
        while let Some(target) = schema.get("$ref").and_then(Json::as_str) {
            let def = target.strip_prefix("#/$defs/").unwrap_or(target);
            schema = &self.root["$defs"][def];
            name = Some(def.to_owned());
        }
        (schema, name)
    }

    fn kind(self, schema: &'a Json) -> Kind {
        self.reject_unknown(schema);
        if let Some(choices) = union::choices(self, schema) {
            return Kind::Choice(choices);
        }
        if let Some(branches) = union::branches(schema) {
            return union::read(self, branches);
        }
        match &schema["type"] {
            Json::String(name) => self.kind_of(name, schema),
            Json::Array(names) => {
                let names = names.iter().filter_map(Json::as_str);
                Kind::OneOf(names.map(|name| Shape::plain(self.kind_of(name, schema))).collect())
            }
            _ if schema.get("properties").is_some() => Kind::Table(self.table(schema)),
            _ => Kind::Any,
        }
    }

    fn kind_of(self, name: &str, schema: &'a Json) -> Kind {
        let count = |keyword: &str| schema.get(keyword).and_then(Json::as_u64);
        match name {
            "boolean" => Kind::Bool,
            "integer" | "number" => Kind::Number { integer: name == "integer", limits: Limits::read(schema) },
            "string" => {
                let text = |keyword: &str| schema.get(keyword).and_then(Json::as_str).map(str::to_owned);
                let (min, max) = (count("minLength"), count("maxLength"));
                Kind::Text(Text { min, max, pattern: text("pattern"), form: text("x-form") })
            }
            "array" => {
                let prefix = schema.get("prefixItems").and_then(Json::as_array).into_iter().flatten();
                Kind::List(List {
                    prefix: prefix.map(|item| self.shape(item)).collect(),
                    items: schema.get("items").map(|items| Box::new(self.shape(items))),
                    min: count("minItems"),
                    max: count("maxItems"),
                    unique: schema.get("uniqueItems") == Some(&Json::Bool(true)),
                })
            }
            "object" => Kind::Table(self.table(schema)),
            _ => Kind::Any,
        }
    }

    pub fn table(self, schema: &'a Json) -> Table {
        self.reject_unknown(schema);
        let known = schema.get("properties").and_then(Json::as_object);
        let rest = schema.get("additionalProperties");
        let required: Vec<&str> =
            schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
        let fields = known.into_iter().flatten().map(|(name, field)| self.field(name, field, &required));
        Table {
            fields: fields.collect(),
            rest: rest.filter(|rest| rest.is_object()).map(|rest| Box::new(self.shape(rest))),
            open: known.is_none() && rest.is_none_or(|rest| *rest == Json::Bool(true)),
            min: schema.get("minProperties").and_then(Json::as_u64).unwrap_or(0),
            exclusive: groups(schema.get("x-exclusive")),
            one_of: groups(schema.get("x-one-of")),
        }
    }

    fn field(self, name: &str, schema: &'a Json, required: &[&str]) -> Field {
        let shape = self.shape(schema);
        let own = description(schema);
        let port = schema.get("x-port").map(|port| {
            let accepts = port["accepts"].as_array().into_iter().flatten().filter_map(Json::as_str);
            Port {
                accepts: accepts.map(str::to_owned).collect(),
                rate: port["rate"].as_str().unwrap_or_default().to_owned(),
                many: port["arity"] == "many",
            }
        });
        Field {
            name: name.to_owned(),
            description: if own.is_empty() { shape.description.clone() } else { own },
            required: required.contains(&name),
            default: schema.get("default").and_then(default),
            shape,
            port,
        }
    }

    fn reject_unknown(self, schema: &Json) {
        let mut keywords = schema.as_object().into_iter().flat_map(Map::keys);
        let unknown = keywords.find(|keyword| !keyword.starts_with("x-") && !KNOWN.contains(&keyword.as_str()));
        if let Some(keyword) = unknown {
            let title = self.root["title"].as_str().unwrap_or_default();
            panic!("the schema of `{title}` has the keyword `{keyword}`, which the structural check does not know");
        }
    }
}

pub(super) fn description(schema: &Json) -> String {
    paragraphs(schema.get("description").and_then(Json::as_str).unwrap_or_default())
}

/// A default that is worth telling: tables are told by their own fields. Numbers that were 32-bit
/// are written as they were meant, 0.1 and not 0.10000000149011612.
fn default(value: &Json) -> Option<Json> {
    match value {
        Json::Null | Json::Object(_) => None,
        Json::Array(items) => items.iter().map(default).collect::<Option<Vec<_>>>().map(Json::from),
        Json::Number(number) if number.is_f64() => Some(shortest(number.as_f64()?)),
        other => Some(other.clone()),
    }
}

fn shortest(value: f64) -> Json {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return Json::from(value as i64);
    }
    let single = value as f32;
    if f64::from(single) == value { Json::from(single.to_string().parse().unwrap_or(value)) } else { value.into() }
}

/// `[a, b]` or `[[a, b], [c, d]]`.
fn groups(keyword: Option<&Json>) -> Vec<Vec<String>> {
    let names = |items: &[Json]| items.iter().filter_map(Json::as_str).map(str::to_owned).collect();
    match keyword.and_then(Json::as_array) {
        None => Vec::new(),
        Some(items) if items.iter().all(Json::is_string) => vec![names(items)],
        Some(items) => items.iter().filter_map(Json::as_array).map(|group| names(group)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_as_they_were_meant() {
        assert_eq!(default(&json!(0.1f32)), Some(json!(0.1)));
        assert_eq!(default(&json!(0.1)), Some(json!(0.1)));
        assert_eq!(default(&json!([0.9f32, 1.0])), Some(json!([0.9, 1])));
        assert_eq!(default(&json!({ "a": 1 })), None);
    }

    #[test]
    #[should_panic(expected = "keyword `multipleOf`")]
    fn limits_that_nobody_checks_are_a_mistake() {
        let schema = json!({ "title": "a.b", "properties": { "n": { "type": "integer", "multipleOf": 8 } } });
        table_of(&schema);
    }
}
