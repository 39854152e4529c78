//! Tables of fields and ports in Markdown.

use pipe_core::port::{Arity, Input, Output};

use crate::fields::FieldDoc;
use crate::words::capital;

/// Text as one table cell.
pub(super) fn cell(text: &str) -> String {
    text.trim().replace('|', "\\|").replace("\n\n", "<br><br>").replace('\n', " ")
}

/// The fields that are no ports.
pub(super) fn fields(fields: &[FieldDoc]) -> String {
    let mut out = String::from("| field | type | default | range | |\n|---|---|---|---|---|\n");
    for field in fields.iter().filter(|field| field.port.is_none()) {
        let default = match (&field.default, field.required) {
            (Some(default), _) => format!("`{default}`"),
            (None, true) => "required".into(),
            (None, false) => String::new(),
        };
        // Choices are listed with their texts, or by the type alone where they have none.
        let listed = field.choices.iter().any(|(_, text)| !text.is_empty());
        let kind = if listed { "choice" } else { &field.type_text };
        let row = [
            format!("`{}`", field.path),
            kind.to_owned(),
            default,
            field.range.clone().unwrap_or_default(),
            description(field, listed),
        ];
        out.push_str(&format!("| {} |\n", row.map(|text| cell(&text)).join(" | ")));
    }
    out
}

fn description(field: &FieldDoc, listed: bool) -> String {
    let mut parts = Vec::new();
    if !field.description.is_empty() {
        parts.push(field.description.clone());
    }
    if let Some(when) = &field.when {
        parts.push(format!("Only with `{}`.", when.replace(" or ", "` or `").replace(", ", "`, `")));
    }
    if listed {
        let choice = |(value, text): &(String, String)| format!("`{value}`: {}", capital(text));
        parts.extend(field.choices.iter().map(choice));
    }
    parts.join("<br>")
}

pub(super) fn inputs(inputs: &[Input]) -> String {
    let mut out = String::from("| port | takes | rate | number | |\n|---|---|---|---|---|\n");
    for input in inputs {
        let types: Vec<&str> = input.accepts.iter().map(|ty| ty.name()).collect();
        let number = match input.arity {
            Arity::One => "one",
            Arity::Optional => "one or none",
            Arity::Many => "any",
            Arity::Several => "one or more",
        };
        let (name, rate) = (input.name, input.rate.name());
        out.push_str(&format!("| `{name}` | {} | {rate} | {number} | {} |\n", types.join(" or "), cell(input.doc)));
    }
    out
}

pub(super) fn outputs(outputs: &[Output]) -> String {
    let mut out = String::from("| port | gives | rate | |\n|---|---|---|---|\n");
    for output in outputs {
        let (name, ty, rate) = (output.name, output.ty.name(), output.rate.name());
        out.push_str(&format!("| `{name}` | {ty} | {rate} | {} |\n", cell(output.doc)));
    }
    out
}
