//! `--set path.to.field=value`: overrides with the same checking as the document.
//!
//! The value is read as YAML; `null` takes the field out of the document. Each override is a source text of its own, so
//! that a diagnostic about its value points into what was typed on the command line. A flag that stands for a field is
//! given as `--device=cuda`, and is pointed at by its own name.

use super::tree::{Entry, Map, Tree, Value};
use super::yaml;
use crate::diagnostic::{Diagnostic, FileId, SourceFiles, Span, did_you_mean, suggest};

/// Flags of the command line that are short for a field, and whether their value is text whatever it looks like.
const FLAGS: [(&str, &str, bool); 3] =
    [("--device", "train.device", true), ("--steps", "train.steps", false), ("--output", "output", true)];

/// Parts of a path with their places.
type Keys = Vec<(String, Span)>;

/// Applies all overrides in order; what cannot be applied becomes a diagnostic.
pub(super) fn apply(tree: &mut Tree, sets: &[String], files: &mut SourceFiles, diagnostics: &mut Vec<Diagnostic>) {
    for text in sets {
        let flag = FLAGS.iter().find_map(|flag| Some((flag, text.strip_prefix(flag.0)?.strip_prefix('=')?)));
        let (keys, value) = match flag {
            Some(((name, path, literal), typed)) => {
                let file = files.add(name, typed);
                let whole = Span::new(file, 0, typed.len());
                let keys = path.split('.').map(|part| (part.to_owned(), whole)).collect();
                let value = match literal {
                    true => Some(Tree::new(Value::String(typed.to_owned()), whole)),
                    false => read(typed, file, 0, diagnostics),
                };
                (keys, value)
            }
            None => {
                let file = files.add("--set", text.clone());
                match split(text, file) {
                    Ok((keys, start)) => (keys, read(&text[start..], file, start, diagnostics)),
                    Err(diagnostic) => {
                        diagnostics.push(*diagnostic);
                        continue;
                    }
                }
            }
        };
        if let Some(value) = value
            && let Err(diagnostic) = put(tree, &keys, value)
        {
            diagnostics.push(*diagnostic);
        }
    }
}

/// The value, unless it is not well-formed.
fn read(text: &str, file: FileId, start: usize, diagnostics: &mut Vec<Diagnostic>) -> Option<Tree> {
    let parsed = yaml::parse(text, file, start);
    let failed = !parsed.diagnostics.is_empty();
    diagnostics.extend(parsed.diagnostics);
    let span = Span::new(file, start, start + if text.trim().is_empty() { 0 } else { text.len() });
    (!failed).then(|| parsed.tree.unwrap_or(Tree::new(Value::Null, span)))
}

/// `a.b[0].c=value` as the parts of the path and where the value begins.
fn split(text: &str, file: FileId) -> Result<(Keys, usize), Box<Diagnostic>> {
    let whole = Span::new(file, 0, text.len());
    let fail = |span: Span, message: String| Box::new(Diagnostic::error("P0016", span, message));
    let Some((path, _)) = text.split_once('=') else {
        return Err(fail(whole, format!("`{text}` is not of the form `path.to.field=value`")));
    };
    if path.trim().is_empty() {
        return Err(fail(whole, "there is no field before the `=`".into()));
    }
    let mut keys = Vec::new();
    let mut at = 0;
    // `prompts[0].width` is `prompts.0.width`: the bracket that closes ends nothing by itself.
    for part in path.split(['.', '[']) {
        let closed = part.strip_suffix(']').unwrap_or(part);
        let name = closed.trim();
        let lead = closed.len() - closed.trim_start().len();
        let span = Span::new(file, at + lead, at + lead + name.len());
        if name.is_empty() {
            return Err(fail(span.to(whole), format!("an empty name in `{path}`")));
        }
        keys.push((name.to_owned(), span));
        at += part.len() + 1;
    }
    Ok((keys, path.len() + 1))
}

fn put(tree: &mut Tree, keys: &[(String, Span)], value: Tree) -> Result<(), Box<Diagnostic>> {
    let fail = |span: Span, message: String| Box::new(Diagnostic::error("P0016", span, message));
    let (last, parents) = keys.split_last().expect("at least one key");
    // `field=` is a field without a value; `field=null` is no field.
    let remove = value.value == Value::Null && value.span.start < value.span.end;
    let mut place = tree;
    for (depth, (name, span)) in parents.iter().enumerate() {
        if depth == 1 && keys[0].0 == "nodes" {
            known_node(place, name, *span)?;
        }
        let path = || keys[..depth].iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".");
        place = match &mut place.value {
            Value::Map(map) if remove && !map.contains_key(name) => return Err(absent(map, name, *span)),
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
        Value::Map(map) if remove => {
            if map.shift_remove(name).is_none() {
                return Err(absent(map, name, *span));
            }
        }
        Value::Map(map) => {
            map.insert(name.clone(), Entry { key_span: *span, value });
        }
        Value::Seq(items) => {
            *item(items, name).ok_or_else(|| fail(*span, no_item(name, &path)))? = value;
            items.retain(|item| !(remove && item.span.file == span.file));
        }
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

/// What is to be taken out is not there.
fn absent(map: &Map, name: &str, span: Span) -> Box<Diagnostic> {
    let near = suggest(name, map.keys().map(String::as_str));
    let diagnostic = Diagnostic::error("P0016", span, format!("there is no `{name}` to take out of the document"));
    Box::new(diagnostic.note(did_you_mean(&near)))
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

#[cfg(test)]
mod tests {
    use crate::document::{Document, Syntax};

    fn with(sets: &[&str]) -> Document {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let text = "train: { steps: 4, epochs: 2 }\nlist: [ { a: 1 }, { a: 2 } ]\n";
        Document::parse(text, "a.yaml", Syntax::Yaml, &sets)
    }

    fn json(sets: &[&str]) -> String {
        let document = with(sets);
        assert!(document.diagnostics.is_empty(), "{:?}", document.diagnostics);
        document.tree.unwrap().to_json().to_string()
    }

    #[test]
    fn items_are_named_with_dots_or_brackets() {
        assert_eq!(json(&["list.1.a=3"]), json(&["list[1].a=3"]));
        assert!(json(&["list[1].a=3"]).contains(r#"{"a":3}"#));
    }

    #[test]
    fn null_takes_a_field_or_an_item_out() {
        assert!(!json(&["train.steps=null"]).contains("steps"));
        assert!(json(&["list[0]=null"]).contains(r#""list":[{"a":2}]"#));
        let wrong = with(&["train.step=null"]);
        assert!(wrong.diagnostics[0].message.contains("no `step` to take out"));
        assert_eq!(wrong.diagnostics[0].primary_label(), Some("did you mean `steps`?"));
        // Nothing after the sign is no value, not a wish to remove.
        assert!(json(&["train.steps="]).contains(r#""steps":null"#));
    }

    #[test]
    fn a_flag_is_its_field_and_its_value_is_not_read() {
        assert!(json(&["--output=a: b"]).contains(r#""output":"a: b""#));
        assert!(json(&["--steps=9"]).contains(r#""steps":9"#));
        let document = with(&["--device=x"]);
        let span = document.tree.as_ref().unwrap().at("train.device").unwrap().span;
        assert_eq!(document.files.get(span.file).unwrap().name(), "--device");
    }
}
