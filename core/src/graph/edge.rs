//! Ports to edges: resolving references, types and rates.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use petgraph::graph::NodeIndex;

use super::{Edge, Graph, Link};
use crate::diagnostic::suggest::{and_list, or_list};
use crate::diagnostic::{Diagnostic, Span, did_you_mean, suggest};
use crate::document::{Map, Tree, Value};
use crate::port::{Arity, Input, PortType};
use crate::registry::{Kind, Registry};

/// References that name no node.
#[derive(Default)]
pub(super) struct Unresolved {
    /// Nodes that were suggested instead.
    pub meant: HashSet<String>,
    /// True when there were too many to suggest something for each.
    pub many: bool,
}

/// Adds all edges.
pub(super) fn connect(
    registry: &Registry,
    nodes: &Map,
    graph: &mut Graph,
    budget: &Cell<u32>,
    out: &mut Vec<Diagnostic>,
) -> Unresolved {
    let givers = Givers::new(registry, graph);
    let unresolved = RefCell::new(Unresolved::default());
    for index in graph.dag.node_indices() {
        let name = graph.dag[index].name.clone();
        let kind = graph.kind(registry, index);
        let map = nodes[&name].value.as_map().expect("nodes of the graph are tables");
        for input in &kind.inputs {
            let Some(entry) = map.get(input.name) else {
                // The structural check reports the missing field.
                graph.dag[index].broken |= input.arity.required();
                continue;
            };
            let mut links: Vec<Link> = Vec::new();
            let mut seen: HashMap<(NodeIndex, usize), Span> = HashMap::new();
            for (text, span) in references(&entry.value, input.arity) {
                let port =
                    Port { registry, nodes, graph, givers: &givers, unresolved: &unresolved, budget, index, input };
                match port.resolve(text, span) {
                    Ok(link) => {
                        if let Some(first) = seen.insert((link.node, link.output), span) {
                            let message = format!("port `{}` of node `{name}` names `{text}` twice", input.name);
                            out.push(Diagnostic::error("P0210", span, message).label(first, "first named here"));
                            graph.dag[index].broken = true;
                        } else {
                            links.push(link);
                        }
                    }
                    Err(None) => graph.dag[index].broken = true,
                    Err(Some(fault)) => {
                        // A reference of the wrong type still says who feeds whom: it may close a circle.
                        let from = text.split('.').next().and_then(|name| graph.by_name.get(name).copied());
                        if let Some(from) = from.filter(|from| *from != index) {
                            let edge =
                                Edge { output: "", input: input.name, rate: input.rate, early: input.early, span };
                            graph.refused.push((from, index, edge));
                        }
                        out.push(*fault);
                        graph.dag[index].broken = true;
                    }
                }
            }
            for link in &links {
                let output = graph.kind(registry, link.node).outputs[link.output].name;
                let edge = Edge { output, input: input.name, rate: input.rate, early: input.early, span: link.span };
                graph.dag.add_edge(link.node, index, edge);
            }
            if !links.is_empty() {
                graph.dag[index].inputs.push((input.name, links));
            }
        }
    }
    unresolved.into_inner()
}

/// The names a port holds; values of another type are reported by the structural check.
fn references(tree: &Tree, arity: Arity) -> Vec<(&str, Span)> {
    match &tree.value {
        Value::String(text) => vec![(text.as_str(), tree.span)],
        Value::Seq(items) if arity.list() => {
            items.iter().filter_map(|item| Some((item.as_str()?, item.span))).collect()
        }
        _ => Vec::new(),
    }
}

/// Nodes by what they give, so that hints do not search the document.
pub(crate) struct Givers(HashMap<PortType, Vec<String>>);

impl Givers {
    pub(crate) fn new(registry: &Registry, graph: &Graph) -> Givers {
        let mut givers: HashMap<PortType, Vec<String>> = HashMap::new();
        for (index, node) in graph.nodes() {
            let kind = graph.kind(registry, index);
            for output in &kind.outputs {
                givers.entry(output.ty).or_default().push(reference(kind, &node.name, output.name));
            }
        }
        Givers(givers)
    }
    /// `` `vae`, `vae2` or 3 others ``: nodes that give one of the types.
    pub(crate) fn fitting(&self, accepts: &[PortType], except: &str) -> Option<String> {
        let all = || accepts.iter().filter_map(|ty| self.0.get(ty)).flatten().filter(|name| *name != except);
        let first: Vec<&String> = all().take(3).collect();
        (!first.is_empty()).then(|| or_list(&first))
    }
}

/// How a document writes an output: `name`, or `name.output` where there are several.
fn reference(kind: &Kind, name: &str, output: &str) -> String {
    if kind.outputs.len() == 1 { name.to_owned() } else { format!("{name}.{output}") }
}

/// What a node type gives, in words.
pub(super) fn gives(kind: &Kind) -> String {
    match kind.outputs.as_slice() {
        [] => "nothing".into(),
        outputs => outputs.iter().map(|output| output.ty.name()).collect::<Vec<_>>().join(" and "),
    }
}

/// Ports of the document by the types they take, the first few of each.
pub(super) struct Takers(HashMap<PortType, Vec<String>>);

impl Takers {
    pub(super) fn new(registry: &Registry, graph: &Graph) -> Takers {
        let mut takers: HashMap<PortType, Vec<String>> = HashMap::new();
        for (index, node) in graph.nodes() {
            for input in &graph.kind(registry, index).inputs {
                for ty in input.accepts {
                    let names = takers.entry(*ty).or_default();
                    if names.len() < 3 {
                        names.push(format!("{}.{}", node.name, input.name));
                    }
                }
            }
        }
        Takers(takers)
    }
    /// Ports that take what a node type gives.
    pub(super) fn of(&self, kind: &Kind) -> Option<String> {
        let names: Vec<&String> =
            kind.outputs.iter().filter_map(|output| self.0.get(&output.ty)).flatten().take(3).collect();
        (!names.is_empty()).then(|| or_list(&names))
    }
}

/// What is wrong with a reference; nothing to say when the node it names was reported already.
type Fault = Option<Box<Diagnostic>>;

/// One port of one node, while it is resolved.
struct Port<'a> {
    registry: &'a Registry,
    nodes: &'a Map,
    graph: &'a Graph,
    givers: &'a Givers,
    unresolved: &'a RefCell<Unresolved>,
    budget: &'a Cell<u32>,
    index: NodeIndex,
    input: &'a Input,
}

impl Port<'_> {
    fn resolve(&self, text: &str, span: Span) -> Result<Link, Fault> {
        let own = self.graph.dag[self.index].name.as_str();
        let (name, wanted) = match text.split_once('.') {
            Some((name, output)) => (name, Some(output)),
            None => (text, None),
        };
        let port = format!("port `{}` of node `{own}`", self.input.name);
        if name == own {
            let fault = Diagnostic::error("P0209", span, format!("{port} names the node itself"));
            return fail(self.help_fitting(fault, own));
        }
        let Some(&from) = self.graph.by_name.get(name) else {
            // A node of unknown type is reported once, at its `type`.
            return if self.nodes.contains_key(name) { Err(None) } else { fail(self.unknown(name, &port, span)) };
        };
        let kind = self.graph.kind(self.registry, from);
        let output = match wanted {
            Some(wanted) => kind.outputs.iter().position(|output| output.name == wanted).ok_or_else(|| {
                let names: Vec<&str> = kind.outputs.iter().map(|output| output.name).collect();
                let message = format!("node `{name}` ({}) has no output `{wanted}`", kind.about.type_name);
                let fault = Diagnostic::error("P0203", span, message)
                    .note(did_you_mean(&suggest(wanted, names.iter().copied())));
                Some(Box::new(match names.as_slice() {
                    [] => fault.help("it has no outputs: it acts on events only"),
                    [_] => fault.help(format!("it has one output; write `{name}`")),
                    _ => fault.help(format!("its outputs are {}", and_list(&names))),
                }))
            })?,
            None => self.only_output(name, kind, &port, span, from)?,
        };
        let given = &kind.outputs[output];
        if !self.input.accepts.contains(&given.ty) {
            return fail(self.wrong_type(name, given.ty.name(), &port, span, from));
        }
        if given.rate > self.input.rate {
            let message = format!(
                "{port} is used at rate {}, but `{text}` ({}) exists only from rate {} on",
                self.input.rate.name(),
                kind.about.type_name,
                given.rate.name()
            );
            return fail(Diagnostic::error("P0205", span, message).label(self.graph.dag[from].span, "made here"));
        }
        Ok(Link { node: from, output, span })
    }

    /// The output a bare name stands for: the only one, the only one that fits, or of several the one called `out`.
    fn only_output(&self, name: &str, kind: &Kind, port: &str, span: Span, from: NodeIndex) -> Result<usize, Fault> {
        let fits = |index: &usize| self.input.accepts.contains(&kind.outputs[*index].ty);
        match (kind.outputs.len(), (0..kind.outputs.len()).filter(fits).collect::<Vec<_>>().as_slice()) {
            (1, _) => Ok(0),
            (_, [one]) => Ok(*one),
            (0, _) | (_, []) => fail(self.wrong_type(name, &gives(kind), port, span, from)),
            (_, several) => {
                if let Some(main) = several.iter().find(|i| kind.outputs[**i].name == "out") {
                    return Ok(*main);
                }
                let names: Vec<String> = several.iter().map(|i| format!("{name}.{}", kind.outputs[*i].name)).collect();
                let message = format!("{port} names `{name}`, which has several outputs that fit");
                fail(Diagnostic::error("P0216", span, message).help(format!("write {}", or_list(&names))))
            }
        }
    }

    fn unknown(&self, name: &str, port: &str, span: Span) -> Diagnostic {
        let message = format!("{port} names `{name}`, but there is no such node");
        let fault = Diagnostic::error("P0202", span, message);
        if self.budget.get() == 0 {
            self.unresolved.borrow_mut().many = true;
            return fault;
        }
        self.budget.set(self.budget.get() - 1);
        let near = suggest(name, self.nodes.keys().map(String::as_str));
        self.unresolved.borrow_mut().meant.extend(near.iter().map(|name| (*name).to_owned()));
        match near.is_empty() {
            true => self.help_fitting(fault, &self.graph.dag[self.index].name),
            false => fault.note(did_you_mean(&near)),
        }
    }

    fn wrong_type(&self, name: &str, gives: &str, port: &str, span: Span, from: NodeIndex) -> Diagnostic {
        let takes: Vec<&str> = self.input.accepts.iter().map(|ty| ty.name()).collect();
        let kind = self.graph.dag[from].type_name;
        let message = format!("{port} takes {}, but `{name}` ({kind}) gives {gives}", takes.join(" or "));
        let fault =
            Diagnostic::error("P0204", span, message).label(self.graph.dag[from].span, format!("gives {gives}"));
        self.help_fitting(fault, &self.graph.dag[self.index].name)
    }

    fn help_fitting(&self, fault: Diagnostic, own: &str) -> Diagnostic {
        let takes: Vec<&str> = self.input.accepts.iter().map(|ty| ty.name()).collect();
        match self.givers.fitting(self.input.accepts, own) {
            Some(names) => fault.help(format!("of this document's nodes, {names} would fit")),
            None => fault.help(format!("no node of this document gives {}", takes.join(" or "))),
        }
    }
}

fn fail<T>(diagnostic: Diagnostic) -> Result<T, Fault> {
    Err(Some(Box::new(diagnostic)))
}
