//! `adapter.full`: the model's own weights learn.

use std::sync::{Arc, RwLock};

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::{Bytes, Category, NodePlan};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::Component;
use pipe_networks::{Trainables, Weights};
use pipe_ops::{Cx, DType};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Subjects, pass_on};
use crate::common::autoencoder::Autoencoder;
use crate::common::engine::compute_type;
use crate::common::text::TextEncoder;
use crate::common::trainable::{Held, Method, Subject, Trainable};
use crate::common::weights_source::{Shapes, bytes};
use crate::model::sd1::Sd1;

/// Fields of `adapter.full`: none; everything given to its ports learns.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {}

/// The node type.
pub struct Full;

impl Node for Full {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "adapter.full",
        summary: "Full fine-tuning: every weight of the model learns, and of the text encoder if given.",
        details: "The weights are kept as f32 masters. Give `text` to train the text encoder with the model. An autoencoder can be \
                  trained too: name it as `model` and use `loss.autoencoder`.",
        example: "full:\n  type: adapter.full\n  model: unet",
    };

    fn inputs() -> Vec<Input> {
        vec![
            Input::one("model", &[PortType::Model, PortType::Vae], Rate::Step, "Model to train."),
            Input::many("text", &[PortType::TextEncoder], Rate::Step, "Text encoder to train as well."),
        ]
    }

    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Trainable, Rate::Setup, "The model, trainable.")]
    }

    fn check(_config: &Config, cx: &mut CheckCx) -> Facts {
        let subjects = Subjects::of(cx.inputs);
        if subjects.vae.is_some() && subjects.clip.is_some() {
            cx.error("P0402", "text", "a text encoder has no effect on the training of an autoencoder", None);
        }
        let parameters: usize = shapes(&subjects).iter().map(|(_, s)| s.iter().product::<usize>()).sum();
        pass_on(cx.inputs).with("method", "full").with("parameters", parameters as u64)
    }

    fn plan(_config: &Config, cx: &PlanCx) -> NodePlan {
        let list = shapes(&Subjects::of(cx.inputs));
        let masters = bytes(&list, DType::F32);
        // In f32 the masters take the place of the frozen weights, which the model has counted already.
        let compute = compute_type(cx.settings.train.precision, crate::planned_kind(cx.settings));
        let extra = if compute == DType::F32 { 0 } else { masters };
        NodePlan {
            resident: vec![Bytes { category: Category::Trainable, bytes: extra }],
            notes: vec![format!("{} trainable values in {} tensors", masters / 4, list.len())],
            ..Default::default()
        }
    }

    fn build(_config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let mut train = Trainables { seed: cx.settings.seed, ..Default::default() };
        let subject = if let Some(vae) = Held::<Autoencoder>::all(cx, "model").into_iter().next() {
            let weights = vae.weights.take()?;
            let rest = adopt(&mut train, "vae", weights, &vae.config.shapes());
            Subject::Autoencoder { vae, weights: Arc::new(rest) }
        } else {
            let model = Held::<Sd1>::one(cx, "model")?;
            let full = Cx::new(model.engine.device.clone(), DType::F32);
            let shapes = model.config.shapes();
            model.weights.unload();
            let masters = model.source.load(Component::Unet, &shapes, &full, DType::F32)?;
            let weights = Arc::new(adopt(&mut train, "unet", masters, &shapes));
            let text = match Held::<TextEncoder>::all(cx, "text").into_iter().next() {
                Some(text) => {
                    let shapes = text.config.shapes();
                    text.weights.unload();
                    let masters = text.source.load(Component::TextEncoder, &shapes, &full, DType::F32)?;
                    let rest = adopt(&mut train, "text_encoder", masters, &shapes);
                    Some((text, Arc::new(rest)))
                }
                None => None,
            };
            Subject::Denoiser { model, weights, text }
        };
        let trainable = Trainable {
            subject: Arc::new(subject),
            method: Arc::new(Method::Full),
            train: Arc::new(RwLock::new(train)),
        };
        Ok(Built { outputs: vec![Arc::new(trainable)], ..Default::default() })
    }
}

/// Moves weights to the trainables; what stays is frozen (nothing, today).
fn adopt(train: &mut Trainables, part: &str, mut weights: Weights, shapes: &Shapes) -> Weights {
    for (name, _) in shapes {
        if let Some(tensor) = weights.take(name) {
            train.tensors.insert(Trainables::key(part, name), tensor);
        }
    }
    weights
}

fn shapes(subjects: &Subjects) -> Shapes {
    let mut list = Vec::new();
    if let Some(c) = &subjects.unet {
        list.extend(c.shapes());
    }
    if let Some(c) = &subjects.vae {
        list.extend(c.shapes());
    }
    if let Some(c) = &subjects.clip {
        list.extend(c.shapes());
    }
    list
}
