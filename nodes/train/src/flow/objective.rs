//! What a flow model's output is compared with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Sign of the velocity a model predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// `ε − x0`: SD3, FLUX.
    ToNoise,
    /// `x0 − ε`: Lumina.
    ToData,
}

impl Direction {
    fn sign(self) -> f32 {
        match self {
            Direction::ToNoise => 1.0,
            Direction::ToData => -1.0,
        }
    }
}

/// What is made of the output f before it is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelPrediction {
    /// f, with the velocity.
    #[default]
    Raw,
    /// `f + x_σ`, with the velocity plus `x_σ`: the same loss as `raw`.
    Additive,
    /// `x_σ − σ·f`, the estimate of x0, with x0: σ² times the loss of `raw`, times the scheme's weight.
    SigmaScaled,
}

impl ModelPrediction {
    /// `x_σ = (1−σ)·x0 + σ·ε` into `out`.
    pub fn noisy(sigma: f64, x0: &[f32], noise: &[f32], out: &mut [f32]) {
        let (a, s) = ((1.0 - sigma) as f32, sigma as f32);
        for ((out, x0), noise) in out.iter_mut().zip(x0).zip(noise) {
            *out = a * x0 + s * noise;
        }
    }

    /// The compared value from the output `f`, in place, and its derivative by f.
    pub fn apply(self, direction: Direction, sigma: f64, x: &[f32], f: &mut [f32]) -> f32 {
        match self {
            ModelPrediction::Raw => 1.0,
            ModelPrediction::Additive => {
                f.iter_mut().zip(x).for_each(|(f, x)| *f += x);
                1.0
            }
            ModelPrediction::SigmaScaled => {
                let slope = -direction.sign() * sigma as f32;
                f.iter_mut().zip(x).for_each(|(f, x)| *f = x + slope * *f);
                slope
            }
        }
    }

    /// What it is compared with, into `out`.
    pub fn target(self, direction: Direction, x0: &[f32], noise: &[f32], x: &[f32], out: &mut [f32]) {
        match self {
            ModelPrediction::Raw | ModelPrediction::Additive => {
                Self::velocity(direction, x0, noise, out);
                if self == ModelPrediction::Additive {
                    out.iter_mut().zip(x).for_each(|(out, x)| *out += x);
                }
            }
            ModelPrediction::SigmaScaled => out.copy_from_slice(x0),
        }
    }

    /// `ε − x0` or its opposite. sd-scripts compares everything with it for FLUX and Lumina, which is right for `raw` only.
    pub fn velocity(direction: Direction, x0: &[f32], noise: &[f32], out: &mut [f32]) {
        let sign = direction.sign();
        for ((out, x0), noise) in out.iter_mut().zip(x0).zip(noise) {
            *out = sign * (noise - x0);
        }
    }

    /// Whether the loss is on x0, so that a scheme's weight is read.
    pub fn weighs(self) -> bool {
        self == ModelPrediction::SigmaScaled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_model_has_no_loss() {
        // With the reference's target only `raw` has this property.
        let (x0, noise, sigma) = ([0.5f32, -1.0], [1.5f32, 0.25], 0.3);
        for direction in [Direction::ToNoise, Direction::ToData] {
            for kind in [ModelPrediction::Raw, ModelPrediction::Additive, ModelPrediction::SigmaScaled] {
                let (mut x, mut f, mut target) = ([0.0; 2], [0.0; 2], [0.0; 2]);
                ModelPrediction::noisy(sigma, &x0, &noise, &mut x);
                ModelPrediction::velocity(direction, &x0, &noise, &mut f);
                kind.apply(direction, sigma, &x, &mut f);
                kind.target(direction, &x0, &noise, &x, &mut target);
                for (f, target) in f.iter().zip(target) {
                    assert!((f - target).abs() < 1e-6, "{direction:?} {kind:?} {f} {target}");
                }
            }
        }
    }

    #[test]
    fn slopes_are_derivatives() {
        for direction in [Direction::ToNoise, Direction::ToData] {
            for kind in [ModelPrediction::Raw, ModelPrediction::Additive, ModelPrediction::SigmaScaled] {
                let (mut a, mut b) = ([1.0f32], [1.5f32]);
                let slope = kind.apply(direction, 0.25, &[0.7], &mut a);
                kind.apply(direction, 0.25, &[0.7], &mut b);
                assert!(((b[0] - a[0]) / 0.5 - slope).abs() < 1e-6);
            }
        }
    }
}
