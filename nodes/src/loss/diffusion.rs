//! `loss.diffusion`: denoising loss of epsilon and v models.

use std::collections::HashMap;
use std::sync::Arc;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_networks::pass::Setting;
use pipe_networks::{Inputs, Weights};
use pipe_ops::rng::{self, Purpose};
use pipe_ops::{DType, Tensor, op};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{At, Loss, LossProgram, Losses};
use crate::common::batch::{Batch, BatchSource, Batches, HostTensor};
use crate::common::engine::Engine;
use crate::common::schedule_ddpm::{T, alphas_cumprod, snr};
use crate::common::text::TextEncoder;
use crate::common::trainable::{DenoiserNet, Held, Subject, Trainable};
use crate::model::sd1::{Prediction, Sd1};

/// Fields of `loss.diffusion`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Config {
    /// Loss of an element `e = prediction − target`. Default `l2`.
    #[serde(default)]
    loss_type: LossType,
    /// γ of min-SNR weighting (Hang et al. 2023): low-noise timesteps count less. 5 is usual. Default: off.
    #[serde(default)]
    #[schemars(range(min = 0.000001))]
    min_snr_gamma: Option<f64>,
    /// Strength of an offset added to the noise of a whole channel, for very bright and dark images. 0.0357 is usual. Default: off.
    #[serde(default)]
    #[schemars(range(min = 0.000001))]
    noise_offset: Option<f64>,
    /// Timesteps drawn in training.
    #[serde(default)]
    timesteps: Timesteps,
}

/// Loss of an element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum LossType {
    /// Squared error `e²`.
    #[default]
    L2,
    /// Absolute error `|e|`.
    L1,
}

/// A range of timesteps; drawn uniformly from whole numbers.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
struct Timesteps {
    /// Smallest timestep. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 999))]
    min: u64,
    /// One past the largest timestep. Default 1000.
    #[serde(default = "thousand")]
    #[schemars(range(min = 1, max = 1000))]
    max: u64,
}

fn thousand() -> u64 {
    T as u64
}

impl Default for Timesteps {
    fn default() -> Self {
        Timesteps { min: 0, max: T as u64 }
    }
}

/// The node type.
pub struct DiffusionLoss;

impl Node for DiffusionLoss {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "loss.diffusion",
        summary: "Denoising loss for epsilon and v models (SD 1.x), with min-SNR weighting and noise offset.",
        details: "`x_t = √ᾱ_t·x0 + √(1−ᾱ_t)·ε` with the scaled-linear schedule; the target is ε or \
                  `v = √ᾱ_t·ε − √(1−ᾱ_t)·x0`, as the model predicts. With `min_snr_gamma` a sample's loss is multiplied by \
                  `min(SNR, γ)/SNR` (v: `/(SNR+1)`). Noise is drawn on the host, so every device trains on the same numbers.",
        example: "loss:\n  type: loss.diffusion\n  model: lora\n  batch: cached\n  min_snr_gamma: 5",
    };

    fn inputs() -> Vec<Input> {
        vec![
            Input::one("model", &[PortType::Trainable], Rate::Step, "What learns."),
            Input::one("batch", &[PortType::Batches], Rate::Step, "Training data."),
        ]
    }

    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Loss, Rate::Setup, "The loss.")]
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        if config.timesteps.min >= config.timesteps.max {
            let message =
                format!("`timesteps.min` is {}, not below `max` {}", config.timesteps.min, config.timesteps.max);
            cx.error("P0403", "timesteps", message, None);
        }
        let (Some(model), Some(batch)) = (cx.inputs.one("model").cloned(), cx.inputs.one("batch").cloned()) else {
            return Facts::new();
        };
        let m = &model.facts;
        if m.get("vae").is_some() {
            let help = "use `loss.autoencoder`";
            cx.error(
                "P0401",
                "model",
                format!("`{}` trains an autoencoder, which denoises nothing", model.node),
                Some(help.into()),
            );
            return Facts::new();
        }
        if m.get("architecture").is_none() {
            return Facts::new();
        }
        fit(cx, m, &batch.facts, &batch.node);
        m.clone()
            .with("loss", "diffusion")
            .with("batches", batch.facts.u64("batches").unwrap_or(1))
            .with("batch_facts", serde_json::to_value(&batch.facts.0).unwrap_or_default())
    }

    fn plan(_config: &Config, _cx: &PlanCx) -> NodePlan {
        NodePlan::default()
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let trainable = cx.one::<Trainable>("model")?.clone();
        let source = cx.one::<Batches>("batch")?.0.clone();
        let program = Program::new(config, trainable, source)?;
        Ok(Built { outputs: vec![Arc::new(Loss(Arc::new(program)))], ..Default::default() })
    }
}

/// Whether the data fits the model.
fn fit(cx: &mut CheckCx, model: &Facts, batch: &Facts, name: &str) {
    let Some(channels) = batch.u64("latent_channels") else {
        if batch.get("image_sizes").is_some() {
            let help = format!("give `{name}` the autoencoder: `vae: …`");
            cx.error("P0401", "batch", format!("`{name}` carries images, the loss needs latents"), Some(help));
        }
        return;
    };
    if let Some(wanted) = model.u64("latent_channels")
        && wanted != channels
    {
        let message =
            format!("the model works on {wanted} latent channels, the autoencoder of `{name}` makes {channels}");
        cx.error("P0401", "batch", message, Some("use the autoencoder of the model's family".into()));
    }
    let trains_text = model.get("trains_text").is_some();
    match (batch.u64("context_dim"), trains_text) {
        (Some(_), true) => {
            let help = format!("leave `text` out of `{name}`");
            cx.error(
                "P0403",
                "batch",
                format!("`{name}` caches the outputs of a text encoder that is being trained"),
                Some(help),
            );
        }
        (None, false) => {
            let help = format!("give `{name}` the text encoder: `text: …`");
            cx.error("P0401", "batch", format!("`{name}` carries no text embeddings"), Some(help));
        }
        (Some(width), false) => {
            if let Some(wanted) = model.u64("context_dim")
                && wanted != width
            {
                let message =
                    format!("the model reads text embeddings of width {wanted}, `{name}` carries width {width}");
                cx.error("P0401", "batch", message, Some("use the text encoder of the model's family".into()));
            }
        }
        (None, true) => {
            let clip: Option<pipe_networks::clip::ClipConfig> = crate::adapter::config(model, "clip");
            if let (Some(clip), Some(wanted)) = (clip, model.u64("context_dim"))
                && clip.width as u64 != wanted
            {
                let message = format!(
                    "the model reads text embeddings of width {wanted}, the text encoder makes width {}",
                    clip.width
                );
                cx.error("P0401", "model", message, None);
            }
        }
    }
}

/// The loss during a run.
struct Program {
    config: Config,
    trainable: Trainable,
    source: Arc<dyn BatchSource>,
    net: DenoiserNet,
    alphas: Vec<f32>,
}

struct Denoiser<'a> {
    model: &'a Held<Sd1>,
    weights: &'a Weights,
    text: Option<(&'a Held<TextEncoder>, &'a Weights)>,
}

/// The noisy input, the target and the loss weight of a batch.
struct Draw {
    noisy: HostTensor,
    target: Vec<f32>,
    timesteps: Vec<f32>,
    weights: Vec<f32>,
}

impl Program {
    fn new(config: Config, trainable: Trainable, source: Arc<dyn BatchSource>) -> Result<Self, RunError> {
        let net = match &*trainable.subject {
            Subject::Denoiser { model, text, .. } => {
                DenoiserNet::new(&model.config, text.as_ref().map(|(t, _)| (&t.config, t.clip_skip)))
            }
            Subject::Autoencoder { .. } => {
                return Err(RunError::new("P0401", "an autoencoder denoises nothing").at("model"));
            }
        };
        Ok(Program { config, trainable, source, net, alphas: alphas_cumprod() })
    }

    fn denoiser(&self) -> Denoiser<'_> {
        match &*self.trainable.subject {
            Subject::Denoiser { model, weights, text } => {
                Denoiser { model, weights, text: text.as_ref().map(|(t, w)| (t, &**w)) }
            }
            Subject::Autoencoder { .. } => unreachable!("refused when built"),
        }
    }

    /// Model-space latents of a batch: given ones, or a draw from the cached moments.
    fn latents(&self, batch: &Batch, at: &At, scale: f32, shift: f32) -> Result<HostTensor, RunError> {
        if let Some(replay) = &batch.replay {
            return Ok(replay.latents.clone());
        }
        let moments =
            batch.moments.as_ref().ok_or_else(|| RunError::new("P0401", "the batches carry no latents").at("batch"))?;
        let mut shape = moments.shape.clone();
        shape[1] /= 2;
        let span: usize = shape[1..].iter().product();
        let mut values = Vec::with_capacity(shape[0] * span);
        for (i, m) in moments.values.chunks(2 * span).enumerate() {
            let mut stream = rng::stream(at.seed, Purpose::VaeSample, at.step, at.first_sample + i as u64);
            let eps = rng::normal(&mut stream, span);
            let (mean, logvar) = m.split_at(span);
            values.extend((0..span).map(|j| {
                let std = (0.5 * logvar[j].clamp(-30.0, 20.0)).exp();
                (mean[j] + std * eps[j] - shift) * scale
            }));
        }
        Ok(HostTensor { values, shape })
    }

    fn draw(&self, batch: &Batch, at: &At, prediction: Prediction, latents: &HostTensor) -> Draw {
        let (b, channels) = (latents.shape[0], latents.shape[1]);
        let span: usize = latents.shape[1..].iter().product();
        let Timesteps { min, max } = self.config.timesteps;
        let mut draw = Draw {
            noisy: HostTensor { values: Vec::with_capacity(b * span), shape: latents.shape.clone() },
            target: Vec::with_capacity(b * span),
            timesteps: Vec::with_capacity(b),
            weights: Vec::with_capacity(b),
        };
        for i in 0..b {
            let sample = at.first_sample + i as u64;
            let mut noise = match &batch.replay {
                Some(replay) => replay.noise.values[i * span..(i + 1) * span].to_vec(),
                None => rng::normal(&mut rng::stream(at.seed, Purpose::Noise, at.step, sample), span),
            };
            if let (Some(offset), None) = (self.config.noise_offset, &batch.replay) {
                let xi = rng::normal(&mut rng::stream(at.seed, Purpose::NoiseOffset, at.step, sample), channels);
                for (plane, xi) in noise.chunks_mut(span / channels).zip(xi) {
                    plane.iter_mut().for_each(|n| *n += offset as f32 * xi);
                }
            }
            let t = match (&batch.replay, &at.timesteps) {
                (Some(replay), _) => replay.timesteps[i],
                (None, Some(fixed)) => fixed[i % fixed.len()].clamp(min as f32, (max - 1) as f32),
                (None, None) => {
                    let u = rng::uniform(&mut rng::stream(at.seed, Purpose::Timestep, at.step, sample), 1, 0.0, 1.0)[0];
                    (min + (u as f64 * (max - min) as f64) as u64).min(max - 1) as f32
                }
            };
            let alpha = self.alphas[(t as usize).min(T - 1)];
            let (signal, sigma) = (alpha.sqrt(), (1.0 - alpha).sqrt());
            let x0 = &latents.values[i * span..(i + 1) * span];
            draw.noisy.values.extend(x0.iter().zip(&noise).map(|(x, n)| signal * x + sigma * n));
            match prediction {
                Prediction::Epsilon => draw.target.extend(&noise),
                Prediction::V => draw.target.extend(x0.iter().zip(&noise).map(|(x, n)| signal * n - sigma * x)),
            }
            draw.timesteps.push(t);
            draw.weights.push(batch.weights[i] * self.snr_weight(snr(alpha), prediction));
        }
        draw
    }

    /// min-SNR weight of a sample.
    fn snr_weight(&self, snr: f32, prediction: Prediction) -> f32 {
        match (self.config.min_snr_gamma, prediction) {
            (None, _) => 1.0,
            (Some(gamma), Prediction::Epsilon) => snr.min(gamma as f32) / snr,
            (Some(gamma), Prediction::V) => snr.min(gamma as f32) / (snr + 1.0),
        }
    }
}

impl LossProgram for Program {
    fn trainable(&self) -> &Trainable {
        &self.trainable
    }
    fn source(&self) -> &Arc<dyn BatchSource> {
        &self.source
    }
    fn engine(&self) -> &Engine {
        &self.denoiser().model.engine
    }

    fn pass(&self, batch: &Batch, at: &At, leaves: Option<&mut HashMap<String, Tensor>>) -> Result<Losses, RunError> {
        let d = self.denoiser();
        let cx = d.model.engine.cx();
        let (scale, shift) = batch.latent_scale.unwrap_or((1.0, 0.0));
        let latents = self.latents(batch, at, scale, shift)?;
        let draw = self.draw(batch, at, d.model.prediction, &latents);
        let tensor = |h: &[f32], shape: &[usize]| cx.device.tensor(h.to_vec(), shape, cx.compute);
        let x = tensor(&draw.noisy.values, &draw.noisy.shape);
        let target = cx.device.tensor(draw.target, &draw.noisy.shape, DType::F32);
        let tokens = match d.text {
            Some((text, _)) => batch.captions.iter().map(|c| text.tokens(c)).collect(),
            None => Vec::new(),
        };
        let mut given = vec![(self.net.x, x, false)];
        if d.text.is_none() {
            let context = batch
                .context
                .as_ref()
                .ok_or_else(|| RunError::new("P0401", "the batches carry no text embeddings").at("batch"))?;
            given.push((self.net.context, tensor(&context.values, &context.shape), false));
        }
        let inputs = Inputs { timesteps: draw.timesteps, tokens, pass: at.pass, training: leaves.is_some() };
        let train = self.trainable.read();
        let setting = Setting {
            model: &self.net.model,
            weights: self.net.weights(d.weights, d.text.map(|(_, w)| w)),
            train: Some(&train),
            inputs: &inputs,
            policy: d.model.policy,
        };
        let pass = setting.forward(&cx, given, &[self.net.out], leaves.is_some());
        let kind = match self.config.loss_type {
            LossType::L2 => op::Elementwise::L2,
            LossType::L1 => op::Elementwise::L1,
        };
        let scaled: Vec<f32> = draw.weights.iter().map(|w| w * at.scale).collect();
        let (each, grad) = op::loss_and_grad(&cx, kind, pass.output(self.net.out), &target, &scaled);
        if let Some(leaves) = leaves {
            setting.backward(&cx, pass, vec![(self.net.out, grad)], &[], leaves);
        }
        Ok(Losses { each, weights: draw.weights })
    }

    fn metadata(&self) -> Vec<(String, String)> {
        let option = |x: Option<f64>| x.map_or("None".to_string(), |x| x.to_string());
        let loss_type = if self.config.loss_type == LossType::L1 { "l1" } else { "l2" };
        vec![
            ("ss_min_snr_gamma".into(), option(self.config.min_snr_gamma)),
            ("ss_noise_offset".into(), option(self.config.noise_offset)),
            ("ss_loss_type".into(), loss_type.into()),
        ]
    }
}
