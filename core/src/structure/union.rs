//! Unions: the branch that a value belongs to is told by its type, its tag or its only key.

use serde_json::Value as Json;

use super::{Path, Step, Structure, place, value, words};
use crate::diagnostic::suggest::{and_list, or_list};
use crate::diagnostic::{Diagnostic, Span, did_you_mean};
use crate::document::{Map, Tree, Value};

impl<'a> Structure<'a> {
    pub(super) fn union<'p>(&mut self, tree: &'p Tree, key: Option<Span>, schema: &'a Json, path: &mut Path<'p>) {
        let span = place(tree, key);
        if words::choices(schema, &|schema| self.resolve(schema)).is_some() {
            return self.choice(tree, span, schema, path);
        }
        let branches = words::branches(schema).map_or(&[][..], Vec::as_slice);
        let fitting: Vec<&Json> =
            branches.iter().map(|branch| self.resolve(branch)).filter(|branch| self.may_fit(branch, tree)).collect();
        match (fitting.as_slice(), &tree.value) {
            ([], _) => self.wrong_type(tree, span, schema, path),
            ([only], _) if only.get("const").is_none() => {
                let before = self.out.len();
                self.value(tree, key, only, path);
                let off = branches.iter().any(|branch| self.resolve(branch).get("const") == Some(&Json::Bool(false)));
                if off && matches!(tree.value, Value::Int(_) | Value::Float(_)) {
                    for fault in self.out[before..].iter_mut().filter(|fault| fault.help.is_none()) {
                        fault.help = Some("`false` stands for none".into());
                    }
                }
            }
            (several, Value::Map(map)) => {
                if let Some(tag) = self.tag(several) {
                    self.tagged(tree, map, key, tag, several, path);
                } else if let Some(names) = only_keys(several) {
                    self.by_key(tree, map, key, &names, several, path);
                } else {
                    self.best(tree, key, schema, several, path);
                }
            }
            (several, _) => self.best(tree, key, schema, several, path),
        }
    }

    /// The table that a text was meant for: `cosine` for `{ type: cosine }`.
    pub(super) fn tagged_alone(&self, tree: &Tree, schema: &'a Json, path: &Path) -> Option<String> {
        let text = tree.as_str()?;
        let branches: Vec<&Json> = words::branches(schema)?.iter().map(|branch| self.resolve(branch)).collect();
        let tables: Vec<&Json> = branches.into_iter().filter(|branch| branch.get("properties").is_some()).collect();
        let tag = self.tag(&tables)?;
        let names: Vec<&str> = tables.iter().filter_map(|branch| constant(branch, tag)).collect();
        if !names.contains(&text) {
            return Some(format!("write `{{ {tag}: … }}` with one of {}", or_list(&names)));
        }
        let field = match path.last() {
            Some(Step::Field(field)) => format!("{field}: "),
            _ => String::new(),
        };
        Some(format!("write `{field}{{ {tag}: {text} }}`"))
    }

    /// Whether the JSON type of a value is one that the branch takes.
    fn may_fit(&self, branch: &'a Json, tree: &Tree) -> bool {
        if let Some(branches) = words::branches(branch) {
            return branches.iter().any(|inner| self.may_fit(self.resolve(inner), tree));
        }
        if let Some(constant) = branch.get("const") {
            return same_type(constant, &tree.value);
        }
        if let Some(values) = branch.get("enum").and_then(Json::as_array) {
            return values.iter().any(|constant| same_type(constant, &tree.value));
        }
        value::type_fits(branch, tree)
    }

    /// The property that is a constant in every branch.
    fn tag(&self, branches: &[&'a Json]) -> Option<&'a str> {
        let first = branches.first()?.get("properties")?.as_object()?;
        first.keys().map(String::as_str).find(|name| branches.iter().all(|branch| constant(branch, name).is_some()))
    }

    fn tagged<'p>(
        &mut self,
        tree: &'p Tree,
        map: &'p Map,
        key: Option<Span>,
        tag: &'a str,
        branches: &[&'a Json],
        path: &mut Path<'p>,
    ) {
        let names: Vec<&str> = branches.iter().filter_map(|branch| constant(branch, tag)).collect();
        let Some((tag_key, entry)) = map.get_key_value(tag) else {
            let message = format!("missing field `{tag}` {}", words::within(path, self.subject));
            let help = format!("`{tag}` is {}", or_list(&names));
            return self.out.push(Diagnostic::error("P0102", place(tree, key), message).help(help));
        };
        let chosen = entry.value.as_str().and_then(|text| names.iter().position(|name| *name == text));
        match chosen {
            Some(index) => {
                self.variants = Some((tag, branches.to_vec()));
                self.value(tree, key, branches[index], path);
            }
            None => {
                path.push(Step::Field(tag_key));
                let near = entry.value.as_str().map(|text| self.suggestions(text, names.iter().copied()));
                let found = entry.value.describe();
                let message = format!("{} must be {}, found {found}", words::name(path, self.subject), or_list(&names));
                let span = place(&entry.value, Some(entry.key_span));
                self.out.push(Diagnostic::error("P0103", span, message).note(did_you_mean(&near.unwrap_or_default())));
                path.pop();
            }
        }
    }

    /// `{ steps: 100 }` or `{ ratio: 0.05 }`: each branch has one required key of its own.
    fn by_key<'p>(
        &mut self,
        tree: &'p Tree,
        map: &'p Map,
        key: Option<Span>,
        names: &[&str],
        branches: &[&'a Json],
        path: &mut Path<'p>,
    ) {
        let given: Vec<usize> = (0..names.len()).filter(|index| map.contains_key(names[*index])).collect();
        match given.as_slice() {
            [one] => self.value(tree, key, branches[*one], path),
            [] => {
                let unknown = map.iter().next().map(|(name, entry)| (name.as_str(), entry.key_span));
                let within = words::within(path, self.subject);
                let diagnostic = match unknown {
                    Some((name, span)) => {
                        let near = self.suggestions(name, names.iter().copied());
                        Diagnostic::error("P0104", span, format!("unknown field `{name}` {within}"))
                            .note(did_you_mean(&near))
                    }
                    None => {
                        let message = format!("{} is empty", words::name(path, self.subject));
                        Diagnostic::error("P0111", place(tree, key), message)
                    }
                };
                self.out.push(diagnostic.help(format!("give {}", or_list(names))));
            }
            several => {
                let mut spans: Vec<Span> = several.iter().map(|index| map[names[*index]].key_span).collect();
                spans.sort();
                let all: Vec<&str> = several.iter().map(|index| names[*index]).collect();
                let message = format!("{} exclude each other {}", and_list(&all), words::within(path, self.subject));
                let diagnostic = Diagnostic::error("P0108", spans[spans.len() - 1], message);
                self.out.push(diagnostic.label(spans[0], "also given here").help("give one of them"));
            }
        }
    }

    /// Tries the branches; the faults of the one with the fewest are reported.
    fn best<'p>(
        &mut self,
        tree: &'p Tree,
        key: Option<Span>,
        schema: &'a Json,
        branches: &[&'a Json],
        path: &mut Path<'p>,
    ) {
        let mut least: Option<Vec<Diagnostic>> = None;
        for branch in branches {
            let mut trial = self.trial();
            trial.value(tree, key, branch, path);
            if trial.out.is_empty() {
                return;
            }
            if least.as_ref().is_none_or(|least| trial.out.len() < least.len()) {
                least = Some(trial.out);
            }
        }
        let scalar = !matches!(tree.value, Value::Map(_) | Value::Seq(_));
        match least {
            Some(faults) if !(scalar && faults.iter().all(|fault| fault.code == "P0103")) => self.out.extend(faults),
            _ => self.wrong_type(tree, place(tree, key), schema, path),
        }
    }
}

pub(super) fn constant<'j>(branch: &'j Json, name: &str) -> Option<&'j str> {
    let field = branch.get("properties")?.get(name)?;
    match field.get("enum").and_then(Json::as_array) {
        Some(values) if values.len() == 1 => values[0].as_str(),
        _ => field.get("const")?.as_str(),
    }
}

fn only_keys<'j>(branches: &[&'j Json]) -> Option<Vec<&'j str>> {
    let names: Option<Vec<&str>> = branches
        .iter()
        .map(|branch| match branch.get("required")?.as_array()?.as_slice() {
            [one] => one.as_str(),
            _ => None,
        })
        .collect();
    let names = names?;
    let mut unique = names.clone();
    unique.sort_unstable();
    unique.dedup();
    (unique.len() == names.len()).then_some(names)
}

fn same_type(constant: &Json, value: &Value) -> bool {
    matches!(
        (constant, value),
        (Json::Bool(_), Value::Bool(_))
            | (Json::String(_), Value::String(_))
            | (Json::Number(_), Value::Int(_) | Value::Float(_))
    )
}
