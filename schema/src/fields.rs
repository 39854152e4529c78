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
    /// The variants it belongs to, if only some have it: `schedule.type: linear or cosine`.
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
    table_fields(table, "", &mut out);
    out
}

fn table_fields(table: &Table, prefix: &str, out: &mut Vec<FieldDoc>) {
    for field in &table.fields {
        let path = format!("{prefix}{}", field.name);
        add(doc(field, path.clone()), out);
        inside(&field.shape, &path, out);
    }
    if let Some(rest) = &table.rest {
        inside(rest, &format!("{prefix}<name>"), out);
    }
}

/// The fields within a value.
fn inside(shape: &Shape, path: &str, out: &mut Vec<FieldDoc>) {
    match &shape.kind {
        Kind::Table(table) => table_fields(table, &format!("{path}."), out),
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
            add(doc(&tag_field, tag_path.clone()), out);
            let mut found: Vec<(FieldDoc, Vec<&str>)> = Vec::new();
            for variant in variants {
                let mut own = Vec::new();
                table_fields(&variant.table, &format!("{path}."), &mut own);
                for field in own {
                    match found.iter_mut().find(|(other, _)| *other == field) {
                        Some((_, values)) => values.push(&variant.value),
                        None => found.push((field, vec![&variant.value])),
                    }
                }
            }
            for (mut field, values) in found {
                if values.len() < variants.len() {
                    let inner = field.when.map(|when| format!(", {when}")).unwrap_or_default();
                    field.when = Some(format!("{tag_path}: {}{inner}", values.join(" or ")));
                }
                add(field, out);
            }
        }
        Kind::List(list) => {
            for item in list.prefix.iter().chain(list.items.as_deref()) {
                inside(item, &format!("{path}[]"), out);
            }
        }
        Kind::OneOf(parts) => parts.iter().for_each(|part| inside(part, path, out)),
        _ => {}
    }
}

/// Adds a field, unless another form of the same value has the same one.
fn add(field: FieldDoc, out: &mut Vec<FieldDoc>) {
    if !out.contains(&field) {
        out.push(field);
    }
}

fn doc(field: &Field, path: String) -> FieldDoc {
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
        when: None,
    }
}
