//! `loss.flow`: flow matching for SD3, FLUX and Lumina.

use std::sync::Arc;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::metadata::py_float;
use pipe_networks::Network;
use pipe_ops::op::Weigh;
use pipe_ops::rng::{self, Purpose};
use pipe_ops::{DType, Tensor, op};
use pipe_train::ddpm::IpNoise;
use pipe_train::flow::{self, Direction, ModelPrediction, Sampling, Scheme, Timesteps};
use pipe_train::loss::{Huber, LossType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{self, element, latents, seen};
use super::mask::Mask;
use super::{At, Loss, LossProgram, Losses, chance, mask, preserve};
use crate::common::batch::{Batch, BatchSource, Batches, HostTensor};
use crate::common::denoise::{Runner, Shot};
use crate::common::engine::Engine;
use crate::common::facts::network_of;
use crate::common::family;
use crate::common::gradients::{Gradients, again};
use crate::common::trainable::Trainable;

/// Fields of `loss.flow`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Config {
    /// How σ is drawn. Default: what suits the model (FLUX `flux_shift`, SD3 `discrete` with `logit_normal`,
    /// Lumina-Image-2.0 `nextdit_shift`, Lumina-Next `sigmoid`).
    #[serde(default)]
    timesteps: Times,
    /// What is compared. Default `raw`.
    #[serde(default)]
    model_prediction: ModelPrediction,
    /// Loss of an element `e = prediction − target`. Default `l2`.
    #[serde(default)]
    loss_type: LossType,
    /// c of `huber` and `smooth_l1`. Default: schedule `constant`, c 0.1.
    #[serde(default)]
    huber: Option<Huber>,
    /// Distilled guidance the model is given in training (FLUX.1 dev). Default 1.0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 100.0))]
    guidance_scale: Option<f64>,
    /// γ of input perturbation (Ning et al. 2023): the model sees more noise than it is to predict. 0.1 is usual. Default: off.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 10.0))]
    ip_noise_gamma: Option<f64>,
    /// Multiplies `ip_noise_gamma` by a random number of 0 to 1 for each batch. Default false.
    #[serde(default)]
    ip_noise_gamma_random_strength: bool,
    /// How masks of the images count. Default: they are multiplied with the loss of each element.
    #[serde(default)]
    mask: Option<Mask>,
}

/// Fields that choose σ; those that the chosen sampling does not read are errors.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
struct Times {
    /// How σ is drawn. Default by model.
    #[serde(default)]
    sampling: Option<Sampling>,
    /// Scale of the normal number in `sigmoid`, `shift` and `flux_shift`. Default 1.0.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 100.0))]
    sigmoid_scale: Option<f64>,
    /// h of `shift`, `sigma` and `discrete`: `h·u/(1+(h−1)·u)`; above 1 there is more noise. Default: SD3 and FLUX 3, Lumina-Image-2.0 6, Lumina-Next 1.
    #[serde(default)]
    #[schemars(range(min = 0.001, max = 100.0))]
    shift: Option<f64>,
    /// Density of `sigma` and `discrete`, or a weight of the loss on x0. Default: `logit_normal` for SD3's own sampling, else `uniform`.
    #[serde(default)]
    scheme: Option<Scheme>,
    /// Smallest timestep of `discrete`. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 999))]
    min: Option<u64>,
    /// One past the largest timestep of `discrete`. Default 1000.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    max: Option<u64>,
}

impl Times {
    /// With what is not given filled in for a family.
    fn of(&self, family: flow::Family) -> Timesteps {
        let defaults = family.recommended().timesteps;
        let own = self.sampling.is_none_or(|s| s == defaults.sampling);
        Timesteps {
            sampling: self.sampling.unwrap_or(defaults.sampling),
            sigmoid_scale: self.sigmoid_scale,
            shift: self.shift,
            scheme: self.scheme.clone().unwrap_or(if own { defaults.scheme } else { Scheme::Uniform }),
            min: self.min,
            max: self.max,
        }
    }
}

fn takes_guidance(network: &Network) -> bool {
    matches!(network, Network::Flux(c) if c.guidance)
}

impl Config {
    fn perturbation(&self) -> Option<IpNoise> {
        self.ip_noise_gamma.map(|gamma| IpNoise { gamma, random_strength: self.ip_noise_gamma_random_strength })
    }

    fn check(&self, cx: &mut CheckCx, family: flow::Family, model: &Facts, replayed: bool) {
        let timesteps = self.timesteps.of(family);
        if let Err(e) = timesteps.check(self.model_prediction.weighs()) {
            cx.error("P0402", "timesteps", e.to_string(), e.help);
        }
        match &self.huber {
            Some(_) if !self.loss_type.has_c() => {
                let help = "set `loss_type: huber` or `smooth_l1`, or leave it out";
                cx.error("P0402", "huber", "`huber` has no effect with this `loss_type`", Some(help.into()));
            }
            Some(huber) => {
                if let Err(e) = huber.check(true) {
                    cx.error("P0403", "huber", e.to_string(), e.help);
                }
            }
            None => {}
        }
        if self.guidance_scale.is_some() && network_of(model).is_some_and(|n| !takes_guidance(&n)) {
            let message = "`guidance_scale` has no effect: the model has no guidance embedding";
            cx.error("P0402", "guidance_scale", message, Some("only FLUX.1 dev has one".into()));
        }
        if self.ip_noise_gamma_random_strength && self.ip_noise_gamma.is_none() {
            let message = "`ip_noise_gamma_random_strength` has no effect without `ip_noise_gamma`";
            cx.error("P0402", "ip_noise_gamma_random_strength", message, None);
        }
        if replayed && self.ip_noise_gamma.is_some() {
            cx.error("P0402", "ip_noise_gamma", "`ip_noise_gamma` has no effect on replayed noise", None);
        }
        if self.model_prediction == ModelPrediction::Additive {
            let message =
                "`model_prediction: additive` has no effect: what is added to the prediction is added to its target";
            cx.error("P0402", "model_prediction", message, Some("leave it out: `raw` is the same loss".into()));
        }
        // The scheme weighs the loss on x0 at replayed timesteps too.
        let weighs = self.model_prediction.weighs();
        let drawn = Times { scheme: self.timesteps.scheme.clone().filter(|_| !weighs), ..self.timesteps.clone() };
        if replayed && drawn != Times::default() {
            let message = "`timesteps` has no effect on replayed timesteps";
            cx.error("P0402", "timesteps", message, None);
        }
    }
}

/// The node type.
pub struct FlowLoss;

impl Node for FlowLoss {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "loss.flow",
        summary: "Flow-matching loss for SD3, FLUX.1 and Lumina.",
        details: "Lipman et al. 2023; Esser et al. 2024. `x_σ = (1−σ)·x0 + σ·ε`; the model predicts the velocity `ε − x0` (Lumina: \
                  `x0 − ε`). The drawing of σ decides what is learned: by default each family gets the density it was trained with.",
        example: "loss:\n  type: loss.flow\n  model: lora\n  batch: cached\n  timesteps:\n    sampling: flux_shift",
    };

    fn inputs() -> Vec<Input> {
        common::inputs()
    }

    fn outputs() -> Vec<Output> {
        common::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let Some((model, batch)) = common::check(cx, true) else { return Facts::new() };
        let family = model.str("architecture").and_then(family::of_id).and_then(family::flow);
        if let Some(family) = family {
            config.check(cx, family, &model, batch.get("replay").is_some());
            if config.guidance_scale.is_some() && batch.get("guidance") == Some(&serde_json::json!(true)) {
                let message = "`guidance_scale` has no effect: the replay has its own";
                cx.error("P0402", "guidance_scale", message, Some("leave it out".into()));
            }
            common::check_mask(cx, config.mask.is_some(), &batch);
            chance::check(cx, &model, &batch);
        }
        model
            .with("loss", "flow")
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
        let (model, ..) = runner.subject();
        let Some(family) = family::flow(model.family) else {
            let message = format!("{} predicts noise or v, which this loss does not train", model.family);
            return Err(RunError::new("P0401", message).at("model").help("use `loss.diffusion`"));
        };
        let timesteps = config.timesteps.of(family);
        let guided = takes_guidance(&model.network);
        let program = Program { config, runner, source, family, timesteps, guided };
        Ok(Built { outputs: vec![Arc::new(Loss(Arc::new(program)))], ..Default::default() })
    }
}

/// The loss during a run.
struct Program {
    config: Config,
    runner: Runner,
    source: Arc<dyn BatchSource>,
    family: flow::Family,
    timesteps: Timesteps,
    guided: bool,
}

impl Program {
    /// σ of a sample: replayed, given, or drawn.
    fn sigma(&self, batch: &Batch, at: &At, i: usize, tokens: usize) -> f64 {
        match (&batch.replay, &at.timesteps) {
            (Some(replay), _) => replay.timesteps[i] as f64 / 1000.0,
            // Given ones are parts of the range that is trained.
            (None, Some(fixed)) => {
                let [min, max] = [self.timesteps.min.unwrap_or(0), self.timesteps.max.unwrap_or(1000)];
                let part = fixed[i % fixed.len()] as f64 / 1000.0;
                ((min as f64 + (max.saturating_sub(min)) as f64 * part) / 1000.0).clamp(0.001, 1.0)
            }
            (None, None) => {
                let mut stream = rng::stream(at.seed, Purpose::Timestep, at.step, at.first_sample + i as u64);
                let draw = self.timesteps.random(&mut stream);
                self.timesteps.at(draw, self.family.recommended().shift, tokens).sigma
            }
        }
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
        let direction = self.family.direction();
        let kind = self.config.model_prediction;
        let latents = latents(batch, at)?;
        let b = latents.shape[0];
        let span: usize = latents.shape[1..].iter().product();
        let tokens = flow::tokens(latents.shape[2], latents.shape[3]);
        let mut noisy = HostTensor { values: vec![0.0; b * span], shape: latents.shape.clone() };
        let mut target = vec![0.0; b * span];
        let (mut sigmas, mut weights, mut c) = (Vec::new(), Vec::new(), Vec::new());
        let huber = self.config.huber.clone().unwrap_or_default();
        for i in 0..b {
            let own = i * span..(i + 1) * span;
            let x0 = &latents.values[own.clone()];
            let noise = match &batch.replay {
                Some(replay) => replay.noise.values[own.clone()].to_vec(),
                None => {
                    let sample = at.first_sample + i as u64;
                    rng::normal(&mut rng::stream(at.seed, Purpose::Noise, at.step, sample), span)
                }
            };
            let sigma = self.sigma(batch, at, i, tokens);
            let perturbation = self.config.perturbation().filter(|_| batch.replay.is_none());
            let seen = seen(perturbation.as_ref(), at, at.first_sample + i as u64, &noise);
            ModelPrediction::noisy(sigma, x0, &seen, &mut noisy.values[own.clone()]);
            kind.target(direction, x0, &noise, &noisy.values[own.clone()], &mut target[own]);
            let scheme = if kind.weighs() { self.timesteps.scheme.weight(sigma) as f32 } else { 1.0 };
            weights.push(batch.weights[i] * scheme);
            c.push(huber.c(1000.0 * sigma, None) as f32);
            sigmas.push(sigma);
        }
        let times = sigmas.iter().map(|&s| self.family.model_time(s) as f32).collect();
        let guidance = match &batch.replay {
            _ if !self.guided => Vec::new(),
            Some(replay) if !replay.guidance.is_empty() => replay.guidance.clone(),
            _ => vec![self.config.guidance_scale.unwrap_or(1.0) as f32; b],
        };
        let (model, ..) = self.runner.subject();
        let cx = model.engine.cx();
        let x = self.runner.target(noisy.values.clone(), &noisy.shape);
        // The compared value is a·x + slope·f; the gradient passes through the slope.
        let slopes = slopes(kind, direction, &sigmas);
        let value = |f: &Tensor| match kind {
            ModelPrediction::Raw => f.clone(),
            _ => compared(&cx, f, &x, &slopes),
        };
        let chance = gradients.as_ref().map(|_| chance::of(&model.network, at, b)).unwrap_or_default();
        let shot = Shot { noisy, times, guidance, pass: at.pass, chance };
        preserve::targets(&self.runner, batch, &shot, &mut target, value)?;
        let places = mask::places(batch, self.config.mask.unwrap_or_default(), &mut weights);
        let target = self.runner.target(target, &shot.noisy.shape);
        let scaled: Vec<f32> = weights.iter().map(|w| w * at.scale).collect();
        let element = element(self.config.loss_type);
        let weigh = Weigh { samples: &scaled, c: &c, places: places.as_deref() };
        let mut loss = |out: &Tensor| {
            let (each, grad) = op::loss_and_grad(&cx, element, &value(out), &target, weigh);
            match kind {
                ModelPrediction::Raw => (each, grad),
                _ => (each, scale_samples(&cx, &grad, &slopes).cast(out.dtype())),
            }
        };
        let mut gradients = gradients;
        let each = self.runner.learn(batch, &shot, &mut loss, again(&mut gradients))?;
        let class = |gradients| preserve::class(&self.runner, batch, &shot, at.scale, gradients);
        let preservation = gradients.map(class).transpose()?.flatten();
        let timesteps = sigmas.iter().map(|&sigma| (1000.0 * sigma) as f32).collect();
        Ok(Losses { each, weights, timesteps, preservation })
    }

    fn metadata(&self) -> Vec<(String, String)> {
        let t = &self.timesteps;
        let mut list = vec![
            ("ss_loss_type".into(), self.config.loss_type.name().into()),
            ("ss_timestep_sampling".into(), name(&t.sampling)),
            ("ss_model_prediction_type".into(), name(&self.config.model_prediction)),
            ("ss_discrete_flow_shift".into(), py_float(t.shift.unwrap_or(self.family.recommended().shift))),
            ("ss_sigmoid_scale".into(), py_float(t.sigmoid_scale.unwrap_or(1.0))),
        ];
        if let Some(gamma) = self.config.ip_noise_gamma {
            let random = if self.config.ip_noise_gamma_random_strength { "True" } else { "False" };
            list.push(("ss_ip_noise_gamma".into(), py_float(gamma)));
            list.push(("ss_ip_noise_gamma_random_strength".into(), random.into()));
        }
        // Each scheme's own numbers; the others' are sd-scripts' defaults, which it writes as well.
        let (scheme, mean, std, scale) = match t.scheme {
            Scheme::Uniform => ("uniform", 0.0, 1.0, 1.29),
            Scheme::LogitNormal { mean, std } => ("logit_normal", mean, std, 1.29),
            Scheme::Mode { scale } => ("mode", 0.0, 1.0, scale),
            Scheme::Cosmap => ("cosmap", 0.0, 1.0, 1.29),
            Scheme::SigmaSqrt => ("sigma_sqrt", 0.0, 1.0, 1.29),
        };
        list.push(("ss_weighting_scheme".into(), scheme.into()));
        for (key, value) in [("ss_logit_mean", mean), ("ss_logit_std", std), ("ss_mode_scale", scale)] {
            list.push((key.into(), py_float(value)));
        }
        if self.config.loss_type.has_c() {
            let huber = self.config.huber.clone().unwrap_or_default();
            list.push(("ss_huber_schedule".into(), huber.schedule.map_or("constant", |s| s.name()).into()));
            list.push(("ss_huber_c".into(), py_float(huber.c)));
            list.push(("ss_huber_scale".into(), py_float(huber.scale.unwrap_or(1.0))));
        }
        if self.family == flow::Family::Flux {
            // A model without the embedding is told none.
            let told = self.guided.then(|| py_float(self.config.guidance_scale.unwrap_or(1.0)));
            list.push(("ss_guidance_scale".into(), told.unwrap_or_else(|| "None".into())));
        }
        list
    }

    fn timestep_range(&self) -> Option<(u32, u32)> {
        let t = &self.timesteps;
        let limited = t.min.is_some() || t.max.is_some();
        limited.then_some((t.min.unwrap_or(0) as u32, t.max.unwrap_or(1000) as u32))
    }
}

/// A choice as documents write it.
fn name(choice: &impl Serialize) -> String {
    serde_json::to_value(choice).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default()
}

/// d(compared)/d(output) of each sample.
fn slopes(kind: ModelPrediction, direction: Direction, sigmas: &[f64]) -> Vec<f32> {
    sigmas.iter().map(|&s| kind.apply(direction, s, &[0.0], &mut [0.0])).collect()
}

/// `x + slope·f` in f32.
fn compared(cx: &pipe_ops::Cx, f: &Tensor, x: &Tensor, slopes: &[f32]) -> Tensor {
    let scaled = scale_samples(cx, &f.cast(DType::F32), slopes);
    op::add_tensors(cx, scaled, x.clone())
}

/// Each sample of `x [B, ..]` times its number.
fn scale_samples(cx: &pipe_ops::Cx, x: &Tensor, factors: &[f32]) -> Tensor {
    let n = x.len() / factors.len();
    let flat = pipe_ops::Var::constant(x.reshape(&[factors.len(), 1, n]));
    let values = factors.iter().flat_map(|&f| std::iter::repeat_n(f, n)).collect();
    let g = pipe_ops::Var::constant(cx.device.tensor(values, &[factors.len(), n], x.dtype()));
    op::gate(cx, &flat, &g).value.reshape(x.shape())
}
