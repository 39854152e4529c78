//! A table whose `type` tells its fields, in the form that language servers serve best.
//!
//! - The branch is chosen by `if` with a `pattern` on the tag: `const` and `enum` would, while
//!   completing, match every value that begins with what is typed.
//! - One outer `if` guards the list, so that a scalar, or a table whose tag is missing or no text,
//!   gets one message and not one from every branch.
//! - Every branch is closed, since only there are all of its fields known.
//! - The tag itself is one `enum` with a text for each value, under both names that servers read.
//! - Fields of all branches stand once more beside the tag, as stubs: see [`stub`](super::stub).

use serde_json::{Map, Value as Json, json};

use super::emit::Emitter;
use super::{annotate, leaf, object, stub};
use crate::shape::Variant;

/// A variant with the schema that holds for it.
pub(super) struct Branch {
    pub variant: Variant,
    pub then: Json,
}

/// The closed table of one variant, its tag included. It has no title and text of its own: within
/// a field, hovers would show them instead of the field's.
pub(super) fn closed(emitter: &mut Emitter, tag: &str, variant: &Variant) -> Map<String, Json> {
    let mut table = emitter.table(&variant.table);
    let mut required = json!([tag]);
    if let (Some(all), Some(Json::Array(names))) = (required.as_array_mut(), table.remove("required")) {
        all.extend(names);
    }
    let mut tag_field = Map::new();
    annotate(&mut tag_field, &variant.value, &variant.description, None);
    let mut properties = Map::from_iter([(tag.to_owned(), Json::Object(tag_field))]);
    properties.extend(table.remove("properties").map(object).unwrap_or_default());
    let mut out = object(json!({ "type": "object", "required": required, "properties": properties }));
    for (keyword, value) in table {
        out.entry(keyword).or_insert(value);
    }
    out
}

/// The union of branches; `text` describes the tag.
pub(super) fn union(emitter: &mut Emitter, tag: &str, branches: &[Branch], text: &str) -> Map<String, Json> {
    let values: Vec<&str> = branches.iter().map(|branch| branch.variant.value.as_str()).collect();
    let texts: Vec<&str> = branches.iter().map(|branch| branch.variant.description.as_str()).collect();
    let mut tag_field = object(json!({ "type": "string", "enum": values }));
    tag_field.extend(leaf::enum_texts(&texts, text));
    let mut properties = Map::from_iter([(tag.to_owned(), Json::Object(tag_field))]);
    properties.extend(stub::all(emitter, branches));
    let list = branches.iter().map(|branch| {
        let pattern = format!("^{}$", escape(&branch.variant.value));
        json!({ "if": { "properties": { tag: { "pattern": pattern } } }, "then": branch.then })
    });
    object(json!({
        "type": "object",
        "required": [tag],
        "properties": properties,
        "if": { "type": "object", "required": [tag], "properties": { tag: { "type": "string" } } },
        "then": { "allOf": list.collect::<Vec<_>>() },
    }))
}

/// As a regular expression that matches the text alone. `-` needs no escape and may have none in
/// JavaScript's Unicode mode.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if "\\^$.|?*+()[]{}/".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
