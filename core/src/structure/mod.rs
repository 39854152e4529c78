//! The structural check: a tree against the schema of a node or of the settings.
//!
//! Understands the part of JSON Schema that schemars writes for config structs, in the normal
//! form of [`crate::registry`], and two extensions: `x-exclusive: [a, b]` (at most one of the
//! fields) and `x-one-of: [a, b]` (exactly one). Every fault is found, each at its own place, in
//! plain words; a generic validator would say "is not valid under any of the schemas".

mod table;
mod union;
mod value;
mod words;

pub(crate) use table::groups;

use std::cell::Cell;

use serde_json::Value as Json;

use crate::diagnostic::{Diagnostic, Span};
use crate::document::{Tree, Value};

/// What a schema describes, for messages.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// Everything outside `nodes`.
    Document,
    /// A node by its name and type.
    Node(&'a str, &'a str),
}

/// What only the caller knows and messages may mention.
pub trait Hints {
    /// Where a field unknown here would be at home.
    fn elsewhere(&self, _field: &str, _subject: Subject) -> Option<String> {
        None
    }
    /// What a field is called here that another trainer knows by this name; `has` tells the fields of its table.
    fn foreign(&self, _field: &str, _subject: Subject, _has: &dyn Fn(&str) -> bool) -> Option<String> {
        None
    }
    /// Which nodes of the document could fill an input that is not filled.
    fn candidates(&self, _port: &str, _subject: Subject) -> Option<String> {
        None
    }
}

/// No hints.
pub struct NoHints;
impl Hints for NoHints {}

/// The checker of one node, or of the settings.
pub struct Structure<'a> {
    root: &'a Json,
    subject: Subject<'a>,
    hints: &'a dyn Hints,
    /// Suggestions cost time; a document with thousands of faults gets them for the first ones.
    budget: &'a Cell<u32>,
    skip: &'a [&'a str],
    /// Variants of the tagged union whose chosen one is checked next, with the name of the tag.
    variants: Option<(&'a str, Vec<&'a Json>)>,
    out: Vec<Diagnostic>,
}

/// Path of fields and items from the start of the subject.
pub(crate) type Path<'p> = Vec<Step<'p>>;

/// One step of a path.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'p> {
    Field(&'p str),
    Item(usize),
}

impl<'a> Structure<'a> {
    /// A checker for values of `root`, whose `$ref`s point into its own `$defs`.
    pub fn new(root: &'a Json, subject: Subject<'a>, hints: &'a dyn Hints, budget: &'a Cell<u32>) -> Self {
        Structure { root, subject, hints, budget, skip: &[], variants: None, out: Vec::new() }
    }
    /// Fields of the root table that are checked elsewhere.
    pub fn skip(mut self, fields: &'a [&'a str]) -> Self {
        self.skip = fields;
        self
    }
    /// Checks a tree; `key` is the place of the key it stands under.
    pub fn check(mut self, tree: &Tree, key: Option<Span>) -> Vec<Diagnostic> {
        let root = self.root;
        self.value(tree, key, root, &mut Vec::new());
        self.out
    }

    /// A checker that reports apart, to try a branch of a union.
    fn trial(&self) -> Structure<'a> {
        Structure { out: Vec::new(), skip: &[], variants: None, ..*self }
    }

    /// Follows `$ref`s to the schema they stand for.
    fn resolve(&self, mut schema: &'a Json) -> &'a Json {
        for _ in 0..16 {
            let Some(name) = schema.get("$ref").and_then(Json::as_str) else { break };
            let target = name.strip_prefix("#/$defs/").and_then(|name| self.root.get("$defs")?.get(name));
            match target {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    /// Checks one value. Faults inside do not stop the check of its siblings.
    fn value<'p>(&mut self, tree: &'p Tree, key: Option<Span>, schema: &'a Json, path: &mut Path<'p>) {
        let span = place(tree, key);
        if tree.value == Value::Null {
            let message = format!("{} has no value", words::name(path, self.subject));
            let help = "give it a value, or leave the key out to get the default";
            return self.out.push(Diagnostic::error("P0110", span, message).help(help));
        }
        let target = self.resolve(schema);
        if let Some(parts) = target.get("allOf").and_then(Json::as_array) {
            for part in parts {
                self.value(tree, key, part, path);
            }
        }
        if target.get("anyOf").or(target.get("oneOf")).is_some() {
            return self.union(tree, key, target, path);
        }
        if target.get("enum").is_some() || target.get("const").is_some() {
            return self.choice(tree, span, target, path);
        }
        if !value::type_fits(target, tree) {
            return self.wrong_type(tree, span, target, path);
        }
        match &tree.value {
            Value::Int(_) | Value::Float(_) => {
                self.number(tree, target, path);
                if !std::ptr::eq(schema, target) {
                    self.number(tree, schema, path);
                }
            }
            Value::String(text) => self.text(text, tree.span, target, path),
            Value::Seq(items) => self.list(items, tree.span, target, path),
            Value::Map(map) => self.table(map, tree, key, target, path),
            Value::Bool(_) | Value::Null => {}
        }
    }

    fn suggestions<'c>(&self, word: &str, names: impl IntoIterator<Item = &'c str>) -> Vec<&'c str> {
        match self.budget.get() {
            0 => Vec::new(),
            left => {
                self.budget.set(left - 1);
                crate::diagnostic::suggest(word, names)
            }
        }
    }
}

/// Where to point for a value: at the value, or at the key of a table or of nothing.
pub(crate) fn place(tree: &Tree, key: Option<Span>) -> Span {
    match (&tree.value, key) {
        (Value::Map(_) | Value::Null, Some(key)) => key,
        _ => tree.span,
    }
}
