//! From shapes to draft-07, with a definition for each form that holds tables.

use pipe_core::diagnostic::suggest::{and_list, or_list};
use serde_json::{Map, Value as Json, json};

use super::{alternative, annotate_field, leaf, object, tagged};
use crate::shape::{Field, Kind, List, Shape, Table, Variant};
use crate::words;

/// Writes schemas and collects the definitions that they refer to.
#[derive(Default)]
pub(super) struct Emitter {
    definitions: Map<String, Json>,
}

impl Emitter {
    /// Keeps a name for a definition that the caller adds.
    pub fn reserve(&mut self, name: &str) {
        self.definitions.insert(name.into(), Json::Null);
    }

    /// Everything that was defined.
    pub fn definitions(self) -> impl Iterator<Item = (String, Json)> {
        self.definitions.into_iter().filter(|(_, schema)| !schema.is_null())
    }

    /// Adds a definition and returns its reference. Equal definitions are shared; different ones
    /// of one name are numbered.
    pub fn define(&mut self, name: &str, schema: Map<String, Json>) -> String {
        let schema = Json::Object(schema);
        let mut unique = name.to_owned();
        let mut number = 1;
        while let Some(other) = self.definitions.get(&unique) {
            if *other == schema {
                return format!("#/definitions/{unique}");
            }
            number += 1;
            unique = format!("{name}{number}");
        }
        self.definitions.insert(unique.clone(), schema);
        format!("#/definitions/{unique}")
    }

    /// The schema of a field, with its annotations.
    pub fn field(&mut self, field: &Field) -> Json {
        let mut out = Map::new();
        annotate_field(&mut out, field);
        out.extend(self.shape(&field.shape, &words::sentence(field, true)));
        if let Some(default) = &field.default {
            out.insert("default".into(), default.clone());
        }
        Json::Object(out)
    }

    /// The schema of a value: its keywords, or a reference. `main` is the text of choices in TOML.
    pub fn shape(&mut self, shape: &Shape, main: &str) -> Map<String, Json> {
        let Some(def) = shape.def.as_ref().filter(|_| shape.has_tables()) else {
            return self.kind(&shape.kind, main);
        };
        // No `description`: hovers would show it instead of the field's own. Taplo, which does not
        // see what stands beside a `$ref`, gets it in its own place.
        let mut out = object(json!({ "title": words::title_of(def) }));
        out.extend(self.kind(&shape.kind, &shape.description));
        if !shape.description.is_empty() {
            out.insert("x-taplo".into(), json!({ "docs": { "main": shape.description } }));
        }
        let target = self.define(def, out);
        Map::from_iter([("$ref".to_owned(), target.into())])
    }

    fn kind(&mut self, kind: &Kind, main: &str) -> Map<String, Json> {
        match kind {
            // Everything but null.
            Kind::Any => object(json!({ "type": ["boolean", "number", "string", "array", "object"] })),
            Kind::Bool => object(json!({ "type": "boolean" })),
            Kind::Number { integer, limits } => leaf::number(*integer, limits),
            Kind::Text(text) => leaf::text(text),
            Kind::Choice(values) => leaf::choice(values, main),
            Kind::List(list) => self.list(list, main),
            Kind::Table(table) => self.table(table),
            Kind::Tagged { tag, variants } => self.tagged(tag, variants),
            Kind::OneOf(parts) => self.one_of(parts, main),
        }
    }

    fn list(&mut self, list: &List, main: &str) -> Map<String, Json> {
        let mut out = object(json!({ "type": "array" }));
        let items = list.items.as_ref().map(|items| self.item(items, main));
        if list.prefix.is_empty() {
            out.extend(items.map(|items| ("items".to_owned(), items)));
        } else {
            out.insert("items".into(), list.prefix.iter().map(|item| self.item(item, main)).collect());
            out.extend(items.map(|items| ("additionalItems".to_owned(), items)));
        }
        out.extend(list.min.filter(|min| *min > 0).map(|min| ("minItems".to_owned(), min.into())));
        out.extend(list.max.map(|max| ("maxItems".to_owned(), max.into())));
        if list.unique {
            out.insert("uniqueItems".into(), true.into());
        }
        out
    }

    /// An item of a list, or a value under a free name. For a hover over the field Taplo shows the
    /// text of the first item.
    fn item(&mut self, item: &Shape, main: &str) -> Json {
        let mut out = self.shape(item, main);
        if !out.contains_key("$ref") && !main.is_empty() {
            out.entry("x-taplo").or_insert_with(|| json!({ "docs": { "main": main } }));
        }
        Json::Object(out)
    }

    /// A closed table. Fields that exclude each other are told apart by `if`/`then`, since a
    /// `oneOf` or `not` would not name the field.
    pub fn table(&mut self, table: &Table) -> Map<String, Json> {
        let mut out = object(json!({ "type": "object" }));
        let required: Vec<&str> = table.fields.iter().filter(|f| f.required).map(|f| f.name.as_str()).collect();
        if !required.is_empty() {
            out.insert("required".into(), json!(required));
        }
        if !table.fields.is_empty() {
            let fields = table.fields.iter().map(|field| (field.name.clone(), self.field(field)));
            out.insert("properties".into(), Json::Object(fields.collect()));
        }
        if !table.open {
            let rest = table.rest.as_ref().map(|rest| self.item(rest, ""));
            out.insert("additionalProperties".into(), rest.unwrap_or(false.into()));
        }
        if table.min > 0 {
            out.insert("minProperties".into(), table.min.into());
        }
        let mut rules: Vec<Json> = table.exclusive.iter().chain(&table.one_of).flat_map(|g| exclusive(g)).collect();
        rules.extend(table.one_of.iter().filter_map(|group| needed(group)));
        match rules.len() {
            0 => {}
            1 => out.extend(rules.into_iter().flat_map(object)),
            _ => out.extend(object(json!({ "if": { "type": "object" }, "then": { "allOf": rules } }))),
        }
        out
    }

    fn tagged(&mut self, tag: &str, variants: &[Variant]) -> Map<String, Json> {
        let mut branches = Vec::new();
        for variant in variants {
            let then = Json::Object(tagged::closed(self, tag, variant));
            branches.push(tagged::Branch { variant: variant.clone(), then });
        }
        let values: Vec<&str> = variants.iter().map(|variant| variant.value.as_str()).collect();
        tagged::union(self, tag, &branches, &format!("{}.", or_list(&values)))
    }

    fn one_of(&mut self, parts: &[Shape], main: &str) -> Map<String, Json> {
        let forms = parts.iter().map(|part| alternative::Form::new(part, self.shape(part, main))).collect();
        alternative::join(forms, main)
    }
}

/// At most one of a group: whoever has one may not have a later one.
fn exclusive(group: &[String]) -> Vec<Json> {
    let rule = |index: usize| {
        let properties: Map<String, Json> =
            group[index + 1..].iter().map(|name| (name.clone(), false.into())).collect();
        let message = format!("{} exclude each other.", and_list(group));
        json!({ "if": { "required": [group[index]] }, "then": { "properties": properties, "errorMessage": message } })
    };
    (0..group.len().saturating_sub(1)).map(rule).collect()
}

/// At least one of a group. Servers without `errorMessage` name the first.
fn needed(group: &[String]) -> Option<Json> {
    let (first, others) = group.split_first()?;
    let any: Vec<Json> = others.iter().map(|name| json!({ "required": [name] })).collect();
    let rest = json!({ "required": [first], "errorMessage": format!("One of {} is needed.", and_list(group)) });
    Some(match any.as_slice() {
        [] => rest,
        [one] => json!({ "if": one, "else": rest }),
        any => json!({ "if": { "anyOf": any }, "else": rest }),
    })
}
