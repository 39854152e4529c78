//! `pipe explain`: what a diagnostic code, a node type or a field means.

use std::fmt::Write as _;

use pipe_core::codes;
use pipe_core::diagnostic::{did_you_mean, suggest};
use pipe_core::registry::{Kind, Registry};
use pipe_schema::{FieldDoc, fields, settings_fields};

use super::nodes;
use crate::choices::{Open, topics};
use crate::exit::{Exit, Failure, Outcome};
use crate::terminal::{Paint, Terminal};

/// Explain a code (P0104), a node type (adapter.lora) or a field (adapter.lora.rank, train.steps, rank).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A code, a node type, or a field.
    #[arg(value_name = "CODE|TYPE|FIELD", value_parser = Open(topics), hide_possible_values = true)]
    pub topic: String,
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let registry = pipe_nodes::registry();
    match explain(&args.topic, &registry, terminal.paint()) {
        Ok(text) => terminal.out(&text).map(|()| Exit::Done),
        Err(failure) => Err(failure),
    }
}

fn explain(topic: &str, registry: &Registry, paint: Paint) -> Result<String, Failure> {
    if let Some(code) = codes::find(topic) {
        return Ok(format!("{}: {}\n\n{}\n", paint.bold(code.code), code.title, code.text.trim()));
    }
    if let Some(kind) = registry.kind(topic) {
        return Ok(nodes::page(kind, registry, paint));
    }
    if let Some((kind, field)) = split(topic, registry) {
        return of_node(kind, field, registry, paint);
    }
    let settings = settings_fields(registry);
    if let Some(text) = of_fields(topic, "the document", &settings, paint) {
        return Ok(text);
    }
    if let Some(text) = without_owner(topic, registry, &settings, paint) {
        return Ok(text);
    }
    Err(unknown(topic, registry, &settings))
}

/// `adapter.lora.rank` as the type and the rest.
fn split<'r, 't>(topic: &'t str, registry: &'r Registry) -> Option<(&'r Kind, &'t str)> {
    topic.match_indices('.').rev().find_map(|(at, _)| Some((registry.kind(&topic[..at])?, &topic[at + 1..])))
}

fn of_node(kind: &Kind, path: &str, registry: &Registry, paint: Paint) -> Result<String, Failure> {
    let name = kind.about.type_name;
    if let Some(input) = kind.input(path) {
        return Ok(format!("input of {}\n\n{}", paint.bold(name), nodes::input_line(input, paint)));
    }
    if path == "type" {
        return Ok(format!("{}: the type of the node, `{name}`\n", paint.bold("type")));
    }
    let own = fields(registry, name);
    of_fields(path, name, &own, paint).ok_or_else(|| {
        let near = suggest(path, own.iter().map(|field| field.path.as_str()));
        Failure::new(format!("`{name}` has no field `{path}`"))
            .help(did_you_mean(&near).unwrap_or_else(|| format!("`pipe nodes {name}` lists its fields")))
    })
}

/// A name without what it belongs to: `lora`, `optimizer`, `nodes`, `rank`.
fn without_owner(topic: &str, registry: &Registry, settings: &[FieldDoc], paint: Paint) -> Option<String> {
    if topic == "nodes" {
        return Some(format!("{}: {NODES}\n", paint.bold(topic)));
    }
    if registry.names().any(|name| name.split('.').next() == Some(topic)) {
        return Some(nodes::list(registry, Some(topic), paint));
    }
    let tails: Vec<&str> =
        registry.names().filter(|name| name.split_once('.').is_some_and(|(_, tail)| tail == topic)).collect();
    if let [only] = tails.as_slice() {
        return registry.kind(only).map(|kind| nodes::page(kind, registry, paint));
    }
    let mut out = of_fields(&format!("train.{topic}"), "`train`", settings, paint).unwrap_or_default();
    // Types whose field says the same are told together.
    let mut texts: Vec<(String, Vec<&str>)> = Vec::new();
    for kind in registry.kinds() {
        let name = kind.about.type_name;
        let text = match kind.input(topic) {
            Some(input) => nodes::input_line(input, paint),
            None => {
                let own = fields(registry, name);
                match own.iter().find(|field| field.path == topic) {
                    Some(field) => nodes::field_lines(field, paint),
                    None => continue,
                }
            }
        };
        match texts.iter_mut().find(|(other, _)| *other == text) {
            Some((_, names)) => names.push(name),
            None => texts.push((text, vec![name])),
        }
    }
    for (text, names) in &texts {
        let gap = if out.is_empty() { "" } else { "\n" };
        let _ = write!(out, "{gap}field of {}\n\n{text}", paint.bold(&names.join(", ")));
    }
    (!out.is_empty()).then_some(out)
}

/// What stands under `nodes`.
const NODES: &str = "the nodes of the document by name, each `name: { type: kind.name, … }`. A field that is a port names \
                     the node that fills it: `model: unet`. `pipe nodes` lists the types, `pipe nodes TYPE` the fields of one";

/// A field, with the fields of the table it is.
fn of_fields(path: &str, owner: &str, all: &[FieldDoc], paint: Paint) -> Option<String> {
    let wanted = bare(path);
    let inner = format!("{wanted}.");
    let found: Vec<&FieldDoc> = all.iter().filter(|field| bare(&field.path) == wanted).collect();
    if found.is_empty() {
        return None;
    }
    let mut out = format!("field of {}\n\n", paint.bold(owner));
    for field in found.into_iter().chain(all.iter().filter(|field| bare(&field.path).starts_with(&inner))) {
        let _ = write!(out, "{}", nodes::field_lines(field, paint));
    }
    Some(out)
}

/// A path without the brackets and numbers of list items.
fn bare(path: &str) -> String {
    let parts = path.split(['.', '[', ']']).filter(|part| !part.is_empty() && part.parse::<usize>().is_err());
    parts.collect::<Vec<_>>().join(".")
}

fn unknown(topic: &str, registry: &Registry, settings: &[FieldDoc]) -> Failure {
    let mut all: Vec<&str> = registry.names().collect();
    all.extend(codes::all().map(|code| code.code));
    all.extend(settings.iter().map(|field| field.path.as_str()));
    let mut near = suggest(topic, all);
    if near.is_empty() {
        // `adaptor.lora.rank`: the type is misspelt, the field may be right.
        near = topic.rsplit_once('.').map_or(Vec::new(), |(head, _)| suggest(head, registry.names()));
    }
    let help = "codes stand in brackets in each message, as in error[P0104]; `pipe nodes` lists the types".to_owned();
    Failure::new(format!("there is no code, node type or field `{topic}`")).help(did_you_mean(&near).unwrap_or(help))
}
