//! What the adapter nodes share: checks, facts, plan and build around a list of [`Target`]s.
//!
//! The check finds the list once and puts it into the facts; the plan of this node and that of the optimizer read it
//! there, so that plan and run cannot differ.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use pipe_core::node::{CheckCx, Facts, PlanCx};
use pipe_core::plan::{Bytes, Category, NodePlan, grouped};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::{Component, WeightFile};
use pipe_networks::adapters::noise::{self, Noise, mean_row};
use pipe_networks::adapters::{self, Target};
use pipe_networks::{Dropouts, Trainables, Weights};
use pipe_ops::Tensor;
use schemars::JsonSchema;
use serde::Deserialize;

use super::base::{self, BaseWeights};
use super::file::AdapterFile;
use super::targeting::{Fault, Targeting, text_name};
use super::{Parts, check_texts, pass_on, start, texts_of, vae_of, values};
use crate::common::denoiser::Denoiser;
use crate::common::errors;
use crate::common::facts::read;
use crate::common::family;
use crate::common::lazy::Lazy;
use crate::common::trainable::{Adapted, AdapterAbout, Held, Method, Subject, Trainable, TrainedText};
use crate::common::weights_source::Source;
use crate::optimizer::KeyRate;

/// Fields of every adapter.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct Common {
    /// Probability of leaving a module out of a forward pass. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub module_dropout: f64,
    /// File of such an adapter to start from, with the names of kohya, Diffusers or PEFT. It must have the same modules
    /// and ranks; its α replaces `alpha`.
    #[serde(default)]
    #[schemars(extend("x-path" = "file"))]
    pub weights: Option<String>,
    /// Adapter files that are merged into the model before training, in this order.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub base_weights: Option<Vec<BaseWeights>>,
}

/// An adapter node's configuration.
pub trait Recipe {
    /// The fields of every adapter.
    fn common(&self) -> &Common;
    /// The adapted layers, and what is wrong with the fields. `start` is the file at `weights`.
    fn resolve(&self, parts: &Parts, start: Option<&AdapterFile>) -> (Vec<Target>, Vec<Fault>);
    /// Whether the ranks are set here, not read from `weights`.
    fn own_ranks(&self) -> bool {
        true
    }
    /// Dropouts.
    fn dropouts(&self) -> Dropouts;
    /// What is said of it in metadata.
    fn about(&self, parts: &Parts, targets: &[Target]) -> AdapterAbout;
    /// Longest ΔW.
    fn norm_limit(&self) -> Option<f64> {
        None
    }
    /// σ and β of GGPO's noise.
    fn perturbation(&self) -> Option<[f64; 2]> {
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
        for field in targeting.alphas() {
            let message = format!("`{field}` has no effect beside `weights`: the file's α is kept");
            faults.push(Fault::idle(&field, message, Some("leave it out".into())));
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
    check_texts(cx, false);
    let common = recipe.common();
    let header = start::header(cx, common.weights.as_ref());
    let facts = pass_on(cx.inputs).with("method", "adapter");
    let Some(parts) = Parts::of(cx.inputs) else { return facts };
    let start = header.map(|header| AdapterFile::read(&header, &parts));
    let (targets, faults) = recipe.resolve(&parts, start.as_ref());
    if faults.is_empty()
        && let (Some(file), Some(path)) = (&start, &common.weights)
    {
        start::check(cx, path, file, &targets, recipe.own_ranks());
    }
    if faults.is_empty() && !targets.is_empty() {
        for (component, _) in &parts.texts {
            if targets.iter().all(|t| t.part != family::part(*component)) {
                let message =
                    format!("no layer of `{}` is adapted, so naming it has no effect", text_name(&parts, *component));
                let help = "leave it out of `text`; it then need not run in each step, and its outputs can be cached";
                cx.error("P0402", "text", message, Some(help.into()));
            }
        }
    }
    for Fault { code, field, message, help } in faults {
        cx.error(code, &field, message, help);
    }
    base::check(cx, common.base_weights.as_deref().unwrap_or_default(), &parts);
    let pieces: Vec<_> = targets.iter().flat_map(Target::pieces).collect();
    let size = |shape: &[usize]| shape.iter().product::<usize>() as u64;
    let trained = || pieces.iter().filter(|p| p.trains);
    let in_file = |t: &Target| t.file_shapes().iter().map(|(_, s)| size(s)).sum::<u64>();
    // Noise has a strength for each row of a layer.
    let rows = |t: &Target| recipe.perturbation().map_or(0, |_| t.weight[0] as u64);
    let noisy = recipe.perturbation().map_or(0, |_| targets.len() as u64);
    let facts = match recipe.perturbation() {
        Some(_) => facts.with("perturbation", true),
        None => facts,
    };
    let facts = match recipe.norm_limit() {
        Some(_) => facts.with("norm_field", format!("/nodes.{}.scale_weight_norms", cx.name)),
        None => facts,
    };
    let frozen = || pieces.iter().filter(|p| !p.trains);
    facts
        .with("parameters", trained().map(|p| size(&p.shape)).sum::<u64>())
        .with("frozen_values", frozen().map(|p| size(&p.shape)).sum::<u64>() + targets.iter().map(rows).sum::<u64>())
        .with("frozen_tensors", frozen().count() as u64 + noisy)
        .with("trainable_tensors", trained().count() as u64)
        .with("modules", targets.len() as u64)
        .with("file_values", targets.iter().map(in_file).sum::<u64>())
        .with("largest", pieces.iter().map(|p| size(&p.shape)).max().unwrap_or(0))
        .with("rates", serde_json::to_value(rates(cx.name, &targets)).unwrap_or_default())
        .with("targets", serde_json::to_value(&targets).unwrap_or_default())
}

/// Rates of the tensors that do not simply follow their part's; `node` is the adapter's name.
fn rates(node: &str, targets: &[Target]) -> HashMap<String, KeyRate> {
    let mut out = HashMap::new();
    for target in targets {
        let label = target.rate.label.as_deref();
        for piece in target.pieces() {
            let plus = if piece.up { target.rate.plus } else { 1.0 };
            if label.is_none() && plus == 1.0 {
                continue;
            }
            let mut group = target.part.clone();
            for more in [label, (plus != 1.0).then_some("plus")].into_iter().flatten() {
                group = format!("{group}_{more}");
            }
            let field = match label.and_then(|label| label.strip_prefix("pattern")) {
                _ if plus != 1.0 => "lora_plus".to_owned(),
                Some(i) => format!("patterns.{i}.learning_rate"),
                None => "block_rates".to_owned(),
            };
            let field = format!("/nodes.{node}.{field}");
            let (factor, absolute) = (target.rate.factor * plus, target.rate.absolute);
            out.insert(piece.key, KeyRate { group, factor, absolute, field });
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
        notes: vec![format!("{}; {} trainable values in all", modules.join(", "), grouped(trained))],
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
    let file = start.as_ref().map(|opened| AdapterFile::read(opened.header(), &parts));
    let (mut targets, faults) = recipe.resolve(&parts, file.as_ref());
    if let Some(fault) = faults.into_iter().next() {
        return Err(RunError::new(fault.code, fault.message).at(&fault.field));
    }
    let initial = match &start {
        Some(opened) => start::read(opened, &parts, &mut targets)?,
        None => HashMap::new(),
    };
    let list = common.base_weights.as_deref().unwrap_or_default();
    let content = content(cx, common)?;
    let mut changes = base::read(list, &parts, |path: &str| cx.path(path))?;
    let device = model.engine.device.clone();
    let mut with_base = |lazy: &Lazy<Weights>, source: &Source, component: Component| {
        let weights = lazy.get()?;
        let Some(lists) = changes.remove(&component) else { return Ok::<_, RunError>(weights) };
        let exact = source.exact(component)?;
        let exact = |name: &str, shape: &[usize]| exact(name, shape).map_err(|e| e.message);
        let merged = adapters::merge::merged(&model.engine.cx(), &weights, &lists, &exact);
        lazy.unload();
        Ok(Arc::new(merged.map_err(|e| RunError::new("P0305", e).at("base_weights"))?))
    };
    let weights = with_base(&model.weights, &model.source, model.component())?;
    let mut texts = Vec::new();
    for encoder in encoders {
        let weights = with_base(&encoder.weights, &encoder.source, encoder.component)?;
        texts.push(TrainedText { encoder, weights });
    }
    let of_base = |part: &str, name: &str| {
        let text = texts.iter().find(|t| family::part(t.encoder.component) == part);
        text.map_or(&weights, |t| &t.weights).values(name)
    };
    let mut train = adapters::create(&targets, recipe.dropouts(), cx.settings.seed, &device, &initial, &of_base);
    if let Some([sigma, beta]) = recipe.perturbation() {
        let mut noise = Noise { sigma: sigma as f32, beta: beta as f32, ..Default::default() };
        for target in &targets {
            let weight = of_base(&target.part, &format!("{}.weight", target.path)).unwrap_or_default();
            let rows = target.weight[0];
            noise.base.insert(Trainables::key(&target.part, &target.path), mean_row(&weight, rows));
            train.frozen.insert(noise::key(&target.part, &target.path), Tensor::host(vec![0.0; rows], &[rows]));
        }
        train.noise = Some(noise);
    }
    let about = recipe.about(&parts, &targets);
    let method = Method::Adapter(Box::new(Adapted { about, norm_limit: recipe.norm_limit(), targets }));
    let trainable = Trainable {
        subject: Arc::new(Subject::Denoiser { model, weights, texts }),
        method: Arc::new(method),
        train: Arc::new(RwLock::new(train)),
    };
    Ok(Built { outputs: vec![Arc::new(trainable)], content, ..Default::default() })
}

/// Names the content of the files that the adapter is built from.
fn content(cx: &BuildCx, common: &Common) -> Result<Option<String>, RunError> {
    let mut list = Vec::new();
    if let Some(path) = &common.weights {
        list.push(format!("weights {}", values::fingerprint(&cx.path(path)).map_err(|e| e.at("weights"))?));
    }
    for (i, base) in common.base_weights.iter().flatten().enumerate() {
        let found = values::fingerprint(&cx.path(&base.path)).map_err(|e| e.at(&format!("base_weights.{i}.path")))?;
        list.push(format!("base {found}"));
    }
    Ok((!list.is_empty()).then(|| list.join(", ")))
}

/// `tucker` where no adapter has a core.
pub fn coreless(tucker: bool, targets: &[Target]) -> Option<Fault> {
    let core = |key: &str| [".hada_t1", ".lokr_t2"].iter().any(|ending| key.ends_with(ending));
    let any = targets.iter().flat_map(Target::pieces).any(|piece| core(&piece.key));
    let message = || "`tucker` has no effect: no adapted layer has a kernel that it would change".to_owned();
    let help = "it needs `conv`, and for LoKr factors that are products";
    (tucker && !any && !targets.is_empty()).then(|| Fault::idle("tucker", message(), Some(help.into())))
}

/// Texts of dropouts for metadata.
pub fn dropout_args(about: &mut AdapterAbout, dropouts: Dropouts) {
    let list = [("dropout", dropouts.neuron), ("rank_dropout", dropouts.rank), ("module_dropout", dropouts.module)];
    for (name, p) in list.into_iter().filter(|(_, p)| *p > 0.0) {
        about.args.insert(name.to_owned(), p.to_string());
    }
    about.dropout = Some(dropouts.neuron as f64).filter(|p| *p > 0.0);
}

/// Rank, α, ranks of convolutions and LoRA+ for metadata. Beside `weights` the α are those of the file, of the first
/// layers of the model.
pub fn describe(
    module: Option<&'static str>,
    rank: u64,
    targeting: &Targeting,
    common: &Common,
    targets: &[Target],
) -> AdapterAbout {
    let conv = |t: &Target| t.weight.get(2).is_some_and(|k| *k > 1);
    let alpha = |of_conv: bool, given: Option<f64>, rank: u64| {
        let own = |t: &&Target| t.has_alpha() && !t.part.starts_with("text_encoder") && conv(t) == of_conv;
        let mut layers = targets.iter().filter(own);
        match common.weights {
            // An α belongs to a rank: that of a layer with the usual one, where there is one.
            Some(_) => {
                let first = layers.clone().find(|t| t.rank as u64 == rank).or_else(|| layers.next());
                first.map_or(rank as f64, |t| t.alpha as f64)
            }
            None => given.unwrap_or(rank as f64),
        }
    };
    let mut about =
        AdapterAbout { module, rank, alpha: alpha(false, targeting.alpha, rank), ..AdapterAbout::default() };
    if let Some(own) = &targeting.conv {
        about.args.insert("conv_dim".into(), own.rank.to_string());
        about.args.insert("conv_alpha".into(), alpha(true, own.alpha, own.rank).to_string());
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
