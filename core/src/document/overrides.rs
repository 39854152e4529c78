//! `--set path.to.field=value`: overrides with the same checking as the document.
//!
//! The value is read as YAML. Each override is a source text of its own, so that a diagnostic
//! about its value points into what was typed on the command line.

use super::tree::{Entry, Map, Tree, Value};
use super::yaml;
use crate::diagnostic::{Diagnostic, SourceFiles, Span, did_you_mean, suggest};

/// Applies all overrides in order; what cannot be applied becomes a diagnostic.
pub(super) fn apply(tree: &mut Tree, sets: &[String], files: &mut SourceFiles, diagnostics: &mut Vec<Diagnostic>) {
    for text in sets {
        let file = files.add("--set", text.clone());
        let whole = Span::new(file, 0, text.len());
        let Some((path, value)) = text.split_once('=') else {
            let message = format!("`{text}` is not of the form `path.to.field=value`");
            diagnostics.push(Diagnostic::error("P0016", whole, message));
            continue;
        };
        let start = path.len() + 1;
        let parsed = yaml::parse(value, file, start);
        let failed = !parsed.diagnostics.is_empty();
        diagnostics.extend(parsed.diagnostics);
        if failed {
            continue;
        }
        let value_span = Span::new(file, start, text.len());
        let value = parsed.tree.unwrap_or(Tree::new(Value::Null, value_span));
        let mut keys = Vec::new();
        let mut at = 0;
        for part in path.split('.') {
            let name = part.trim();
            let lead = part.len() - part.trim_start().len();
            keys.push((name.to_owned(), Span::new(file, at + lead, at + lead + name.len())));
            at += part.len() + 1;
        }
        if let Some((_, span)) = keys.iter().find(|(name, _)| name.is_empty()) {
            diagnostics.push(Diagnostic::error("P0016", span.to(whole), format!("an empty name in `{path}`")));
            continue;
        }
        if let Err(diagnostic) = put(tree, &keys, value) {
            diagnostics.push(*diagnostic);
        }
    }
}

fn put(tree: &mut Tree, keys: &[(String, Span)], value: Tree) -> Result<(), Box<Diagnostic>> {
    let fail = |span: Span, message: String| Box::new(Diagnostic::error("P0016", span, message));
    let (last, parents) = keys.split_last().expect("at least one key");
    let mut place = tree;
    for (depth, (name, span)) in parents.iter().enumerate() {
        if depth == 1 && keys[0].0 == "nodes" {
            known_node(place, name, *span)?;
        }
        let path = || keys[..depth].iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".");
        place = match &mut place.value {
            Value::Map(map) => {
                let entry = map
                    .entry(name.clone())
                    .or_insert_with(|| Entry { key_span: *span, value: Tree::new(Value::Map(Map::new()), *span) });
                if entry.value.value == Value::Null {
                    entry.value.value = Value::Map(Map::new());
                }
                &mut entry.value
            }
            Value::Seq(items) => item(items, name).ok_or_else(|| fail(*span, no_item(name, &path())))?,
            _ => return Err(fail(*span, format!("`{}` is no table, so it has no `{name}`", path()))),
        };
    }
    let (name, span) = last;
    let path = parents.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".");
    match &mut place.value {
        Value::Map(map) => {
            map.insert(name.clone(), Entry { key_span: *span, value });
        }
        Value::Seq(items) => *item(items, name).ok_or_else(|| fail(*span, no_item(name, &path)))? = value,
        _ => return Err(fail(*span, format!("`{path}` is no table, so it has no `{name}`"))),
    }
    Ok(())
}

fn item<'t>(items: &'t mut [Tree], name: &str) -> Option<&'t mut Tree> {
    items.get_mut(name.parse::<usize>().ok()?)
}

fn no_item(name: &str, path: &str) -> String {
    format!("`{path}` is a list and has no item `{name}`; items are numbered from 0")
}

/// A field cannot be set on a node that is not there: the name is misspelt.
fn known_node(nodes: &Tree, name: &str, span: Span) -> Result<(), Box<Diagnostic>> {
    let Some(map) = nodes.as_map() else { return Ok(()) };
    if map.contains_key(name) {
        return Ok(());
    }
    let near = suggest(name, map.keys().map(String::as_str));
    Err(Box::new(
        Diagnostic::error("P0016", span, format!("there is no node `{name}` in the document"))
            .note(did_you_mean(&near)),
    ))
}
