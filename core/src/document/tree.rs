//! The spanned tree: one model for YAML and TOML.

use indexmap::IndexMap;
use serde_json::{Number, Value as Json};

use crate::diagnostic::Span;

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// The value.
    pub value: Value,
    /// Where it is written.
    pub span: Span,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, `~`, or nothing after the colon.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number as written.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// Text.
    String(String),
    /// A list.
    Seq(Vec<Tree>),
    /// A table.
    Map(Map),
}

/// A table: entries in the document's order.
pub type Map = IndexMap<String, Entry>;

/// An entry of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where the key is written.
    pub key_span: Span,
    /// The value.
    pub value: Tree,
}

impl Tree {
    /// A value at a place.
    pub fn new(value: Value, span: Span) -> Self {
        Tree { value, span }
    }
    /// The table, if it is one.
    pub fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }
    /// The list, if it is one.
    pub fn as_seq(&self) -> Option<&[Tree]> {
        match &self.value {
            Value::Seq(items) => Some(items),
            _ => None,
        }
    }
    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
    /// The value of a key, if this is a table that has it.
    pub fn get(&self, key: &str) -> Option<&Tree> {
        self.as_map()?.get(key).map(|entry| &entry.value)
    }
    /// The value at `a.b.0.c`, if there is one.
    pub fn at(&self, path: &str) -> Option<&Tree> {
        let (place, rest) = self.walk(path);
        rest.is_empty().then_some(place.tree)
    }
    /// The deepest existing part of a path: where to point when the rest is missing.
    pub fn deepest(&self, path: &str) -> Deepest<'_> {
        self.walk(path).0
    }

    fn walk<'p>(&self, path: &'p str) -> (Deepest<'_>, Vec<&'p str>) {
        let mut place = Deepest { tree: self, key: None, depth: 0 };
        let mut parts: Vec<&str> = path.split(['.', '[', ']']).filter(|part| !part.is_empty()).collect();
        while let Some(part) = parts.first() {
            let next = match &place.tree.value {
                Value::Map(map) => map.get(*part).map(|entry| (&entry.value, Some(entry.key_span))),
                Value::Seq(items) => part.parse().ok().and_then(|i: usize| items.get(i)).map(|item| (item, None)),
                _ => None,
            };
            let Some((tree, key)) = next else { break };
            place = Deepest { tree, key, depth: place.depth + 1 };
            parts.remove(0);
        }
        (place, parts)
    }

    /// As JSON. Whole floats become integers, so that `1`, `1.0` and `1e0` are one value; numbers
    /// that JSON does not have become null (the structural check rejects them).
    pub fn to_json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => int(*i),
            Value::Float(f) => float(*f),
            Value::String(s) => Json::String(s.clone()),
            Value::Seq(items) => Json::Array(items.iter().map(Tree::to_json).collect()),
            Value::Map(map) => Json::Object(map.iter().map(|(k, entry)| (k.clone(), entry.value.to_json())).collect()),
        }
    }

    /// What a message calls this value.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".into(),
            Value::Bool(b) => format!("`{b}`"),
            Value::Int(i) => format!("the number {i}"),
            Value::Float(f) => format!("the number {f}"),
            Value::String(s) if s.chars().count() > 40 => {
                format!("the text `{}…`", s.chars().take(39).collect::<String>())
            }
            Value::String(s) => format!("the text `{s}`"),
            Value::Seq(_) => "a list".into(),
            Value::Map(_) => "a table".into(),
        }
    }
}

/// Result of [`Tree::deepest`].
#[derive(Clone, Copy, Debug)]
pub struct Deepest<'a> {
    /// The value reached.
    pub tree: &'a Tree,
    /// The key it stands under, unless it is a list item or the start.
    pub key: Option<Span>,
    /// How many parts of the path exist.
    pub depth: usize,
}

impl Deepest<'_> {
    /// Where to point: at the value, or at the key of a table or of nothing.
    pub fn span(&self) -> Span {
        match (&self.tree.value, self.key) {
            (Value::Map(_) | Value::Null, Some(key)) => key,
            _ => self.tree.span,
        }
    }
}

fn int(i: i128) -> Json {
    match (u64::try_from(i), i64::try_from(i)) {
        (Ok(u), _) => Json::from(u),
        (_, Ok(s)) => Json::from(s),
        _ => float(i as f64),
    }
}

fn float(f: f64) -> Json {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if f.fract() == 0.0 && f.abs() < EXACT {
        return Json::from(f as i64);
    }
    Number::from_f64(f).map_or(Json::Null, Json::Number)
}
