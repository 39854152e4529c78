//! YAML events into the spanned tree.
//!
//! The scanner and the event parser are `granit-parser`'s; resolving scalars, anchors, merge keys
//! and duplicate keys is done here, each with the place of both sides.

mod error;

use std::collections::HashMap;

use granit_parser::{Event, Options, Parser, ScalarStyle, StructureStyle};

use super::tree::{Entry, Map, Tree, Value};
use super::{MAX_DEPTH, MAX_VALUES, Parsed, duplicate, scalar};
use crate::diagnostic::{Diagnostic, FileId, Span};

/// Parses one document; byte 0 of `text` is byte `base` of the file.
pub(super) fn parse(text: &str, file: FileId, base: usize) -> Parsed {
    let mut builder = Builder {
        file,
        base,
        stack: Vec::new(),
        root: None,
        anchors: HashMap::new(),
        values: 0,
        diagnostics: Vec::new(),
    };
    let mut options = Options::default();
    options.flow_nesting_limit = MAX_DEPTH + 8;
    options.block_nesting_limit = MAX_DEPTH + 8;
    let mut documents = 0;
    let mut read = 0;
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = match next {
            Ok(pair) => pair,
            Err(error) => {
                builder.diagnostics.push(error::syntax_error(text, file, base, &error, read));
                return Parsed { tree: None, diagnostics: builder.diagnostics };
            }
        };
        let range = span.byte_range().unwrap_or(0..0);
        read = range.end;
        let place = Span::new(file, base + range.start, base + range.end);
        if matches!(event, Event::DocumentStart(..)) {
            documents += 1;
            if documents > 1 {
                let message = "a second document begins here; one file describes one run";
                builder.diagnostics.push(Diagnostic::error("P0008", place, message));
                break;
            }
            continue;
        }
        if builder.event(event, place, text).is_none() {
            return Parsed { tree: None, diagnostics: builder.diagnostics };
        }
    }
    let root = builder.root.filter(|tree| tree.value != Value::Null);
    Parsed { tree: root, diagnostics: builder.diagnostics }
}

struct Builder {
    file: FileId,
    base: usize,
    stack: Vec<Frame>,
    root: Option<Tree>,
    anchors: HashMap<usize, Anchor>,
    values: usize,
    diagnostics: Vec<Diagnostic>,
}

struct Anchor {
    tree: Tree,
    values: usize,
    depth: usize,
}

struct Frame {
    body: Body,
    span: Span,
    flow: bool,
    anchor: usize,
    /// Count of values before this one, to know how many it holds.
    before: usize,
    /// Deepest nesting below this frame.
    depth: usize,
}

enum Body {
    Seq(Vec<Tree>),
    Map { map: Map, key: Option<Key>, merges: Vec<Tree> },
}

enum Key {
    Named(String, Span),
    Merge,
    /// A key that was reported; its value is dropped.
    Bad,
}

/// A finished value: the tree, the text it was written as if it is a plain or quoted scalar, and
/// its depth.
struct Done {
    tree: Tree,
    key: Option<String>,
    merge: bool,
    depth: usize,
}

impl Builder {
    /// Takes one event; `None` stops reading.
    fn event(&mut self, event: Event, span: Span, text: &str) -> Option<()> {
        self.reject_tag(&event, span, text);
        match event {
            Event::Scalar(content, style, anchor, tag) => {
                self.values += 1;
                let plain = style == ScalarStyle::Plain;
                let core = tag.as_ref().and_then(|tag| tag.core_suffix().map(str::to_owned));
                let value = self.scalar(&content, plain, span, core.as_deref());
                let key = (value != Value::Null).then(|| content.to_string());
                let merge = plain && content == "<<";
                let tree = Tree::new(value, span);
                self.remember(anchor, &tree, 1, 0);
                self.finish(Done { tree, key, merge, depth: 0 })
            }
            Event::SequenceStart(style, anchor, _) => self.open(Body::Seq(Vec::new()), style, anchor, span),
            Event::MappingStart(style, anchor, _) => {
                self.open(Body::Map { map: Map::new(), key: None, merges: Vec::new() }, style, anchor, span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(id) => self.alias(id, span),
            _ => Some(()),
        }
    }

    fn open(&mut self, body: Body, style: StructureStyle, anchor: usize, span: Span) -> Option<()> {
        if self.stack.len() >= MAX_DEPTH {
            self.too_deep(span);
            return None;
        }
        let before = self.values;
        self.values += 1;
        let flow = style == StructureStyle::Flow;
        self.stack.push(Frame { body, span, flow, anchor, before, depth: 0 });
        Some(())
    }

    fn close(&mut self, end: Span) -> Option<()> {
        let frame = self.stack.pop()?;
        let mut span = frame.span;
        let value = match frame.body {
            Body::Seq(items) => {
                span.end = items.last().map_or(span.end, |item| if frame.flow { span.end } else { item.span.end });
                Value::Seq(items)
            }
            Body::Map { mut map, merges, .. } => {
                let last = map.last().map(|(_, entry)| entry.value.span.end.max(entry.key_span.end));
                span.end = last.unwrap_or(span.end);
                for merge in merges {
                    self.merge(&mut map, merge);
                }
                Value::Map(map)
            }
        };
        if frame.flow {
            span.end = end.end;
        }
        span.end = span.end.max(span.start);
        let tree = Tree::new(value, span);
        self.remember(frame.anchor, &tree, self.values - frame.before, frame.depth + 1);
        self.finish(Done { tree, key: None, merge: false, depth: frame.depth + 1 })
    }

    fn remember(&mut self, anchor: usize, tree: &Tree, values: usize, depth: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, Anchor { tree: tree.clone(), values, depth });
        }
    }

    fn alias(&mut self, id: usize, span: Span) -> Option<()> {
        let Some(anchor) = self.anchors.get(&id) else {
            self.diagnostics.push(Diagnostic::error("P0010", span, "the alias stands inside its own anchor"));
            return None;
        };
        self.values += anchor.values;
        if self.values > MAX_VALUES {
            let message = format!("aliases blow the document up to more than {MAX_VALUES} values");
            self.diagnostics.push(Diagnostic::error("P0010", span, message));
            return None;
        }
        if self.stack.len() + anchor.depth > MAX_DEPTH {
            self.too_deep(span);
            return None;
        }
        let key = anchor.tree.as_str().map(str::to_owned);
        let done = Done { tree: anchor.tree.clone(), key, merge: false, depth: anchor.depth };
        self.finish(done)
    }

    fn too_deep(&mut self, span: Span) {
        let message = format!("tables and lists are nested more than {MAX_DEPTH} levels deep");
        self.diagnostics.push(Diagnostic::error("P0012", span, message));
    }

    /// Puts a finished value where it belongs: as item, key or value, or as the root.
    fn finish(&mut self, done: Done) -> Option<()> {
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(done.tree);
            return Some(());
        };
        frame.depth = frame.depth.max(done.depth);
        match &mut frame.body {
            Body::Seq(items) => items.push(done.tree),
            Body::Map { map, key, merges } => match key.take() {
                None => {
                    *key = Some(match done.key {
                        Some(_) if done.merge => Key::Merge,
                        Some(name) => Key::Named(name, done.tree.span),
                        None => {
                            let message = format!("a key is text, found {}", done.tree.describe());
                            self.diagnostics.push(Diagnostic::error("P0013", done.tree.span, message));
                            Key::Bad
                        }
                    });
                }
                Some(Key::Named(name, key_span)) => {
                    if let Some(first) = map.get(&name) {
                        self.diagnostics.push(duplicate(&name, first.key_span, key_span));
                    } else {
                        map.insert(name, Entry { key_span, value: done.tree });
                    }
                }
                Some(Key::Merge) => merges.push(done.tree),
                Some(Key::Bad) => {}
            },
        }
        Some(())
    }

    /// `<<: *base` or `<<: [*first, *second]`: entries that are not there yet.
    fn merge(&mut self, map: &mut Map, from: Tree) {
        match from.value {
            Value::Map(entries) => {
                for (name, entry) in entries {
                    map.entry(name).or_insert(entry);
                }
            }
            Value::Seq(items) if items.iter().all(|item| item.as_map().is_some()) => {
                for item in items {
                    self.merge(map, item);
                }
            }
            _ => {
                let message = format!("`<<` merges a table or a list of tables, found {}", from.describe());
                self.diagnostics.push(Diagnostic::error("P0017", from.span, message));
            }
        }
    }

    fn scalar(&mut self, content: &str, plain: bool, span: Span, core: Option<&str>) -> Value {
        let read = if plain { scalar::resolve(content) } else { Value::String(content.to_owned()) };
        let tagged = match core {
            None => return read,
            Some("str") => Some(Value::String(content.to_owned())),
            Some("int") => Some(scalar::resolve(content)).filter(|v| matches!(v, Value::Int(_))),
            Some("float") => match scalar::resolve(content) {
                Value::Int(i) => Some(Value::Float(i as f64)),
                other => Some(other).filter(|v| matches!(v, Value::Float(_))),
            },
            Some("bool") => Some(scalar::resolve(content)).filter(|v| matches!(v, Value::Bool(_))),
            Some("null") => Some(scalar::resolve(content)).filter(|v| *v == Value::Null),
            Some(_) => None,
        };
        tagged.unwrap_or_else(|| {
            let message = format!("the tag `!!{}` does not fit `{content}`", core.unwrap_or_default());
            self.diagnostics.push(Diagnostic::error("P0009", span, message));
            read
        })
    }

    fn reject_tag(&mut self, event: &Event, span: Span, text: &str) {
        let Some(tag) = event.tag() else { return };
        let container = !matches!(event, Event::Scalar(..));
        let fits = match tag.core_suffix() {
            Some("seq") => matches!(event, Event::SequenceStart(..)),
            Some("map") => matches!(event, Event::MappingStart(..)),
            Some(_) => !container,
            None => false,
        };
        if fits {
            return;
        }
        // The tag stands before the value, on the same line or the one before.
        let name = format!("{}{}", tag.original_handle(), tag.suffix());
        let until = (span.start as usize - self.base).min(text.len());
        let place = match text[..until].rfind(name.as_str()) {
            Some(at) => Span::new(self.file, self.base + at, self.base + at + name.len()),
            None => span,
        };
        let diagnostic = Diagnostic::error("P0009", place, format!("the tag `{name}` has no meaning here"));
        self.diagnostics
            .push(diagnostic.help("remove the tag; a secret is given as `${env:NAME}` where a field takes one"));
    }
}
