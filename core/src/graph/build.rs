//! From the `nodes` table to the graph.

use std::cell::Cell;
use std::collections::HashSet;

use petgraph::Direction;
use petgraph::graph::NodeIndex;

use super::edge::Unresolved;
use super::{Graph, GraphNode, cycle, edge};
use crate::diagnostic::suggest::and_list;
use crate::diagnostic::{Diagnostic, did_you_mean, suggest};
use crate::document::{Entry, Map};
use crate::port::PortType;
use crate::registry::{Kind, Registry};

/// Builds the graph of a `nodes` table. Problems of the whole graph are found as well.
pub fn build(registry: &Registry, nodes: &Map, budget: &Cell<u32>, out: &mut Vec<Diagnostic>) -> Graph {
    let mut graph = Graph::default();
    for (name, entry) in nodes {
        check_name(name, entry, out);
        if let Some(kind) = kind_of(registry, name, entry, budget, out) {
            let index = graph.dag.add_node(GraphNode {
                name: name.clone(),
                type_name: kind.about.type_name,
                span: entry.key_span,
                inputs: Vec::new(),
                broken: false,
            });
            graph.by_name.insert(name.clone(), index);
        }
    }
    let unresolved = edge::connect(registry, nodes, &mut graph, budget, out);
    graph.cyclic = cycle::find(&mut graph, out);
    driver(registry, &mut graph, nodes, out);
    unused(registry, &graph, nodes, &unresolved, out);
    graph
}

fn check_name(name: &str, entry: &Entry, out: &mut Vec<Diagnostic>) {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        let message = format!("`{name}` cannot be the name of a node");
        let help = "names begin with a letter or `_` and go on with letters, digits, `_` and `-`";
        out.push(Diagnostic::error("P0215", entry.key_span, message).help(help));
    }
}

/// The type of a node, or what is wrong with its `type`.
fn kind_of<'r>(
    registry: &'r Registry,
    name: &str,
    entry: &Entry,
    budget: &Cell<u32>,
    out: &mut Vec<Diagnostic>,
) -> Option<&'r Kind> {
    let fail = |diagnostic: Diagnostic, out: &mut Vec<Diagnostic>| {
        out.push(diagnostic);
        None
    };
    let Some(map) = entry.value.as_map() else {
        let message = format!("node `{name}` must be a table with a `type`, found {}", entry.value.describe());
        return fail(
            Diagnostic::error("P0101", crate::structure::place(&entry.value, Some(entry.key_span)), message),
            out,
        );
    };
    let Some(ty) = map.get("type") else {
        let near = suggest("type", map.keys().map(String::as_str));
        let diagnostic = Diagnostic::error("P0102", entry.key_span, format!("missing field `type` on node `{name}`"));
        let diagnostic = match near.first() {
            Some(near) => diagnostic.label(map[*near].key_span, "is `type` meant?"),
            None => {
                diagnostic.help("`type` says what the node is, such as `adapter.lora`; `pipe nodes` lists all types")
            }
        };
        return fail(diagnostic, out);
    };
    let Some(text) = ty.value.as_str() else {
        let message = format!("`type` of node `{name}` must be the name of a node type, found {}", ty.value.describe());
        return fail(Diagnostic::error("P0101", crate::structure::place(&ty.value, Some(ty.key_span)), message), out);
    };
    if let Some(kind) = registry.kind(text) {
        return Some(kind);
    }
    let mut near = Vec::new();
    if budget.get() > 0 {
        budget.set(budget.get() - 1);
        near = suggest(text, registry.names());
        if near.is_empty() {
            // `lora` for `adapter.lora`; else the types of the same kind.
            let tail = |full: &str| full.split_once('.').is_some_and(|(_, tail)| tail.eq_ignore_ascii_case(text));
            near = registry.names().filter(|full| tail(full)).take(3).collect();
        }
    }
    let diagnostic = Diagnostic::error("P0201", ty.value.span, format!("unknown node type `{text}` of node `{name}`"));
    let of_kind: Vec<&str> = match text.split_once('.') {
        Some((kind, _)) => {
            registry.names().filter(|full| full.split_once('.').is_some_and(|(k, _)| k == kind)).collect()
        }
        None => Vec::new(),
    };
    fail(
        match (near.is_empty(), of_kind.is_empty()) {
            (false, _) => diagnostic.note(did_you_mean(&near)),
            (true, false) if of_kind.len() <= 12 => diagnostic.help(format!("this build has {}", and_list(&of_kind))),
            _ => diagnostic.help("`pipe nodes` lists all types"),
        },
        out,
    )
}

fn driver(registry: &Registry, graph: &mut Graph, nodes: &Map, out: &mut Vec<Diagnostic>) {
    let drivers: Vec<NodeIndex> =
        graph.dag.node_indices().filter(|index| graph.kind(registry, *index).is_driver()).collect();
    match drivers.as_slice() {
        [one] => graph.driver = Some(*one),
        [] => {
            // A node of unknown type may well be the optimizer: no second complaint.
            if graph.dag.node_count() == nodes.len()
                && let Some((_, last)) = nodes.last()
            {
                let names: Vec<&str> =
                    registry.kinds().filter(|kind| kind.is_driver()).map(|kind| kind.about.type_name).collect();
                let diagnostic = Diagnostic::error("P0211", last.key_span, "no node makes optimizer steps");
                out.push(diagnostic.help(format!("add one of {}", and_list(&names[..names.len().min(6)]))));
            }
        }
        [first, rest @ ..] => {
            for index in rest {
                let (a, b) = (&graph.dag[*first], &graph.dag[*index]);
                let message = format!("both `{}` and `{}` make optimizer steps; a run has one", a.name, b.name);
                out.push(Diagnostic::error("P0212", b.span, message).label(a.span, "the other one"));
            }
        }
    }
}

/// Nodes whose outputs nobody takes. A node is not blamed when some field names it, be it in a
/// port that is wrong for another reason, or under a misspelt key; nor when a misspelt reference
/// may mean it.
fn unused(registry: &Registry, graph: &Graph, nodes: &Map, unresolved: &Unresolved, out: &mut Vec<Diagnostic>) {
    let mut lone: Vec<NodeIndex> = Vec::new();
    for index in graph.dag.node_indices() {
        let kind = graph.kind(registry, index);
        let taken = graph.dag.edges_directed(index, Direction::Outgoing).next().is_some();
        if !kind.is_event() && !kind.is_driver() && !taken {
            lone.push(index);
        }
    }
    if lone.is_empty() || unresolved.many {
        return;
    }
    // Without a driver, what a driver would take is not blamed.
    let no_driver = graph.driver.is_none();
    let driven = |kind: &Kind| kind.outputs.iter().any(|output| drives_on(registry, output.ty));
    let mentioned = mentioned(registry, nodes);
    let takers = edge::Takers::new(registry, graph);
    for index in lone {
        let node = &graph.dag[index];
        if mentioned.contains(node.name.as_str()) || unresolved.meant.contains(&node.name) {
            continue;
        }
        let kind = graph.kind(registry, index);
        if no_driver && driven(kind) {
            continue;
        }
        let gives = edge::gives(kind);
        let message = format!("node `{}` ({}) is not used by any other node", node.name, node.type_name);
        let help = match takers.of(kind) {
            None => {
                format!("it gives {gives}, which no node of this document takes; remove it or add a node that does")
            }
            Some(takers) => format!("it gives {gives}; name it in {takers}, or remove it"),
        };
        out.push(Diagnostic::error("P0208", node.span, message).help(help));
    }
}

fn drives_on(registry: &Registry, ty: PortType) -> bool {
    let mut drivers = registry.kinds().filter(|kind| kind.is_driver());
    drivers.any(|kind| kind.inputs.iter().any(|input| input.accepts.contains(&ty)))
}

/// Node names that stand in a field which is a port, unknown, or of a node of unknown type.
fn mentioned<'d>(registry: &Registry, nodes: &'d Map) -> HashSet<&'d str> {
    let mut names = HashSet::new();
    for entry in nodes.values() {
        let Some(map) = entry.value.as_map() else { continue };
        let kind = map.get("type").and_then(|ty| registry.kind(ty.value.as_str()?));
        for (field, entry) in map {
            let config = |kind: &Kind| kind.schema["properties"].get(field).is_some() && kind.input(field).is_none();
            if kind.is_some_and(config) {
                continue;
            }
            let items = entry.value.as_seq().unwrap_or(std::slice::from_ref(&entry.value));
            names.extend(items.iter().filter_map(|item| item.as_str()?.split('.').next()));
        }
    }
    names
}
