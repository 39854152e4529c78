//! One picture: noise to latents with what is being trained.

use std::collections::BTreeMap;

use pipe_core::run::RunError;
use pipe_data::weights::{Component, Family};
use pipe_networks::Network;
use pipe_ops::rng::{self, Purpose};
use pipe_train::flow;
use pipe_train::solve::guidance::{LuminaGuidance, combine};
use pipe_train::solve::{FlowShift, Sampler, Solver, flow_euler, flow_sigmas};

use crate::common::batch::{HostTensor, TextRows};
use crate::common::denoise::{Chance, Runner, Shot};
use crate::common::family;

/// How a picture is drawn.
pub struct Recipe {
    /// Solver of a U-Net.
    pub solver: Solver,
    /// Steps.
    pub steps: usize,
    /// Classifier-free guidance; 1 is none.
    pub guidance: f32,
    /// Guidance the network is told, where it reads one.
    pub embedded: f32,
    /// Seed of the noise.
    pub seed: u64,
    /// Lumina-Image-2.0: first part of the sampling in which guidance acts, and the limit of its norm.
    pub lumina: (f64, f64),
    /// SD3 and Lumina: shift of the noise levels, where it is not the family's.
    pub shift: Option<f64>,
}

impl Recipe {
    /// How Lumina-Image-2.0 guides unless told otherwise.
    pub const LUMINA: (f64, f64) = (0.25, 1.0);
}

/// Guidance that suits a family.
pub fn default_guidance(family: Family) -> f64 {
    match family {
        Family::Sd1 | Family::Sd2 | Family::Sdxl => 7.5,
        Family::Sd3 => 5.0,
        Family::Lumina2 | Family::LuminaNext => 4.0,
        Family::Flux => 1.0,
    }
}

/// The second half of rows that hold a negative and a positive prompt: the positive prompt alone.
fn positive(rows: &BTreeMap<Component, TextRows>) -> BTreeMap<Component, TextRows> {
    let half = |t: &HostTensor| {
        let mut shape = t.shape.clone();
        shape[0] = 1;
        HostTensor { values: t.values[t.values.len() / 2..].to_vec(), shape }
    };
    let of = |r: &TextRows| TextRows {
        hidden: half(&r.hidden),
        pooled: r.pooled.as_ref().map(half),
        mask: r.mask.as_ref().map(half),
    };
    rows.iter().map(|(c, r)| (*c, of(r))).collect()
}

/// Draws a picture's latents `[1, C, h, w]`; `pixels` is its height and width. `step` is called before each pass of the
/// network, and may stop it.
pub fn latents(
    runner: &Runner,
    texts: &BTreeMap<Component, TextRows>,
    shape: [usize; 4],
    pixels: [usize; 2],
    recipe: &Recipe,
    step: impl Fn() -> Result<(), RunError>,
) -> Result<Vec<f32>, RunError> {
    let (model, ..) = runner.subject();
    let len: usize = shape.iter().product();
    let noise = rng::normal(&mut rng::stream(recipe.seed, Purpose::Preview, 0, 0), len);
    let alone = positive(texts);
    let [h, w] = pixels.map(|p| p as f32);
    // One size for both prompts: drawn as made, nothing cut.
    let size = [h, w, 0.0, 0.0, h, w];
    let guided = matches!(&model.network, Network::Flux(c) if c.guidance);
    // Guidance runs both prompts in one batch; without guidance only the positive one.
    let predict = |x: &[f32], time: f32, both: bool| -> Result<Vec<f32>, RunError> {
        step()?;
        let n = if both { 2 } else { 1 };
        let shot = Shot {
            noisy: HostTensor { values: x.repeat(n), shape: vec![n, shape[1], shape[2], shape[3]] },
            times: vec![time; n],
            guidance: if guided { vec![recipe.embedded; n] } else { Vec::new() },
            pass: 0,
            chance: Chance::default(),
        };
        let texts = if both { texts } else { &alone };
        Ok(runner.predict(&shot, texts, &vec![size; n])?.to_vec())
    };
    let both = recipe.guidance != 1.0;
    let plain = |x: &[f32], time: f32| -> Result<Vec<f32>, RunError> {
        let mut out = predict(x, time, both)?;
        if !both {
            return Ok(out);
        }
        let mut conditional = out.split_off(len);
        combine(recipe.guidance, &out, &mut conditional);
        Ok(conditional)
    };
    let Some(flow) = family::flow(model.family) else {
        let sampler = Sampler::new(recipe.solver, model.prediction, model.schedule(), recipe.steps);
        let fresh = |i: usize| rng::normal(&mut rng::stream(recipe.seed, Purpose::Preview, i as u64 + 1, 0), len);
        return sampler.sample(noise, |x, t| plain(x, t), fresh);
    };
    let tokens = flow::tokens(shape[2], shape[3]);
    let spacing = match flow {
        flow::Family::Flux => FlowShift::Exponential { tokens },
        _ => FlowShift::Linear { shift: recipe.shift.unwrap_or(flow.recommended().shift) },
    };
    // The schnell models are distilled for even steps.
    let sigmas = match &model.network {
        Network::Flux(c) if !c.guidance => {
            (0..=recipe.steps).map(|i| 1.0 - i as f64 / recipe.steps.max(1) as f64).collect()
        }
        _ => flow_sigmas(spacing, recipe.steps),
    };
    let (truncation, renorm) = recipe.lumina;
    let lumina = LuminaGuidance { scale: recipe.guidance, truncation, renorm: Some(renorm) };
    flow_euler(flow.direction(), &sigmas, noise, |x, sigma| {
        let time = flow.model_time(sigma) as f32;
        if model.family != Family::Lumina2 {
            return plain(x, time);
        }
        let guide = both && lumina.acts(sigma);
        let mut out = predict(x, time, guide)?;
        if !guide {
            return Ok(out);
        }
        let mut conditional = out.split_off(len);
        lumina.apply(&out, &mut conditional);
        Ok(conditional)
    })
}
