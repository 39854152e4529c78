//! Preview samplers on host slices.
//!
//! [`Sampler`] removes noise with an epsilon or v model: DDIM, Euler, Euler-ancestral, DPM++ 2M. [`flow_euler`] integrates a flow
//! model along [`flow_sigmas`]. [`guidance`] combines conditional and unconditional outputs. The model
//! is a closure that gives the prediction for an input and a time; what fails in it ends the sampling.

pub mod guidance;
mod plan;
mod sigmas;
mod steps;

pub use plan::{Plan, Spacing};
pub use sigmas::{FlowShift, flow_euler, flow_sigmas};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ddpm::{NoiseSchedule, Prediction};

/// How noise is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Solver {
    /// Denoising diffusion implicit model (Song et al. 2021), η = 0.
    #[default]
    Ddim,
    /// Euler steps of the probability-flow ODE (Karras et al. 2022).
    Euler,
    /// Euler steps with fresh noise after each (Crowson 2022).
    EulerAncestral,
    /// Second-order multistep solver for the data prediction (Lu et al. 2022, "DPM-Solver++ 2M").
    Dpmpp2m,
}

impl Solver {
    /// Name in picture metadata.
    pub fn name(self) -> &'static str {
        match self {
            Solver::Ddim => "DDIM",
            Solver::Euler => "Euler",
            Solver::EulerAncestral => "Euler a",
            Solver::Dpmpp2m => "DPM++ 2M",
        }
    }

    /// Timesteps that suit it: DDIM from low to high multiples, the others over the whole schedule.
    pub fn spacing(self) -> Spacing {
        match self {
            Solver::Ddim => Spacing::Leading { offset: 0 },
            _ => Spacing::Linspace,
        }
    }
}

/// A sampler for epsilon and v models.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// How noise is removed.
    pub solver: Solver,
    /// What the model predicts.
    pub prediction: Prediction,
    /// The schedule the model was trained on.
    pub schedule: NoiseSchedule,
    /// Steps, 1 to 1000.
    pub steps: usize,
    /// Which timesteps; [`Solver::spacing`] by default, `Trailing` for zero terminal SNR.
    pub spacing: Spacing,
    /// Clips DDIM's estimate of x0. The reference clips latents to ±1, a default meant for pixels; leave it out.
    pub clip: Option<f32>,
}

impl Sampler {
    /// With the timesteps that suit the solver and the schedule.
    pub fn new(solver: Solver, prediction: Prediction, schedule: NoiseSchedule, steps: usize) -> Self {
        let zero_terminal = schedule.alpha(crate::ddpm::T - 1) == 0.0;
        let spacing = if zero_terminal { Spacing::Trailing } else { solver.spacing() };
        Sampler { solver, prediction, schedule, steps, spacing, clip: None }
    }

    /// Runs from unit noise `x`.
    ///
    /// `model(x, t)` predicts for `x = √ᾱ·x0 + √(1−ᾱ)·ε`; `noise(i)` gives the fresh unit noise after step i, asked for by
    /// Euler-ancestral only. The result is the model-space sample. An error of `model` ends it.
    pub fn sample<E>(
        &self,
        x: Vec<f32>,
        mut model: impl FnMut(&[f32], f32) -> Result<Vec<f32>, E>,
        noise: impl FnMut(usize) -> Vec<f32>,
    ) -> Result<Vec<f32>, E> {
        let plan = Plan::new(&self.schedule, self.solver, self.spacing, self.steps);
        match self.solver {
            Solver::Ddim => steps::ddim(self, &plan, x, &mut model),
            Solver::Euler => steps::euler(self.prediction, &plan, x, &mut model, None::<fn(usize) -> Vec<f32>>),
            Solver::EulerAncestral => steps::euler(self.prediction, &plan, x, &mut model, Some(noise)),
            Solver::Dpmpp2m => steps::dpmpp_2m(self.prediction, &plan, x, &mut model),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// With a model that knows the one datum, every sampler ends at it.
    #[test]
    fn a_perfect_model_gives_the_datum() {
        let schedule = NoiseSchedule::scaled_linear();
        let datum = 0.7f32;
        for solver in [Solver::Ddim, Solver::Euler, Solver::EulerAncestral, Solver::Dpmpp2m] {
            for prediction in [Prediction::Epsilon, Prediction::V] {
                let sampler = Sampler::new(solver, prediction, schedule.clone(), 25);
                let perfect = |x: &[f32], t: f32| -> Result<Vec<f32>, Infallible> {
                    let sigma = Plan::sigma(&schedule, t as f64);
                    let alpha = (1.0 / (1.0 + sigma * sigma)).sqrt() as f32;
                    let s = (1.0 - alpha * alpha).sqrt();
                    Ok(x.iter()
                        .map(|x| {
                            let eps = (x - alpha * datum) / s;
                            if prediction == Prediction::Epsilon { eps } else { alpha * eps - s * datum }
                        })
                        .collect())
                };
                let fresh = |i: usize| vec![0.3 * i as f32 % 1.0, -0.5, 0.1];
                let Ok(end) = sampler.sample(vec![0.3, -1.2, 2.0], perfect, fresh);
                assert!(end.iter().all(|x| (x - datum).abs() < 2e-2), "{solver:?} {prediction:?}: {end:?}");
            }
        }
    }

    #[test]
    fn zero_terminal_snr_stays_finite() {
        let schedule = NoiseSchedule::scaled_linear().zero_terminal_snr();
        for solver in [Solver::Ddim, Solver::Euler, Solver::EulerAncestral, Solver::Dpmpp2m] {
            let sampler = Sampler::new(solver, Prediction::V, schedule.clone(), 10);
            let Ok(end) = sampler.sample(vec![0.5; 4], |x, _| Ok::<_, Infallible>(x.to_vec()), |_| vec![0.1; 4]);
            assert!(end.iter().all(|x| x.is_finite()), "{solver:?} {end:?}");
        }
    }

    #[test]
    fn a_failing_model_ends_it() {
        let sampler = Sampler::new(Solver::Dpmpp2m, Prediction::Epsilon, NoiseSchedule::scaled_linear(), 10);
        let mut calls = 0;
        let end = sampler.sample(
            vec![1.0],
            |x, _| {
                calls += 1;
                if calls == 3 { Err("stopped") } else { Ok(x.to_vec()) }
            },
            |_| vec![],
        );
        assert_eq!((end, calls), (Err("stopped"), 3));
    }
}
