//! The plan of a document: phases by the schedule's liveness.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use petgraph::Direction;
use petgraph::graph::NodeIndex;
use serde::Serialize;

use super::{Assumed, Bytes, Category, Misfit, NodePlan};
use crate::check::Checked;
use crate::graph::Graph;
use crate::node::PlanCx;
use crate::port::{Input, Rate};
use crate::registry::Registry;
use crate::schedule::Schedule;

/// What a document's run will need.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    /// The device that the numbers are for.
    #[serde(flatten)]
    pub assumed: Assumed,
    /// Optimizer steps of the run.
    pub steps: Option<u64>,
    /// Passes over the data.
    pub epochs: Option<f64>,
    /// Largest total of any phase.
    pub peak_bytes: u64,
    /// Name of that phase.
    pub peak_phase: String,
    /// Phases in the order they first happen.
    pub phases: Vec<Phase>,
    /// Bytes in the host's memory, beside those of the device.
    #[serde(skip_serializing_if = "super::none")]
    pub host: u64,
    /// Bytes in the cache folder when the run ends.
    pub cache_disk: u64,
    /// Bytes of the run's own files when it ends.
    pub disk: u64,
    /// More that is there for a moment, while a file is written beside those that are kept.
    pub disk_passing: u64,
    /// The nodes' own numbers and notes, in the order of building.
    pub nodes: IndexMap<String, PlannedNode>,
}

/// What a node predicted.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedNode {
    /// Its type name.
    pub type_name: &'static str,
    /// Its numbers.
    #[serde(flatten)]
    pub plan: NodePlan,
}

/// What a phase is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseKind {
    /// A node is built: weights are loaded, caches filled.
    Build,
    /// The optimizer steps.
    Train,
    /// A save or a preview.
    Event,
}

/// A stretch of the run with one set of values in memory.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// `cache latents`, `train`, `event preview`.
    pub name: String,
    /// What it is.
    pub kind: PhaseKind,
    /// The node it belongs to, except for training.
    pub node: Option<String>,
    /// Bytes by purpose at the peak of the phase.
    pub bytes: BTreeMap<Category, u64>,
    /// Their sum.
    pub total: u64,
    /// FLOPs of the whole phase: all steps, all events.
    pub flops: u64,
    /// How often it happens.
    pub count: u64,
    /// Seconds of the whole phase, once the speed of the device is known.
    pub seconds: Option<f64>,
}

impl Phase {
    fn new(
        name: String,
        kind: PhaseKind,
        node: Option<&str>,
        bytes: BTreeMap<Category, u64>,
        flops: u64,
        count: u64,
    ) -> Phase {
        let total = bytes.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
        Phase { name, kind, node: node.map(str::to_owned), bytes, total, flops, count, seconds: None }
    }
}

/// Plans a checked document. Nodes with errors count as nothing.
pub fn plan_document(registry: &Registry, checked: &Checked) -> Plan {
    let (Some(graph), Some(settings)) = (&checked.graph, &checked.settings) else { return Plan::default() };
    let schedule = Schedule::new(graph);
    let mut plan = Plan::default();
    let mut plans: Vec<NodePlan> = vec![NodePlan::default(); graph.dag.node_count()];
    let driver = graph.driver.map(|index| &checked.nodes[&graph.dag[index].name].facts);
    let of_run = |name: &str| driver.and_then(|facts| facts.u64(name));
    let length = of_run("steps").zip(of_run("steps_per_epoch"));
    for index in &schedule.order {
        let node = &graph.dag[*index];
        let state = &checked.nodes[&node.name];
        let (name, inputs, facts) = (node.name.as_str(), &state.inputs, &state.facts);
        let cx = PlanCx { name, settings, base_dir: &checked.base_dir, inputs, facts, length };
        if state.ok {
            plans[index.index()] = graph.kind(registry, *index).node.plan(&state.config, &cx);
        }
    }
    plan.steps = plans.iter().find_map(|node| node.steps);
    plan.epochs = plans.iter().find_map(|node| node.epochs);
    let steps = plan.steps.unwrap_or(settings.train.steps.unwrap_or(1));
    plan.steps.get_or_insert(steps);

    let mut resident = Sum::new();
    let mut quiet: Option<Phase> = None;
    let mut built = vec![false; graph.dag.node_count()];
    for (place, index) in schedule.order.iter().enumerate() {
        let name = graph.dag[*index].name.as_str();
        for source in replaced(registry, graph, *index, &plans[index.index()].replaces, &built) {
            remove(&mut resident, &std::mem::take(&mut plans[source.index()].resident));
        }
        built[index.index()] = true;
        let node = &plans[index.index()];
        add(&mut resident, &node.resident);
        let mut bytes = resident.clone();
        add(&mut bytes, &node.build);
        let label = node.build_label.clone().unwrap_or_else(|| format!("load {name}"));
        let phase = Phase::new(label, PhaseKind::Build, Some(name), bytes, node.build_flops, 1);
        if node.build_label.is_some() {
            plan.phases.push(phase);
        } else if quiet.as_ref().is_none_or(|quiet| phase.total > quiet.total) {
            quiet = Some(phase);
        }
        let of = |index: NodeIndex| &plans[index.index()];
        for early in schedule.prepares[place].iter().filter(|early| !of(**early).prepare.is_empty()) {
            let name = graph.dag[*early].name.as_str();
            let mut bytes = resident.clone();
            add(&mut bytes, &of(*early).prepare);
            let phase = Phase::new(format!("prepare {name}"), PhaseKind::Build, Some(name), bytes, 0, 1);
            if quiet.as_ref().is_none_or(|quiet| phase.total > quiet.total) {
                quiet = Some(phase);
            }
        }
        // The driver's state lives as long as the run, whoever reads its output.
        for (freed, _) in schedule.releases[place].iter().filter(|(freed, _)| Some(*freed) != graph.driver) {
            remove(&mut resident, &of(*freed).resident);
        }
    }
    let of = |index: NodeIndex| &plans[index.index()];
    let mut train = resident.clone();
    schedule.order.iter().for_each(|index| add(&mut train, &of(*index).step));
    let flops = schedule.order.iter().fold(0u64, |sum, index| sum.saturating_add(of(*index).step_flops));
    plan.phases.push(Phase::new("train".into(), PhaseKind::Train, None, train, flops.saturating_mul(steps), steps));
    let mut unloaded = vec![false; graph.dag.node_count()];
    let reloaded = schedule.event_only().filter(|index| Some(*index) != graph.driver);
    reloaded.for_each(|index| unloaded[index.index()] = true);
    for index in &schedule.order {
        let (name, node) = (graph.dag[*index].name.as_str(), of(*index));
        if node.event.is_empty() && node.event_flops == 0 {
            continue;
        }
        // The driver's event is the saving of its state.
        let label = if graph.driver == Some(*index) { "save state".into() } else { format!("event {name}") };
        // What was used early is not used again.
        let kind = graph.kind(registry, *index);
        let later = |port: &str| kind.input(port).is_none_or(|input| !input.early && !input.unloaded);
        let ports = graph.dag[*index].inputs.iter().filter(|(port, _)| later(port));
        let needs = ports.flat_map(|(_, links)| links).map(|link| link.node);
        let mut bytes = resident.clone();
        for source in needs.filter(|source| unloaded[source.index()]) {
            add(&mut bytes, &of(source).resident);
        }
        add(&mut bytes, &node.event);
        if let Some(driver) = graph.driver.filter(|driver| driver != index) {
            add(&mut bytes, &of(driver).shown);
        }
        let flops = node.event_flops.saturating_mul(node.event_count);
        plan.phases.push(Phase::new(label, PhaseKind::Event, Some(name), bytes, flops, node.event_count));
    }
    // A load that is nobody's line of its own is shown only when it is the peak.
    if let Some(quiet) = quiet
        && plan.phases.iter().all(|phase| phase.total < quiet.total)
    {
        plan.phases.insert(0, quiet);
    }
    for index in &schedule.order {
        let node = &graph.dag[*index];
        let numbers = std::mem::take(&mut plans[index.index()]);
        plan.host = plan.host.saturating_add(numbers.host);
        plan.cache_disk = plan.cache_disk.saturating_add(numbers.cache_disk);
        plan.disk = plan.disk.saturating_add(numbers.disk);
        plan.disk_passing = plan.disk_passing.max(numbers.disk_passing);
        plan.nodes.insert(node.name.clone(), PlannedNode { type_name: node.type_name, plan: numbers });
    }
    plan.find_peak();
    plan
}

/// The nodes behind these ports whose values nothing else uses any more.
fn replaced(
    registry: &Registry,
    graph: &Graph,
    index: NodeIndex,
    ports: &[&'static str],
    built: &[bool],
) -> Vec<NodeIndex> {
    let links = graph.dag[index].inputs.iter().filter(|(port, _)| ports.contains(port)).flat_map(|(_, links)| links);
    let alone = |source: &NodeIndex| {
        let mut readers = graph.dag.neighbors_directed(*source, Direction::Outgoing).filter(|reader| *reader != index);
        readers.all(|reader| {
            let kind = graph.kind(registry, reader);
            let mut ports =
                graph.dag[reader].inputs.iter().filter(|(_, links)| links.iter().any(|l| l.node == *source));
            let done = |input: &Input| input.unloaded || (built[reader.index()] && input.rate == Rate::Setup);
            ports.all(|(port, _)| kind.input(port).is_some_and(done))
        })
    };
    links.map(|link| link.node).filter(alone).collect()
}

type Sum = BTreeMap<Category, u64>;

fn add(sum: &mut Sum, more: &[Bytes]) {
    for bytes in more {
        let entry = sum.entry(bytes.category).or_default();
        *entry = entry.saturating_add(bytes.bytes);
    }
}

fn remove(sum: &mut Sum, less: &[Bytes]) {
    for bytes in less {
        let entry = sum.entry(bytes.category).or_default();
        *entry = entry.saturating_sub(bytes.bytes);
    }
}

impl Plan {
    fn find_peak(&mut self) {
        if let Some(peak) = self.phases.iter().rev().max_by_key(|phase| phase.total) {
            self.peak_bytes = peak.total;
            self.peak_phase = peak.name.clone();
        }
    }

    /// Adds what the program itself takes to every phase.
    pub fn with_program(mut self, bytes: u64) -> Plan {
        for phase in &mut self.phases {
            *phase.bytes.entry(Category::Program).or_default() += bytes;
            phase.total = phase.total.saturating_add(bytes);
        }
        self.find_peak();
        self
    }

    /// Estimates times from FLOPs a second, one figure each kind of phase.
    pub fn with_speed(mut self, flops_per_second: impl Fn(PhaseKind) -> f64) -> Plan {
        for phase in &mut self.phases {
            let speed = flops_per_second(phase.kind);
            phase.seconds = (phase.flops > 0 && speed > 0.0).then(|| phase.flops as f64 / speed);
        }
        self
    }

    /// Whether every phase fits into `memory` bytes; if not, the phase that is farthest off.
    pub fn fits(&self, memory: u64) -> Result<(), Box<Misfit>> {
        match self.phases.iter().rev().max_by_key(|phase| phase.total) {
            Some(phase) if phase.total > memory => Err(Box::new(Misfit::of(phase, memory))),
            _ => Ok(()),
        }
    }
}
