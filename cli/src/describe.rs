//! Fields of a schema in words: what `pipe nodes TYPE` and `pipe explain` tell.

use std::collections::BTreeSet;

use serde_json::Value as Json;

/// A field of a table, or of a table in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// `schedule.warmup.steps`.
    pub path: String,
    /// `whole number, 1 to 1024`.
    pub ty: String,
    /// It has to be given.
    pub required: bool,
    /// Its value when it is left out.
    pub default: Option<String>,
    /// What it is for.
    pub doc: String,
    /// The value of `type` or the like under which it exists.
    pub when: Option<String>,
}

/// The fields of a schema, those of inner tables after the table itself. Ports and `type` are left out.
pub fn fields(schema: &Json) -> Vec<Field> {
    let mut out = Vec::new();
    table(schema, schema, "", None, 0, &mut out);
    let mut seen = BTreeSet::new();
    out.retain(|field| seen.insert((field.path.clone(), field.when.clone())));
    out
}

/// Deepest table described; recursive schemas end here.
const DEEPEST: usize = 6;

fn table(root: &Json, schema: &Json, prefix: &str, when: Option<&str>, depth: usize, out: &mut Vec<Field>) {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        if field.get("x-port").is_some() || name == "$schema" || (prefix.is_empty() && name == "type") {
            continue;
        }
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let target = resolve(root, field);
        // The discriminator of a union says nothing that its branches do not.
        if target.get("const").is_some() && when.is_some() {
            continue;
        }
        let doc = field.get("description").or(target.get("description")).and_then(Json::as_str).unwrap_or_default();
        let default = field.get("default").filter(|value| !value.is_null()).map(plain);
        out.push(Field {
            path: path.clone(),
            ty: type_words(root, field),
            required: required.contains(&name.as_str()),
            default,
            doc: doc.to_owned(),
            when: when.map(str::to_owned),
        });
        if depth < DEEPEST {
            inner(root, target, &path, depth, out);
        }
    }
}

fn inner(root: &Json, schema: &Json, path: &str, depth: usize, out: &mut Vec<Field>) {
    if schema.get("properties").is_some() {
        table(root, schema, path, None, depth + 1, out);
    }
    if let Some(items) = schema.get("items") {
        inner(root, resolve(root, items), path, depth + 1, out);
    }
    for branch in branches(schema).into_iter().flatten() {
        let branch = resolve(root, branch);
        let when = discriminator(branch);
        match when {
            Some(when) => table(root, branch, path, Some(&when), depth + 1, out),
            None => inner(root, branch, path, depth + 1, out),
        }
    }
}

/// `type: cosine` of a branch of a tagged union.
fn discriminator(branch: &Json) -> Option<String> {
    let properties = branch["properties"].as_object()?;
    properties.iter().find_map(|(name, field)| Some(format!("{name}: {}", plain(field.get("const")?))))
}

fn branches(schema: &Json) -> Option<&Vec<Json>> {
    schema.get("anyOf").or(schema.get("oneOf")).and_then(Json::as_array)
}

fn resolve<'a>(root: &'a Json, schema: &'a Json) -> &'a Json {
    let mut at = schema;
    for _ in 0..8 {
        let Some(target) = at.get("$ref").and_then(Json::as_str) else { break };
        at = &root["$defs"][target.trim_start_matches("#/$defs/")];
    }
    at
}

/// What a field takes.
pub fn type_words(root: &Json, schema: &Json) -> String {
    let schema = resolve(root, schema);
    if let Some(value) = schema.get("const") {
        return format!("`{}`", plain(value));
    }
    if let Some(values) = schema.get("enum").and_then(Json::as_array) {
        return values.iter().map(|value| format!("`{}`", plain(value))).collect::<Vec<_>>().join(" | ");
    }
    if let Some(branches) = branches(schema) {
        let mut words: Vec<String> = Vec::new();
        let mut tags: Vec<String> = Vec::new();
        for branch in branches {
            let target = resolve(root, branch);
            match discriminator(target) {
                Some(tag) => tags.push(format!("`{tag}`")),
                None => words.push(type_words(root, target)),
            }
        }
        if !tags.is_empty() {
            words.push(format!("table with {}", tags.join(" | ")));
        }
        words.dedup();
        let choices = words.iter().all(|word| word.starts_with('`'));
        return words.join(if choices { " | " } else { " or " });
    }
    let names: Vec<&str> = match &schema["type"] {
        Json::String(name) => vec![name.as_str()],
        Json::Array(names) => names.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    };
    let words: Vec<String> = names.into_iter().map(|name| one_type(root, schema, name)).collect();
    if words.is_empty() { "any value".into() } else { words.join(" or ") }
}

fn one_type(root: &Json, schema: &Json, name: &str) -> String {
    let range = range(schema).map_or(String::new(), |range| format!(", {range}"));
    match name {
        "integer" => format!("whole number{range}"),
        "number" => format!("number{range}"),
        "string" => schema["x-form"].as_str().map_or("text".into(), |form| format!("text: {form}")),
        "boolean" => "`true` | `false`".into(),
        "array" => match schema.get("items") {
            Some(items) => format!("list of {}", type_words(root, items)),
            None => "list".into(),
        },
        _ => "table".into(),
    }
}

fn range(schema: &Json) -> Option<String> {
    let number = |keyword: &str| schema.get(keyword).filter(|limit| limit.is_number());
    if let (Some(min), Some(max)) = (number("minimum"), number("maximum")) {
        return Some(format!("{min} to {max}"));
    }
    let limits = [
        ("more than", "exclusiveMinimum"),
        ("at least", "minimum"),
        ("less than", "exclusiveMaximum"),
        ("at most", "maximum"),
    ];
    let words: Vec<String> =
        limits.iter().filter_map(|(word, keyword)| Some(format!("{word} {}", number(keyword)?))).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nested_tables_and_unions() {
        let schema = json!({
            "properties": {
                "type": { "const": "a.b" },
                "model": { "type": "string", "x-port": {} },
                "rank": { "type": "integer", "minimum": 1, "maximum": 8, "default": 4, "description": "Rank." },
                "schedule": { "$ref": "#/$defs/Schedule" },
            },
            "required": ["type", "schedule"],
            "$defs": { "Schedule": { "oneOf": [
                { "properties": { "type": { "const": "constant" } } },
                { "properties": { "type": { "const": "cosine" }, "floor": { "type": "number", "exclusiveMinimum": 0 } } },
            ] } },
        });
        let found = fields(&schema);
        let short: Vec<_> = found.iter().map(|f| (f.path.as_str(), f.ty.as_str(), f.when.as_deref())).collect();
        assert_eq!(
            short,
            [
                ("rank", "whole number, 1 to 8", None),
                ("schedule", "table with `type: constant` | `type: cosine`", None),
                ("schedule.floor", "number, more than 0", Some("type: cosine")),
            ]
        );
        assert!(found[1].required && found[0].default.as_deref() == Some("4"));
    }
}
