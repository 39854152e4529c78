//! The graph of a checked document as DOT, Mermaid, JSON or SVG.
//!
//! All four show what could be resolved, so a document with errors can be looked at too. References that do not fit
//! are drawn as well, dashed: they are what a circle is often made of.

mod layout;
mod svg;

use std::fmt::Write as _;

use petgraph::graph::NodeIndex;
use petgraph::visit::EdgeRef;
use serde_json::json;

use crate::check::Checked;
use crate::diagnostic::Span;
use crate::graph::{Edge, Graph, Link};

pub use svg::to_svg;

/// Kind of a node and the colour it has in every format.
const COLORS: [(&str, &str); 11] = [
    ("loader", "#2a9d8f"),
    ("cacher", "#8d6a9f"),
    ("encoder", "#457b9d"),
    ("model", "#d1603d"),
    ("adapter", "#c9822b"),
    ("loss", "#b5384c"),
    ("optimizer", "#5f8a3e"),
    ("saver", "#577590"),
    ("sampler", "#a8577e"),
    ("logger", "#71797e"),
    ("", "#71797e"),
];

fn kind(type_name: &str) -> &str {
    type_name.split('.').next().unwrap_or("")
}

fn color(type_name: &str) -> &'static str {
    let kind = kind(type_name);
    COLORS.iter().find(|(name, _)| *name == kind || name.is_empty()).map_or("#71797e", |(_, color)| color)
}

/// The port, and the output where it has a name of its own.
fn edge_label(edge: &Edge) -> String {
    match edge.output {
        "out" => edge.input.to_owned(),
        "" => format!("{} (does not fit)", edge.input),
        output => format!("{} ← {output}", edge.input),
    }
}

/// Whether the reference at a place was refused; see [`Graph::refused`].
fn is_refused(graph: &Graph, from: NodeIndex, to: NodeIndex, at: Span) -> bool {
    graph.refused.iter().any(|(f, t, edge)| (*f, *t, edge.span) == (from, to, at))
}

fn graph_of(checked: &Checked) -> std::borrow::Cow<'_, Graph> {
    match &checked.graph {
        Some(graph) if graph.refused.is_empty() => std::borrow::Cow::Borrowed(graph),
        Some(graph) => {
            let mut all = graph.clone();
            for (from, to, edge) in &graph.refused {
                all.dag.add_edge(*from, *to, *edge);
                let link = Link { node: *from, output: 0, span: edge.span };
                let inputs = &mut all.dag[*to].inputs;
                match inputs.iter_mut().find(|(port, _)| *port == edge.input) {
                    Some((_, links)) => links.push(link),
                    None => inputs.push((edge.input, vec![link])),
                }
            }
            std::borrow::Cow::Owned(all)
        }
        None => std::borrow::Cow::Owned(Graph::default()),
    }
}

/// For Graphviz.
pub fn to_dot(checked: &Checked) -> String {
    let graph = graph_of(checked);
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut out = String::from(
        "digraph pipeline {\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\", fontcolor=white, color=none];\n  edge [fontname=\"sans-serif\", fontsize=10];\n",
    );
    for (_, node) in graph.nodes() {
        let label = format!("\"{}\\n{}\"", node.name, node.type_name);
        let _ = writeln!(out, "  {} [label={label}, fillcolor=\"{}\"];", quote(&node.name), color(node.type_name));
    }
    for edge in graph.dag.edge_references() {
        let (from, to) = (&graph.dag[edge.source()].name, &graph.dag[edge.target()].name);
        let style = if edge.weight().output.is_empty() { ", style=dashed, color=red" } else { "" };
        let label = quote(&edge_label(edge.weight()));
        let _ = writeln!(out, "  {} -> {} [label={label}{style}];", quote(from), quote(to));
    }
    out.push_str("}\n");
    out
}

/// For Markdown that draws Mermaid.
pub fn to_mermaid(checked: &Checked) -> String {
    let graph = graph_of(checked);
    let mut out = String::from("flowchart LR\n");
    let mut kinds: Vec<&str> = Vec::new();
    for (index, node) in graph.nodes() {
        let kind = kind(node.type_name);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
        let _ = writeln!(out, "  n{}[\"{}<br/><small>{}</small>\"]:::{kind}", index.index(), node.name, node.type_name);
    }
    for edge in graph.dag.edge_references() {
        let (from, to) = (edge.source().index(), edge.target().index());
        let arrow = if edge.weight().output.is_empty() { "-.->" } else { "-->" };
        let _ = writeln!(out, "  n{from} {arrow}|\"{}\"| n{to}", edge_label(edge.weight()));
    }
    for kind in kinds {
        let _ = writeln!(out, "  classDef {kind} fill:{},color:#fff,stroke:none", color(kind));
    }
    out
}

/// Nodes and edges as data.
pub fn to_json(checked: &Checked) -> String {
    let graph = graph_of(checked);
    let nodes: Vec<_> = graph
        .nodes()
        .map(|(_, node)| {
            let line = checked.files().places(node.span).map(|(_, start, _)| start.line);
            json!({ "name": node.name, "type": node.type_name, "line": line })
        })
        .collect();
    let edges: Vec<_> = graph
        .dag
        .edge_references()
        .map(|edge| {
            json!({
                "from": graph.dag[edge.source()].name, "output": edge.weight().output,
                "to": graph.dag[edge.target()].name, "input": edge.weight().input,
                "rate": edge.weight().rate, "fits": !edge.weight().output.is_empty(),
            })
        })
        .collect();
    let schedule = checked.graph.as_ref().map(crate::schedule::Schedule::new).unwrap_or_default();
    let order: Vec<&str> = schedule.order.iter().map(|index| graph.dag[*index].name.as_str()).collect();
    let value = json!({ "nodes": nodes, "edges": edges, "order": order, "releases": schedule.describe(&graph) });
    let mut text = serde_json::to_string_pretty(&value).unwrap_or_default();
    text.push('\n');
    text
}
