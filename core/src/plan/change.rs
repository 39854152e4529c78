//! What would make a run fit: changes of the document, tried in the order of what they cost.
//!
//! A smaller batch with more accumulation trains the same and takes somewhat longer; checkpointing takes a third
//! longer; caches on disk are read again at each step; smaller previews show less; a smaller rank or resolution learns
//! something else. Each is planned anew, so that what is named is known to fit.

use serde::Serialize;
use serde_json::Value as Json;

use super::{Plan, bytes_text};
use crate::check::Checked;
use crate::registry::{Kind, Registry};

/// A change, as overrides of the document.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Change {
    /// In the form of `--set`: `train.batch_size=1`.
    pub sets: Vec<String>,
}

/// A change that is known to fit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fitting {
    /// What to change.
    #[serde(flatten)]
    pub change: Change,
    /// Bytes of the largest phase then.
    pub peak_bytes: u64,
}

impl std::fmt::Display for Fitting {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let sets: Vec<String> = self.change.sets.iter().map(|set| format!("--set {set}")).collect();
        write!(f, "`{}` fits: {} at the peak", sets.join(" "), bytes_text(self.peak_bytes))
    }
}

/// The cheapest change with which a document fits into `memory` bytes. `replan` plans the document with overrides, and
/// gives nothing when it then has errors.
pub fn cheapest(
    registry: &Registry,
    checked: &Checked,
    memory: u64,
    mut replan: impl FnMut(&[String]) -> Option<Plan>,
) -> Option<Fitting> {
    changes(registry, checked).into_iter().find_map(|change| {
        let plan = replan(&change.sets)?;
        plan.fits(memory).is_ok().then_some(Fitting { change, peak_bytes: plan.peak_bytes })
    })
}

/// Changes worth trying: each kind alone, then together with the cheaper ones.
fn changes(registry: &Registry, checked: &Checked) -> Vec<Change> {
    let batches = batches(checked);
    let smallest = batches.last().cloned().unwrap_or_default();
    let mut out: Vec<Vec<String>> = batches;
    let mut base = smallest;
    let kinds = [
        of_nodes(registry, checked, checkpointing),
        of_nodes(registry, checked, caching),
        of_nodes(registry, checked, previewing),
        of_nodes(registry, checked, |kind, config| ranking(kind, config, 2)),
        of_nodes(registry, checked, |kind, config| ranking(kind, config, 4)),
        of_nodes(registry, checked, |kind, config| resolving(kind, config, 4, 3)),
        of_nodes(registry, checked, |kind, config| resolving(kind, config, 2, 1)),
    ];
    for sets in kinds.into_iter().filter(|sets| !sets.is_empty()) {
        out.push(sets.clone());
        // A later value of the same field takes the place of the earlier one.
        let field = |set: &str| set.split('=').next().unwrap_or_default().to_owned();
        base.retain(|old| !sets.iter().any(|set| field(set) == field(old)));
        base.extend(sets);
        out.push(base.clone());
    }
    out.dedup();
    out.into_iter().filter(|sets| !sets.is_empty()).map(|sets| Change { sets }).collect()
}

/// Smaller batches with as many images a step.
fn batches(checked: &Checked) -> Vec<Vec<String>> {
    let Some(train) = checked.settings.as_ref().map(|settings| &settings.train) else { return Vec::new() };
    let images = train.batch_size * train.accumulate;
    let sizes = (1..train.batch_size).rev().filter(|size| train.batch_size.is_multiple_of(*size));
    let sets = |size: u64| vec![format!("train.batch_size={size}"), format!("train.accumulate={}", images / size)];
    sizes.map(sets).collect()
}

/// Overrides of all nodes that have something to change.
fn of_nodes(
    registry: &Registry,
    checked: &Checked,
    change: impl Fn(&Kind, &Json) -> Vec<(&'static str, String)>,
) -> Vec<String> {
    let nodes = checked.nodes.iter().filter_map(|(name, node)| Some((name, registry.kind(node.type_name)?, node)));
    let sets = nodes.flat_map(|(name, kind, node)| {
        let changes = change(kind, &node.config);
        changes.into_iter().map(move |(field, value)| format!("nodes.{name}.{field}={value}"))
    });
    sets.collect()
}

fn checkpointing(kind: &Kind, config: &Json) -> Vec<(&'static str, String)> {
    let has =
        kind.schema["properties"].get("checkpointing").is_some() && kind.schema.to_string().contains("\"blocks\"");
    let set = config.get("checkpointing").is_some_and(|value| value == "blocks");
    if has && !set { vec![("checkpointing", "blocks".into())] } else { Vec::new() }
}

fn caching(kind: &Kind, _: &Json) -> Vec<(&'static str, String)> {
    if kind.about.type_name == "cacher.memory" { vec![("type", "cacher.disk".into())] } else { Vec::new() }
}

fn previewing(kind: &Kind, config: &Json) -> Vec<(&'static str, String)> {
    if !kind.about.type_name.starts_with("sampler.") {
        return Vec::new();
    }
    let half = |field: &'static str| {
        let side = number(kind, config, field)?;
        (side >= 128).then(|| (field, (side / 2 / 64 * 64).to_string()))
    };
    ["width", "height"].into_iter().filter_map(half).collect()
}

fn ranking(kind: &Kind, config: &Json, by: u64) -> Vec<(&'static str, String)> {
    let rank = number(kind, config, "rank").filter(|rank| *rank >= 2 * by);
    rank.map(|rank| ("rank", (rank / by).to_string())).into_iter().collect()
}

fn resolving(kind: &Kind, config: &Json, over: u64, of: u64) -> Vec<(&'static str, String)> {
    let side = number(kind, config, "resolution").filter(|side| *side >= 256);
    side.map(|side| ("resolution", (side * of / over / 64 * 64).to_string())).into_iter().collect()
}

/// A whole number of a node: as given, or its default.
fn number(kind: &Kind, config: &Json, field: &str) -> Option<u64> {
    let default = || kind.schema["properties"].get(field)?.get("default")?.as_u64();
    config.get(field).map_or_else(default, Json::as_u64)
}
