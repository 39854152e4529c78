//! What would make a run fit: changes of the document, tried in the order of what they cost.
//!
//! A smaller batch with more accumulation trains the same and takes somewhat longer; checkpointing takes a third
//! longer; caches on disk are read again at each step; smaller previews show less, and none show nothing; gradients that
//! are freed on the way back are clipped one by one; moments of 8 bits are rounded; what is offloaded is copied twice;
//! weights of 8 bits are rounded; a smaller rank or resolution learns
//! something else. Each is planned anew, so that what it needs is known.

use serde::Serialize;
use serde_json::Value as Json;

use super::{Fitting, Misfit, Plan};
use crate::check::Checked;
use crate::registry::{Kind, Registry};

/// A change, as overrides of the document.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Change {
    /// In the form of `--set`: `train.batch_size=1`.
    pub sets: Vec<String>,
}

/// Fills in which changes of a document need less memory, and the cheapest that fits. `replan` plans the document with
/// overrides, and gives nothing when it then has errors.
///
/// A change is a field of this document, and its number is that of a plan made with it.
pub fn changes(
    registry: &Registry,
    checked: &Checked,
    misfit: &mut Misfit,
    mut replan: impl FnMut(&[String]) -> Option<Plan>,
) {
    if misfit.hopeless() {
        return;
    }
    let fits = |plan: &Plan, misfit: &Misfit| plan.fits(misfit.memory).is_ok();
    let fused = of_nodes(registry, checked, fusing);
    let fused = if fused.is_empty() || replan(&fused).is_none() { Vec::new() } else { fused };
    for groups in candidates(registry, checked, fused) {
        // What fits already needs no more on top, and no more of the same.
        let fields: Vec<&str> = groups.iter().flatten().map(|set| field(set)).collect();
        let less = |one: &Fitting| one.fits && one.change.sets.iter().all(|set| fields.contains(&field(set)));
        if misfit.changes.iter().any(less) {
            continue;
        }
        let Some(mut plan) = replan(&groups.concat()) else { continue };
        let mut groups = groups;
        // Of several changes that fit together only those are told that it takes.
        let mut at = 0;
        while groups.len() > 1 && at < groups.len() && fits(&plan, misfit) {
            let mut fewer = groups.clone();
            fewer.remove(at);
            match replan(&fewer.concat()).filter(|plan| fits(plan, misfit)) {
                Some(less) => (groups, plan) = (fewer, less),
                None => at += 1,
            }
        }
        let change = Change { sets: groups.concat() };
        let (peak_bytes, fits) = (plan.peak_bytes, fits(&plan, misfit));
        if peak_bytes < misfit.total && misfit.changes.iter().all(|one| one.change != change) {
            misfit.changes.push(Fitting { change, peak_bytes, fits });
        }
    }
    misfit.cheapest = misfit.changes.iter().find(|one| one.fits).cloned();
}

/// The path of an override.
fn field(set: &str) -> &str {
    set.split('=').next().unwrap_or_default()
}

/// Changes worth trying, each a few groups of overrides that belong together: each kind alone, then with the cheaper
/// ones.
fn candidates(registry: &Registry, checked: &Checked, fused: Vec<String>) -> Vec<Vec<Vec<String>>> {
    let batches = batches(checked);
    let mut base: Vec<Vec<String>> = batches.last().cloned().into_iter().collect();
    let mut out: Vec<Vec<Vec<String>>> = batches.into_iter().map(|sets| vec![sets]).collect();
    // Those that not every run can have go with the cheaper ones, and not with what follows.
    let (all, some) = (true, false);
    let kinds = [
        (all, of_nodes(registry, checked, checkpointing)),
        (all, of_nodes(registry, checked, caching)),
        (all, of_nodes(registry, checked, previewing)),
        (all, without_previews(checked)),
        (all, fused),
        (all, of_nodes(registry, checked, |kind, _| stepping(registry, kind))),
        (some, of_nodes(registry, checked, offloading)),
        (some, of_nodes(registry, checked, rounding)),
        (all, of_nodes(registry, checked, |kind, config| ranking(kind, config, 2))),
        (all, of_nodes(registry, checked, |kind, config| ranking(kind, config, 4))),
        (all, of_nodes(registry, checked, |kind, config| resolving(kind, config, 4, 3))),
        (all, of_nodes(registry, checked, |kind, config| resolving(kind, config, 2, 1))),
    ];
    for (joins, sets) in kinds.into_iter().filter(|(_, sets)| !sets.is_empty()) {
        out.push(vec![sets.clone()]);
        // A later value of the same field takes the place of the earlier one; of a node that is taken out nothing is set.
        let within =
            |old: &str, set: &str| field(old) == field(set) || field(old).starts_with(&format!("{}.", field(set)));
        // What steps in each pass does not add up several.
        let steps = sets.iter().any(|set| field(set).ends_with(FUSED));
        let clashes = |old: &str, set: &str| within(old, set) || (steps && old.starts_with("train."));
        let mut joined = base.clone();
        for group in &mut joined {
            group.retain(|old| !sets.iter().any(|set| clashes(old, set)));
        }
        joined.retain(|group| !group.is_empty());
        joined.push(sets);
        if joined.len() > 1 {
            out.push(joined.clone());
        }
        if joins {
            base = joined;
        }
    }
    out
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

/// Field of optimizers that free gradients on the way back.
const FUSED: &str = "fused_backward";

fn fusing(kind: &Kind, config: &Json) -> Vec<(&'static str, String)> {
    let has = kind.schema["properties"].get(FUSED).is_some();
    let set = config.get(FUSED).is_some_and(|value| value == true);
    if has && !set { vec![(FUSED, "true".into())] } else { Vec::new() }
}

/// What is kept for the backward pass, in the host's memory: only where that is another than the device's.
fn offloading(kind: &Kind, _: &Json) -> Vec<(&'static str, String)> {
    let has =
        kind.schema["properties"].get("checkpointing").is_some() && kind.schema.to_string().contains("\"offload\"");
    if has { vec![("checkpointing", "offload".into())] } else { Vec::new() }
}

/// Frozen weights of a model in 8 bits.
fn rounding(kind: &Kind, _: &Json) -> Vec<(&'static str, String)> {
    let has = kind.about.type_name.starts_with("model.") && kind.schema["properties"].get("storage").is_some();
    if has { vec![("storage", "f8_e4m3".into())] } else { Vec::new() }
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

/// Takes previews out: nothing reads them.
fn without_previews(checked: &Checked) -> Vec<String> {
    let previews = checked.nodes.iter().filter(|(_, node)| node.type_name.starts_with("sampler."));
    previews.map(|(name, _)| format!("nodes.{name}=null")).collect()
}

/// The same optimizer with moments of 8 bits, where there is one.
fn stepping(registry: &Registry, kind: &Kind) -> Vec<(&'static str, String)> {
    let small = format!("{}_8bit", kind.about.type_name);
    let has = kind.about.type_name.starts_with("optimizer.") && registry.kind(&small).is_some();
    if has { vec![("type", small)] } else { Vec::new() }
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
