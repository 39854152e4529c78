//! Unions: choices, tagged tables, `{ steps: … }` or `{ ratio: … }`, and forms told by their type.
//!
//! Follows the way the structural check picks a branch, see `pipe_core::structure`.

use serde_json::Value as Json;

use super::read::{Reader, description};
use super::{Kind, Shape, Table, Variant};

/// The branches of a union.
pub(super) fn branches(schema: &Json) -> Option<&Vec<Json>> {
    schema.get("anyOf").or(schema.get("oneOf")).and_then(Json::as_array)
}

/// The values of an `enum`, a `const`, or a union of these alone, with their texts.
pub(super) fn choices<'a>(reader: Reader<'a>, schema: &'a Json) -> Option<Vec<(Json, String)>> {
    let (schema, _) = reader.resolve(schema);
    if let Some(value) = schema.get("const") {
        return Some(vec![(value.clone(), description(schema))]);
    }
    if let Some(values) = schema.get("enum").and_then(Json::as_array) {
        let text = if values.len() == 1 { description(schema) } else { String::new() };
        return Some(values.iter().map(|value| (value.clone(), text.clone())).collect());
    }
    let mut all = Vec::new();
    for branch in branches(schema)? {
        all.extend(choices(reader, branch)?);
    }
    Some(all)
}

/// A union that is not a list of choices.
pub(super) fn read<'a>(reader: Reader<'a>, branches: &'a [Json]) -> Kind {
    let targets: Vec<&Json> = branches.iter().map(|branch| reader.resolve(branch).0).collect();
    let is_table = |schema: &&Json| schema["type"] == "object" || schema.get("properties").is_some();
    let tables: Vec<&Json> = targets.iter().copied().filter(is_table).collect();
    let nested = targets.iter().any(|target| self::branches(target).is_some() && choices(reader, target).is_none());
    let joined = if nested || tables.len() < 2 {
        None
    } else {
        tagged(reader, &tables).or_else(|| by_key(reader, &tables).map(Kind::Table))
    };
    let mut parts: Vec<Shape> = Vec::new();
    for (branch, target) in branches.iter().zip(&targets) {
        match &joined {
            Some(_) if is_table(target) => {}
            _ => parts.push(reader.shape(branch)),
        }
    }
    parts.extend(joined.map(Shape::plain));
    match parts.len() {
        1 => parts.remove(0).kind,
        _ => Kind::OneOf(parts),
    }
}

/// Tables with one property that is a constant in each.
fn tagged(reader: Reader, tables: &[&Json]) -> Option<Kind> {
    let first = tables.first()?.get("properties")?.as_object()?;
    let tag = first.keys().find(|name| tables.iter().all(|table| constant(table, name).is_some()))?;
    let mut variants = Vec::new();
    for schema in tables {
        let mut table = reader.table(schema);
        table.fields.retain(|field| field.name != *tag);
        variants.push(Variant { value: constant(schema, tag)?.to_owned(), description: description(schema), table });
    }
    Some(Kind::Tagged { tag: tag.clone(), variants })
}

/// Tables with one field each, all different: one table with exactly one of them.
fn by_key(reader: Reader, tables: &[&Json]) -> Option<Table> {
    let mut joined = Table::default();
    for schema in tables {
        let mut table = reader.table(schema);
        let closed = table.rest.is_none() && !table.open && table.fields.len() == 1;
        let mut field = table.fields.pop().filter(|field| closed && field.required)?;
        if joined.fields.iter().any(|other| other.name == field.name) {
            return None;
        }
        let own = description(schema);
        if !own.is_empty() {
            field.description = own;
        }
        field.required = false;
        joined.fields.push(field);
    }
    joined.one_of = vec![joined.fields.iter().map(|field| field.name.clone()).collect()];
    Some(joined)
}

fn constant<'j>(branch: &'j Json, name: &str) -> Option<&'j str> {
    let field = branch.get("properties")?.get(name)?;
    match field.get("enum").and_then(Json::as_array) {
        Some(values) if values.len() == 1 => values[0].as_str(),
        _ => field.get("const")?.as_str(),
    }
}
