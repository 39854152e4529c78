//! What the adapter nodes share: checks, facts, plan and build around a list of [`Target`]s.
//!
//! The check finds the list once and puts it into the facts; the plan of this node and that of the optimizer read it
//! there, so that plan and run cannot differ.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use pipe_core::node::{CheckCx, Facts, PlanCx};
use pipe_core::plan::{Bytes, Category, NodePlan};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::{Component, Header, WeightFile};
use pipe_networks::adapters::{self, Kind, Target};
use pipe_networks::{Dropouts, Weights};
use pipe_ops::Tensor;
use schemars::JsonSchema;
use serde::Deserialize;

use super::base::{self, BaseWeights};
use super::targeting::{Fault, Targeting};
use super::{Parts, check_texts, pass_on, texts_of, vae_of};
use crate::common::denoiser::Denoiser;
use crate::common::errors;
use crate::common::facts::read;
use crate::common::family;
use crate::common::trainable::{Adapted, AdapterAbout, Held, Method, Subject, Trainable, TrainedText};
use crate::optimizer::KeyRate;

/// Fields of every adapter.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct Common {
    /// Probability of leaving a module out of a forward pass. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub module_dropout: f64,
    /// File of such an adapter to start from. It must have the same modules and ranks; its α replaces `alpha`.
    #[serde(default)]
    #[schemars(extend("x-path" = "file"))]
    pub weights: Option<String>,
    /// LoRA or LoHa files that are merged into the model before training, in this order.
    #[serde(default)]
    pub base_weights: Option<Vec<BaseWeights>>,
}

/// An adapter node's configuration.
pub trait Recipe {
    /// The fields of every adapter.
    fn common(&self) -> &Common;
    /// The adapted layers, and what is wrong with the fields. `start` is the header of `weights`.
    fn resolve(&self, parts: &Parts, start: Option<&Header>) -> (Vec<Target>, Vec<Fault>);
    /// Dropouts.
    fn dropouts(&self) -> Dropouts;
    /// What is said of it in metadata.
    fn about(&self, parts: &Parts, targets: &[Target]) -> AdapterAbout;
    /// Longest ΔW.
    fn norm_limit(&self) -> Option<f64> {
        None
    }
}

/// The ports of an adapter.
pub fn inputs(text: bool) -> Vec<Input> {
    let mut list = vec![Input::one("model", &[PortType::Model], Rate::Step, "Model to adapt.")];
    if text {
        list.push(Input::many("text", &[PortType::TextEncoder], Rate::Step, "Text encoders to adapt as well."));
    }
    list
}

/// The output of an adapter.
pub fn outputs() -> Vec<Output> {
    vec![Output::single(PortType::Trainable, Rate::Setup, "The model with its adapters.")]
}

/// Faults of fields that have no effect with this model, or beside `weights`.
pub fn idle(targeting: &Targeting, common: &Common, parts: &Parts) -> Vec<Fault> {
    let mut faults = Vec::new();
    let unet = parts.family.denoiser() == Component::Unet;
    if targeting.conv.is_some() && !unet {
        let message = format!("`conv` has no effect: {} has no residual blocks", parts.family);
        faults.push(Fault::idle("conv", message, None));
    }
    if targeting.embedders && unet {
        let message = format!("`embedders` has no effect on the U-Net of {}", parts.family);
        faults.push(Fault::idle("embedders", message, Some("`conv` adapts more of a U-Net".into())));
    }
    if common.weights.is_some() {
        let conv = targeting.conv.as_ref().is_some_and(|c| c.alpha.is_some());
        for (field, set) in [("alpha", targeting.alpha.is_some()), ("conv.alpha", conv)] {
            if set {
                let message = format!("`{field}` has no effect beside `weights`: the file's α is kept");
                faults.push(Fault::idle(field, message, Some("leave it out".into())));
            }
        }
    }
    faults
}

/// The targets that a node's facts tell.
pub fn targets_of(facts: &Facts) -> Vec<Target> {
    read(facts, "targets").unwrap_or_default()
}

/// Checks an adapter node.
pub fn check(recipe: &impl Recipe, cx: &mut CheckCx) -> Facts {
    if vae_of(cx.inputs).is_some() {
        cx.error("P0401", "model", "an autoencoder takes no adapter", Some("use `adapter.full`".into()));
    }
    check_texts(cx);
    let common = recipe.common();
    let mut start = None;
    if let Some(path) = common.weights.as_ref().map(|p| cx.path(p)).filter(|p| !cx.stands_in(p)) {
        match Header::read(path) {
            Ok(header) => start = Some(header),
            Err(e) => cx.error(errors::file_code(&e), "weights", e.to_string(), None),
        }
    }
    let facts = pass_on(cx.inputs).with("method", "adapter");
    let Some(parts) = Parts::of(cx.inputs) else { return facts };
    let (targets, faults) = recipe.resolve(&parts, start.as_ref());
    if faults.is_empty()
        && let Some(problem) = start.and_then(|header| misfit(&header, &targets))
    {
        let help = "set `rank` and `conv` as they were when the file was trained; `pipe inspect` shows them";
        cx.error("P0305", "weights", problem, Some(help.into()));
    }
    for Fault { code, field, message, help } in faults {
        cx.error(code, &field, message, help);
    }
    base::check(cx, common.base_weights.as_deref().unwrap_or_default(), &parts);
    let pieces: Vec<_> = targets.iter().flat_map(Target::pieces).collect();
    let size = |shape: &[usize]| shape.iter().product::<usize>() as u64;
    let trained = || pieces.iter().filter(|p| p.trains);
    let in_file = |t: &Target| t.file_shapes().iter().map(|(_, s)| size(s)).sum::<u64>();
    facts
        .with("parameters", trained().map(|p| size(&p.shape)).sum::<u64>())
        .with("frozen_values", pieces.iter().filter(|p| !p.trains).map(|p| size(&p.shape)).sum::<u64>())
        .with("trainable_tensors", trained().count() as u64)
        .with("modules", targets.len() as u64)
        .with("file_values", targets.iter().map(in_file).sum::<u64>())
        .with("largest", pieces.iter().map(|p| size(&p.shape)).max().unwrap_or(0))
        .with("rates", serde_json::to_value(rates(&targets)).unwrap_or_default())
        .with("targets", serde_json::to_value(&targets).unwrap_or_default())
}

/// Rates of the tensors that do not simply follow their part's.
fn rates(targets: &[Target]) -> HashMap<String, KeyRate> {
    let mut out = HashMap::new();
    for target in targets {
        for piece in target.pieces() {
            let plus = if piece.up { target.rate.plus } else { 1.0 };
            if target.rate.label.is_none() && plus == 1.0 {
                continue;
            }
            let mut group = target.part.clone();
            for more in [target.rate.label.as_deref(), (plus != 1.0).then_some("plus")].into_iter().flatten() {
                group = format!("{group}_{more}");
            }
            let rate = KeyRate { group, factor: target.rate.factor * plus, absolute: target.rate.absolute };
            out.insert(piece.key, rate);
        }
    }
    out
}

/// Plans an adapter node.
pub fn plan(cx: &PlanCx) -> NodePlan {
    let targets = targets_of(cx.facts);
    let (trained, frozen) = targets.iter().fold((0, 0), |(a, b), t| {
        let (trained, frozen) = t.parameters();
        (a + trained as u64, b + frozen as u64)
    });
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for target in &targets {
        match counts.iter_mut().find(|(part, _)| *part == target.part) {
            Some((_, n)) => *n += 1,
            None => counts.push((&target.part, 1)),
        }
    }
    let modules: Vec<String> = counts.iter().map(|(part, n)| format!("{n} modules of `{part}`")).collect();
    NodePlan {
        resident: vec![Bytes { category: Category::Trainable, bytes: 4 * (trained + frozen) }],
        notes: vec![format!("{}; {trained} trainable values in all", modules.join(", "))],
        ..Default::default()
    }
}

/// Builds an adapter node.
pub fn build(recipe: &impl Recipe, cx: &mut BuildCx) -> Result<Built, RunError> {
    let model = Held::<Denoiser>::one(cx, "model")?;
    let encoders = texts_of(cx)?;
    let parts = Parts {
        family: model.family,
        network: model.network.clone(),
        texts: encoders.iter().map(|t| (t.component, t.network.shapes())).collect(),
    };
    let common = recipe.common();
    let start = match &common.weights {
        Some(path) => Some(WeightFile::open(cx.path(path)).map_err(|e| errors::file_error(&e, "weights"))?),
        None => None,
    };
    let (mut targets, faults) = recipe.resolve(&parts, start.as_ref().map(|file| file.header()));
    if let Some(fault) = faults.into_iter().next() {
        return Err(RunError::new(fault.code, fault.message).at(&fault.field));
    }
    let initial = match &start {
        Some(file) => start_from(file, &mut targets)?,
        None => HashMap::new(),
    };
    let list = common.base_weights.as_deref().unwrap_or_default();
    let mut changes = base::read(list, &parts, |path: &str| cx.path(path))?;
    let device = model.engine.device.clone();
    let mut with_base = |weights: Arc<Weights>, component: Component, unload: &dyn Fn()| {
        let mut weights = weights;
        for layers in changes.remove(&component).unwrap_or_default() {
            let merged = adapters::merge::merged(&model.engine.cx(), &weights, &layers);
            weights = Arc::new(merged.map_err(|e| RunError::new("P0305", e).at("base_weights"))?);
            unload();
        }
        Ok::<_, RunError>(weights)
    };
    let weights = with_base(model.weights.get()?, model.component(), &|| model.weights.unload())?;
    let mut texts = Vec::new();
    for encoder in encoders {
        let weights = with_base(encoder.weights.get()?, encoder.component, &|| encoder.weights.unload())?;
        texts.push(TrainedText { encoder, weights });
    }
    let of_base = |part: &str, name: &str| {
        let text = texts.iter().find(|t| family::part(t.encoder.component) == part);
        text.map_or(&weights, |t| &t.weights).get(name).map(Tensor::to_vec)
    };
    let train = adapters::create(&targets, recipe.dropouts(), cx.settings.seed, &device, &initial, &of_base);
    let about = recipe.about(&parts, &targets);
    let method = Method::Adapter(Box::new(Adapted { about, norm_limit: recipe.norm_limit(), targets }));
    let trainable = Trainable {
        subject: Arc::new(Subject::Denoiser { model, weights, texts }),
        method: Arc::new(method),
        train: Arc::new(RwLock::new(train)),
    };
    Ok(Built { outputs: vec![Arc::new(trainable)], ..Default::default() })
}

/// How a file differs from the modules and ranks asked for.
fn misfit(header: &Header, targets: &[Target]) -> Option<String> {
    let expected: HashMap<String, Vec<usize>> = targets.iter().flat_map(Target::file_shapes).collect();
    let missing = expected.keys().filter(|k| !header.tensors.contains_key(*k)).count();
    let unknown: Vec<&String> =
        header.tensors.keys().filter(|k| !k.ends_with(".alpha") && !expected.contains_key(*k)).collect();
    if missing > 0 || !unknown.is_empty() {
        let example = unknown.first().map(|k| format!(", such as `{k}`")).unwrap_or_default();
        let what = match targets.first().map(|t| &t.kind) {
            Some(Kind::Lora { .. }) | None => "LoRA",
            _ => "adapter",
        };
        return Some(format!(
            "the {what} file lacks {missing} of the {} factors and has {} others{example}",
            expected.len(),
            unknown.len()
        ));
    }
    let mut expected: Vec<_> = expected.into_iter().collect();
    expected.sort();
    expected.iter().find_map(|(name, shape)| {
        let found = &header.tensors[name].shape;
        (found.iter().product::<usize>() != shape.iter().product::<usize>() || found.first() != shape.first())
            .then(|| format!("`{name}` has shape {found:?}, the adapter {shape:?}"))
    })
}

/// Reads factors and α of a file.
fn start_from(file: &WeightFile, targets: &mut [Target]) -> Result<HashMap<String, Vec<f32>>, RunError> {
    let error = |e| errors::file_error(&e, "weights");
    if let Some(problem) = misfit(file.header(), targets) {
        return Err(RunError::new("P0305", problem).at("weights"));
    }
    let mut initial = HashMap::new();
    for target in targets {
        let mut values = HashMap::new();
        let shapes = target.file_shapes();
        for (name, _) in &shapes {
            values.insert(name.clone(), file.f32(name).map_err(error)?);
        }
        let Some(pieces) = target.unpack(values) else {
            let message = format!("the up factor of `{}` is not one of split parts", target.name);
            return Err(RunError::new("P0305", message).at("weights").help("leave `split_qkv` out for this file"));
        };
        initial.extend(pieces);
        let alpha = target.alpha_name();
        target.alpha = match file.info(&alpha) {
            Some(_) => {
                let alpha = number(file, &alpha)?.unwrap_or(target.alpha);
                target.alpha_from_file(alpha)
            }
            // Without α the scale is 1; a rotation keeps the constraint it is given.
            None if matches!(target.kind, Kind::Rotation { .. }) => target.alpha,
            None => target.rank as f32,
        };
    }
    Ok(initial)
}

/// A number of a file, whole or not.
pub fn number(file: &WeightFile, name: &str) -> Result<Option<f32>, RunError> {
    let whole = || file.i64(name).map(|v| v.into_iter().map(|x| x as f32).collect::<Vec<f32>>());
    let values = file.f32(name).or_else(|_| whole()).map_err(|e| errors::file_error(&e, "weights"))?;
    Ok(values.first().copied())
}

/// Texts of dropouts for metadata.
pub fn dropout_args(about: &mut AdapterAbout, dropouts: Dropouts) {
    let list = [("dropout", dropouts.neuron), ("rank_dropout", dropouts.rank), ("module_dropout", dropouts.module)];
    for (name, p) in list.into_iter().filter(|(_, p)| *p > 0.0) {
        about.args.insert(name.to_owned(), p.to_string());
    }
    about.dropout = Some(dropouts.neuron as f64).filter(|p| *p > 0.0);
}

/// Rank, α, ranks of convolutions and LoRA+ for metadata.
pub fn describe(module: Option<&'static str>, rank: u64, targeting: &Targeting, targets: &[Target]) -> AdapterAbout {
    let conv = |t: &&Target| t.weight.get(2).is_some_and(|k| *k > 1);
    let alpha = |of_conv: bool| targets.iter().find(|t| conv(t) == of_conv).map(|t| t.alpha as f64);
    let mut about =
        AdapterAbout { module, rank, alpha: alpha(false).unwrap_or(rank as f64), ..AdapterAbout::default() };
    if let Some(own) = &targeting.conv {
        about.args.insert("conv_dim".into(), own.rank.to_string());
        about.args.insert("conv_alpha".into(), alpha(true).unwrap_or(own.rank as f64).to_string());
    }
    let ratio = |model: bool| {
        let of = |t: &&Target| t.part.starts_with("text_encoder") != model && t.rate.plus != 1.0;
        targets.iter().find(of).map(|t| t.rate.plus)
    };
    for (name, model) in [("loraplus_unet_lr_ratio", true), ("loraplus_text_encoder_lr_ratio", false)] {
        if let Some(ratio) = ratio(model) {
            about.args.insert(name.into(), ratio.to_string());
        }
    }
    about
}

/// Implements [`pipe_core::node::Node`] for an adapter's node type whose `Config` is a [`Recipe`].
macro_rules! adapter_node {
    ($node:ident, text: $text:expr, $about:expr) => {
        impl pipe_core::node::Node for $node {
            type Config = Config;

            const ABOUT: pipe_core::node::About = $about;

            fn inputs() -> Vec<pipe_core::port::Input> {
                $crate::adapter::common::inputs($text)
            }
            fn outputs() -> Vec<pipe_core::port::Output> {
                $crate::adapter::common::outputs()
            }
            fn check(config: &Config, cx: &mut pipe_core::node::CheckCx) -> pipe_core::node::Facts {
                $crate::adapter::common::check(config, cx)
            }
            fn plan(_config: &Config, cx: &pipe_core::node::PlanCx) -> pipe_core::plan::NodePlan {
                $crate::adapter::common::plan(cx)
            }
            fn build(
                config: Config,
                cx: &mut pipe_core::run::BuildCx,
            ) -> Result<pipe_core::run::Built, pipe_core::run::RunError> {
                $crate::adapter::common::build(&config, cx)
            }
        }
    };
}
pub(crate) use adapter_node;
