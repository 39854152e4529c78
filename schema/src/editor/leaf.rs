//! Schemas of numbers, texts and choices.

use serde_json::{Map, Value as Json, json};

use super::object;
use crate::shape::{Limits, Text};

pub(super) fn number(integer: bool, limits: &Limits) -> Map<String, Json> {
    let mut out = object(json!({ "type": if integer { "integer" } else { "number" } }));
    if let Some(only) = limits.only().filter(|_| integer) {
        out.insert("enum".into(), json!([only]));
        return out;
    }
    let keywords = [
        ("minimum", limits.least()),
        ("maximum", limits.largest()),
        ("exclusiveMinimum", limits.above.as_ref()),
        ("exclusiveMaximum", limits.below.as_ref()),
    ];
    for (keyword, limit) in keywords {
        out.extend(limit.map(|limit| (keyword.to_owned(), Json::Number(limit.clone()))));
    }
    out
}

pub(super) fn text(text: &Text) -> Map<String, Json> {
    let mut out = object(json!({ "type": "string" }));
    out.extend(text.min.map(|min| ("minLength".to_owned(), min.into())));
    out.extend(text.max.map(|max| ("maxLength".to_owned(), max.into())));
    if let Some(pattern) = &text.pattern {
        out.insert("pattern".into(), pattern.clone().into());
        if let Some(form) = &text.form {
            out.insert("patternErrorMessage".into(), format!("Must be {form}.").into());
        }
    }
    out
}

/// Choices with their texts: `enumDescriptions` is read by YAML servers, `x-taplo` by Taplo, where
/// `main` replaces the description. No `type`: a value of another type would be flagged twice.
pub(super) fn choice(values: &[(Json, String)], main: &str) -> Map<String, Json> {
    let mut out = object(json!({ "enum": values.iter().map(|(value, _)| value).collect::<Vec<_>>() }));
    let texts: Vec<&str> = values.iter().map(|(_, text)| text.as_str()).collect();
    out.extend(enum_texts(&texts, main));
    out
}

/// The texts of an `enum`, if there are any.
pub(super) fn enum_texts(texts: &[&str], main: &str) -> Map<String, Json> {
    if texts.iter().all(|text| text.is_empty()) {
        return Map::new();
    }
    let mut docs = Map::new();
    if !main.is_empty() {
        docs.insert("main".into(), main.into());
    }
    docs.insert("enumValues".into(), json!(texts));
    object(json!({ "enumDescriptions": texts, "x-taplo": { "docs": docs } }))
}
