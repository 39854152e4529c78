//! `adapter.full`: the model's own weights learn.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, RwLock};

use pipe_core::node::{About, CheckCx, Facts, InputFacts, Node, PlanCx};
use pipe_core::plan::{Bytes, Category, NodePlan, grouped};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::Component;
use pipe_networks::{Keeping, Shapes, Trainables, Weights};
use pipe_ops::{Cx, DType};
use pipe_train::rounding;
use schemars::JsonSchema;
use serde::Deserialize;

use super::full_blocks::{self, ByWeight, LearningRate};
use super::size::ByBlock;
use super::targeting::Fault;
use super::{Parts, check_texts, pass_on, texts_of, vae_of};
use crate::common::autoencoder::Autoencoder;
use crate::common::denoiser::Denoiser;
use crate::common::engine::compute_type;
use crate::common::facts::{read, texts_of_port};
use crate::common::family;
use crate::common::trainable::{Held, Method, Subject, Trainable, TrainedText};
use crate::common::weights_source::bytes;
use crate::optimizer::KeyRate;

/// Fields of `adapter.full`. Without any, everything given to its ports learns.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// How the weights that learn are kept. `bf16` takes half the memory; the optimizer's state stays f32. Default `f32`.
    #[serde(default)]
    storage: Storage,
    /// How an update is rounded into bf16 weights. Default `stochastic`.
    #[serde(default)]
    rounding: Option<Rounding>,
    /// Learning rates of the model's blocks in place of the optimizer's, 0 for blocks that stay as they are:
    /// `{ down.4: 1e-6, double.0-9: 0 }`, or a list of all blocks (of SDXL 23, of SD 1.x and 2.x 25).
    #[serde(default)]
    block_learning_rates: Option<ByBlock<LearningRate>>,
    /// SD3, FLUX and Lumina: so many blocks at the end stay as they are.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    freeze_last_blocks: Option<u64>,
}

/// Type of the weights that learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Storage {
    /// Exact.
    #[default]
    F32,
    /// 8 bits of mantissa.
    Bf16,
}

impl Storage {
    fn dtype(self) -> DType {
        match self {
            Storage::F32 => DType::F32,
            Storage::Bf16 => DType::BF16,
        }
    }
}

/// How f32 becomes bf16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Rounding {
    /// Up or down at random, right in the mean: small updates are not lost (Gupta et al. 2015).
    #[default]
    Stochastic,
    /// To the nearest, as PyTorch does: updates smaller than half a step of the weight are lost.
    Nearest,
}

impl Config {
    /// How the run's optimizer writes bf16 weights.
    fn rounding(&self, seed: u64) -> rounding::Rounding {
        match self.rounding.unwrap_or_default() {
            Rounding::Stochastic => rounding::Rounding::Stochastic { seed },
            Rounding::Nearest => rounding::Rounding::Nearest,
        }
    }

    fn by_weight(&self, parts: &Parts) -> (ByWeight, Vec<Fault>) {
        full_blocks::find(parts, self.block_learning_rates.as_ref(), self.freeze_last_blocks)
    }
}

/// The node type.
pub struct Full;

impl Node for Full {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "adapter.full",
        summary: "Full fine-tuning: every weight of the model learns, and of the text encoders if given.",
        details: "The weights are kept as f32 masters, or with `storage: bf16` in half the memory: an update is then made in f32 \
                  and rounded at random into bf16, as a function of seed, step and weight, so that a continued run is the same. Give \
                  `text` to train text encoders with the model. Blocks may \
                  have rates of their own or stay as they are. An autoencoder can be trained too: name it as `model` and use \
                  `loss.autoencoder`.",
        example: "full:\n  type: adapter.full\n  model: unet",
    };

    fn inputs() -> Vec<Input> {
        vec![
            Input::one("model", &[PortType::Model, PortType::Vae], Rate::Step, "Model to train."),
            Input::many("text", &[PortType::TextEncoder], Rate::Step, "Text encoders to train as well."),
        ]
    }

    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Trainable, Rate::Setup, "The model, trainable.")]
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        if config.rounding.is_some() && config.storage == Storage::F32 {
            let help = "add `storage: bf16`, or leave `rounding` out";
            cx.error("P0402", "rounding", "`rounding` has no effect on weights in f32", Some(help.into()));
        }
        if vae_of(cx.inputs).is_some() && !cx.inputs.many("text").is_empty() {
            cx.error("P0402", "text", "a text encoder has no effect on the training of an autoencoder", None);
        }
        check_texts(cx, true);
        check_storage(cx);
        let mut facts = pass_on(cx.inputs).with("method", "full").with("half", config.storage == Storage::Bf16);
        let mut frozen = BTreeSet::new();
        if let (None, Some(parts)) = (vae_of(cx.inputs), Parts::of(cx.inputs)) {
            let (by_weight, faults) = config.by_weight(&parts);
            for Fault { code, field, message, help } in faults {
                cx.error(code, &field, message, help);
            }
            let part = family::part(parts.family.denoiser());
            let rate = |(name, (place, rate)): (String, (usize, f64))| {
                let (group, field) =
                    (format!("{part}_block{place}"), format!("/nodes.{}.block_learning_rates", cx.name));
                (Trainables::key(part, &name), KeyRate { group, factor: 1.0, absolute: Some(rate), field })
            };
            let rates: HashMap<String, KeyRate> = by_weight.rates.into_iter().map(rate).collect();
            frozen = by_weight.frozen;
            facts = facts
                .with("frozen", serde_json::to_value(&frozen).unwrap_or_default())
                .with("rates", serde_json::to_value(rates).unwrap_or_default());
        } else {
            for (field, set) in [
                ("block_learning_rates", config.block_learning_rates.is_some()),
                ("freeze_last_blocks", config.freeze_last_blocks.is_some()),
            ] {
                if set && vae_of(cx.inputs).is_some() {
                    let message = format!("`{field}` has no effect on an autoencoder");
                    cx.error("P0402", field, message, Some("leave it out".into()));
                }
            }
        }
        let list = shapes(cx.inputs, &frozen);
        if list.is_empty() && !frozen.is_empty() {
            cx.error("P0403", "block_learning_rates", "no weight is left to learn", None);
        }
        let parameters: usize = list.iter().map(|(_, s)| s.iter().product::<usize>()).sum();
        facts.with("parameters", parameters as u64).with("trainable_tensors", list.len() as u64)
    }

    fn plan(config: &Config, cx: &PlanCx) -> NodePlan {
        let list = shapes(cx.inputs, &frozen(cx.facts));
        let values: usize = list.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        // What does not learn is kept in the type that is computed in.
        let compute = compute_type(cx.settings.train.precision, crate::planned_kind(cx.settings));
        let still = bytes(&shapes_of_all(cx.inputs), compute).saturating_sub(bytes(&list, compute));
        let own = [(Category::Trainable, bytes(&list, config.storage.dtype())), (Category::Weights, still)];
        NodePlan {
            resident: own.map(|(category, bytes)| Bytes { category, bytes }).into(),
            replaces: vec!["model", "text"],
            notes: vec![format!("{} trainable values in {} tensors", grouped(values as u64), list.len())],
            ..Default::default()
        }
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let mut train = Trainables { seed: cx.settings.seed, ..Default::default() };
        let kept = config.storage.dtype();
        let subject = if let Some(vae) = Held::<Autoencoder>::all(cx, "model").into_iter().next() {
            let weights = vae.weights.take()?;
            let rest = adopt(&mut train, "vae", weights, &vae.config.shapes(), kept, &BTreeSet::new());
            Subject::Autoencoder { vae, weights: Arc::new(rest) }
        } else {
            let model = Held::<Denoiser>::one(cx, "model")?;
            let full = Cx::new(model.engine.device.clone(), DType::F32);
            let shapes = model.network.shapes();
            let parts = Parts { family: model.family, network: model.network.clone(), texts: Vec::new() };
            let (by_weight, faults) = config.by_weight(&parts);
            if let Some(fault) = faults.into_iter().next() {
                return Err(RunError::new(fault.code, fault.message).at(&fault.field));
            }
            model.weights.unload();
            let masters = model.source.load(model.component(), &shapes, &full, kept, &Keeping::default())?;
            let mut weights = adopt(&mut train, model.part(), masters, &shapes, kept, &by_weight.frozen);
            // What does not learn is computed with as it is.
            for name in &by_weight.frozen {
                if let Some(tensor) = weights.take(name) {
                    weights.insert(name.clone(), tensor.cast(model.engine.compute));
                }
            }
            let weights = Arc::new(weights);
            let mut texts = Vec::new();
            for encoder in texts_of(cx)? {
                let shapes = encoder.network.shapes();
                encoder.weights.unload();
                let masters = encoder.source.load(encoder.component, &shapes, &full, kept, &Keeping::default())?;
                let rest = adopt(&mut train, encoder.part(), masters, &shapes, kept, &BTreeSet::new());
                texts.push(TrainedText { encoder, weights: Arc::new(rest) });
            }
            Subject::Denoiser { model, weights, texts }
        };
        let trainable = Trainable {
            subject: Arc::new(subject),
            method: Arc::new(Method::Full(config.rounding(cx.settings.seed))),
            train: Arc::new(RwLock::new(train)),
        };
        Ok(Built { outputs: vec![Arc::new(trainable)], ..Default::default() })
    }
}

/// Weights that learn are kept by this node: what the model or a text encoder says of frozen ones has no effect.
fn check_storage(cx: &mut CheckCx) {
    if cx.inputs.one("model").is_some_and(|source| source.facts.get("swap_blocks").is_some()) {
        let message = "`swap_blocks` of the model has no effect: it is for frozen weights, and these learn; each step of the optimizer needs them all";
        let help =
            "leave it out there; `storage: bf16` of this node, an 8-bit optimizer and `checkpointing` take less memory";
        cx.error("P0402", "model", message, Some(help.into()));
    }
    let model = cx.inputs.one("model").is_some_and(|source| source.facts.get("storage").is_some());
    let text = texts_of_port(cx.inputs, "text").iter().any(|text| text.storage.is_some());
    for (field, what, set) in [("model", "the model", model), ("text", "a text encoder", text)] {
        if set {
            let message = format!("`storage` of {what} has no effect: it is for frozen weights, and these learn");
            let help = "leave it out there; `storage: bf16` of this node keeps weights that learn in half the memory";
            cx.error("P0402", field, message, Some(help.into()));
        }
    }
}

/// Tensors that are stored with a model but are no parameters of it.
const BUFFERS: [&str; 3] = ["pos_embed", "pad_token", "norm_final.weight"];

/// Whether a model's tensor of this name is a parameter.
pub(crate) fn learns(name: &str) -> bool {
    !BUFFERS.contains(&name)
}

/// Names of the denoiser's weights that stay as they are, as the facts tell.
pub(crate) fn frozen(facts: &Facts) -> BTreeSet<String> {
    read(facts, "frozen").unwrap_or_default()
}

/// Moves weights to the trainables, in the type they are kept in; buffers stay frozen, and those of these names.
fn adopt(
    train: &mut Trainables,
    part: &str,
    mut weights: Weights,
    shapes: &Shapes,
    kept: DType,
    frozen: &BTreeSet<String>,
) -> Weights {
    for (name, _) in shapes.iter().filter(|(name, _)| learns(name) && !frozen.contains(name)) {
        if let Some(tensor) = weights.take(name) {
            train.tensors.insert(Trainables::key(part, name), tensor.cast(kept));
        }
    }
    weights
}

/// What learns.
fn shapes(inputs: &InputFacts, frozen: &BTreeSet<String>) -> Shapes {
    let denoiser = Parts::of(inputs).map(|parts| parts.family.denoiser());
    let learning = |(component, shapes): (_, Shapes)| {
        let still = |name: &String| component == denoiser && frozen.contains(name);
        shapes.into_iter().filter(move |(name, _)| learns(name) && !still(name)).collect::<Shapes>()
    };
    components(inputs).into_iter().flat_map(learning).collect()
}

/// All tensors of what is given, with what they are a part of; nothing for an autoencoder.
fn components(inputs: &InputFacts) -> Vec<(Option<Component>, Shapes)> {
    match (vae_of(inputs), Parts::of(inputs)) {
        (Some(vae), _) => vec![(None, vae.shapes())],
        (None, Some(parts)) => parts.components().into_iter().map(|(part, shapes)| (Some(part), shapes)).collect(),
        (None, None) => Vec::new(),
    }
}

/// All tensors of what is given.
fn shapes_of_all(inputs: &InputFacts) -> Shapes {
    components(inputs).into_iter().flat_map(|(_, shapes)| shapes).collect()
}
