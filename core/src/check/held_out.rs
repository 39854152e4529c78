//! Held-out data that are no such: a folder that is both trained on and measured.

use std::path::{Path, PathBuf};

use petgraph::Direction;
use petgraph::graph::NodeIndex;

use super::{Nodes, normal, span_of};
use crate::diagnostic::Diagnostic;
use crate::document::Map;
use crate::graph::Graph;
use crate::node::resolve;

/// Warns of loaders that only events use and that read what another loader gives to training.
pub(super) fn look(graph: &Graph, known: &Nodes, nodes: &Map, base: &Path) -> Vec<Diagnostic> {
    let Some(driver) = graph.driver else { return Vec::new() };
    let mut trained = vec![false; graph.dag.node_count()];
    let mut stack = vec![driver];
    while let Some(node) = stack.pop() {
        if !std::mem::replace(&mut trained[node.index()], true) {
            stack.extend(graph.dag.neighbors_directed(node, Direction::Incoming));
        }
    }
    let folder = |index: NodeIndex| -> Option<PathBuf> {
        let state = known.get(&graph.dag[index].name)?;
        let path = resolve(base, state.config.get("path")?.as_str()?);
        state.type_name.starts_with("loader.").then(|| path.canonicalize().unwrap_or_else(|_| normal(&path)))
    };
    let loaders: Vec<(NodeIndex, PathBuf)> =
        graph.dag.node_indices().filter_map(|index| Some((index, folder(index)?))).collect();
    let mut found = Vec::new();
    for (index, path) in loaders.iter().filter(|(index, _)| !trained[index.index()]) {
        let same = loaders.iter().find(|(other, theirs)| trained[other.index()] && theirs == path);
        if let Some((other, _)) = same {
            let (name, other) = (&graph.dag[*index].name, &graph.dag[*other].name);
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
