//! One forward pass of a denoiser over a batch, and the way back: what losses and previews share.

use std::collections::BTreeMap;
use std::sync::Arc;

use pipe_core::run::RunError;
use pipe_data::weights::Component;
use pipe_networks::pass::{Back, Setting};
use pipe_networks::{Inputs, Slot, TextKind, Weights};
use pipe_ops::{DType, Tensor};

use super::batch::{Batch, BatchSource, HostTensor, TextRows};
use super::denoiser::{Denoiser, DenoiserNet, Live};
use super::gradients::Gradients;
use super::text::mask_rows;
use super::trainable::{Held, Subject, Trainable, TrainedText};

/// What a pass computes from besides the batch's conditions.
#[derive(Clone, Debug)]
pub struct Shot {
    /// Noisy latents `[B, C, h, w]`.
    pub noisy: HostTensor,
    /// What the network's time embedding reads.
    pub times: Vec<f32>,
    /// Distilled guidance of each sample; empty where the network reads none.
    pub guidance: Vec<f32>,
    /// Counts forward passes; keys dropout.
    pub pass: u64,
    /// What is left to chance, in training.
    pub chance: Chance,
}

/// What training leaves to chance in a pass, the base model's passes included.
#[derive(Clone, Debug, Default)]
pub struct Chance {
    /// See [`Inputs::crop`].
    pub crop: Option<[f32; 2]>,
    /// See [`Inputs::text_keep`].
    pub text_keep: BTreeMap<TextKind, Vec<f32>>,
}

/// A trainable denoiser with its joined network.
pub struct Runner {
    /// What learns.
    pub trainable: Trainable,
    /// The segments.
    pub net: DenoiserNet,
    none: Weights,
}

/// The loss of an output: a value for each sample, and the gradient of the output.
pub type LossOf<'a> = &'a mut dyn FnMut(&Tensor) -> (Tensor, Tensor);

impl Runner {
    /// Joins the denoiser with the text encoders that learn and those whose outputs `source` carries.
    pub fn new(trainable: Trainable, source: &dyn BatchSource) -> Result<Self, RunError> {
        Self::with_texts(trainable, &source.text_encoders(), true)
    }

    /// As [`Runner::new`] for previews: every text encoder's output is given.
    pub fn for_prompts(trainable: Trainable, texts: &[Component]) -> Result<Self, RunError> {
        Self::with_texts(trainable, texts, false)
    }

    fn with_texts(trainable: Trainable, cached: &[Component], live: bool) -> Result<Self, RunError> {
        let net = match &*trainable.subject {
            Subject::Denoiser { model, texts, .. } => {
                let live: Vec<Live> = texts
                    .iter()
                    .filter(|_| live)
                    .map(|t| Live { component: t.encoder.component, network: &t.encoder.network, take: t.encoder.take })
                    .collect();
                DenoiserNet::new(model.family, &model.network, &live, cached)?
            }
            Subject::Autoencoder { .. } => {
                return Err(RunError::new("P0401", "an autoencoder denoises nothing").at("model"));
            }
        };
        Ok(Runner { trainable, net, none: Weights::default() })
    }

    /// The denoiser, its frozen weights, and the text encoders that learn.
    pub fn subject(&self) -> (&Held<Denoiser>, &Arc<Weights>, &[TrainedText]) {
        match &*self.trainable.subject {
            Subject::Denoiser { model, weights, texts } => (model, weights, texts),
            Subject::Autoencoder { .. } => unreachable!("refused when built"),
        }
    }

    /// Forward over a batch, its loss, and, with `gradients`, backward. Gives the losses of the samples.
    pub fn learn(
        &self,
        batch: &Batch,
        shot: &Shot,
        loss: LossOf,
        gradients: Option<&mut dyn Gradients>,
    ) -> Result<Tensor, RunError> {
        let (model, ..) = self.subject();
        let mut inputs = self.inputs(shot, gradients.is_some());
        inputs.sizes = batch.sizes.clone();
        let mut given = self.text_of(batch, &mut inputs)?;
        let cx = model.engine.cx();
        given.push((self.net.x, self.tensor(&shot.noisy), false));
        let pass = {
            let train = self.trainable.read();
            self.setting(&inputs, Some(&train)).forward(&cx, given, &[self.net.out], gradients.is_some())
        };
        let (each, grad) = loss(pass.output(self.net.out));
        let Some(gradients) = gradients else { return Ok(each) };
        gradients.begin(&each, &grad)?;
        let mut back = Back::new(pass, vec![(self.net.out, grad)]);
        let segment = |back: &mut Back, gradients: &mut dyn Gradients| {
            let train = self.trainable.read();
            back.step(&self.setting(&inputs, Some(&train)), &cx, gradients.leaves())
        };
        while segment(&mut back, gradients) {
            gradients.segment(&|key| back.awaits(&self.net.model, key))?;
        }
        Ok(each)
    }

    /// What the model predicts without its adapter, and without gradient.
    pub fn base(&self, batch: &Batch, shot: &Shot) -> Result<Tensor, RunError> {
        let (model, ..) = self.subject();
        let mut inputs = self.inputs(shot, false);
        inputs.sizes = batch.sizes.clone();
        let mut given = self.text_of(batch, &mut inputs)?;
        given.push((self.net.x, self.tensor(&shot.noisy), false));
        let setting = self.setting(&inputs, None);
        let pass = setting.forward(&model.engine.cx(), given, &[self.net.out], false);
        Ok(pass.output(self.net.out).clone())
    }

    /// A prediction without gradient: what previews use.
    pub fn predict(
        &self,
        shot: &Shot,
        texts: &BTreeMap<Component, TextRows>,
        sizes: &[[f32; 6]],
    ) -> Result<Tensor, RunError> {
        let (model, ..) = self.subject();
        let mut inputs = self.inputs(shot, false);
        inputs.sizes = sizes.to_vec();
        let mut given = Vec::new();
        self.give(texts, &mut given, &mut inputs)?;
        given.push((self.net.x, self.tensor(&shot.noisy), false));
        let train = self.trainable.read();
        let setting = self.setting(&inputs, Some(&train));
        let pass = setting.forward(&model.engine.cx(), given, &[self.net.out], false);
        Ok(pass.output(self.net.out).clone())
    }

    fn setting<'a>(&'a self, inputs: &'a Inputs, train: Option<&'a pipe_networks::Trainables>) -> Setting<'a> {
        let (model, weights, texts) = self.subject();
        let find = |part: &str| {
            if part == model.part() {
                return Some(&**weights);
            }
            texts.iter().find(|t| t.encoder.part() == part).map(|t| &*t.weights)
        };
        Setting {
            model: &self.net.model,
            weights: self.net.weights(find, &self.none),
            train,
            inputs,
            policy: model.policy,
        }
    }

    fn inputs(&self, shot: &Shot, training: bool) -> Inputs {
        Inputs {
            timesteps: shot.times.clone(),
            guidance: shot.guidance.clone(),
            latent: [shot.noisy.shape[2], shot.noisy.shape[3]],
            pass: shot.pass,
            crop: shot.chance.crop,
            text_keep: shot.chance.text_keep.clone(),
            training,
            ..Default::default()
        }
    }

    fn tensor(&self, host: &HostTensor) -> Tensor {
        let engine = &self.subject().0.engine;
        engine.device.tensor(host.values.clone(), &host.shape, engine.compute)
    }

    /// Slots of the text: replayed, cached, or tokens for encoders that run inside.
    fn text_of(&self, batch: &Batch, inputs: &mut Inputs) -> Result<Vec<(Slot, Tensor, bool)>, RunError> {
        let mut given = Vec::new();
        let (_, _, live) = self.subject();
        if let Some(replay) = &batch.replay
            && let Some(context) = &replay.context
        {
            given.push((self.net.conditions.context, self.tensor(context), false));
            if let (Some(slot), Some(pooled)) = (self.net.conditions.pooled, &replay.pooled) {
                given.push((slot, self.tensor(pooled), false));
            }
            inputs.text_mask = replay.mask.as_ref().map(HostTensor::rows).unwrap_or_default();
            return Ok(given);
        }
        for text in live {
            let tokens = text.encoder.prompts.encode(&batch.captions, false)?;
            if text.encoder.prompts.masks() {
                inputs.text_mask = mask_rows(&tokens);
            }
            inputs.text.insert(text.encoder.part().to_string(), tokens);
        }
        self.give(&batch.text, &mut given, inputs)?;
        Ok(given)
    }

    /// Outputs of text encoders that do not run inside.
    fn give(
        &self,
        texts: &BTreeMap<Component, TextRows>,
        given: &mut Vec<(Slot, Tensor, bool)>,
        inputs: &mut Inputs,
    ) -> Result<(), RunError> {
        for (component, out) in &self.net.texts {
            let Some(rows) = texts.get(component) else {
                if inputs.text.contains_key(super::family::part(*component)) {
                    continue;
                }
                let message = format!("the batches carry no outputs of the {}", component.name());
                return Err(RunError::new("P0401", message).at("batch"));
            };
            given.push((out.hidden, self.tensor(&rows.hidden), false));
            if let (Some(slot), Some(pooled)) = (out.pooled, &rows.pooled) {
                given.push((slot, self.tensor(pooled), false));
            }
            if let Some(mask) = &rows.mask {
                inputs.text_mask = mask.rows();
            }
        }
        if self.net.texts.is_empty() && texts.is_empty() {
            return Err(RunError::new("P0401", "the batches carry no text embeddings").at("batch"));
        }
        Ok(())
    }

    /// A target on the device, f32.
    pub fn target(&self, values: Vec<f32>, shape: &[usize]) -> Tensor {
        self.subject().0.engine.device.tensor(values, shape, DType::F32)
    }
}
