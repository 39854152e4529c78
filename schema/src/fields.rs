//! The fields of a node type as a flat list, for `pipe nodes` and `pipe explain`.

use pipe_core::registry::Registry;
use serde_json::Value as Json;

use crate::shape::{Field, Kind, Shape, Table, table_of};
use crate::words;

/// A field, told in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldDoc {
    /// Path from the start of the node, `schedule.warmup.ratio`; items of a list are `regions[]`.
    pub path: String,
    /// What it takes: `whole number`, `list of texts`, `node: Model`. Values are in backticks.
    pub type_text: String,
    /// Whether it has to be given wherever its table is given.
    pub required: bool,
    /// The default as it would be written in YAML, if the schema tells it.
    pub default: Option<String>,
    /// Limits: `from 1 to 1024`, `more than 0`, `at least 1 item`.
    pub range: Option<String>,
    /// Its text (Markdown), without default and range unless the author wrote them.
    pub description: String,
    /// Values of a choice with their texts (which may be empty).
    pub choices: Vec<(String, String)>,
    /// What the port takes, if the field is a port.
    pub port: Option<PortDoc>,
    /// The variant it belongs to, if only some have it: `schedule.type: cosine`.
    pub when: Option<String>,
}

/// What a port field takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortDoc {
    /// Names of port types.
    pub accepts: Vec<String>,
    /// When the node uses the value: `setup`, `sample`, `step` or `event`.
    pub rate: String,
    /// Whether a list of nodes is taken.
    pub many: bool,
}

/// All fields of a node type, nested ones after the field that holds them, `type` left out.
/// Empty for an unknown type.
pub fn fields(registry: &Registry, type_name: &str) -> Vec<FieldDoc> {
    let Some(kind) = registry.kind(type_name) else { return Vec::new() };
    let mut all = flatten(&table_of(&kind.schema));
    all.retain(|field| field.path != "type");
    all
}

/// The fields of a document outside `nodes`.
pub fn settings_fields(registry: &Registry) -> Vec<FieldDoc> {
    flatten(&table_of(registry.settings_schema()))
}

/// One field by its path: `adapter.lora.rank`, `optimizer.adamw.schedule.warmup.ratio`, or
/// outside `nodes`, `train.precision`. Numbers of list items may stand in the path.
pub fn field(registry: &Registry, path: &str) -> Option<FieldDoc> {
    let of_type = registry.names().filter_map(|name| Some((name, path.strip_prefix(name)?.strip_prefix('.')?)));
    let (all, rest) = match of_type.max_by_key(|(name, _)| name.len()) {
        Some((name, rest)) => (fields(registry, name), rest),
        None => (settings_fields(registry), path),
    };
    let wanted = plain(rest);
    all.into_iter().find(|field| plain(&field.path) == wanted)
}

/// A path without brackets and item numbers.
fn plain(path: &str) -> Vec<&str> {
    let parts = path.split(['.', '[', ']']);
    parts.filter(|part| !part.is_empty() && part.parse::<usize>().is_err()).collect()
}

fn flatten(table: &Table) -> Vec<FieldDoc> {
    let mut out = Vec::new();
    table_fields(table, "", None, &mut out);
    out
}

fn table_fields(table: &Table, prefix: &str, when: Option<&str>, out: &mut Vec<FieldDoc>) {
    for field in &table.fields {
        let path = format!("{prefix}{}", field.name);
        add(doc(field, path.clone(), when), out);
        inside(&field.shape, &path, when, out);
    }
    if let Some(rest) = &table.rest {
        inside(rest, &format!("{prefix}<name>"), when, out);
    }
}

/// The fields within a value.
fn inside(shape: &Shape, path: &str, when: Option<&str>, out: &mut Vec<FieldDoc>) {
    match &shape.kind {
        Kind::Table(table) => table_fields(table, &format!("{path}."), when, out),
        Kind::Tagged { tag, variants } => {
            let choices: Vec<(Json, String)> =
                variants.iter().map(|variant| (variant.value.as_str().into(), variant.description.clone())).collect();
            let tag_shape = Shape::plain(Kind::Choice(choices));
            let tag_path = format!("{path}.{tag}");
            let tag_field = Field {
                name: tag.clone(),
                shape: tag_shape,
                description: String::new(),
                required: true,
                default: None,
                port: None,
            };
            add(doc(&tag_field, tag_path.clone(), when), out);
            for variant in variants {
                let outer = when.map(|when| format!("{when}, ")).unwrap_or_default();
                let when = format!("{outer}{tag_path}: {}", variant.value);
                table_fields(&variant.table, &format!("{path}."), Some(&when), out);
            }
        }
        Kind::List(list) => {
            for item in list.prefix.iter().chain(list.items.as_deref()) {
                inside(item, &format!("{path}[]"), when, out);
            }
        }
        Kind::OneOf(parts) => parts.iter().for_each(|part| inside(part, path, when, out)),
        _ => {}
    }
}

/// Adds a field, or its variant to an equal field of another variant.
fn add(field: FieldDoc, out: &mut Vec<FieldDoc>) {
    let same = |other: &FieldDoc| FieldDoc { when: None, ..other.clone() } == FieldDoc { when: None, ..field.clone() };
    match (out.iter_mut().find(|other| same(other)), &field.when) {
        (Some(FieldDoc { when: Some(when), .. }), Some(more)) => {
            let value = more.rsplit(": ").next().unwrap_or(more);
            when.push_str(" or ");
            when.push_str(value);
        }
        (Some(_), _) => {}
        (None, _) => out.push(field),
    }
}

fn doc(field: &Field, path: String, when: Option<&str>) -> FieldDoc {
    let choices = match &field.shape.kind {
        Kind::Choice(values) => values.iter().map(|(value, text)| (words::literal(value), text.clone())).collect(),
        _ => Vec::new(),
    };
    let port = field.port.as_ref().map(|port| PortDoc {
        accepts: port.accepts.clone(),
        rate: port.rate.clone(),
        many: port.many,
    });
    FieldDoc {
        path,
        type_text: words::type_text(field),
        required: field.required,
        default: field.default.as_ref().map(words::literal),
        range: words::range(&field.shape),
        description: field.description.clone(),
        choices,
        port,
        when: when.map(str::to_owned),
    }
}
