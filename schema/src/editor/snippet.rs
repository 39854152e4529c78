//! Snippets for new nodes: name, type and required fields, each a tab stop.

use pipe_core::registry::Kind as NodeKind;
use serde_json::{Map, Value as Json, json};

use crate::shape::{Kind, Shape, Table, table_of};

/// The snippet of a node type.
pub(super) fn of(kind: &NodeKind) -> Json {
    let mut stops = 1;
    let mut body = Map::from_iter([("type".to_owned(), Json::from(kind.about.type_name))]);
    let mut table = table_of(&kind.schema);
    table.fields.retain(|field| field.name != "type");
    body.extend(required(&table, &mut stops));
    json!({
        "label": kind.about.type_name,
        "description": kind.about.summary,
        "body": { "${1:name}": body },
    })
}

fn required(table: &Table, stops: &mut u32) -> Map<String, Json> {
    let chosen: Vec<&String> = table.one_of.iter().filter_map(|group| group.first()).collect();
    let wanted = table.fields.iter().filter(|field| field.required || chosen.contains(&&field.name));
    wanted.map(|field| (field.name.clone(), value(&field.shape, stops))).collect()
}

fn value(shape: &Shape, stops: &mut u32) -> Json {
    match &shape.kind {
        Kind::List(list) => match (list.prefix.as_slice(), &list.items) {
            ([], Some(items)) => json!([value(items, stops)]),
            (prefix, _) => prefix.iter().map(|item| value(item, stops)).collect(),
        },
        Kind::Table(table) if !table.fields.is_empty() => Json::Object(required(table, stops)),
        Kind::Tagged { tag, .. } => Json::Object(Map::from_iter([(tag.clone(), stop(stops))])),
        Kind::OneOf(parts) if parts.iter().all(Shape::has_tables) => value(&parts[0], stops),
        _ => stop(stops),
    }
}

fn stop(stops: &mut u32) -> Json {
    *stops += 1;
    format!("${stops}").into()
}
