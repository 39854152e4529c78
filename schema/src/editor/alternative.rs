//! A value of several forms, such as "a number or `false`".
//!
//! Forms of different JSON types are told apart by the type, so that a message names the fault in
//! the form that was meant; `anyOf` would name one of the others, and would put the headings of
//! all into a hover. Only forms of one type, which nothing but trying can tell apart, are an
//! `anyOf`.

use serde_json::{Map, Value as Json, json};

use super::object;
use crate::shape::{Kind, Shape};
use crate::words::literal;

/// A form with the JSON types of its values.
pub(super) struct Form {
    types: Vec<&'static str>,
    /// A type and keywords that look at values of that type alone.
    plain: bool,
    /// Fixed values, to be offered.
    values: Vec<(Json, String)>,
    schema: Map<String, Json>,
}

impl Form {
    pub fn new(shape: &Shape, schema: Map<String, Json>) -> Form {
        let values = match &shape.kind {
            Kind::Choice(values) => values.clone(),
            _ => Vec::new(),
        };
        let plain = matches!(shape.kind, Kind::Bool | Kind::Number { .. } | Kind::Text(_) | Kind::List(_));
        Form { types: types(&shape.kind), plain, values, schema }
    }
}

/// One schema for all forms; `main` is the text of the field in TOML.
pub(super) fn join(forms: Vec<Form>, main: &str) -> Map<String, Json> {
    let mut groups: Vec<Vec<Form>> = Vec::new();
    for form in forms {
        let overlaps =
            |group: &Vec<Form>| group.iter().any(|other| other.types.iter().any(|ty| form.types.contains(ty)));
        match groups.iter_mut().find(|group| overlaps(group)) {
            Some(group) => group.push(form),
            None => groups.push(vec![form]),
        }
    }
    if groups.iter().all(|group| group.len() == 1 && group[0].plain) {
        return merge(groups.into_iter().flatten());
    }
    // The last form is taken for a value that is not there yet: tables, whose fields can then be
    // completed, before others, and fixed values first, which have snippets.
    groups.sort_by_key(|group| {
        let fixed = group.iter().all(|form| !form.values.is_empty());
        let table = group.iter().any(|form| form.types.contains(&"object"));
        (!fixed, table)
    });
    let last = groups.len().saturating_sub(1);
    let values = groups[..last].iter().flatten().flat_map(|form| &form.values);
    let snippets: Vec<Json> =
        values.map(|(value, text)| json!({ "label": literal(value), "description": text, "body": value })).collect();
    let mut chain: Option<Map<String, Json>> = None;
    for group in groups.into_iter().rev() {
        let mut types: Vec<&str> = group.iter().flat_map(|form| form.types.iter().copied()).collect();
        types.dedup();
        let schema = alternatives(group);
        chain = Some(match chain {
            Some(others) => object(json!({ "if": { "type": types }, "then": schema, "else": others })),
            None => schema,
        });
    }
    let mut out = chain.unwrap_or_default();
    if !snippets.is_empty() {
        // Not beside the rest: a YAML server would insert the only snippet together with the key.
        // Not in an `allOf`: Taplo then runs in circles.
        let docs = json!({ "docs": { "main": main } });
        out.insert("anyOf".into(), json!([{ "defaultSnippets": snippets, "x-taplo": docs }]));
    }
    out
}

/// Keywords of each type look at values of that type alone, so they can stand side by side.
fn merge(forms: impl Iterator<Item = Form>) -> Map<String, Json> {
    let mut types = Vec::new();
    let mut keywords = Map::new();
    for mut form in forms {
        types.extend(form.schema.remove("type"));
        keywords.extend(form.schema);
    }
    let mut out = object(json!({ "type": types }));
    out.extend(keywords);
    out
}

fn alternatives(mut group: Vec<Form>) -> Map<String, Json> {
    match group.len() {
        1 => group.remove(0).schema,
        _ => object(json!({ "anyOf": group.into_iter().map(|form| form.schema).collect::<Vec<_>>() })),
    }
}

fn types(kind: &Kind) -> Vec<&'static str> {
    match kind {
        Kind::Any => vec!["boolean", "number", "string", "array", "object"],
        Kind::Bool => vec!["boolean"],
        Kind::Number { .. } => vec!["number"],
        Kind::Text(_) => vec!["string"],
        Kind::List(_) => vec!["array"],
        Kind::Table(_) | Kind::Tagged { .. } => vec!["object"],
        Kind::OneOf(parts) => parts.iter().flat_map(|part| types(&part.kind)).collect(),
        Kind::Choice(values) => {
            let mut types: Vec<&str> = values.iter().map(|(value, _)| type_of(value)).collect();
            types.dedup();
            types
        }
    }
}

fn type_of(value: &Json) -> &'static str {
    match value {
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        _ => "object",
    }
}
