//! TOML events into the spanned tree.
//!
//! The lexer and the event parser are `toml_parser`'s; which table may be opened or extended how
//! often (<https://toml.io/en/v1.1.0#table>) is decided here, with the place of both sides.

use toml_parser::decoder::{Encoding, ScalarKind};
use toml_parser::parser::{EventReceiver, RecursionGuard, parse_document};
use toml_parser::{ErrorSink, ParseError, Source};

use super::tree::{Entry, Map, Tree, Value};
use super::{MAX_DEPTH, Parsed, duplicate};
use crate::diagnostic::{Diagnostic, FileId, Span};

/// Parses one document; byte 0 of `text` is byte `base` of the file.
pub(super) fn parse(text: &str, file: FileId, base: usize) -> Parsed {
    let source = Source::new(text);
    let tokens = source.lex().into_vec();
    let mut errors: Vec<ParseError> = Vec::new();
    let whole = Span::new(file, base, base + text.len());
    let mut builder = Builder {
        source,
        file,
        base,
        root: Map::new(),
        header: Vec::new(),
        header_ok: true,
        kinds: Default::default(),
        stack: vec![Frame::default()],
        in_header: false,
        diagnostics: Vec::new(),
    };
    parse_document(&tokens, &mut RecursionGuard::new(&mut builder, MAX_DEPTH as u32), &mut errors);
    let mut diagnostics = builder.diagnostics;
    diagnostics.extend(errors.iter().map(|error| syntax_error(error, text, file, base)));
    let broken = diagnostics.iter().any(|d| d.code == "P0004" || d.code == "P0012");
    let tree = (!broken).then(|| Tree::new(Value::Map(builder.root), whole));
    Parsed { tree, diagnostics }
}

struct Builder<'i> {
    source: Source<'i>,
    file: FileId,
    base: usize,
    root: Map,
    /// The table of the latest header; list items are chosen by their number.
    header: Vec<String>,
    /// False when the latest header was wrong: its entries are dropped.
    header_ok: bool,
    /// How each table came to be, by its path.
    kinds: std::collections::HashMap<Vec<String>, Kind>,
    stack: Vec<Frame>,
    in_header: bool,
    diagnostics: Vec<Diagnostic>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Opened by a longer header.
    Implicit,
    /// Opened by its own header.
    Header,
    /// Opened by a dotted key.
    Dotted,
    /// A list made by `[[…]]`.
    Tables,
}

/// A value under construction; the first frame is the table of the latest header.
#[derive(Default)]
struct Frame {
    keys: Vec<(String, Span)>,
    body: Body,
    start: usize,
}

#[derive(Default)]
enum Body {
    #[default]
    Table,
    Inline(Map),
    Array(Vec<Tree>),
}

impl<'i> Builder<'i> {
    fn span(&self, span: toml_parser::Span) -> Span {
        Span::new(self.file, self.base + span.start(), self.base + span.end())
    }

    /// Puts a finished value where it belongs.
    fn put(&mut self, value: Tree) {
        let Some(frame) = self.stack.last_mut() else { return };
        let keys = std::mem::take(&mut frame.keys);
        match &mut frame.body {
            Body::Array(items) => items.push(value),
            Body::Inline(map) => {
                if let Err(diagnostic) = insert_inline(map, &keys, value) {
                    self.diagnostics.push(*diagnostic);
                }
            }
            Body::Table => {
                if self.header_ok && !keys.is_empty() {
                    self.insert(keys, value);
                }
            }
        }
    }

    /// `a.b = value` below the latest header.
    fn insert(&mut self, keys: Vec<(String, Span)>, value: Tree) {
        let mut path = self.header.clone();
        let Some(mut map) = descend(&mut self.root, &path) else { return };
        if path.len() + keys.len() + depth(&value) > MAX_DEPTH {
            self.diagnostics.push(too_deep(keys[0].1));
            return;
        }
        let (last, parents) = keys.split_last().expect("a key");
        for (name, span) in parents {
            path.push(name.clone());
            if !map.contains_key(name) {
                self.kinds.insert(path.clone(), Kind::Dotted);
                let table = Tree::new(Value::Map(Map::new()), *span);
                map.insert(name.clone(), Entry { key_span: *span, value: table });
            } else if self.kinds.get(&path) != Some(&Kind::Dotted) {
                let first = map[name].key_span;
                self.diagnostics.push(duplicate(name, first, *span));
                return;
            }
            match &mut map[name].value.value {
                Value::Map(inner) => map = inner,
                _ => return,
            }
        }
        put_last(map, last, value).unwrap_or_else(|diagnostic| self.diagnostics.push(*diagnostic));
    }

    /// `[a.b]` or `[[a.b]]`.
    fn open_header(&mut self, keys: Vec<(String, Span)>, list: bool) {
        self.header_ok = false;
        let Some((last, parents)) = keys.split_last() else { return };
        if keys.len() > MAX_DEPTH {
            self.diagnostics.push(too_deep(last.1));
            return;
        }
        let mut path: Vec<String> = Vec::new();
        let mut map = &mut self.root;
        for (name, span) in parents {
            path.push(name.clone());
            if !map.contains_key(name) {
                self.kinds.insert(path.clone(), Kind::Implicit);
                let table = Tree::new(Value::Map(Map::new()), *span);
                map.insert(name.clone(), Entry { key_span: *span, value: table });
            }
            let first = map[name].key_span;
            let kind = self.kinds.get(&path).copied();
            match (&mut map[name].value.value, kind) {
                (Value::Map(inner), Some(_)) => map = inner,
                (Value::Seq(items), Some(Kind::Tables)) => {
                    path.push((items.len() - 1).to_string());
                    match items.last_mut().map(|item| &mut item.value) {
                        Some(Value::Map(inner)) => map = inner,
                        _ => return,
                    }
                }
                _ => {
                    self.diagnostics.push(duplicate(name, first, *span));
                    return;
                }
            }
        }
        let (name, span) = last;
        path.push(name.clone());
        let fresh = Tree::new(Value::Map(Map::new()), *span);
        match (map.get_mut(name), self.kinds.get(&path).copied(), list) {
            (None, _, false) => {
                self.kinds.insert(path.clone(), Kind::Header);
                map.insert(name.clone(), Entry { key_span: *span, value: fresh });
            }
            (None, _, true) => {
                self.kinds.insert(path.clone(), Kind::Tables);
                let tables = Tree::new(Value::Seq(vec![fresh]), *span);
                map.insert(name.clone(), Entry { key_span: *span, value: tables });
                path.push("0".into());
            }
            (Some(entry), Some(Kind::Implicit), false) => {
                entry.key_span = *span;
                self.kinds.insert(path.clone(), Kind::Header);
            }
            (Some(entry), Some(Kind::Tables), true) => {
                if let Value::Seq(items) = &mut entry.value.value {
                    items.push(fresh);
                    path.push((items.len() - 1).to_string());
                }
            }
            (Some(entry), ..) => {
                let diagnostic = duplicate(name, entry.key_span, *span);
                self.diagnostics.push(diagnostic);
                return;
            }
        }
        self.header = path;
        self.header_ok = true;
    }

    fn close(&mut self, end: toml_parser::Span) {
        if self.stack.len() < 2 {
            return;
        }
        let Some(frame) = self.stack.pop() else { return };
        let span = Span::new(self.file, frame.start, self.base + end.end());
        match frame.body {
            Body::Array(items) => self.put(Tree::new(Value::Seq(items), span)),
            Body::Inline(map) => self.put(Tree::new(Value::Map(map), span)),
            Body::Table => {}
        }
    }

    fn open(&mut self, body: Body, span: toml_parser::Span) {
        let start = self.base + span.start();
        self.stack.push(Frame { keys: Vec::new(), body, start });
    }

    fn header_begins(&mut self) {
        self.stack.truncate(1);
        self.stack[0].keys.clear();
        self.in_header = true;
    }

    fn header_ends(&mut self, list: bool) {
        if std::mem::take(&mut self.in_header) {
            let keys = std::mem::take(&mut self.stack[0].keys);
            self.open_header(keys, list);
        }
    }
}

impl EventReceiver for Builder<'_> {
    fn std_table_open(&mut self, _: toml_parser::Span, _: &mut dyn ErrorSink) {
        self.header_begins();
    }
    fn std_table_close(&mut self, _: toml_parser::Span, _: &mut dyn ErrorSink) {
        self.header_ends(false);
    }
    fn array_table_open(&mut self, _: toml_parser::Span, _: &mut dyn ErrorSink) {
        self.header_begins();
    }
    fn array_table_close(&mut self, _: toml_parser::Span, _: &mut dyn ErrorSink) {
        self.header_ends(true);
    }
    fn inline_table_open(&mut self, span: toml_parser::Span, _: &mut dyn ErrorSink) -> bool {
        self.open(Body::Inline(Map::new()), span);
        true
    }
    fn inline_table_close(&mut self, span: toml_parser::Span, _: &mut dyn ErrorSink) {
        self.close(span);
    }
    fn array_open(&mut self, span: toml_parser::Span, _: &mut dyn ErrorSink) -> bool {
        self.open(Body::Array(Vec::new()), span);
        true
    }
    fn array_close(&mut self, span: toml_parser::Span, _: &mut dyn ErrorSink) {
        self.close(span);
    }
    fn simple_key(&mut self, span: toml_parser::Span, kind: Option<Encoding>, error: &mut dyn ErrorSink) {
        let Some(raw) = self.source.get(span) else { return };
        let raw = toml_parser::Raw::new_unchecked(raw.as_str(), kind, span);
        let mut name = String::new();
        raw.decode_key(&mut name, error);
        let place = self.span(span);
        if let Some(frame) = self.stack.last_mut() {
            frame.keys.push((name, place));
        }
    }
    fn scalar(&mut self, span: toml_parser::Span, kind: Option<Encoding>, error: &mut dyn ErrorSink) {
        let Some(raw) = self.source.get(span) else { return };
        let raw = toml_parser::Raw::new_unchecked(raw.as_str(), kind, span);
        let mut text = String::new();
        let kind = raw.decode_scalar(&mut text, error);
        let place = self.span(span);
        let value = match kind {
            ScalarKind::String => Value::String(text),
            ScalarKind::Boolean(b) => Value::Bool(b),
            ScalarKind::Float => Value::Float(text.parse().unwrap_or(f64::NAN)),
            ScalarKind::Integer(radix) => match i128::from_str_radix(&text, radix.value()) {
                Ok(int) => Value::Int(int),
                Err(_) => Value::Float(f64::INFINITY),
            },
            ScalarKind::DateTime => {
                let diagnostic =
                    Diagnostic::error("P0014", place, format!("no field takes a date or time, found `{text}`"))
                        .help(format!("put it in quotes if text is meant: `\"{text}\"`"));
                self.diagnostics.push(diagnostic);
                Value::String(text)
            }
        };
        self.put(Tree::new(value, place));
    }
}

fn descend<'m>(root: &'m mut Map, path: &[String]) -> Option<&'m mut Map> {
    let mut map = root;
    let mut parts = path.iter();
    while let Some(part) = parts.next() {
        map = match &mut map.get_mut(part)?.value.value {
            Value::Map(inner) => inner,
            Value::Seq(items) => match &mut items.get_mut(parts.next()?.parse::<usize>().ok()?)?.value {
                Value::Map(inner) => inner,
                _ => return None,
            },
            _ => return None,
        };
    }
    Some(map)
}

/// `{ a.b = 1 }`: dotted keys inside an inline table extend only tables begun by dotted keys there.
fn insert_inline(map: &mut Map, keys: &[(String, Span)], value: Tree) -> Result<(), Box<Diagnostic>> {
    let Some((last, parents)) = keys.split_last() else { return Ok(()) };
    if keys.len() > MAX_DEPTH {
        return Err(Box::new(too_deep(last.1)));
    }
    let mut map = map;
    for (name, span) in parents {
        let entry = map.entry(name.clone()).or_insert_with(|| Entry {
            key_span: *span,
            // A table begun by a dotted key is marked by having its key's own span.
            value: Tree::new(Value::Map(Map::new()), *span),
        });
        let (first, dotted) = (entry.key_span, entry.value.span == entry.key_span);
        match &mut entry.value.value {
            Value::Map(inner) if dotted => map = inner,
            _ => return Err(Box::new(duplicate(name, first, *span))),
        }
    }
    put_last(map, last, value)
}

fn put_last(map: &mut Map, (name, span): &(String, Span), value: Tree) -> Result<(), Box<Diagnostic>> {
    if let Some(first) = map.get(name) {
        return Err(Box::new(duplicate(name, first.key_span, *span)));
    }
    map.insert(name.clone(), Entry { key_span: *span, value });
    Ok(())
}

/// How deep a value is nested; the guard of the parser bounds each part of it.
fn depth(tree: &Tree) -> usize {
    match &tree.value {
        Value::Seq(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Map(map) => 1 + map.values().map(|entry| depth(&entry.value)).max().unwrap_or(0),
        _ => 0,
    }
}

fn too_deep(span: Span) -> Diagnostic {
    Diagnostic::error("P0012", span, format!("tables and lists are nested more than {MAX_DEPTH} levels deep"))
}

fn syntax_error(error: &ParseError, text: &str, file: FileId, base: usize) -> Diagnostic {
    let range = error.unexpected().or(error.context()).map_or(0..0, |span| span.start()..span.end());
    let start = range.start.min(text.len());
    let line_end = text.get(start..).and_then(|rest| rest.find('\n')).map_or(text.len(), |at| start + at);
    let span = Span::new(file, base + start, base + range.end.clamp(start, line_end.max(start)));
    if error.description().starts_with("cannot recurse") {
        return too_deep(span);
    }
    let word = text.get(start..start + (span.end - span.start) as usize).unwrap_or("");
    let bare = word.starts_with(|c: char| c.is_alphabetic() || "./~".contains(c)) && !word.contains(['\n', '"', '=']);
    if bare && text[..start].trim_end().ends_with(['=', '[', ',']) {
        let message = format!("`{word}` is no TOML value; text needs quotes");
        return Diagnostic::error("P0004", span, message).help(format!("write \"{word}\""));
    }
    let mut message = error.description().trim_end_matches('.').to_owned();
    if let Some(expected) = error.expected().filter(|expected| !expected.is_empty()) {
        let names: Vec<String> = expected
            .iter()
            .map(|e| match e {
                toml_parser::Expected::Literal(text) => format!("`{}`", text.escape_debug()),
                toml_parser::Expected::Description(text) => (*text).to_owned(),
                _ => "something else".to_owned(),
            })
            .collect();
        message.push_str(&format!(", expected {}", names.join(" or ")));
    }
    Diagnostic::error("P0004", span, message)
}
