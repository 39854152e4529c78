//! The graph: nodes of the document, and edges from the ports that name other nodes.
//!
//! Owns resolving `name` and `name.output`, types and rates of edges, cycles, unused nodes and
//! the one driver. Everything is linear in the size of the document. The graph holds all nodes
//! of known type and every edge that could be resolved, so that it can be drawn even when
//! there are errors.

mod build;
mod cycle;
mod edge;

use std::collections::HashMap;

use petgraph::graph::{DiGraph, NodeIndex};

use crate::diagnostic::Span;
use crate::port::Rate;
use crate::registry::{Kind, Registry};

pub use build::build;
pub(crate) use edge::Givers;

/// The graph of a document. Node indices follow the document's order.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Nodes and edges; edges point from the node that gives to the node that takes.
    pub dag: DiGraph<GraphNode, Edge>,
    /// Nodes by name.
    pub by_name: HashMap<String, NodeIndex>,
    /// Nodes on a cycle.
    pub cyclic: Vec<NodeIndex>,
    /// The node that drives the run, when there is exactly one.
    pub driver: Option<NodeIndex>,
    /// References that name a node but do not fit it. They are no edges, yet can close a circle.
    pub refused: Vec<(NodeIndex, NodeIndex, Edge)>,
}

/// A node.
#[derive(Clone, Debug)]
pub struct GraphNode {
    /// Its name in the document.
    pub name: String,
    /// Its type name.
    pub type_name: &'static str,
    /// The place of its name.
    pub span: Span,
    /// Its input edges by port, in the document's order.
    pub inputs: Vec<(&'static str, Vec<Link>)>,
    /// True when one of its own ports is wrong.
    pub broken: bool,
}

/// One source of an input port.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The node that gives.
    pub node: NodeIndex,
    /// Which of its outputs.
    pub output: usize,
    /// The place of the reference.
    pub span: Span,
}

/// An edge.
#[derive(Clone, Copy, Debug)]
pub struct Edge {
    /// Output taken.
    pub output: &'static str,
    /// Port filled.
    pub input: &'static str,
    /// When the taking node uses the value.
    pub rate: Rate,
    /// It uses it before its other inputs are there.
    pub early: bool,
    /// The place of the reference.
    pub span: Span,
}

impl Graph {
    /// The node of a name.
    pub fn find(&self, name: &str) -> Option<&GraphNode> {
        self.by_name.get(name).map(|index| &self.dag[*index])
    }
    /// All nodes, in the document's order.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeIndex, &GraphNode)> {
        self.dag.node_indices().map(|index| (index, &self.dag[index]))
    }
    /// Type information of a node.
    pub fn kind<'r>(&self, registry: &'r Registry, index: NodeIndex) -> &'r Kind {
        registry.kind(self.dag[index].type_name).expect("the graph holds only nodes of known type")
    }
}
