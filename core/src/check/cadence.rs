//! Cadences that the run ends before: nothing is saved, shown or measured by them.

use serde_json::Value as Json;

use super::{Nodes, span_of};
use crate::diagnostic::{Diagnostic, Span};
use crate::document::{Map, Tree};
use crate::graph::Graph;
use crate::settings::Settings;

/// Warns of `every` of nodes and of `train.save_state` where their first time would be after the end.
pub(super) fn look(graph: &Graph, known: &Nodes, nodes: &Map, settings: &Settings, tree: &Tree) -> Vec<Diagnostic> {
    // What is wrong elsewhere may change the length of the run.
    if known.values().any(|state| !state.ok) {
        return Vec::new();
    }
    let facts = graph.driver.and_then(|driver| known.get(&graph.dag[driver].name)).map(|state| &state.facts);
    let of_run = |name: &str| facts.and_then(|facts| facts.u64(name));
    let (Some(total), Some(per_epoch)) = (of_run("steps"), of_run("steps_per_epoch")) else { return Vec::new() };
    let after = |name: &str, every: u64| match name {
        "steps" => every > total,
        _ => every.saturating_mul(per_epoch) > total,
    };
    let warning = |span: Span, name: &str, every: u64| {
        let unit = if every == 1 { name.trim_end_matches('s') } else { name };
        let run = match (name, settings.train.epochs) {
            ("epochs", Some(epochs)) => format!("{epochs} epochs"),
            ("epochs", None) => format!("{total} steps, of which an epoch has {per_epoch}"),
            _ => format!("{total} steps"),
        };
        let message = format!("the first time would be after {every} {unit}, the run has {run}");
        let help = "give a smaller number, or leave it out: what is made at the end is made in any case";
        Diagnostic::warning("P0333", span, message).help(help)
    };
    let mut found = Vec::new();
    for (name, state) in known {
        for unit in ["steps", "epochs"] {
            let every = state.config.get("every").and_then(|every| every.get(unit)).and_then(Json::as_u64);
            if let (Some(every), Some(entry)) = (every.filter(|every| after(unit, *every)), nodes.get(name)) {
                found.push(warning(span_of(entry, &format!("every.{unit}")), unit, every));
            }
        }
    }
    let state = &settings.train.save_state;
    for (unit, every) in [("steps", state.steps), ("epochs", state.epochs)] {
        let place = tree.deepest(&format!("train.save_state.{unit}"));
        if let Some(every) = every.filter(|every| after(unit, *every) && place.depth == 3) {
            found.push(warning(place.span(), unit, every));
        }
    }
    found
}
