//! Stubs of the fields of all branches, for servers that do not look into `then`.
//!
//! Taplo completes and explains only what stands in `properties` itself. A stub gives it name
//! and text, and where all branches agree on a field that has something to complete also its
//! values (`anyOf` with `true` never fails). Only there: Taplo walks through all of them at once,
//! and fails when there are too many. `doNotSuggest` keeps stubs out of the completion of YAML
//! servers, which know better.

use serde_json::{Map, Value as Json, json};

use super::emit::Emitter;
use super::tagged::Branch;
use crate::shape::{Field, Kind, Shape};
use crate::words;

/// Types whose values hold no others.
const LEAVES: &[&str] = &["boolean", "integer", "number", "string"];

/// A field name with all branches that have it.
struct Shared<'a> {
    name: &'a str,
    owners: Vec<(&'a str, &'a Field)>,
}

/// The stubs, in the order in which branches name the fields.
pub(super) fn all(emitter: &mut Emitter, branches: &[Branch]) -> Vec<(String, Json)> {
    let mut shared: Vec<Shared> = Vec::new();
    for branch in branches {
        for field in &branch.variant.table.fields {
            let owner = (branch.variant.value.as_str(), field);
            match shared.iter_mut().find(|entry| entry.name == field.name) {
                Some(entry) => entry.owners.push(owner),
                None => shared.push(Shared { name: &field.name, owners: vec![owner] }),
            }
        }
    }
    shared.iter().map(|entry| (entry.name.to_owned(), stub(emitter, entry))).collect()
}

fn stub(emitter: &mut Emitter, entry: &Shared) -> Json {
    let text = text(entry);
    let docs = json!({ "docs": { "main": text } });
    let mut out = Map::new();
    out.insert("title".into(), entry.name.into());
    out.insert("doNotSuggest".into(), true.into());
    let mut schemas: Vec<_> = entry.owners.iter().map(|(_, field)| bare(emitter, field, &text)).collect();
    schemas.dedup();
    let [schema] = schemas.as_mut_slice() else {
        return plain(entry, out, docs);
    };
    if !completes(&entry.owners[0].1.shape) {
        return plain(entry, out, docs);
    }
    // The form has no title: else a YAML server shows the headings of both forms.
    let form = match schema.contains_key("$ref") {
        true => {
            schema.insert("title".into(), entry.name.into());
            json!({ "x-taplo": docs, "allOf": [schema] })
        }
        false => {
            if !schema.contains_key("anyOf") {
                schema.entry("x-taplo").or_insert(docs);
            }
            json!(schema)
        }
    };
    // Hovers over lists and tables look here, those over other values into the form.
    if !LEAVES.contains(&form["type"].as_str().unwrap_or_default()) && form.get("enum").is_none() {
        out.insert("x-taplo".into(), json!({ "docs": { "main": text } }));
    }
    out.insert("anyOf".into(), json!([form, true]));
    Json::Object(out)
}

/// A stub of name and text alone.
fn plain(entry: &Shared, mut out: Map<String, Json>, docs: Json) -> Json {
    if entry.owners.iter().any(|(_, field)| matches!(field.shape.kind, Kind::List(_))) {
        out.insert("items".into(), json!({ "x-taplo": docs }));
    }
    out.insert("x-taplo".into(), docs);
    Json::Object(out)
}

/// Whether there are words to choose from: values, or names of fields.
fn completes(shape: &Shape) -> bool {
    match &shape.kind {
        Kind::Bool | Kind::Choice(_) | Kind::Tagged { .. } => true,
        Kind::Table(table) => !table.fields.is_empty(),
        Kind::List(list) => list.items.as_ref().is_some_and(|items| matches!(items.kind, Kind::Table(_))),
        _ => false,
    }
}

/// The schema of a field without its texts.
fn bare(emitter: &mut Emitter, field: &Field, text: &str) -> Map<String, Json> {
    let mut schema = emitter.shape(&field.shape, text);
    if let Some(default) = &field.default {
        schema.insert("default".into(), default.clone());
    }
    schema
}

/// Each text once, with the types it belongs to.
fn text(entry: &Shared) -> String {
    let mut texts: Vec<(String, Vec<&str>)> = Vec::new();
    for (owner, field) in &entry.owners {
        let text = words::sentence(field, true);
        match texts.iter_mut().find(|(other, _)| *other == text) {
            Some((_, owners)) => owners.push(owner),
            None => texts.push((text, vec![owner])),
        }
    }
    let line = |(text, owners): &(String, Vec<&str>)| {
        let owners: Vec<String> = owners.iter().map(|owner| format!("`{owner}`")).collect();
        format!("{}: {text}", owners.join(", "))
    };
    texts.iter().map(line).collect::<Vec<_>>().join("\n\n")
}
