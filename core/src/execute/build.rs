//! Building the nodes in the order of the schedule, freeing values as it says.

use std::collections::BTreeMap;
use std::path::Path;

use petgraph::graph::NodeIndex;

use super::log::Log;
use crate::check::Checked;
use crate::graph::Graph;
use crate::node::SharedValue;
use crate::registry::Registry;
use crate::run::{BuildCx, Driver, Listener, Progress, RunError, StopFlag};
use crate::schedule::{Release, Schedule};
use crate::settings::Settings;

/// What building needs.
pub(super) struct Parts<'a> {
    pub registry: &'a Registry,
    pub checked: &'a Checked,
    pub settings: &'a Settings,
    pub graph: &'a Graph,
    pub folder: &'a Path,
    pub log: Log,
    pub stop: StopFlag,
}

/// The nodes as the life cycle needs them.
pub(super) struct Nodes {
    pub driver: Box<dyn Driver>,
    /// Name of the driver's node.
    pub driver_name: String,
    /// Listeners with their node names, by priority and then by the document's order.
    pub listeners: Vec<(String, Box<dyn Listener>)>,
    /// Values that only events use, to be unloaded after each.
    pub event_only: Vec<SharedValue>,
    /// Hashes of the files that nodes were built from.
    pub contents: BTreeMap<String, String>,
    /// What the user should read again at the end.
    pub remarks: Vec<String>,
    /// All other values that are still used; held until the run ends.
    pub _held: Vec<SharedValue>,
}

impl Parts<'_> {
    /// Builds all nodes.
    pub(super) fn build(&self) -> Result<Nodes, RunError> {
        let schedule = Schedule::new(self.graph);
        let mut values: Vec<Vec<SharedValue>> = vec![Vec::new(); self.graph.dag.node_count()];
        let mut driver = None;
        let mut listeners = Vec::new();
        let (mut contents, mut remarks) = (BTreeMap::new(), Vec::new());
        let mut prepared: Vec<Option<SharedValue>> = vec![None; self.graph.dag.node_count()];
        for (place, index) in schedule.order.iter().enumerate() {
            if self.stop.is_set() {
                return Err(RunError::interrupted());
            }
            let node = &self.graph.dag[*index];
            let name = node.name.as_str();
            let kind = self.graph.kind(self.registry, *index);
            let state = &self.checked.nodes[name];
            self.log.phase(&format!("build {name} ({})", node.type_name));
            let mut cx = self.context(*index, &values, false);
            cx.prepared = prepared[index.index()].take();
            let built = kind.node.build(&state.config, &mut cx).map_err(|error| error.of(name))?;
            drop(cx);
            if built.outputs.len() != kind.outputs.len() {
                let message = format!("made {} values for {} outputs", built.outputs.len(), kind.outputs.len());
                return Err(RunError::new("P0910", message).of(name));
            }
            contents.extend(built.content.map(|content| (name.to_owned(), content)));
            values[index.index()] = built.outputs;
            remarks.extend(built.remarks.into_iter().map(|remark| format!("{name}: {remark}")));
            if let Some(new) = built.driver
                && driver.replace((name.to_owned(), new)).is_some()
            {
                return Err(RunError::new("P0910", "a second driver was made").of(name));
            }
            listeners.extend(built.listener.map(|listener| (*index, name.to_owned(), listener)));
            for early in &schedule.prepares[place] {
                let node = &self.graph.dag[*early];
                self.log.line(&format!("prepare {}", node.name));
                let kind = self.graph.kind(self.registry, *early);
                let mut cx = self.context(*early, &values, true);
                let made = kind.node.prepare(&self.checked.nodes[&node.name].config, &mut cx);
                prepared[early.index()] = made.map_err(|error| error.of(&node.name))?;
            }
            for (freed, how) in &schedule.releases[place] {
                match how {
                    Release::Drop => self.drop_values(&mut values[freed.index()], &self.graph.dag[*freed].name),
                    Release::Unload => values[freed.index()].iter().for_each(|value| value.unload()),
                }
            }
        }
        let Some((driver_name, driver)) = driver else {
            return Err(RunError::new("P0910", "no node made a driver for the run"));
        };
        listeners.sort_by_key(|(index, _, listener)| (listener.priority(), *index));
        let listeners = listeners.into_iter().map(|(_, name, listener)| (name, listener)).collect();
        let event_only = schedule.event_only().flat_map(|index| std::mem::take(&mut values[index.index()])).collect();
        let held = values.into_iter().flatten().collect();
        Ok(Nodes { driver, driver_name, listeners, event_only, contents, remarks, _held: held })
    }

    /// What a node is prepared or built with: its early inputs, or the others.
    fn context<'a>(&'a self, index: NodeIndex, values: &[Vec<SharedValue>], early: bool) -> BuildCx<'a> {
        let node = &self.graph.dag[index];
        let kind = self.graph.kind(self.registry, index);
        let wanted = |port: &str| kind.input(port).is_some_and(|input| input.early == early);
        let mut inputs: BTreeMap<&'static str, Vec<SharedValue>> = BTreeMap::new();
        for (port, links) in node.inputs.iter().filter(|(port, _)| wanted(port)) {
            let sources = links.iter().map(|link| values[link.node.index()][link.output].clone());
            inputs.insert(port, sources.collect());
        }
        BuildCx {
            name: &node.name,
            settings: self.settings,
            base_dir: &self.checked.base_dir,
            folder: self.folder,
            inputs,
            prepared: None,
            facts: &self.checked.nodes[&node.name].inputs,
            progress: self.log.progress(),
            stop: self.stop.clone(),
        }
    }

    fn drop_values(&self, values: &mut Vec<SharedValue>, name: &str) {
        for value in values.drain(..) {
            let others = std::sync::Arc::strong_count(&value) - 1;
            if others > 0 {
                self.log.line(&format!("`{name}` is no longer used but {others} other nodes hold it"));
            }
        }
        self.log.line(&format!("free {name}"));
    }
}
