//! Cycles: each strongly connected part is reported once, with a whole cycle named.

use std::collections::{HashMap, HashSet};

use petgraph::Direction;
use petgraph::algo::tarjan_scc;
use petgraph::graph::{EdgeIndex, NodeIndex};
use petgraph::visit::EdgeRef;

use super::Graph;
use crate::diagnostic::Diagnostic;

/// Longest cycle that is spelled out in full.
const SHOWN: usize = 12;

/// Reports cycles and gives the nodes on them. References that were refused count: a circle explains them better
/// than their types do, so what was said of those on it is taken back.
pub(super) fn find(graph: &mut Graph, out: &mut Vec<Diagnostic>) -> Vec<NodeIndex> {
    let refused = std::mem::take(&mut graph.refused);
    let added: Vec<EdgeIndex> = refused.iter().map(|(from, to, edge)| graph.dag.add_edge(*from, *to, *edge)).collect();
    let cyclic = find_in(graph, out);
    // Newest first, so that the others keep their numbers.
    for edge in added.into_iter().rev() {
        graph.dag.remove_edge(edge);
    }
    graph.refused = refused;
    cyclic
}

fn find_in(graph: &Graph, out: &mut Vec<Diagnostic>) -> Vec<NodeIndex> {
    let mut cyclic = Vec::new();
    for mut part in tarjan_scc(&graph.dag) {
        if part.len() < 2 {
            continue;
        }
        part.sort();
        let edges = shortest_through(graph, part[0], &part.iter().copied().collect());
        let spans: HashSet<_> = edges.iter().map(|edge| graph.dag[*edge].span).collect();
        out.retain(|fault| !(matches!(fault.code, "P0204" | "P0205") && spans.contains(&fault.span)));
        report(graph, &edges, out);
        cyclic.extend(part);
    }
    cyclic.sort();
    cyclic
}

/// A shortest cycle through `start` inside its strongly connected part, by breadth-first search.
fn shortest_through(graph: &Graph, start: NodeIndex, part: &HashSet<NodeIndex>) -> Vec<EdgeIndex> {
    let mut came: HashMap<NodeIndex, (NodeIndex, EdgeIndex)> = HashMap::new();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for edge in graph.dag.edges_directed(node, Direction::Outgoing) {
            let next = edge.target();
            if next == start {
                let mut edges = vec![edge.id()];
                let mut at = node;
                while at != start {
                    let (before, id) = came[&at];
                    edges.push(id);
                    at = before;
                }
                edges.reverse();
                return edges;
            }
            if part.contains(&next) && !came.contains_key(&next) {
                came.insert(next, (node, edge.id()));
                queue.push_back(next);
            }
        }
    }
    Vec::new()
}

fn report(graph: &Graph, edges: &[EdgeIndex], out: &mut Vec<Diagnostic>) {
    let names: Vec<&str> = edges
        .iter()
        .filter_map(|edge| graph.dag.edge_endpoints(*edge))
        .map(|(from, _)| graph.dag[from].name.as_str())
        .collect();
    let Some(first) = edges.iter().map(|edge| graph.dag[*edge].span).min() else { return };
    let shown = match names.len() {
        n if n > SHOWN => format!("{} → … ({} more) → {}", names[..SHOWN].join(" → "), n - SHOWN, names[0]),
        _ => format!("{} → {}", names.join(" → "), names[0]),
    };
    let mut diagnostic = Diagnostic::error("P0206", first, format!("the nodes feed each other in a circle: {shown}"));
    for edge in edges {
        let (from, to) = graph.dag.edge_endpoints(*edge).expect("an edge of the graph");
        let text = format!("`{}` feeds `{}` here", graph.dag[from].name, graph.dag[to].name);
        diagnostic = diagnostic.label(graph.dag[*edge].span, text);
    }
    out.push(diagnostic.help("one of these ports names the wrong node"));
}
