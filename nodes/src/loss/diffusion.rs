//! `loss.diffusion`: denoising loss of epsilon and v models.

use std::sync::Arc;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::metadata::{PyText, py_float};
use pipe_ops::op::Weigh;
use pipe_ops::rng::{self, Purpose};
use pipe_ops::{Tensor, op};
use pipe_train::ddpm::{IpNoise, Multires, NoiseOffset, NoiseSchedule, Prediction, SnrOf, SnrWeights, TimestepRange};
use pipe_train::loss::{Huber, LossType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{self, element, latents, seen, strength};
use super::mask::Mask;
use super::{At, Loss, LossProgram, Losses, mask, preserve};
use crate::common::batch::{Batch, BatchSource, Batches, HostTensor};
use crate::common::denoise::{Chance, Runner, Shot};
use crate::common::engine::Engine;
use crate::common::gradients::{Gradients, again};
use crate::common::trainable::Trainable;

/// Fields of `loss.diffusion`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Config {
    /// Loss of an element `e = prediction − target`. Default `l2`.
    #[serde(default)]
    loss_type: LossType,
    /// c of `huber` and `smooth_l1`. Default: schedule `snr`, c 0.1.
    #[serde(default)]
    huber: Option<Huber>,
    /// γ of min-SNR weighting (Hang et al. 2023): low-noise timesteps count less. 5 is usual. Default: off.
    #[serde(default)]
    #[schemars(range(min = 0.000001))]
    min_snr_gamma: Option<f64>,
    /// Weighs v models by `SNR/(SNR+1)`, as the loss on the noise would be. Default false.
    #[serde(default)]
    scale_v_pred_loss_like_noise_pred: bool,
    /// Adds this much of the loss on v to an epsilon model: `1 + w·(SNR+1)/SNR`. Default: off.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 1000.0))]
    v_pred_like_loss: Option<f64>,
    /// Debiased estimation (Yu et al. 2024): weight `1/√SNR`, for v models `1/(SNR+1)`. Default false.
    #[serde(default)]
    debiased_estimation_loss: bool,
    /// Strength of an offset added to the noise of a whole channel, for very bright and dark images. 0.0357 is usual. Default: off.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 10.0))]
    noise_offset: Option<f64>,
    /// Multiplies `noise_offset` by a random number of 0 to 1 for each batch. Default false.
    #[serde(default)]
    noise_offset_random_strength: bool,
    /// Adds this times the magnitude of a channel's mean latent to `noise_offset`. Default: off.
    #[serde(default)]
    #[schemars(range(min = -100.0, max = 100.0))]
    adaptive_noise_scale: Option<f64>,
    /// Noise of several resolutions, summed (pyramid noise); beside `noise_offset`, whose noise it is added to. Default: off.
    #[serde(default)]
    multires_noise: Option<Multires>,
    /// γ of input perturbation (Ning et al. 2023): the model sees more noise than it is to predict. 0.1 is usual. Default: off.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 10.0))]
    ip_noise_gamma: Option<f64>,
    /// Multiplies `ip_noise_gamma` by a random number of 0 to 1 for each batch. Default false.
    #[serde(default)]
    ip_noise_gamma_random_strength: bool,
    /// Timesteps drawn in training.
    #[serde(default)]
    timesteps: TimestepRange,
    /// How masks of the images count. Default: they are multiplied with the loss of each element.
    #[serde(default)]
    mask: Option<Mask>,
}

impl Config {
    fn weights(&self) -> SnrWeights {
        SnrWeights {
            min_snr_gamma: self.min_snr_gamma,
            scale_v_pred_loss_like_noise_pred: self.scale_v_pred_loss_like_noise_pred,
            v_pred_like_loss: self.v_pred_like_loss,
            debiased_estimation_loss: self.debiased_estimation_loss,
            snr_of: SnrOf::Trained,
        }
    }
    fn offset(&self) -> Option<NoiseOffset> {
        self.noise_offset.map(|strength| NoiseOffset {
            strength,
            random_strength: self.noise_offset_random_strength,
            adaptive: self.adaptive_noise_scale,
        })
    }
    fn perturbation(&self) -> Option<IpNoise> {
        self.ip_noise_gamma.map(|gamma| IpNoise { gamma, random_strength: self.ip_noise_gamma_random_strength })
    }

    /// Options that act on drawn noise, by name, where they are set.
    fn of_draws(&self) -> Vec<&'static str> {
        let range = self.timesteps != TimestepRange::default();
        let list = [
            ("noise_offset", self.noise_offset.is_some()),
            ("multires_noise", self.multires_noise.is_some()),
            ("ip_noise_gamma", self.ip_noise_gamma.is_some()),
            ("timesteps", range),
        ];
        list.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect()
    }

    fn check(&self, cx: &mut CheckCx, facts: &Facts, replayed: bool) {
        let invalid = |cx: &mut CheckCx, prefix: &str, result: Result<(), pipe_train::Invalid>| {
            if let Err(e) = result {
                let field = if prefix.is_empty() { e.field.clone() } else { prefix.to_string() };
                let code = if e.reason.contains("effect") { "P0402" } else { "P0403" };
                cx.error(code, &field, e.to_string(), e.help);
            }
        };
        invalid(cx, "timesteps", self.timesteps.check().map_err(|e| e.within("timesteps")));
        let prediction = facts.get("prediction").and_then(|p| serde_json::from_value(p.clone()).ok());
        let zero = facts.get("zero_terminal_snr") == Some(&serde_json::json!(true));
        invalid(cx, "", self.weights().check(prediction.unwrap_or_default(), zero));
        if let Some(Err(e)) = self.multires_noise.as_ref().map(|multires| multires.check()) {
            invalid(cx, &format!("multires_noise.{}", e.field), Err(e.within("multires_noise")));
        }
        match &self.huber {
            Some(_) if !self.loss_type.has_c() => {
                let help = "set `loss_type: huber` or `smooth_l1`, or leave it out";
                cx.error("P0402", "huber", "`huber` has no effect with this `loss_type`", Some(help.into()));
            }
            Some(huber) => invalid(cx, "huber", huber.check(false)),
            None => {}
        }
        for (field, set, needs) in [
            ("noise_offset_random_strength", self.noise_offset_random_strength, self.noise_offset.is_some()),
            ("adaptive_noise_scale", self.adaptive_noise_scale.is_some(), self.noise_offset.is_some()),
            ("ip_noise_gamma_random_strength", self.ip_noise_gamma_random_strength, self.ip_noise_gamma.is_some()),
        ] {
            if set && !needs {
                let base = if field.starts_with("ip") { "ip_noise_gamma" } else { "noise_offset" };
                cx.error("P0402", field, format!("`{field}` has no effect without `{base}`"), None);
            }
        }
        if self.adaptive_noise_scale == Some(0.0) {
            let message = "`adaptive_noise_scale` of 0 has no effect";
            cx.error("P0402", "adaptive_noise_scale", message, Some("leave it out".into()));
        }
        if replayed {
            for field in self.of_draws() {
                let message = format!("`{field}` has no effect on replayed noise and timesteps");
                cx.error("P0402", field, message, None);
            }
        }
    }
}

/// The node type.
pub struct DiffusionLoss;

impl Node for DiffusionLoss {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "loss.diffusion",
        summary: "Denoising loss for epsilon and v models (SD 1.x, SD 2.x, SDXL), with SNR weights and noise options.",
        details: "`x_t = √ᾱ_t·x0 + √(1−ᾱ_t)·ε` with the scaled-linear schedule; the target is ε or \
                  `v = √ᾱ_t·ε − √(1−ᾱ_t)·x0`, as the model predicts. With `min_snr_gamma` a sample's loss is multiplied by \
                  `min(SNR, γ)/SNR` (v: `/(SNR+1)`). Noise is drawn on the host, so every device trains on the same numbers.",
        example: "loss:\n  type: loss.diffusion\n  model: lora\n  batch: cached\n  min_snr_gamma: 5",
    };

    fn inputs() -> Vec<Input> {
        common::inputs()
    }

    fn outputs() -> Vec<Output> {
        common::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let Some((model, batch)) = common::check(cx, false) else { return Facts::new() };
        config.check(cx, &model, batch.get("replay").is_some());
        common::check_mask(cx, config.mask.is_some(), &batch);
        model
            .with("loss", "diffusion")
            .with("batches", batch.u64("batches").unwrap_or(1))
            .with("batch_facts", serde_json::to_value(&batch.0).unwrap_or_default())
    }

    fn plan(_config: &Config, _cx: &PlanCx) -> NodePlan {
        NodePlan::default()
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let trainable = cx.one::<Trainable>("model")?.clone();
        let source = cx.one::<Batches>("batch")?.0.clone();
        let runner = Runner::new(trainable, &*source)?;
        let schedule = runner.subject().0.schedule();
        let program = Program { config, runner, source, schedule };
        Ok(Built { outputs: vec![Arc::new(Loss(Arc::new(program)))], ..Default::default() })
    }
}

/// The loss during a run.
struct Program {
    config: Config,
    runner: Runner,
    source: Arc<dyn BatchSource>,
    schedule: NoiseSchedule,
}

/// The noisy input, the target and the loss weight of a batch.
struct Draw {
    noisy: HostTensor,
    target: Vec<f32>,
    timesteps: Vec<f32>,
    weights: Vec<f32>,
    c: Vec<f32>,
}

impl Program {
    /// ε of a sample: normal, with its offset, then its resolutions, which bring the whole back to a variance of 1.
    fn noise(&self, at: &At, sample: u64, shape: &[usize], x0: &[f32], strength: f64) -> Vec<f32> {
        let (channels, h, w) = (shape[1], shape[2], shape[3]);
        let span = channels * h * w;
        let mut noise = rng::normal(&mut rng::stream(at.seed, Purpose::Noise, at.step, sample), span);
        let mut more = rng::stream(at.seed, Purpose::NoiseOffset, at.step, sample);
        if let Some(offset) = self.config.offset() {
            offset.apply(strength, &rng::normal(&mut more, channels), x0, &mut noise);
        }
        if let Some(multires) = &self.config.multires_noise {
            multires.draw([channels, h, w], &mut noise, &mut more);
        }
        noise
    }

    fn draw(&self, batch: &Batch, at: &At, prediction: Prediction, latents: &HostTensor) -> Draw {
        let b = latents.shape[0];
        let span: usize = latents.shape[1..].iter().product();
        let mut draw = Draw {
            noisy: HostTensor { values: vec![0.0; b * span], shape: latents.shape.clone() },
            target: vec![0.0; b * span],
            timesteps: Vec::with_capacity(b),
            weights: Vec::with_capacity(b),
            c: Vec::with_capacity(b),
        };
        let offset = self.config.offset().map_or(0.0, |o| o.strength(strength(at, Purpose::NoiseOffset)));
        let weights = self.config.weights();
        for i in 0..b {
            let sample = at.first_sample + i as u64;
            let at_sample = i * span..(i + 1) * span;
            let x0 = &latents.values[at_sample.clone()];
            let noise = match &batch.replay {
                Some(replay) => replay.noise.values[at_sample.clone()].to_vec(),
                None => self.noise(at, sample, &latents.shape, x0, offset),
            };
            let range = self.config.timesteps;
            let t = match (&batch.replay, &at.timesteps) {
                (Some(replay), _) => replay.timesteps[i] as usize,
                // Given ones are parts of the range that is trained.
                (None, Some(fixed)) => range.at((fixed[i % fixed.len()].floor() as f64 + 0.5) / 1000.0) as usize,
                (None, None) => {
                    let u = rng::uniform(&mut rng::stream(at.seed, Purpose::Timestep, at.step, sample), 1, 0.0, 1.0)[0];
                    range.at(u as f64) as usize
                }
            };
            let perturbation = self.config.perturbation().filter(|_| batch.replay.is_none());
            let seen = seen(perturbation.as_ref(), at, sample, &noise);
            self.schedule.noisy(t, x0, &seen, &mut draw.noisy.values[at_sample.clone()]);
            self.schedule.target(prediction, t, x0, &noise, &mut draw.target[at_sample]);
            let alpha = self.schedule.alpha(t);
            draw.timesteps.push(t as f32);
            draw.weights.push(batch.weights[i] * weights.factor(self.schedule.snr(t, SnrOf::Trained), prediction));
            draw.c.push(self.config.huber.clone().unwrap_or_default().c(t as f64, Some(alpha as f64)) as f32);
        }
        draw
    }
}

impl LossProgram for Program {
    fn trainable(&self) -> &Trainable {
        &self.runner.trainable
    }
    fn source(&self) -> &Arc<dyn BatchSource> {
        &self.source
    }
    fn engine(&self) -> &Engine {
        &self.runner.subject().0.engine
    }

    fn pass(&self, batch: &Batch, at: &At, gradients: Option<&mut dyn Gradients>) -> Result<Losses, RunError> {
        let (model, ..) = self.runner.subject();
        let latents = latents(batch, at)?;
        let Draw { noisy, mut target, timesteps, mut weights, c } = self.draw(batch, at, model.prediction, &latents);
        let shot =
            Shot { noisy, times: timesteps.clone(), guidance: Vec::new(), pass: at.pass, chance: Chance::default() };
        preserve::targets(&self.runner, batch, &shot, &mut target, Tensor::clone)?;
        let places = mask::places(batch, self.config.mask.unwrap_or_default(), &mut weights);
        let target = self.runner.target(target, &shot.noisy.shape);
        let scaled: Vec<f32> = weights.iter().map(|w| w * at.scale).collect();
        let cx = model.engine.cx();
        let kind = element(self.config.loss_type);
        let weigh = Weigh { samples: &scaled, c: &c, places: places.as_deref() };
        let mut loss = |out: &Tensor| op::loss_and_grad(&cx, kind, out, &target, weigh);
        let mut gradients = gradients;
        let each = self.runner.learn(batch, &shot, &mut loss, again(&mut gradients))?;
        let class = |gradients| preserve::class(&self.runner, batch, &shot, at.scale, gradients);
        let preservation = gradients.map(class).transpose()?.flatten();
        Ok(Losses { each, weights, timesteps, preservation })
    }

    fn metadata(&self) -> Vec<(String, String)> {
        let c = &self.config;
        let option = |x: Option<f64>| x.map_or("None".to_string(), py_float);
        let python = |b: bool| b.py_text();
        let mut list = vec![
            ("ss_min_snr_gamma".into(), option(c.min_snr_gamma)),
            ("ss_noise_offset".into(), option(c.noise_offset)),
            ("ss_noise_offset_random_strength".into(), python(c.noise_offset_random_strength)),
            ("ss_adaptive_noise_scale".into(), option(c.adaptive_noise_scale)),
            (
                "ss_multires_noise_iterations".into(),
                c.multires_noise.as_ref().map_or("None".into(), |m| m.iterations.to_string()),
            ),
            ("ss_multires_noise_discount".into(), option(c.multires_noise.as_ref().map(|m| m.discount))),
            ("ss_ip_noise_gamma".into(), option(c.ip_noise_gamma)),
            ("ss_ip_noise_gamma_random_strength".into(), python(c.ip_noise_gamma_random_strength)),
            ("ss_debiased_estimation".into(), python(c.debiased_estimation_loss)),
            ("ss_loss_type".into(), c.loss_type.name().into()),
        ];
        if c.loss_type.has_c() {
            let huber = c.huber.clone().unwrap_or_default();
            let schedule = huber.schedule.map_or("snr", |s| s.name());
            list.push(("ss_huber_schedule".into(), schedule.into()));
            list.push(("ss_huber_c".into(), py_float(huber.c)));
            list.push(("ss_huber_scale".into(), py_float(huber.scale.unwrap_or(1.0))));
        }
        list
    }

    fn timestep_range(&self) -> Option<(u32, u32)> {
        let range = &self.config.timesteps;
        (*range != TimestepRange::default()).then_some((range.min as u32, range.max as u32))
    }
}
