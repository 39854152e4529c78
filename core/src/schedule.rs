//! The order of building, and when each value is freed.
//!
//! The order is topological. Among nodes that could be built next, those that fill caches (nodes
//! with a sample-rate input, and what they need) come first, then the document's order: encoders
//! and caches are done and freed before the model is loaded, wherever the document puts it.
//!
//! A node with early inputs is prepared as soon as those are built, long before its own turn: previews encode their
//! prompts while the text encoders are there for the cache.
//!
//! Liveness: a value that only building and caching use is dropped after its last user; one that
//! only events use beside that is unloaded until the event; one that steps use stays.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use petgraph::Direction;
use petgraph::graph::NodeIndex;
use petgraph::visit::EdgeRef;
use serde::Serialize;

use crate::graph::Graph;
use crate::port::Rate;

/// What happens to a value that is not needed for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    /// Nobody uses it again.
    Drop,
    /// Events use it again: it is loaded then.
    Unload,
}

/// How long a value is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Place in the order of the last node that uses it while it is built.
    pub last_setup: Option<usize>,
    /// Steps use it.
    pub step: bool,
    /// Events use it.
    pub event: bool,
}

/// The schedule of a graph; `plan` and `run` both follow it.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    /// Nodes in the order of building. Nodes on a cycle are missing.
    pub order: Vec<NodeIndex>,
    /// For each place in the order: what is released once that node is built.
    pub releases: Vec<Vec<(NodeIndex, Release)>>,
    /// For each place in the order: nodes whose early inputs are complete once that node is built, to be prepared
    /// before anything is released.
    pub prepares: Vec<Vec<NodeIndex>>,
    /// Uses of each node's values, by node index.
    pub lives: Vec<Life>,
}

impl Schedule {
    /// Schedules a graph.
    pub fn new(graph: &Graph) -> Schedule {
        let order = order(graph);
        let mut position = vec![usize::MAX; graph.dag.node_count()];
        for (place, node) in order.iter().enumerate() {
            position[node.index()] = place;
        }
        let mut lives = vec![Life::default(); graph.dag.node_count()];
        let mut releases = vec![Vec::new(); order.len()];
        // Where each node is prepared: at the last of its early inputs.
        let mut prepared = vec![None; graph.dag.node_count()];
        for edge in graph.dag.edge_references().filter(|edge| edge.weight().early) {
            let (source, place) = (position[edge.source().index()], &mut prepared[edge.target().index()]);
            *place = if source == usize::MAX { *place } else { (*place).max(Some(source)) };
        }
        let mut prepares = vec![Vec::new(); order.len()];
        for node in &order {
            if let Some(place) = prepared[node.index()] {
                prepares[place].push(*node);
            }
        }
        for (place, node) in order.iter().enumerate() {
            let life = &mut lives[node.index()];
            let mut used = false;
            for edge in graph.dag.edges_directed(*node, Direction::Outgoing) {
                used = true;
                match edge.weight().rate {
                    Rate::Setup | Rate::Sample => {
                        let target = edge.target().index();
                        let early = prepared[target].filter(|_| edge.weight().early);
                        let user = early.unwrap_or(position[target]);
                        if user != usize::MAX {
                            life.last_setup = life.last_setup.max(Some(user));
                        }
                    }
                    Rate::Step => life.step = true,
                    Rate::Event => life.event = true,
                }
            }
            let after = life.last_setup.unwrap_or(place);
            match (used, life.step, life.event) {
                (true, false, true) => releases[after].push((*node, Release::Unload)),
                (true, false, false) => releases[after].push((*node, Release::Drop)),
                _ => {}
            }
        }
        Schedule { order, releases, prepares, lives }
    }

    /// The releases in words: `after cached: drop clip`.
    pub fn describe(&self, graph: &Graph) -> Vec<String> {
        let mut lines = Vec::new();
        for (place, freed) in self.releases.iter().enumerate() {
            let after = &graph.dag[self.order[place]].name;
            for (node, how) in freed {
                let verb = if *how == Release::Drop { "drop" } else { "unload" };
                lines.push(format!("after {after}: {verb} {}", graph.dag[*node].name));
            }
        }
        lines
    }

    /// Nodes whose values are unloaded between events.
    pub fn event_only(&self) -> impl Iterator<Item = NodeIndex> {
        let released = self.releases.iter().flatten();
        released.filter(|(_, how)| *how == Release::Unload).map(|(node, _)| *node)
    }
}

/// Kahn's algorithm with a queue ordered by (fills no cache, place in the document).
fn order(graph: &Graph) -> Vec<NodeIndex> {
    let early = early(graph);
    let key = |node: NodeIndex| Reverse((!early[node.index()], node));
    let mut missing: Vec<usize> =
        graph.dag.node_indices().map(|node| graph.dag.edges_directed(node, Direction::Incoming).count()).collect();
    let mut ready: BinaryHeap<_> =
        graph.dag.node_indices().filter(|node| missing[node.index()] == 0).map(key).collect();
    let mut order = Vec::with_capacity(graph.dag.node_count());
    while let Some(Reverse((_, node))) = ready.pop() {
        order.push(node);
        for edge in graph.dag.edges_directed(node, Direction::Outgoing) {
            let next = edge.target();
            missing[next.index()] -= 1;
            if missing[next.index()] == 0 {
                ready.push(key(next));
            }
        }
    }
    order
}

/// Nodes with a sample-rate input, those that are used before the other inputs of their users are there, and everything
/// before either.
fn early(graph: &Graph) -> Vec<bool> {
    let mut early = vec![false; graph.dag.node_count()];
    let mut stack: Vec<NodeIndex> = Vec::new();
    for edge in graph.dag.edge_references() {
        stack.extend((edge.weight().rate == Rate::Sample).then(|| edge.target()));
        stack.extend(edge.weight().early.then(|| edge.source()));
    }
    while let Some(node) = stack.pop() {
        if !std::mem::replace(&mut early[node.index()], true) {
            stack.extend(graph.dag.neighbors_directed(node, Direction::Incoming));
        }
    }
    early
}
