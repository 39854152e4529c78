//! What shapes are called: types, ranges, defaults, and the sentence made of all of them.

use pipe_core::document::scalar::needs_quotes;
use serde_json::Value as Json;

use crate::shape::{Field, Kind, List, Port, Shape, Text};

/// The type of a field: `whole number`, `list of texts`, `node: Model`.
pub(crate) fn type_text(field: &Field) -> String {
    field.port.as_ref().map_or_else(|| kind(&field.shape), port)
}

fn port(port: &Port) -> String {
    let types = port.accepts.join(" or ");
    if port.many { format!("node or list of nodes: {types}") } else { format!("node: {types}") }
}

/// The type of a value.
pub(crate) fn kind(shape: &Shape) -> String {
    match &shape.kind {
        Kind::Any => "any value".into(),
        Kind::Bool => "`true` or `false`".into(),
        Kind::Number { integer: true, .. } => "whole number".into(),
        Kind::Number { integer: false, .. } => "number".into(),
        Kind::Text(_) => "text".into(),
        Kind::Choice(values) => alternatives(values.iter().map(|(value, _)| format!("`{}`", literal(value)))),
        Kind::List(inner) => list(inner),
        Kind::Table(table) => match &table.rest {
            Some(rest) => format!("table of {} by name", plural(rest)),
            None => "table".into(),
        },
        Kind::Tagged { tag, .. } => format!("table with `{tag}`"),
        Kind::OneOf(parts) => {
            let mut names: Vec<String> = Vec::new();
            for name in parts.iter().map(kind) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            alternatives(names.into_iter())
        }
    }
}

fn list(list: &List) -> String {
    match (list.prefix.as_slice(), &list.items) {
        ([], None) => "list".into(),
        ([], Some(items)) => format!("list of {}", plural(items)),
        ([first, rest @ ..], None) if rest.iter().all(|item| kind(item) == kind(first)) => {
            format!("list of {} {}", rest.len() + 1, plural(first))
        }
        (items, _) => format!("list of {}", items.iter().map(kind).collect::<Vec<_>>().join(", ")),
    }
}

fn plural(shape: &Shape) -> String {
    let one = kind(shape);
    match &shape.kind {
        Kind::Text(_) => "texts".into(),
        Kind::Number { .. } => format!("{one}s"),
        Kind::Table(_) | Kind::Tagged { .. } => one.replacen("table", "tables", 1),
        Kind::List(_) => one.replacen("list", "lists", 1),
        _ => one,
    }
}

/// `a`, `a or b`, `a, b or c`.
pub(crate) fn alternatives(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// What a value is limited to: `from 1 to 1024`, `at least 1 item`, `made of letters`.
pub(crate) fn range(shape: &Shape) -> Option<String> {
    match &shape.kind {
        Kind::Number { limits, .. } => limits.words(),
        Kind::Text(text) => both(count(text.min, text.max, "character"), form(text)),
        Kind::List(list) => {
            let told = !list.prefix.is_empty() && list.items.is_none();
            let items = list.items.as_deref().and_then(range).map(|range| format!("each {range}"));
            both(count(list.min, list.max, "item").filter(|_| !told), items)
        }
        Kind::OneOf(parts) => {
            let ranges: Vec<String> = parts.iter().filter_map(range).collect();
            (!ranges.is_empty()).then(|| ranges.join("; "))
        }
        _ => None,
    }
}

fn both(first: Option<String>, second: Option<String>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first}, {second}")),
        (first, second) => first.or(second),
    }
}

fn form(text: &Text) -> Option<String> {
    text.form.clone().or_else(|| text.pattern.as_ref().map(|pattern| format!("of the form `{pattern}`")))
}

fn count(min: Option<u64>, max: Option<u64>, what: &str) -> Option<String> {
    let unit = |n: u64| if n == 1 { format!("{n} {what}") } else { format!("{n} {what}s") };
    match (min.filter(|min| *min > 0), max) {
        (None, None) => None,
        (Some(min), Some(max)) if min == max => Some(unit(min)),
        (Some(min), Some(max)) => Some(format!("from {min} to {max} {what}s")),
        (Some(min), None) => Some(format!("at least {}", unit(min))),
        (None, Some(max)) => Some(format!("at most {}", unit(max))),
    }
}

/// A value as it is written in YAML.
pub(crate) fn literal(value: &Json) -> String {
    match value {
        Json::String(text) if text.is_empty() || needs_quotes(text) => value.to_string(),
        Json::String(text) => text.clone(),
        Json::Array(items) => format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Text with default and range, which hovers would not show otherwise. A default that the text
/// tells itself is not repeated. `markdown`: values in backticks.
pub(crate) fn sentence(field: &Field, markdown: bool) -> String {
    let mut text = field.description.clone();
    let mut add = |sentence: String| {
        if !text.is_empty() {
            text.push_str(if text.ends_with(['.', ':', '!', '?']) { " " } else { ". " });
        }
        text.push_str(&sentence);
    };
    let told = field.description.to_lowercase().contains("default");
    if let Some(default) = field.default.as_ref().filter(|_| !told).map(literal) {
        add(if markdown { format!("Default `{default}`.") } else { format!("Default {default}.") });
    }
    if let Some(range) = range(&field.shape) {
        let of_text = matches!(field.shape.kind, Kind::Text(_));
        add(if of_text { format!("Must be {range}.") } else { format!("{}.", capital(&range)) });
    }
    text
}

/// With a capital first letter.
pub(crate) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// `StateCadence` as `state cadence`.
pub(crate) fn title_of(def: &str) -> String {
    let mut out = String::new();
    for c in def.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.extend(c.to_lowercase());
    }
    out
}
