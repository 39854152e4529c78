//! What the structural check calls things: fields, places, and what a schema expects.

use serde_json::Value as Json;

use super::{Path, Step, Subject};
use crate::diagnostic::suggest::{and_list, or_list};

/// `` `schedule.warmup` ``, `` item 2 of `betas` ``, or the subject itself.
pub(super) fn name(path: &Path, subject: Subject) -> String {
    let joined = joined(path);
    match (path.last(), joined.is_empty(), subject) {
        (None, ..) | (_, true, _) => match subject {
            Subject::Document => "the document".into(),
            Subject::Node(name, _) => format!("node `{name}`"),
        },
        (Some(Step::Item(index)), ..) => format!("item {} of `{joined}`", index + 1),
        _ => format!("`{joined}`"),
    }
}

/// `` on node `loss` (loss.diffusion) ``, `` in `train` ``: the table that a field stands in.
pub(super) fn within(path: &Path, subject: Subject) -> String {
    let joined = joined(path);
    match (subject, joined.is_empty()) {
        (Subject::Document, true) => "at the top of the document".into(),
        (Subject::Document, false) => format!("in `{joined}`"),
        (Subject::Node(name, ty), true) => format!("on node `{name}` ({ty})"),
        (Subject::Node(name, ty), false) => format!("in `{joined}` of node `{name}` ({ty})"),
    }
}

fn joined(path: &Path) -> String {
    let mut out = String::new();
    for (depth, step) in path.iter().enumerate() {
        match step {
            Step::Field(field) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(field);
            }
            // The last item is named by `name`; those on the way are part of the path.
            Step::Item(index) if depth + 1 < path.len() => out.push_str(&format!(".{index}")),
            Step::Item(_) => {}
        }
    }
    out
}

/// What a schema takes, after "must be".
pub(super) fn expected<'a>(schema: &'a Json, resolve: &impl Fn(&'a Json) -> &'a Json) -> String {
    let schema = resolve(schema);
    if let Some(port) = schema.get("x-port") {
        return if port["arity"] == "many" { "the name of a node, or a list of names" } else { "the name of a node" }
            .into();
    }
    if let Some(choices) = choices(schema, resolve) {
        let names: Vec<String> = choices.iter().map(|choice| literal(choice)).collect();
        return match names.len() {
            0..=8 => or_list(&names),
            _ => format!("one of {}, …", names[..8].iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")),
        };
    }
    if let Some(branches) = branches(schema) {
        let mut parts: Vec<String> = Vec::new();
        for branch in branches {
            let part = expected(branch, resolve);
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        return parts.join(" or ");
    }
    let types: Vec<&str> = match &schema["type"] {
        Json::String(name) => vec![name.as_str()],
        Json::Array(names) => names.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    };
    let words: Vec<String> = types
        .iter()
        .map(|name| match *name {
            "integer" => format!("a whole number{}", range(schema).map_or(String::new(), |r| format!(" {r}"))),
            "number" => format!("a number{}", range(schema).map_or(String::new(), |r| format!(" {r}"))),
            "string" => "text".into(),
            "boolean" => "`true` or `false`".into(),
            "array" => "a list".into(),
            _ => table(schema),
        })
        .collect();
    if words.is_empty() { "a value".into() } else { words.join(" or ") }
}

/// `a table with `steps` or `ratio``, when that is short.
fn table(schema: &Json) -> String {
    let names: Vec<&String> = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name).collect();
    let either = schema.get("x-one-of").or(schema.get("x-exclusive")).and_then(Json::as_array);
    match (names.len(), either) {
        (2..=4, Some(either)) if either.len() == names.len() => format!("a table with {}", or_list(&names)),
        (1..=4, _) => format!("a table with {}", and_list(&names)),
        _ => "a table".into(),
    }
}

/// `from 1 to 8`, `of at least 1`, `of more than 0`.
pub(super) fn range(schema: &Json) -> Option<String> {
    let number = |keyword: &str| schema.get(keyword).filter(|limit| limit.is_number());
    match (number("minimum"), number("maximum"), number("exclusiveMinimum"), number("exclusiveMaximum")) {
        (Some(min), Some(max), None, None) if min == max => Some(min.to_string()),
        (Some(min), Some(max), None, None) => Some(format!("from {min} to {max}")),
        (min, max, above, below) => {
            let mut parts = Vec::new();
            parts.extend(above.map(|limit| format!("more than {limit}")));
            parts.extend(min.map(|limit| format!("at least {limit}")));
            parts.extend(below.map(|limit| format!("less than {limit}")));
            parts.extend(max.map(|limit| format!("at most {limit}")));
            (!parts.is_empty()).then(|| format!("of {}", parts.join(" and ")))
        }
    }
}

/// The branches of a union.
pub(super) fn branches(schema: &Json) -> Option<&Vec<Json>> {
    schema.get("anyOf").or(schema.get("oneOf")).and_then(Json::as_array)
}

/// The values of an `enum`, a `const`, or a union of these alone.
pub(super) fn choices<'a>(schema: &'a Json, resolve: &impl Fn(&'a Json) -> &'a Json) -> Option<Vec<&'a Json>> {
    let schema = resolve(schema);
    if let Some(value) = schema.get("const") {
        return Some(vec![value]);
    }
    if let Some(values) = schema.get("enum").and_then(Json::as_array) {
        return Some(values.iter().collect());
    }
    let mut all = Vec::new();
    for branch in branches(schema)? {
        all.extend(choices(branch, resolve)?);
    }
    Some(all)
}

/// A value of a choice as it is written.
pub(super) fn literal(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
