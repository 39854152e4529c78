//! Deterministic samplers for epsilon and v models: DDIM and Euler.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::common::schedule_ddpm::{T, alphas_cumprod};
use crate::model::sd1::Prediction;

/// How noise is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Solver {
    /// Denoising diffusion implicit model (Song et al. 2021), η = 0.
    #[default]
    Ddim,
    /// Euler steps of the probability-flow ODE (Karras et al. 2022) on evenly spaced timesteps.
    Euler,
}

impl Solver {
    /// Name in picture metadata.
    pub fn name(self) -> &'static str {
        match self {
            Solver::Ddim => "DDIM",
            Solver::Euler => "Euler",
        }
    }
}

/// x0 and ε from what the model predicts at `x = √ᾱ·x0 + √(1−ᾱ)·ε`.
fn split(prediction: Prediction, alpha: f32, x: f32, out: f32) -> (f32, f32) {
    let (a, s) = (alpha.sqrt(), (1.0 - alpha).sqrt());
    match prediction {
        Prediction::Epsilon => ((x - s * out) / a, out),
        Prediction::V => (a * x - s * out, s * x + a * out),
    }
}

/// Runs `steps` steps from unit noise `x`. `model(x, t)` predicts for a model-space input (`√ᾱ`-scaled).
/// Nothing is clipped: latents are not confined to ±1.
pub fn sample<E>(
    solver: Solver,
    prediction: Prediction,
    steps: usize,
    mut x: Vec<f32>,
    mut model: impl FnMut(&[f32], f32) -> Result<Vec<f32>, E>,
) -> Result<Vec<f32>, E> {
    let alphas = alphas_cumprod();
    let steps = steps.clamp(1, T);
    match solver {
        Solver::Ddim => {
            let stride = T / steps;
            for k in (0..steps).rev() {
                let t = k * stride;
                let (alpha, next) = (alphas[t], if k == 0 { 1.0 } else { alphas[(k - 1) * stride] });
                let out = model(&x, t as f32)?;
                for (x, out) in x.iter_mut().zip(out) {
                    let (x0, eps) = split(prediction, alpha, *x, out);
                    *x = next.sqrt() * x0 + (1.0 - next).sqrt() * eps;
                }
            }
        }
        Solver::Euler => {
            // σ = √((1−ᾱ)/ᾱ) at timesteps evenly spaced from 999 to 0, then 0.
            let position = |i: usize| (T - 1) as f64 * (1.0 - i as f64 / (steps - 1).max(1) as f64);
            let sigma_at = |t: f64| {
                let sigma = |i: usize| ((1.0 - alphas[i] as f64) / alphas[i] as f64).sqrt();
                let low = (t.floor() as usize).min(T - 1);
                let high = (low + 1).min(T - 1);
                sigma(low) + (sigma(high) - sigma(low)) * (t - low as f64)
            };
            let times: Vec<f64> = (0..steps).map(position).collect();
            let mut sigmas: Vec<f64> = times.iter().map(|&t| sigma_at(t)).collect();
            sigmas.push(0.0);
            x.iter_mut().for_each(|x| *x *= sigmas[0] as f32);
            for (i, &t) in times.iter().enumerate() {
                let sigma = sigmas[i] as f32;
                let alpha = 1.0 / (1.0 + sigma * sigma);
                let scaled: Vec<f32> = x.iter().map(|x| x * alpha.sqrt()).collect();
                let out = model(&scaled, t as f32)?;
                let step = sigmas[i + 1] as f32 - sigma;
                for ((x, scaled), out) in x.iter_mut().zip(scaled).zip(out) {
                    let (_, eps) = split(prediction, alpha, scaled, out);
                    *x += step * eps;
                }
            }
        }
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// With a model that knows the one datum x0, every sampler ends at it.
    #[test]
    fn perfect_model_gives_the_datum() {
        let alphas = alphas_cumprod();
        for solver in [Solver::Ddim, Solver::Euler] {
            for prediction in [Prediction::Epsilon, Prediction::V] {
                let (x0, noise) = (0.7f32, vec![0.3f32, -1.2, 2.0]);
                let end = sample::<Infallible>(solver, prediction, 25, noise, |x, t| {
                    // α between whole timesteps from the interpolated σ, as the sampler has it.
                    let low = t.floor() as usize;
                    let sigma = |i: usize| ((1.0 - alphas[i]) / alphas[i]).sqrt();
                    let s = sigma(low) + (sigma((low + 1).min(999)) - sigma(low)) * (t - low as f32);
                    let alpha = 1.0 / (1.0 + s * s);
                    let (a, sd) = (alpha.sqrt(), (1.0 - alpha).sqrt());
                    Ok(x.iter()
                        .map(|&x| {
                            let eps = (x - a * x0) / sd;
                            if prediction == Prediction::Epsilon { eps } else { a * eps - sd * x0 }
                        })
                        .collect())
                });
                let Ok(end) = end;
                assert!(end.iter().all(|x| (x - x0).abs() < 2e-2), "{solver:?} {prediction:?}: {end:?}");
            }
        }
    }
}
