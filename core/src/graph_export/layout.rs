//! A simple layered layout: columns by longest path, waypoints where an edge passes a column,
//! rows by the mean of their neighbours.

use std::collections::HashMap;

use petgraph::Direction;
use petgraph::graph::NodeIndex;
use petgraph::visit::EdgeRef;

use super::is_refused;
use crate::graph::Graph;
use crate::schedule::Schedule;

/// Where everything is, in pixels.
pub(super) struct Layout {
    pub boxes: HashMap<NodeIndex, Rect>,
    pub edges: Vec<Route>,
    pub width: f64,
    pub height: f64,
}

#[derive(Clone, Copy)]
pub(super) struct Rect {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

/// An edge: points to pass, from the right side of a box to a port of another.
pub(super) struct Route {
    pub from: NodeIndex,
    /// The reference does not fit.
    pub refused: bool,
    pub points: Vec<(f64, f64)>,
}

pub(super) const HEAD: f64 = 42.0;
pub(super) const ROW: f64 = 17.0;
const GAP_X: f64 = 64.0;
const GAP_Y: f64 = 22.0;
const MARGIN: f64 = 16.0;
const LANE: f64 = 10.0;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Item {
    Node(NodeIndex),
    /// A waypoint of an edge, by the edge's number and the column.
    Lane(usize, usize),
}

/// Height of a box with so many ports.
fn height(ports: usize) -> f64 {
    HEAD + ports as f64 * ROW + if ports > 0 { 6.0 } else { 0.0 }
}

pub(super) fn layout(graph: &Graph, text_width: impl Fn(&str) -> f64) -> Layout {
    let column = columns(graph);
    let links = |node: &'_ crate::graph::GraphNode| {
        node.inputs.iter().flat_map(|(_, links)| links).copied().collect::<Vec<crate::graph::Link>>()
    };
    let edges: Vec<(NodeIndex, NodeIndex, bool)> = graph
        .nodes()
        .flat_map(|(to, node)| {
            links(node).into_iter().map(move |link| (link.node, to, is_refused(graph, link.node, to, link.span)))
        })
        .collect();
    let count = column.iter().max().map_or(0, |last| last + 1);
    let mut layers: Vec<Vec<Item>> = vec![Vec::new(); count];
    let mut neighbours: HashMap<Item, Vec<Item>> = HashMap::new();
    for index in graph.dag.node_indices() {
        layers[column[index.index()]].push(Item::Node(index));
    }
    for (number, (from, to, _)) in edges.iter().enumerate() {
        let mut before = Item::Node(*from);
        let between = column[from.index()] + 1..column[to.index()];
        for (at, layer) in layers.iter_mut().enumerate().take(between.end).skip(between.start) {
            let lane = Item::Lane(number, at);
            layer.push(lane);
            connect(&mut neighbours, before, lane);
            before = lane;
        }
        connect(&mut neighbours, before, Item::Node(*to));
    }
    sort_rows(&mut layers, &neighbours);

    let box_width = |index: NodeIndex| {
        let node = &graph.dag[index];
        let ports = node.inputs.iter().map(|(port, _)| text_width(port) * 0.85 + 26.0).fold(0.0, f64::max);
        (text_width(&node.name) * 1.08 + 26.0).max(text_width(node.type_name) * 0.85 + 26.0).max(ports).max(96.0)
    };
    let ports = |index: NodeIndex| graph.dag[index].inputs.iter().map(|(_, links)| links.len()).sum::<usize>();
    let item_height = |item: &Item| match item {
        Item::Node(index) => height(ports(*index)) + GAP_Y,
        Item::Lane(..) => LANE + GAP_Y / 2.0,
    };
    let total = |layer: &Vec<Item>| layer.iter().map(item_height).sum::<f64>();
    let tallest = layers.iter().map(total).fold(0.0, f64::max);

    let mut boxes = HashMap::new();
    let mut lanes: HashMap<(usize, usize), (f64, f64, f64)> = HashMap::new();
    let mut x = MARGIN;
    for (at, layer) in layers.iter().enumerate() {
        let width = layer
            .iter()
            .filter_map(|item| match item {
                Item::Node(index) => Some(box_width(*index)),
                Item::Lane(..) => None,
            })
            .fold(0.0, f64::max);
        let mut y = MARGIN + (tallest - total(layer)) / 2.0;
        for item in layer {
            match item {
                Item::Node(index) => {
                    boxes.insert(*index, Rect { x, y, width, height: height(ports(*index)) });
                }
                Item::Lane(number, _) => {
                    lanes.insert((*number, at), (x, x + width, y + LANE / 2.0));
                }
            }
            y += item_height(item);
        }
        x += width + GAP_X;
    }

    let mut row: HashMap<NodeIndex, usize> = HashMap::new();
    let mut routes = Vec::new();
    for (number, (from, to, refused)) in edges.iter().enumerate() {
        let (start, end) = (boxes[from], boxes[to]);
        let row = row.entry(*to).or_default();
        let target = end.y + HEAD + (*row as f64 + 0.5) * ROW;
        *row += 1;
        let mut points = vec![(start.x + start.width, start.y + HEAD / 2.0)];
        for at in column[from.index()] + 1..column[to.index()] {
            let (left, right, y) = lanes[&(number, at)];
            points.extend([(left, y), (right, y)]);
        }
        points.push((end.x, target));
        routes.push(Route { from: *from, refused: *refused, points });
    }
    Layout {
        boxes,
        edges: routes,
        width: (x - GAP_X + MARGIN).max(2.0 * MARGIN),
        height: tallest + 2.0 * MARGIN - GAP_Y.min(tallest),
    }
}

fn connect(neighbours: &mut HashMap<Item, Vec<Item>>, a: Item, b: Item) {
    neighbours.entry(a).or_default().push(b);
    neighbours.entry(b).or_default().push(a);
}

/// Longest path from a source; a node that nothing feeds stands just before its first user.
fn columns(graph: &Graph) -> Vec<usize> {
    let mut column = vec![0usize; graph.dag.node_count()];
    let order = Schedule::new(graph).order;
    for index in &order {
        let before = graph.dag.neighbors_directed(*index, Direction::Incoming);
        column[index.index()] = before.map(|from| column[from.index()] + 1).max().unwrap_or(0);
    }
    let last = column.iter().copied().max().unwrap_or(0);
    for index in order.iter().rev() {
        let sourceless = graph.dag.neighbors_directed(*index, Direction::Incoming).next().is_none();
        let users = graph.dag.edges_directed(*index, Direction::Outgoing).map(|edge| column[edge.target().index()]);
        if sourceless {
            // One that nothing takes either, such as a logger, stands last.
            column[index.index()] = users.min().map_or(last, |first: usize| first.saturating_sub(1));
        }
    }
    column
}

/// A few sweeps of the barycentre heuristic (Sugiyama, Tagawa and Toda 1981).
fn sort_rows(layers: &mut [Vec<Item>], neighbours: &HashMap<Item, Vec<Item>>) {
    let mut row: HashMap<Item, f64> = HashMap::new();
    let place = |layer: &[Item], row: &mut HashMap<Item, f64>| {
        let middle = (layer.len() as f64 - 1.0) / 2.0;
        for (index, item) in layer.iter().enumerate() {
            row.insert(*item, index as f64 - middle);
        }
    };
    layers.iter().for_each(|layer| place(layer, &mut row));
    for sweep in 0..8 {
        let order: Vec<usize> =
            if sweep % 2 == 0 { (0..layers.len()).collect() } else { (0..layers.len()).rev().collect() };
        for at in order {
            let mean = |item: &Item| {
                let near = neighbours.get(item).map_or(&[][..], Vec::as_slice);
                let sum: f64 = near.iter().map(|other| row[other]).sum();
                if near.is_empty() { row[item] } else { sum / near.len() as f64 }
            };
            let mut keyed: Vec<(f64, Item)> = layers[at].iter().map(|item| (mean(item), *item)).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            layers[at] = keyed.into_iter().map(|(_, item)| item).collect();
            place(&layers[at], &mut row);
        }
    }
}
