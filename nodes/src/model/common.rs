//! What all model nodes share.

use std::sync::Arc;

use pipe_core::node::{CheckCx, Facts, PlanCx};
use pipe_core::plan::{Bytes, Category, NodePlan, bytes_text, grouped};
use pipe_core::port::{Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::{ComponentWeights, Family, Layout};
use pipe_networks::Network;
use pipe_train::ddpm::Prediction;

use super::memory::BlockMemory;
use crate::common::denoiser::Denoiser;
use crate::common::engine::{Engine, check_device, compute_type};
use crate::common::facts::{keeping_of, network_of};
use crate::common::family;
use crate::common::weights_source::{self, Source};

/// What a model trains towards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objective {
    /// What a U-Net predicts.
    pub prediction: Prediction,
    /// Its schedule ends in pure noise.
    pub zero_terminal_snr: bool,
}

/// A network read from a file, or why not: code and words.
pub type Inferred = Result<Network, (&'static str, String)>;

pub fn outputs() -> Vec<Output> {
    vec![Output::single(PortType::Model, Rate::Setup, "The denoiser.")]
}

/// Reports a device or precision that this build has not: as an error before a run, as a warning where the document is
/// planned for another machine.
pub fn check_settings(cx: &mut CheckCx) {
    let Some(unfit) = check_device(cx.settings) else { return };
    if cx.any_device && !unfit.anywhere {
        let message = format!("{}: it can be planned here, not run", unfit.message);
        cx.warn("P0904", unfit.field, message, Some(unfit.help));
    } else {
        cx.error("P0904", unfit.field, unfit.message, Some(unfit.help));
    }
}

/// Sizes from the file at `weights`, with its tensors compared.
pub fn check_file(
    cx: &mut CheckCx,
    weights: &str,
    family: Family,
    full: Network,
    infer: impl FnOnce(&ComponentWeights) -> Inferred,
) -> Option<(Network, Option<Box<ComponentWeights>>)> {
    check_settings(cx);
    let sizes = |file: &ComponentWeights| {
        infer(file).map(|network| {
            let shapes = network.shapes();
            (network, shapes)
        })
    };
    weights_source::sizes_for_check(cx, weights, family.denoiser(), || full, sizes)
}

/// Facts of a model; reports what its fields about memory get wrong.
pub fn facts(
    cx: &mut CheckCx,
    family: Family,
    network: &Network,
    file: Option<&ComponentWeights>,
    memory: &BlockMemory,
    objective: Objective,
) -> Facts {
    let mut facts = Facts::new()
        .with("architecture", family::id(family))
        .with("latent_channels", network.channels() as u64)
        .with("context_dim", network.context() as u64)
        .with("network", serde_json::to_value(network).unwrap_or_default());
    facts = memory.check(cx, network, facts);
    if let Some(file) = file {
        facts = facts.with("layout", file.layout.id());
    }
    if let Some(pooled) = network.pooled() {
        facts = facts.with("pooled_dim", pooled as u64);
    }
    if family::flow(family).is_none() {
        facts = facts
            .with("prediction", serde_json::to_value(objective.prediction).unwrap_or_default())
            .with("zero_terminal_snr", objective.zero_terminal_snr);
    }
    facts
}

/// Bytes of the weights.
pub fn plan(cx: &PlanCx) -> NodePlan {
    let Some(network) = network_of(cx.facts) else { return NodePlan::default() };
    let dtype = compute_type(cx.settings.train.precision, crate::planned_kind(cx.settings));
    let shapes = network.shapes();
    let kept = keeping_of(cx.facts).bytes(&shapes, dtype);
    let mut notes = vec![format!("{} parameters in {} tensors", grouped(network.parameters() as u64), shapes.len())];
    if kept.host > 0 {
        let (device, host) = (bytes_text(kept.device), bytes_text(kept.host));
        notes.push(format!("weights: {device} on the device, {host} of swapped blocks in host memory"));
    }
    NodePlan {
        resident: vec![Bytes { category: Category::Weights, bytes: kept.device }],
        host: kept.host,
        notes,
        ..Default::default()
    }
}

/// A model from a file.
pub fn build_file(
    cx: &BuildCx,
    weights: &str,
    family: Family,
    memory: &BlockMemory,
    objective: impl FnOnce(&ComponentWeights) -> Objective,
    infer: impl FnOnce(&ComponentWeights) -> Inferred,
) -> Result<Built, RunError> {
    let path = cx.path(weights);
    let file = weights_source::open_for_run(&path, family.denoiser())?;
    let network = infer(&file).map_err(|(code, why)| RunError::new(code, why).at("weights"))?;
    let (objective, layout) = (objective(&file), file.layout);
    drop(file);
    build(cx, family, network, memory, objective, Source::File { path, node: cx.name.to_owned() }, Some(layout))
}

/// A model as a value.
pub fn build(
    cx: &BuildCx,
    family: Family,
    network: Network,
    memory: &BlockMemory,
    objective: Objective,
    source: Source,
    layout: Option<Layout>,
) -> Result<Built, RunError> {
    let engine = Engine::open(cx.settings)?;
    memory.refuse(&engine)?;
    // Shapes do not tell all sizes, such as heads and the groups of norms.
    let sizes = serde_json::to_string(&network).unwrap_or_default();
    let content = format!("{} {sizes}", source.fingerprint(family.denoiser())?);
    let goal = (objective.prediction, objective.zero_terminal_snr);
    let held = (memory.memory.checkpointing.policy(), memory.keeping(&network));
    let model: Arc<Denoiser> = Denoiser::new(family, network, goal, held, (source, layout), engine);
    Ok(Built { outputs: vec![model], content: Some(content), ..Default::default() })
}
