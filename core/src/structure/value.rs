//! Scalars and lists: types, choices, ranges, forms, lengths.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use regex::Regex;
use serde_json::Value as Json;

use super::{Path, Step, Structure, words};
use crate::diagnostic::{Diagnostic, Span, did_you_mean};
use crate::document::{Tree, Value, scalar};

/// Whether a value has a type the schema names. Whole floats are whole numbers: `steps: 1e4`.
pub(super) fn type_fits(schema: &Json, tree: &Tree) -> bool {
    let fits = |name: &str| match (&tree.value, name) {
        (Value::Bool(_), "boolean") | (Value::String(_), "string") => true,
        (Value::Seq(_), "array") | (Value::Map(_), "object") => true,
        (Value::Int(_) | Value::Float(_), "number") | (Value::Int(_), "integer") => true,
        (Value::Float(f), "integer") => f.fract() == 0.0 || !f.is_finite(),
        _ => false,
    };
    match &schema["type"] {
        Json::String(name) => fits(name),
        Json::Array(names) => names.iter().filter_map(Json::as_str).any(fits),
        _ => true,
    }
}

impl<'a> Structure<'a> {
    pub(super) fn expected(&self, schema: &'a Json) -> String {
        words::expected(schema, &|schema| self.resolve(schema))
    }

    pub(super) fn wrong_type(&mut self, tree: &Tree, span: Span, schema: &'a Json, path: &Path) {
        let expected = self.expected(schema);
        let message = format!("{} must be {expected}, found {}", words::name(path, self.subject), tree.describe());
        let mut diagnostic = Diagnostic::error("P0101", span, message);
        if let Some(help) = quoting(tree, &schema["type"]).or_else(|| self.tagged_alone(tree, schema, path)) {
            diagnostic = diagnostic.help(help);
        }
        self.out.push(diagnostic);
    }

    /// `enum`, `const`, or a union of these.
    pub(super) fn choice(&mut self, tree: &Tree, span: Span, schema: &'a Json, path: &Path) {
        let choices = words::choices(schema, &|schema| self.resolve(schema)).unwrap_or_default();
        let value = tree.to_json();
        if choices.contains(&&value) {
            return;
        }
        let names: Vec<&str> = choices.iter().filter_map(|choice| choice.as_str()).collect();
        let near = tree.as_str().map(|text| self.suggestions(text, names.iter().copied())).unwrap_or_default();
        let expected = self.expected(schema);
        let message = format!("{} must be {expected}, found {}", words::name(path, self.subject), tree.describe());
        let mut diagnostic = Diagnostic::error("P0103", span, message).note(did_you_mean(&near));
        if names.len() > 8 && near.is_empty() {
            diagnostic = diagnostic.help(format!("the choices are {}", names.join(", ")));
        }
        self.out.push(diagnostic);
    }

    pub(super) fn number(&mut self, tree: &Tree, schema: &Json, path: &Path) {
        let value = match tree.value {
            Value::Int(i) => i as f64,
            Value::Float(f) => f,
            _ => return,
        };
        let name = words::name(path, self.subject);
        let shown = tree.describe();
        let shown = shown.strip_prefix("the number ").unwrap_or(&shown);
        let integer = schema["type"] == "integer";
        if !value.is_finite() {
            let message = format!("{name} must be a finite number, found {}", tree.describe());
            return self.out.push(Diagnostic::error("P0112", tree.span, message));
        }
        let limit = |keyword: &str| schema.get(keyword).and_then(Json::as_f64);
        let inside = limit("minimum").is_none_or(|min| value >= min)
            && limit("maximum").is_none_or(|max| value <= max)
            && limit("exclusiveMinimum").is_none_or(|min| value > min)
            && limit("exclusiveMaximum").is_none_or(|max| value < max);
        if !inside {
            let range = words::range(schema).unwrap_or_default();
            let range = range.strip_prefix("of ").unwrap_or(&range);
            let message = format!("{name} must be {range}, found {shown}");
            return self.out.push(Diagnostic::error("P0105", tree.span, message));
        }
        if integer && let Some((low, high)) = machine_range(schema["format"].as_str()) {
            let whole = match tree.value {
                Value::Int(i) => i,
                _ => value as i128,
            };
            if whole < low || whole > high {
                // The field's own limits where they are narrower than what the machine can count.
                let low = limit("minimum").map_or(low, |min| low.max(min as i128));
                let high = limit("maximum").map_or(high, |max| high.min(max as i128));
                let message = format!("{name} must be from {low} to {high}, found {shown}");
                self.out.push(Diagnostic::error("P0105", tree.span, message));
            }
        }
    }

    pub(super) fn text(&mut self, text: &str, span: Span, schema: &Json, path: &Path) {
        let name = words::name(path, self.subject);
        let count = text.chars().count() as u64;
        let limit = |keyword: &str| schema.get(keyword).and_then(Json::as_u64);
        if let Some(min) = limit("minLength").filter(|min| count < *min) {
            let message = match count {
                0 => format!("{name} must not be empty"),
                _ => format!("{name} must have at least {min} characters, found {count}"),
            };
            self.out.push(Diagnostic::error("P0106", span, message));
        }
        if let Some(max) = limit("maxLength").filter(|max| count > *max) {
            let message = format!("{name} may have at most {max} characters, found {count}");
            self.out.push(Diagnostic::error("P0106", span, message));
        }
        let Some(pattern) = schema.get("pattern").and_then(Json::as_str) else { return };
        if compiled(pattern).is_none_or(|regex| regex.is_match(text)) {
            return;
        }
        let form = schema.get("x-form").and_then(Json::as_str);
        let form = form.map_or_else(|| format!("of the form `{pattern}`"), str::to_owned);
        let message = format!("{name} must be {form}, found the text `{text}`");
        self.out.push(Diagnostic::error("P0106", span, message));
    }

    pub(super) fn list<'p>(&mut self, items: &'p [Tree], span: Span, schema: &'a Json, path: &mut Path<'p>) {
        let limit = |keyword: &str| schema.get(keyword).and_then(Json::as_u64).map(|n| n as usize);
        let (min, max) = (limit("minItems").unwrap_or(0), limit("maxItems").unwrap_or(usize::MAX));
        if items.len() < min || items.len() > max {
            let want = match (min, max) {
                (min, max) if min == max => format!("{min} items"),
                (min, usize::MAX) => format!("at least {min} item{}", if min == 1 { "" } else { "s" }),
                (0, max) => format!("at most {max} items"),
                (min, max) => format!("from {min} to {max} items"),
            };
            let message = format!("{} must have {want}, found {}", words::name(path, self.subject), items.len());
            self.out.push(Diagnostic::error("P0107", span, message));
        }
        let prefix = schema.get("prefixItems").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        for (index, item) in items.iter().enumerate() {
            let Some(schema) = prefix.get(index).or(schema.get("items")) else { continue };
            path.push(Step::Item(index));
            self.value(item, None, schema, path);
            path.pop();
        }
        if schema.get("uniqueItems") == Some(&Json::Bool(true)) {
            let mut seen: HashMap<String, Span> = HashMap::new();
            for item in items {
                if let Some(first) = seen.insert(item.to_json().to_string(), item.span) {
                    let message = format!("{} holds {} twice", words::name(path, self.subject), item.describe());
                    self.out.push(Diagnostic::error("P0113", item.span, message).label(first, "first here"));
                }
            }
        }
    }
}

/// A number with `_` or `,` between its digits, as it is written here: `1_000` and `1,000` are 1000, `0,5` is 0.5.
fn separated(text: &str) -> Option<String> {
    let groups: Vec<&str> = text.split(',').collect();
    let thousands = groups[0].len() <= 3 && groups[0] != "0" && groups[1..].iter().all(|group| group.len() == 3);
    let joint = if thousands { "" } else { "." };
    let plain = groups.join(joint).replace('_', "");
    let digits = text.starts_with(|c: char| c.is_ascii_digit()) && plain != text;
    (digits && matches!(scalar::resolve(&plain), Value::Int(_) | Value::Float(_))).then_some(plain)
}

/// Why a value that looks right is of another type.
fn quoting(tree: &Tree, wanted: &Json) -> Option<String> {
    let wants = |name: &str| match wanted {
        Json::String(one) => one == name,
        Json::Array(names) => names.iter().any(|one| one == name),
        _ => false,
    };
    match &tree.value {
        Value::String(text) => match scalar::resolve(text) {
            Value::Int(_) | Value::Float(_) if wants("integer") || wants("number") => {
                Some(format!("a number in quotes is text; write {text} without quotes"))
            }
            Value::Bool(_) if wants("boolean") => Some(format!("in quotes it is text; write {text} without quotes")),
            _ if (wants("integer") || wants("number")) && separated(text).is_some() => {
                let plain = separated(text).unwrap_or_default();
                Some(format!("digits stand together, and decimals after a point; write {plain}"))
            }
            _ if wants("array") => Some(format!("write a list: [{text}]")),
            _ if wants("boolean") => match text.to_lowercase().as_str() {
                "yes" | "on" | "y" => Some(format!("`{text}` is text in YAML 1.2; write true")),
                "no" | "off" | "n" => Some(format!("`{text}` is text in YAML 1.2; write false")),
                _ => None,
            },
            _ => None,
        },
        Value::Int(_) | Value::Float(_) | Value::Bool(_) if wants("string") => {
            Some(format!("put it in quotes if text is meant: \"{}\"", words::literal(&tree.to_json())))
        }
        Value::Seq(items) if wants("string") && items.len() == 1 => {
            items[0].as_str().map(|text| format!("it takes one; write {text} without the brackets"))
        }
        _ => None,
    }
}

fn machine_range(format: Option<&str>) -> Option<(i128, i128)> {
    Some(match format? {
        "uint8" => (0, u8::MAX.into()),
        "uint16" => (0, u16::MAX.into()),
        "uint32" => (0, u32::MAX.into()),
        "uint64" | "uint" => (0, u64::MAX.into()),
        "int8" => (i8::MIN.into(), i8::MAX.into()),
        "int16" => (i16::MIN.into(), i16::MAX.into()),
        "int32" => (i32::MIN.into(), i32::MAX.into()),
        "int64" | "int" => (i64::MIN.into(), i64::MAX.into()),
        _ => return None,
    })
}

/// Compiled once a process; `None` for a pattern that the engine does not know.
pub(crate) fn compiled(pattern: &str) -> Option<Regex> {
    static CACHE: OnceLock<Mutex<HashMap<String, Option<Regex>>>> = OnceLock::new();
    let mut cache = CACHE.get_or_init(Mutex::default).lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    cache.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).ok()).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_thousands_or_decimals() {
        for (text, plain) in
            [("1_000", "1000"), ("1,000", "1000"), ("0,5", "0.5"), ("0,001", "0.001"), ("12,5", "12.5")]
        {
            assert_eq!(separated(text).as_deref(), Some(plain), "{text}");
        }
        for text in ["1000", "a,b", "1,2,3", "x_1", ""] {
            assert_eq!(separated(text), None, "{text}");
        }
    }
}
