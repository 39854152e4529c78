//! The JSON Schema of whole documents.
//!
//! Draft-07, since that is what editors implement in full. The union of node types is a list of
//! `if`/`then` by a pattern on `type`: with `oneOf` the language servers blame the wrong node
//! type for ordinary mistakes. See [`tagged`] for the parts of that form.

mod alternative;
mod emit;
mod leaf;
mod snippet;
mod stub;
mod tagged;

use pipe_core::registry::Registry;
use serde_json::{Map, Value as Json, json};

use crate::shape::{Field, Variant, table_of};
use crate::{REFERENCE_FROM_SCHEMA, words};
use emit::Emitter;
use tagged::Branch;

/// `$id` of the schema: the number is the major version of the document format.
pub const SCHEMA_ID: &str = "urn:pipe:schema:v1:pipeline";

/// The form of a node's name, as the graph wants it.
const NODE_NAME: &str = "^[A-Za-z_][A-Za-z0-9_-]*$";

/// The JSON Schema (draft-07) of documents.
///
/// # Panics
/// When a config struct uses a schema keyword that the structural check does not know.
pub fn json_schema(registry: &Registry) -> Json {
    let mut emitter = Emitter::default();
    emitter.reserve("Node");
    let mut document = emitter.table(&table_of(registry.settings_schema()));
    let node = node(registry, &mut emitter);

    let mut properties = document.remove("properties").map(object).unwrap_or_default();
    let modeline = properties.remove("$schema");
    properties.insert("nodes".into(), nodes(registry));
    if let Some(mut field) = modeline {
        // Allowed for editors that want it; the modeline is the better way.
        field["doNotSuggest"] = true.into();
        properties.insert("$schema".into(), field);
    }
    let mut required = document.remove("required").unwrap_or_else(|| json!([]));
    required.as_array_mut().into_iter().for_each(|names| names.push("nodes".into()));

    let mut definitions = Map::from_iter([("Node".to_owned(), Json::Object(node))]);
    definitions.extend(emitter.definitions());
    let mut root = object(json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": SCHEMA_ID,
        "title": "pipeline",
        "description": "A training run: settings, and nodes that feed each other.",
        "type": "object",
        "required": required,
        "properties": properties,
    }));
    for (keyword, value) in document {
        root.entry(keyword).or_insert(value);
    }
    root.insert("definitions".into(), Json::Object(definitions));
    Json::Object(root)
}

/// The `nodes` table.
fn nodes(registry: &Registry) -> Json {
    let names = "Names begin with a letter or `_` and go on with letters, digits, `_` and `-`.";
    json!({
        "title": "nodes",
        "description": format!("Nodes by name. A port is filled by naming another node. {names}"),
        "type": "object",
        "minProperties": 1,
        "propertyNames": { "doNotSuggest": true, "pattern": NODE_NAME, "patternErrorMessage": names },
        "additionalProperties": { "$ref": "#/definitions/Node" },
        "defaultSnippets": registry.kinds().map(snippet::of).collect::<Vec<_>>(),
    })
}

/// The union of all node types; each one's own table becomes a definition called after it.
fn node(registry: &Registry, emitter: &mut Emitter) -> Map<String, Json> {
    let mut branches = Vec::new();
    for kind in registry.kinds() {
        let name = kind.about.type_name;
        let mut table = table_of(&kind.schema);
        table.fields.retain(|field| field.name != "type");
        let variant = Variant { value: name.into(), description: kind.about.summary.into(), table };
        let link = format!("[{name}]({REFERENCE_FROM_SCHEMA}/nodes/{name}.md)");
        let markdown = format!("{}\n\n{link} · `pipe explain {name}`", kind.about.summary);
        let mut closed = Map::new();
        annotate(&mut closed, name, kind.about.summary, Some(&markdown));
        closed.extend(tagged::closed(emitter, "type", &variant));
        closed["properties"]["type"]["markdownDescription"] = markdown.into();
        let target = emitter.define(name, closed);
        branches.push(Branch { variant, then: json!({ "$ref": target }) });
    }
    let mut node = Map::new();
    annotate(&mut node, "node", "A node: `type` says what it is and which fields it has.", None);
    node.extend(tagged::union(emitter, "type", &branches, "The node type."));
    node
}

/// The table that `json!` made.
fn object(value: Json) -> Map<String, Json> {
    match value {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}

/// `title`, `description` and, where it says more, `markdownDescription`.
fn annotate(map: &mut Map<String, Json>, title: &str, plain: &str, markdown: Option<&str>) {
    map.insert("title".into(), title.into());
    if !plain.is_empty() {
        map.insert("description".into(), plain.into());
        map.insert("markdownDescription".into(), markdown.unwrap_or(plain).into());
    }
}

/// The annotations of a field: its text with default and range.
fn annotate_field(map: &mut Map<String, Json>, field: &Field) {
    annotate(map, &field.name, &words::sentence(field, false), Some(&words::sentence(field, true)));
}
