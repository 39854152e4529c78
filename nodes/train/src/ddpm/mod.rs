//! The noise schedule of Stable Diffusion 1.x, 2.x and SDXL (Ho et al. 2020; "scaled linear"), its targets and weights.
//!
//! `x_t = √ᾱ_t·x0 + √(1−ᾱ_t)·ε`, `SNR_t = ᾱ_t/(1−ᾱ_t)`; the target is ε or `v = √ᾱ_t·ε − √(1−ᾱ_t)·x0` (Salimans and Ho 2022).
//! Tables are f32, rounded as PyTorch rounds them.

mod noise;
mod weight;

use rand::{Rng, RngExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Invalid;
pub use noise::{IpNoise, Multires, NoiseOffset, PyramidLevel, normal};
pub use weight::{SnrOf, SnrWeights};

/// Training timesteps.
pub const T: usize = 1000;

/// What a model predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise ε.
    #[default]
    Epsilon,
    /// `v = √ᾱ·ε − √(1−ᾱ)·x0`.
    V,
}

/// β and ᾱ of every timestep.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    betas: Vec<f32>,
    alphas: Vec<f32>,
    original: Option<Vec<f32>>,
}

/// `∏(1−β)` up to each timestep.
fn cumulative(betas: &[f32]) -> Vec<f32> {
    let mut product = 1.0f64;
    betas
        .iter()
        .map(|beta| {
            product *= (1.0 - beta) as f64;
            product as f32
        })
        .collect()
}

impl NoiseSchedule {
    /// β linear in its square root from √0.00085 to √0.012.
    pub fn scaled_linear() -> Self {
        let roots = crate::linspace(0.00085f64.sqrt() as f32, 0.012f64.sqrt() as f32, T);
        let betas: Vec<f32> = roots.iter().map(|r| r * r).collect();
        let alphas = cumulative(&betas);
        NoiseSchedule { betas, alphas, original: None }
    }

    /// Shifted and scaled so that the last timestep is pure noise (Lin et al. 2024, algorithm 1). Learned only by v models.
    pub fn zero_terminal_snr(self) -> Self {
        let roots: Vec<f32> = self.alphas.iter().map(|a| a.sqrt()).collect();
        let (first, last) = (roots[0], roots[T - 1]);
        let scale = first / (first - last);
        let bars: Vec<f32> = roots.iter().map(|r| ((r - last) * scale).powi(2)).collect();
        let ratio = |t: usize| if t == 0 { bars[0] } else { bars[t] / bars[t - 1] };
        let betas: Vec<f32> = (0..T).map(|t| 1.0 - ratio(t)).collect();
        let alphas = cumulative(&betas);
        let original = Some(self.original.unwrap_or(self.alphas));
        NoiseSchedule { betas, alphas, original }
    }

    /// β of each timestep.
    pub fn betas(&self) -> &[f32] {
        &self.betas
    }

    /// ᾱ of each timestep.
    pub fn alphas(&self) -> &[f32] {
        &self.alphas
    }

    /// ᾱ of timestep `t`; beyond the last one that of the last.
    pub fn alpha(&self, t: usize) -> f32 {
        self.alphas[t.min(T - 1)]
    }

    /// Signal-to-noise ratio of timestep `t`, of this schedule or of the one before the zero-terminal rescaling.
    pub fn snr(&self, t: usize, of: SnrOf) -> f32 {
        let alpha = match (of, &self.original) {
            (SnrOf::Original, Some(original)) => original[t.min(T - 1)],
            _ => self.alpha(t),
        };
        alpha / (1.0 - alpha)
    }

    /// `√ᾱ_t·x0 + √(1−ᾱ_t)·ε` into `out`.
    pub fn noisy(&self, t: usize, x0: &[f32], noise: &[f32], out: &mut [f32]) {
        let (signal, sigma) = self.coefficients(t);
        mix(signal, x0, sigma, noise, out);
    }

    /// The target of `prediction` into `out`: ε or `√ᾱ_t·ε − √(1−ᾱ_t)·x0`.
    pub fn target(&self, prediction: Prediction, t: usize, x0: &[f32], noise: &[f32], out: &mut [f32]) {
        match prediction {
            Prediction::Epsilon => out.copy_from_slice(noise),
            Prediction::V => {
                let (signal, sigma) = self.coefficients(t);
                mix(signal, noise, -sigma, x0, out);
            }
        }
    }

    /// `√ᾱ_t` and `√(1−ᾱ_t)`.
    pub fn coefficients(&self, t: usize) -> (f32, f32) {
        let alpha = self.alpha(t);
        (alpha.sqrt(), (1.0 - alpha).sqrt())
    }
}

/// `a·x + b·y`.
fn mix(a: f32, x: &[f32], b: f32, y: &[f32], out: &mut [f32]) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = a * x + b * y;
    }
}

/// A range of timesteps; drawn uniformly from whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct TimestepRange {
    /// Smallest timestep. Default 0.
    #[schemars(range(min = 0, max = 999))]
    pub min: u64,
    /// One past the largest timestep. Default 1000.
    #[schemars(range(min = 1, max = 1000))]
    pub max: u64,
}

impl Default for TimestepRange {
    fn default() -> Self {
        TimestepRange { min: 0, max: T as u64 }
    }
}

impl TimestepRange {
    /// Not empty (the reference then draws `max` for every sample) and within the schedule.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.min >= self.max {
            return Err(Invalid::new("min", format!("{} is not below `max`, {}", self.min, self.max)));
        }
        if self.max > T as u64 {
            return Err(Invalid::new("max", format!("{} is beyond the schedule's {T} timesteps", self.max)));
        }
        Ok(())
    }

    /// The timestep at part `u` of `[0, 1)` of the range.
    pub fn at(&self, u: f64) -> u64 {
        let span = self.max.saturating_sub(self.min).max(1);
        self.min + ((u * span as f64) as u64).min(span - 1)
    }

    /// A random timestep.
    pub fn draw(&self, rng: &mut impl Rng) -> u64 {
        self.at(rng.random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_specification() {
        let plain = NoiseSchedule::scaled_linear();
        for (t, v) in [(0, 0.999_15), (499, 0.277_669_46), (500, 0.276_332_5), (999, 0.004_660_096)] {
            assert!((plain.alpha(t) - v).abs() < 1e-7, "ᾱ_{t} = {}", plain.alpha(t));
        }
        for (t, v) in [(0, 0.00085), (499, 0.004_803_794), (999, 0.012)] {
            assert!((plain.betas()[t] - v).abs() < 1e-8, "β_{t}");
        }
        assert!((plain.snr(0, SnrOf::Trained) / 1175.44 - 1.0).abs() < 1e-3);
        assert!((plain.snr(999, SnrOf::Trained) / 0.004_682 - 1.0).abs() < 1e-3);
        let zero = plain.clone().zero_terminal_snr();
        for (t, v, tolerance) in [(0, 0.999_15, 1e-7), (499, 0.242_358_95, 1e-6), (998, 1.97e-7, 1e-9), (999, 0.0, 0.0)]
        {
            assert!((zero.alpha(t) - v).abs() <= tolerance, "ᾱ_{t} = {}", zero.alpha(t));
        }
        assert!((zero.betas()[998] - 0.751_136).abs() < 1e-4);
        assert_eq!(zero.snr(999, SnrOf::Trained), 0.0);
        assert_eq!(zero.snr(999, SnrOf::Original), plain.snr(999, SnrOf::Trained));
    }

    #[test]
    fn ranges_hold_their_ends() {
        let range = TimestepRange { min: 100, max: 103 };
        assert_eq!((range.at(0.0), range.at(0.34), range.at(0.999_999_999)), (100, 101, 102));
        assert_eq!(range.at(1.0), 102);
        assert_eq!(TimestepRange { min: 5, max: 5 }.check().unwrap_err().field, "min");
        assert_eq!(TimestepRange { min: 5, max: 1001 }.check().unwrap_err().field, "max");
    }
}
