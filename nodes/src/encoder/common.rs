//! What the text encoders' nodes share.

use std::sync::Arc;

use pipe_core::node::{CheckCx, Facts, PlanCx};
use pipe_core::plan::{Bytes, Category, NodePlan};
use pipe_core::port::{Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::{Component, ComponentWeights, Family};
use pipe_networks::TextNetwork;
use pipe_networks::clip::Take;

use crate::common::engine::{Engine, compute_type};
use crate::common::facts::{TextFacts, text_of};
use crate::common::family;
use crate::common::storage::{self, StorageType};
use crate::common::text::{Prompts, TextEncoder};
use crate::common::weights_source::{self, Source};

/// A network read from a file, or why not.
pub type Inferred = Result<TextNetwork, (&'static str, String)>;

pub fn outputs() -> Vec<Output> {
    vec![Output::single(PortType::TextEncoder, Rate::Setup, "The text encoder.")]
}

/// Sizes from the file at `weights`, with its tensors compared.
pub fn check_file(
    cx: &mut CheckCx,
    weights: &str,
    component: Component,
    full: TextNetwork,
    infer: impl FnOnce(&ComponentWeights) -> Inferred,
) -> Option<(TextNetwork, Option<Box<ComponentWeights>>)> {
    let sizes = |file: &ComponentWeights| {
        infer(file).map(|network| {
            let shapes = network.shapes();
            (network, shapes)
        })
    };
    weights_source::sizes_for_check(cx, weights, component, || full, sizes)
}

/// Refuses a token table with fewer rows than the tokenizer has ids.
pub fn rows_suffice(rows: usize, ids: usize) -> Result<(), (&'static str, String)> {
    if rows < ids {
        return Err(("P0305", format!("the token table has {rows} rows, the tokenizer {ids} ids")));
    }
    Ok(())
}

/// Tokens of the output, and whether the denoiser is told which are padding.
#[derive(Clone, Copy)]
pub struct Length {
    /// Tokens of the joined output.
    pub tokens: usize,
    /// The denoiser is told which tokens are padding.
    pub masks: bool,
    /// No file told for which family the states are read.
    pub assumed: bool,
    /// The family that the document gives the encoder itself.
    pub told: Option<Family>,
    /// Emphasis in captions is read.
    pub weighted: bool,
    /// Captions get a system prompt before them.
    pub prompted: bool,
    /// Padding is hidden from attention inside the encoder.
    pub hides_padding: bool,
}

impl Length {
    /// So many tokens, plain.
    pub fn of(tokens: usize, masks: bool) -> Self {
        Length { tokens, masks, assumed: false, told: None, weighted: false, prompted: false, hides_padding: masks }
    }
}

/// Facts of a text encoder.
pub fn facts(
    cx: &mut CheckCx,
    node: &str,
    (component, network): (Component, &TextNetwork),
    take: Take,
    length: Length,
    storage: Option<StorageType>,
) -> Facts {
    storage::check(cx, storage);
    let Some(kind) = family::text_kind(component) else { return Facts::new() };
    let text = TextFacts {
        kind,
        width: network.width() as u64,
        pooled: network.pooled().filter(|_| take.pooled).map(|p| p as u64),
        tokens: length.tokens as u64,
        single: take.final_norm,
        masks: length.masks,
        assumed: length.assumed,
        told: length.told.map(|family| family::id(family).into()),
        node: node.into(),
        weighted: length.weighted,
        prompted: length.prompted,
        hides_padding: length.hides_padding,
        take,
        storage,
        network: network.clone(),
    };
    Facts::new().with("text", serde_json::to_value(&text).unwrap_or_default())
}

/// Bytes of the weights.
pub fn plan(cx: &PlanCx) -> NodePlan {
    let Some(text) = text_of(cx.facts) else { return NodePlan::default() };
    let dtype = compute_type(cx.settings.train.precision, crate::planned_kind(cx.settings));
    let bytes = text.keeping().bytes(&text.network.shapes(), dtype).device;
    NodePlan { resident: vec![Bytes { category: Category::Weights, bytes }], ..Default::default() }
}

/// A text encoder from a file.
pub fn build_file(
    cx: &BuildCx,
    (weights, storage): (&str, Option<StorageType>),
    component: Component,
    take: impl FnOnce(&ComponentWeights) -> Take,
    prompts: Prompts,
    infer: impl FnOnce(&ComponentWeights) -> Inferred,
) -> Result<Built, RunError> {
    let path = cx.path(weights);
    let file = weights_source::open_for_run(&path, component)?;
    let network = infer(&file).map_err(|(code, why)| RunError::new(code, why).at("weights"))?;
    let take = take(&file);
    drop(file);
    build(cx, component, network, take, prompts, (Source::File { path, node: cx.name.to_owned() }, storage))
}

/// A text encoder as a value.
pub fn build(
    cx: &BuildCx,
    component: Component,
    network: TextNetwork,
    take: Take,
    prompts: Prompts,
    (source, storage): (Source, Option<StorageType>),
) -> Result<Built, RunError> {
    let engine = Engine::open(cx.settings)?;
    storage::refuse(&engine, storage)?;
    let text: Arc<TextEncoder> = TextEncoder::new(component, network, take, prompts, (source, storage), engine)?;
    let content = Some(text.fingerprint.clone());
    Ok(Built { outputs: vec![text], content, ..Default::default() })
}
