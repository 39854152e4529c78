//! The whole check of a document: reading, structure, settings, graph, and each node's own check.
//!
//! Every stage reports what it finds and hands on what is still usable, so that one call finds
//! all errors. A node with an error of its own is not asked further, and the nodes after it see
//! its facts as unknown; they must not complain about that.

mod cadence;
pub mod foreign;
mod held_out;
mod hints;
mod paths;
mod repeated;
mod replace;
mod settings;
mod writes;

use std::cell::Cell;
use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use indexmap::IndexMap;
use petgraph::graph::NodeIndex;
use serde_json::{Map, Value as Json};

use crate::diagnostic::{Diagnostic, SourceFiles, Span, count, tidy};
use crate::document::{Document, Entry, Syntax, Tree, Value};
use crate::graph::{self, Graph};
use crate::node::{CheckCx, Facts, InputFacts, Problem, Source};
use crate::registry::{Kind, Registry};
use crate::schedule::Schedule;
use crate::settings::Settings;
use crate::structure::{Structure, Subject, place};

/// A checked document.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The document as read.
    pub document: Document,
    /// Settings, when they are right.
    pub settings: Option<Settings>,
    /// The graph, when the document has nodes; with errors it lacks what could not be resolved.
    pub graph: Option<Graph>,
    /// What is known of each node of the graph, by name, in the document's order.
    pub nodes: IndexMap<String, CheckedNode>,
    /// Everything found, in the order of the document.
    pub diagnostics: Vec<Diagnostic>,
    /// Folder that relative paths start from.
    pub base_dir: PathBuf,
}

/// What the check made known of a node.
#[derive(Clone, Debug, Default)]
pub struct CheckedNode {
    /// Its type name.
    pub type_name: &'static str,
    /// Its fields without `type` and ports.
    pub config: Json,
    /// Facts of its outputs.
    pub facts: Facts,
    /// Facts of its inputs.
    pub inputs: InputFacts,
    /// False when the node has an error.
    pub ok: bool,
}

impl Checked {
    /// True when there is no error; warnings do not count.
    pub fn ok(&self) -> bool {
        count(&self.diagnostics).0 == 0
    }
    /// The texts that diagnostics point into.
    pub fn files(&self) -> &SourceFiles {
        &self.document.files
    }
    /// Facts of a node.
    pub fn facts(&self, node: &str) -> Option<&Facts> {
        self.nodes.get(node).map(|node| &node.facts)
    }
    /// Config of a node.
    pub fn config(&self, node: &str) -> Option<&Json> {
        self.nodes.get(node).map(|node| &node.config)
    }
    /// The entry of a node in the document.
    pub fn entry(&self, node: &str) -> Option<&Entry> {
        self.document.tree.as_ref()?.get("nodes")?.as_map()?.get(node)
    }
    /// The place of the first of some paths from the root that the document has, else its start.
    pub fn span_at(&self, paths: &[&str]) -> Span {
        let start = Span::new(self.document.main, 0, 0);
        let Some(tree) = &self.document.tree else { return start };
        let places = paths.iter().map(|path| tree.deepest(path));
        places.into_iter().find(|place| place.depth > 0).map_or(start, |place| place.span())
    }
    /// The place of a field of a node, or of its deepest part that exists.
    pub fn span_of(&self, node: &str, field: &str) -> Span {
        let start = Span::new(self.document.main, 0, 0);
        self.entry(node).map_or(start, |entry| span_of(entry, field))
    }
}

/// What a check looks at beside the document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Files and folders that the document names need not be there. What is there is checked as ever; what is not is
    /// no error, and nodes stand in for it with the usual size where they can ([`CheckCx::stands_in`]). For documents
    /// whose weights and images are the user's to bring.
    pub without_files: bool,
    /// Devices and types need not be those of this build: that it could not run the document is a warning. For plans made
    /// for another machine.
    pub any_device: bool,
}

/// Checks a file with overrides.
pub fn check_path(registry: &Registry, path: &Path, sets: &[String]) -> Checked {
    check_path_with(registry, path, sets, Options::default())
}

/// As [`check_path`], with options.
pub fn check_path_with(registry: &Registry, path: &Path, sets: &[String], options: Options) -> Checked {
    check_document_with(registry, Document::load(path, sets), options)
}

/// Checks a text with overrides; relative paths start from the folder of `path`.
pub fn check_text(registry: &Registry, text: &str, path: &Path, syntax: Syntax, sets: &[String]) -> Checked {
    check_document(registry, Document::parse(text, path, syntax, sets))
}

/// Checks a document that was read.
pub fn check_document(registry: &Registry, document: Document) -> Checked {
    check_document_with(registry, document, Options::default())
}

/// As [`check_document`], with options.
pub fn check_document_with(registry: &Registry, mut document: Document, options: Options) -> Checked {
    let mut out = std::mem::take(&mut document.diagnostics);
    let misread: HashSet<Span> = out.iter().map(|fault| fault.span).collect();
    let read = out.len();
    let base_dir = document.base_dir();
    let mut checked =
        Checked { document, settings: None, graph: None, nodes: IndexMap::new(), diagnostics: Vec::new(), base_dir };
    let foreign = checked.document.tree.as_ref().and_then(foreign::document);
    if let Some(foreign) = foreign {
        out.push(foreign);
        checked.document.tree = None;
    }
    if let Some(mut tree) = checked.document.tree.take() {
        replace::settle(&mut tree, checked.document.main, registry);
        let stage = Stage { registry, tree: &tree, budget: Cell::new(50), base_dir: &checked.base_dir, options };
        let (graph, nodes, settings) = stage.run(&mut out);
        checked.graph = graph;
        checked.nodes = nodes;
        checked.settings = settings;
        checked.document.tree = Some(tree);
    }
    // What could not be read is not blamed again for having no sense.
    let mut number = 0;
    out.retain(|fault| {
        number += 1;
        number <= read || !misread.contains(&fault.span)
    });
    tidy(&mut out);
    repeated::gather(&mut out);
    checked.diagnostics = out;
    checked
}

struct Stage<'a> {
    registry: &'a Registry,
    tree: &'a Tree,
    budget: Cell<u32>,
    base_dir: &'a Path,
    options: Options,
}

type Nodes = IndexMap<String, CheckedNode>;

impl Stage<'_> {
    fn run(&self, out: &mut Vec<Diagnostic>) -> (Option<Graph>, Nodes, Option<Settings>) {
        let nodes = self.nodes(out);
        let graph = nodes.map(|nodes| graph::build(self.registry, nodes, &self.budget, out));
        let hints = hints::Hints::new(self.registry, self.tree, graph.as_ref());

        let faults = Structure::new(self.registry.settings_schema(), Subject::Document, &hints, &self.budget)
            .skip(&["nodes"])
            .check(self.tree, None);
        let (usable, settings) = settings::read(self.tree, faults.is_empty(), out);
        out.extend(faults);
        out.extend(settings.as_ref().and_then(|settings| settings::output(settings, self.tree)));
        out.extend(settings.iter().flat_map(|settings| settings::states(settings, self.tree)));
        let resume = |settings| settings::resume(settings, self.tree, self.base_dir, self.options.without_files);
        out.extend(settings.as_ref().and_then(resume));

        let (Some(graph), Some(nodes)) = (graph, nodes) else { return (None, Nodes::new(), settings) };
        let mut known = Nodes::with_capacity(graph.dag.node_count());
        for (index, node) in graph.nodes() {
            let kind = graph.kind(self.registry, index);
            let entry = &nodes[&node.name];
            let subject = Subject::Node(&node.name, kind.about.type_name);
            let faults =
                Structure::new(&kind.schema, subject, &hints, &self.budget).check(&entry.value, Some(entry.key_span));
            let mut ok = faults.is_empty() && !node.broken && graph.cyclic.binary_search(&index).is_err();
            out.extend(faults);
            let paths = paths::look(&entry.value, &kind.schema, self.base_dir, self.options.without_files);
            ok &= paths.blocking.is_empty();
            out.extend(paths.blocking);
            if !ok {
                out.extend(paths.faults);
            }
            let config = config(&entry.value, kind);
            let (facts, inputs) = Default::default();
            known.insert(node.name.clone(), CheckedNode { type_name: kind.about.type_name, config, facts, inputs, ok });
        }
        self.ask_nodes(&graph, nodes, &usable, &mut known, out);
        out.extend(held_out::look(self.registry, &graph, &known, nodes, self.base_dir));
        if let Some(settings) = &settings {
            out.extend(cadence::look(&graph, &known, nodes, settings, self.tree));
        }
        (Some(graph), known, settings)
    }

    /// The `nodes` table, or what is wrong with it.
    fn nodes(&self, out: &mut Vec<Diagnostic>) -> Option<&crate::document::Map> {
        let help =
            "nodes stand under `nodes`, each as `name: { type: …, … }`; `pipe init` writes a pipeline to begin with";
        let map = self.tree.as_map()?;
        let Some(entry) = map.get("nodes") else {
            let span = Span { end: self.tree.span.start, ..self.tree.span };
            out.push(Diagnostic::error("P0214", span, "the document has no `nodes`").help(help));
            return None;
        };
        match &entry.value.value {
            Value::Map(nodes) if !nodes.is_empty() => Some(nodes),
            // A key that was reported and dropped may have been the only one.
            Value::Map(_) if out.iter().any(|fault| fault.code == "P0013") => None,
            Value::Map(_) | Value::Null => {
                out.push(Diagnostic::error("P0214", entry.key_span, "the document has no nodes").help(help));
                None
            }
            _ => {
                let message = format!("`nodes` must be a table of nodes by name, found {}", entry.value.describe());
                out.push(Diagnostic::error("P0101", place(&entry.value, Some(entry.key_span)), message).help(help));
                None
            }
        }
    }

    /// Each node's own check, sources before those they feed.
    fn ask_nodes(
        &self,
        graph: &Graph,
        nodes: &crate::document::Map,
        settings: &Settings,
        known: &mut Nodes,
        out: &mut Vec<Diagnostic>,
    ) {
        let mut order = Schedule::new(graph).order;
        // Nodes behind a cycle have no place in the order, yet can be asked.
        let mut placed = vec![false; graph.dag.node_count()];
        order.iter().for_each(|index| placed[index.index()] = true);
        order.extend(graph.dag.node_indices().filter(|index| !placed[index.index()]));
        let mut written = writes::Writes::default();
        for index in order {
            let node = &graph.dag[index];
            if !known[&node.name].ok {
                continue;
            }
            let kind = graph.kind(self.registry, index);
            let inputs = input_facts(self.registry, graph, index, kind, known);
            let mut cx = CheckCx {
                name: &node.name,
                settings,
                base_dir: self.base_dir,
                inputs: &inputs,
                without_files: self.options.without_files,
                any_device: self.options.any_device,
                problems: Vec::new(),
                writes: Vec::new(),
            };
            let facts = kind.node.check(&known[&node.name].config, &mut cx);
            let entry = &nodes[&node.name];
            let (mut problems, writes) = (cx.problems, cx.writes);
            if self.options.without_files {
                problems.retain(|problem| problem.code != "P0301");
            }
            let state = &mut known[&node.name];
            state.ok = problems.iter().all(|problem| problem.severity != crate::diagnostic::Severity::Error);
            state.facts = facts;
            state.inputs = inputs;
            out.extend(problems.into_iter().map(|problem| diagnostic(problem, entry, self.tree)));
            for (field, path) in writes {
                out.extend(written.declare(&node.name, normal(&path), span_of(entry, &field)));
            }
        }
    }
}

fn input_facts(registry: &Registry, graph: &Graph, index: NodeIndex, kind: &Kind, known: &Nodes) -> InputFacts {
    let mut facts = InputFacts::default();
    for input in &kind.inputs {
        facts.0.insert(input.name, Vec::new());
    }
    for (port, links) in &graph.dag[index].inputs {
        let sources = links.iter().map(|link| {
            let from = &graph.dag[link.node];
            let facts = known.get(&from.name).map(|state| state.facts.clone()).unwrap_or_default();
            let output = graph.kind(registry, link.node).outputs[link.output].name;
            Source { node: from.name.clone(), type_name: from.type_name, output, facts }
        });
        facts.0.insert(port, sources.collect());
    }
    facts
}

/// The fields of a node that its config struct reads.
fn config(tree: &Tree, kind: &Kind) -> Json {
    let fields = tree.as_map().into_iter().flatten();
    let own = fields.filter(|(name, _)| *name != "type" && kind.input(name).is_none());
    Json::Object(own.map(|(name, entry)| (name.clone(), entry.value.to_json())).collect::<Map<_, _>>())
}

fn diagnostic(problem: Problem, entry: &Entry, root: &Tree) -> Diagnostic {
    let span = match problem.field.strip_prefix('/') {
        Some(path) => match root.deepest(path) {
            place if place.depth > 0 => place.span(),
            _ => entry.key_span,
        },
        None => span_of(entry, &problem.field),
    };
    Diagnostic {
        code: problem.code,
        severity: problem.severity,
        message: problem.message,
        span,
        labels: Vec::new(),
        also: Vec::new(),
        help: problem.help,
    }
}

fn span_of(entry: &Entry, field: &str) -> Span {
    let place = entry.value.deepest(field);
    if place.depth == 0 { entry.key_span } else { place.span() }
}

/// A path without `.` and `..`, so that two spellings of one path are one.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}
