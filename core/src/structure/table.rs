//! Tables: unknown, missing and contradictory fields.

use serde_json::Value as Json;

use super::union::constant;
use super::{Path, Step, Structure, place, words};
use crate::diagnostic::suggest::{and_list, or_list};
use crate::diagnostic::{Diagnostic, Span, did_you_mean, suggest};
use crate::document::{Map, Tree, Value};

impl<'a> Structure<'a> {
    pub(super) fn table<'p>(
        &mut self,
        map: &'p Map,
        tree: &Tree,
        key: Option<Span>,
        schema: &'a Json,
        path: &mut Path<'p>,
    ) {
        let known = schema.get("properties").and_then(Json::as_object);
        let rest = schema.get("additionalProperties");
        let variants = self.variants.take();
        let skip = if path.is_empty() { self.skip } else { &[] };
        let mut meant: Vec<&str> = Vec::new();
        for (name, entry) in map {
            if skip.contains(&name.as_str()) {
                continue;
            }
            let field = known.and_then(|known| known.get(name)).or(rest.filter(|rest| rest.is_object()));
            match field {
                Some(_) if entry.value.value == Value::Null && required(schema, name) => {
                    let message = format!("`{name}` {} has no value", words::within(path, self.subject));
                    let diagnostic = Diagnostic::error("P0110", entry.key_span, message);
                    self.out.push(diagnostic.help("give it a value; there is no default"));
                }
                Some(field) => {
                    path.push(Step::Field(name));
                    self.value(&entry.value, Some(entry.key_span), field, path);
                    path.pop();
                }
                None if known.is_none() && rest != Some(&Json::Bool(false)) => {}
                None => {
                    let names = known.into_iter().flatten().map(|(name, _)| name.as_str());
                    // An override may mean a field that the document gives already.
                    let free = |known: &&str| map.get(*known).is_none_or(|at| at.key_span.file != entry.key_span.file);
                    let near = self.suggestions(name, names.filter(free));
                    meant.extend(near.first().copied());
                    let of = variants.as_ref().and_then(|variants| variants_with(name, variants));
                    self.unknown(name, entry.key_span, &near, of, map, schema, path);
                }
            }
        }
        let here = place(tree, key);
        for name in schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
            if !map.contains_key(name) && !meant.contains(&name) && !skip.contains(&name) {
                self.missing(name, here, schema, path);
            }
        }
        let least = schema.get("minProperties").and_then(Json::as_u64).unwrap_or(0);
        if (map.len() as u64) < least {
            let names: Vec<&str> = known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            let message = format!("{} is empty", words::name(path, self.subject));
            let mut diagnostic = Diagnostic::error("P0111", here, message);
            if !names.is_empty() {
                diagnostic = diagnostic.help(format!("give {}", or_list(&names)));
            }
            self.out.push(diagnostic);
        }
        for names in groups(schema.get("x-exclusive")) {
            self.exclusive(map, &names, path);
        }
        for names in groups(schema.get("x-one-of")) {
            self.exclusive(map, &names, path);
            let near = names.iter().any(|name| map.contains_key(*name) || meant.contains(name));
            if !near {
                let message = format!("one of {} is needed {}", and_list(&names), words::within(path, self.subject));
                self.out.push(Diagnostic::error("P0109", here, message));
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn unknown(
        &mut self,
        name: &str,
        span: Span,
        near: &[&str],
        variants: Option<String>,
        map: &Map,
        schema: &'a Json,
        path: &Path,
    ) {
        let message = format!("unknown field `{name}` {}", words::within(path, self.subject));
        let known = schema.get("properties").and_then(Json::as_object);
        let foreign =
            self.hints.foreign(name, self.subject, &|field| known.is_some_and(|known| known.contains_key(field)));
        let near: &[&str] = if foreign.is_some() { &[] } else { near };
        let mut diagnostic = Diagnostic::error("P0104", span, message).note(did_you_mean(near));
        if let Some(help) = foreign {
            diagnostic = diagnostic.help(help);
        } else if near.is_empty() && self.budget.get() > 0 {
            self.budget.set(self.budget.get() - 1);
            let names: Vec<&str> = known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            let given = suggest(name, names.iter().copied().filter(|known| map.contains_key(*known)));
            let inner = if path.is_empty() { self.nested(name) } else { None };
            let inner = inner.map(|place| format!("`{name}` is a field of `{place}`"));
            if let Some(hint) = variants.or(inner).or_else(|| self.hints.elsewhere(name, self.subject)) {
                diagnostic = diagnostic.help(hint);
            } else if let [given] = given.as_slice() {
                diagnostic = diagnostic.note(Some(format!("`{given}` is given already")));
            } else if names.len() <= 12 {
                let skipped = if path.is_empty() { self.skip } else { &[] };
                let names: Vec<&str> =
                    names.into_iter().filter(|name| *name != "$schema").chain(skipped.iter().copied()).collect();
                diagnostic = diagnostic.help(match names.as_slice() {
                    [one] => format!("the only field here is `{one}`"),
                    _ => format!("the fields here are {}", and_list(&names)),
                });
            }
        }
        self.out.push(diagnostic);
    }

    /// The table of the same subject, one level down, that has a field.
    fn nested(&self, field: &str) -> Option<String> {
        let properties = self.root.get("properties")?.as_object()?;
        properties.iter().find_map(|(table, schema)| {
            let target = self.resolve(schema);
            let branches = words::branches(target).map_or(std::slice::from_ref(target), Vec::as_slice);
            let has = |branch: &'a Json| self.resolve(branch).get("properties").is_some_and(|p| p.get(field).is_some());
            (field != "type" && branches.iter().any(has)).then(|| table.clone())
        })
    }

    fn missing(&mut self, name: &str, span: Span, schema: &Json, path: &Path) {
        let field = &schema["properties"][name];
        let within = words::within(path, self.subject);
        if field.get("x-port").is_some() {
            let takes: Vec<&str> =
                field["x-port"]["accepts"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
            let message = format!("port `{name}` {within} is not filled");
            let diagnostic = Diagnostic::error("P0207", span, message);
            let help = match self.hints.candidates(name, self.subject) {
                Some(nodes) => format!("it takes {}: {nodes}", takes.join(" or ")),
                None => format!("it takes {}, which no node of this document gives", takes.join(" or ")),
            };
            return self.out.push(diagnostic.help(help));
        }
        let mut diagnostic = Diagnostic::error("P0102", span, format!("missing field `{name}` {within}"));
        if let Some(text) = field.get("description").and_then(Json::as_str) {
            let first = text.split("\n\n").next().unwrap_or(text).replace('\n', " ");
            diagnostic = diagnostic.help(format!("`{name}`: {}", first.trim_end_matches('.')));
        }
        self.out.push(diagnostic);
    }

    /// At most one of `names`; the diagnostic is at the later one.
    fn exclusive(&mut self, map: &Map, names: &[&str], path: &Path) {
        let mut given: Vec<(&str, Span)> =
            names.iter().filter_map(|name| map.get(*name).map(|entry| (*name, entry.key_span))).collect();
        if given.len() < 2 {
            return;
        }
        given.sort_by_key(|(_, span)| *span);
        let all: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
        let (_, last) = given[given.len() - 1];
        let message = format!("{} exclude each other {}", and_list(&all), words::within(path, self.subject));
        let diagnostic = Diagnostic::error("P0108", last, message).label(given[0].1, "also given here");
        self.out.push(diagnostic.help("give one of them"));
    }
}

fn required(schema: &Json, name: &str) -> bool {
    schema.get("required").and_then(Json::as_array).is_some_and(|names| names.iter().any(|one| one == name))
}

/// `[a, b]` or `[[a, b], [c, d]]`.
pub(crate) fn groups(keyword: Option<&Json>) -> Vec<Vec<&str>> {
    let Some(items) = keyword.and_then(Json::as_array) else { return Vec::new() };
    if items.iter().all(Json::is_string) {
        return vec![items.iter().filter_map(Json::as_str).collect()];
    }
    items.iter().map(|group| group.as_array().into_iter().flatten().filter_map(Json::as_str).collect()).collect()
}

/// Variants of a tagged union that have a field which the chosen one lacks.
fn variants_with(field: &str, (tag, branches): &(&str, Vec<&Json>)) -> Option<String> {
    let has = |branch: &&&Json| branch.get("properties").is_some_and(|known| known.get(field).is_some());
    let names: Vec<&str> = branches.iter().filter(has).filter_map(|branch| constant(branch, tag)).collect();
    (!names.is_empty()).then(|| format!("`{field}` is a field of {} only", or_list(&names)))
}
