//! `pipe nodes`: the node types of this build, and all about one of them.

use std::fmt::Write as _;

use pipe_core::diagnostic::{did_you_mean, suggest};
use pipe_core::port::{Arity, Input};
use pipe_core::registry::{Kind, Registry};
use pipe_schema::FieldDoc;

use crate::choices::{Open, types};
use crate::exit::{Exit, Failure, Outcome};
use crate::terminal::{Paint, Terminal};

/// List the node types, or show the ports, fields and an example of one.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A node type, such as adapter.lora.
    #[arg(value_name = "TYPE", value_parser = Open(types), hide_possible_values = true)]
    pub type_name: Option<String>,
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let registry = pipe_nodes::registry();
    let text = match &args.type_name {
        None => list(&registry, None, terminal.paint()),
        Some(name) => match registry.kind(name) {
            Some(kind) => page(kind, &registry, terminal.paint()),
            None if registry.names().any(|known| kind_of(known) == name) => {
                list(&registry, Some(name), terminal.paint())
            }
            None => return Err(unknown(name, &registry)),
        },
    };
    terminal.out(&text)?;
    Ok(Exit::Done)
}

fn kind_of(type_name: &str) -> &str {
    type_name.split('.').next().unwrap_or(type_name)
}

fn unknown(name: &str, registry: &Registry) -> Failure {
    let near = suggest(name, registry.names());
    Failure::new(format!("there is no node type `{name}`"))
        .help(did_you_mean(&near).unwrap_or_else(|| "`pipe nodes` lists them all".into()))
}

/// Types by kind, kinds in the order of the registry.
pub fn list(registry: &Registry, only: Option<&str>, paint: Paint) -> String {
    let names: Vec<&str> = registry.names().filter(|name| only.is_none_or(|only| kind_of(name) == only)).collect();
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut kinds: Vec<&str> = Vec::new();
    names.iter().for_each(|name| {
        if !kinds.contains(&kind_of(name)) {
            kinds.push(kind_of(name));
        }
    });
    let mut out = String::new();
    for (at, kind) in kinds.into_iter().enumerate() {
        let _ = writeln!(out, "{}{}", if at > 0 { "\n" } else { "" }, paint.bold(kind));
        for name in names.iter().filter(|name| kind_of(name) == kind) {
            let summary = registry.kind(name).map_or("", |kind| kind.about.summary);
            let _ = writeln!(out, "  {}  {summary}", paint.cyan(&format!("{name:<width$}")));
        }
    }
    out
}

/// Everything about a type.
pub fn page(kind: &Kind, registry: &Registry, paint: Paint) -> String {
    let about = &kind.about;
    let mut out = format!("{}: {}\n", paint.bold(about.type_name), about.summary);
    let details = about.details.trim();
    if !details.is_empty() {
        let _ = writeln!(out, "\n{details}");
    }
    if !kind.inputs.is_empty() {
        let _ = writeln!(out, "\n{}", paint.bold("inputs"));
        kind.inputs.iter().for_each(|input| out.push_str(&input_line(input, paint)));
    }
    if !kind.outputs.is_empty() {
        let _ = writeln!(out, "\n{}", paint.bold("outputs"));
        for output in &kind.outputs {
            let ty = format!("{}, from {} on", output.ty.name(), output.rate.name());
            let _ = writeln!(out, "  {}  {}\n      {}", paint.cyan(output.name), paint.dim(&ty), output.doc);
        }
    }
    let own: Vec<FieldDoc> =
        pipe_schema::fields(registry, about.type_name).into_iter().filter(|field| field.port.is_none()).collect();
    if !own.is_empty() {
        let _ = writeln!(out, "\n{}", paint.bold("fields"));
        own.iter().for_each(|field| out.push_str(&field_lines(field, paint)));
    }
    let _ = writeln!(out, "\n{}", paint.bold("example"));
    about.example.lines().for_each(|line| {
        let _ = writeln!(out, "  {line}");
    });
    out
}

/// An input port in two lines.
pub fn input_line(input: &Input, paint: Paint) -> String {
    let types: Vec<&str> = input.accepts.iter().map(|ty| ty.name()).collect();
    let arity = match input.arity {
        Arity::One => "required",
        Arity::Optional => "optional",
        Arity::Many => "any number",
        Arity::Several => "one or more",
    };
    let ty = format!("{}, {arity}, used at {}", types.join(" or "), input.rate.name());
    format!("  {}  {}\n      {}\n", paint.cyan(input.name), paint.dim(&ty), input.doc)
}

/// A field in two lines or more.
pub fn field_lines(field: &FieldDoc, paint: Paint) -> String {
    let mut facts = vec![field.type_text.clone()];
    facts.extend(field.range.clone());
    if field.required {
        facts.push("required".into());
    }
    facts.extend(field.default.iter().map(|default| format!("default {default}")));
    facts.extend(field.when.iter().map(|when| format!("with `{when}`")));
    let mut out = format!("  {}  {}\n", paint.cyan(&field.path), paint.dim(&facts.join(", ")));
    for line in field.description.lines() {
        let _ = writeln!(out, "{}", format!("      {line}").trim_end());
    }
    for (value, text) in field.choices.iter().filter(|(_, text)| !text.is_empty()) {
        let _ = writeln!(out, "      {}: {}", paint.cyan(value), text.replace('\n', " "));
    }
    out
}
