//! Held-out data that are no such, or that nobody reads: what is trained on and what is measured, together.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use petgraph::Direction;
use petgraph::graph::NodeIndex;
use serde_json::Value as Json;

use super::{Nodes, normal, span_of};
use crate::diagnostic::Diagnostic;
use crate::document::Map;
use crate::graph::Graph;
use crate::node::resolve;
use crate::registry::Registry;

/// Field of loaders that sets images aside, and the one that chooses them.
const SPLIT: [&str; 2] = ["validation_split", "validation_seed"];

/// A loader, and whether training reads it.
struct Loader {
    name: String,
    folder: PathBuf,
    split: [Option<Json>; 2],
    trained: bool,
}

/// Looks at all loaders of a document with a driver.
pub(super) fn look(registry: &Registry, graph: &Graph, known: &Nodes, nodes: &Map, base: &Path) -> Vec<Diagnostic> {
    let Some(driver) = graph.driver else { return Vec::new() };
    let mut trained = vec![false; graph.dag.node_count()];
    let mut stack = vec![driver];
    while let Some(node) = stack.pop() {
        if !std::mem::replace(&mut trained[node.index()], true) {
            stack.extend(graph.dag.neighbors_directed(node, Direction::Incoming));
        }
    }
    let loader = |index: NodeIndex| -> Option<Loader> {
        let name = graph.dag[index].name.clone();
        let state = known.get(&name).filter(|state| state.type_name.starts_with("loader."))?;
        let path = resolve(base, state.config.get("path")?.as_str()?);
        let folder = path.canonicalize().unwrap_or_else(|_| normal(&path));
        let split = SPLIT.map(|field| state.config.get(field).cloned());
        Some(Loader { name, folder, split, trained: trained[index.index()] })
    };
    let loaders: Vec<Loader> = graph.dag.node_indices().filter_map(loader).collect();
    let mut found = measured_and_trained(&loaders, nodes);
    found.extend(idle_when_measured(&loaders, known, nodes));
    found.extend(held_apart(&loaders, nodes));
    found.extend(unread(registry, graph, known, nodes));
    found
}

/// Loaders that only events use and that read what another loader gives to training.
fn measured_and_trained(loaders: &[Loader], nodes: &Map) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for one in loaders.iter().filter(|loader| !loader.trained) {
        if let Some(other) = loaders.iter().find(|other| other.trained && other.folder == one.folder) {
            let (name, other) = (&one.name, &other.name);
            let message = format!(
                "`{name}` reads the same as `{other}`, which is trained on: what is measured on it says nothing of new images"
            );
            let span = span_of(&nodes[name], "path");
            let help = "move a few images to a folder of their own and take them out of training";
            found.push(Diagnostic::warning("P0332", span, message).help(help));
        }
    }
    found
}

/// Fields of a loader that change only what is trained on (its fact `for_training`), where training does not read it.
fn idle_when_measured(loaders: &[Loader], known: &Nodes, nodes: &Map) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for one in loaders.iter().filter(|loader| !loader.trained) {
        let fields = known.get(&one.name).and_then(|state| state.facts.get("for_training")?.as_array().cloned());
        for field in fields.iter().flatten().filter_map(Json::as_str) {
            let name = &one.name;
            let message = format!(
                "`{field}` has no effect: the images of `{name}` are only measured, each once, as it is and with its whole caption"
            );
            let span = span_of(&nodes[name], field);
            found.push(Diagnostic::error("P0402", span, message).help(format!("leave `{field}` out")));
        }
    }
    found
}

/// Two loaders of one folder that are trained on, where one sets images aside that the other does not.
fn held_apart(loaders: &[Loader], nodes: &Map) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for one in loaders.iter().filter(|loader| loader.trained && loader.split[0].is_some()) {
        let other =
            loaders.iter().find(|other| other.trained && other.folder == one.folder && other.split != one.split);
        let Some(other) = other else { continue };
        // Of two that both set some aside the second is told.
        let order = |loader: &Loader| nodes.get_index_of(&loader.name);
        if other.split[0].is_some() && order(other) > order(one) {
            continue;
        }
        let (name, theirs) = (&one.name, &other.name);
        let message =
            format!("images that `{name}` sets aside are trained on through `{theirs}`, which reads the same folder");
        let span = span_of(&nodes[name], SPLIT[0]);
        let help = "give both the same `validation_split` and `validation_seed`: they then set the same images aside";
        found.push(Diagnostic::error("P0403", span, message).help(help));
    }
    found
}

/// Images that are set aside although nothing reads them. A node that gives them has an output `validation`.
fn unread(registry: &Registry, graph: &Graph, known: &Nodes, nodes: &Map) -> Vec<Diagnostic> {
    let mut read = HashSet::new();
    for (_, node) in graph.nodes() {
        for link in node.inputs.iter().flat_map(|(_, links)| links) {
            read.insert((link.node, link.output));
        }
    }
    let mut found = Vec::new();
    for (index, node) in graph.nodes() {
        let outputs = &graph.kind(registry, index).outputs;
        let Some(output) = outputs.iter().position(|output| output.name == "validation") else { continue };
        let Some(state) = known.get(&node.name).filter(|_| !read.contains(&(index, output))) else { continue };
        for source in state.inputs.many("samples").iter().filter(|source| source.facts.u64("held_out").unwrap_or(0) > 0)
        {
            let count = source.facts.u64("held_out").unwrap_or(0);
            let plural = if count == 1 { " is" } else { "s are" };
            let message = format!(
                "{count} image{plural} neither trained on nor measured: nothing reads `{}.validation`",
                node.name
            );
            let help = format!(
                "add a `logger.validation` with `batch: {}.validation`, or leave `validation_split` out",
                node.name
            );
            let span = span_of(&nodes[&source.node], SPLIT[0]);
            found.push(Diagnostic::error("P0402", span, message).help(help));
        }
    }
    found
}
