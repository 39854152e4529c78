//! Weighting schemes of Esser et al. 2024: a density of timesteps, or a weight of the loss over σ.

use std::f64::consts::PI;

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Invalid;

/// A density of `u` in `[0, 1]`, or a weight of the loss.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Scheme {
    /// Uniform density, weight 1.
    #[default]
    Uniform,
    /// Density `sigmoid(N(mean, std))`: more of the middle.
    LogitNormal {
        /// Mean of the normal. Default 0.0.
        #[serde(default)]
        #[schemars(range(min = -10.0, max = 10.0))]
        mean: f64,
        /// Its standard deviation. Default 1.0.
        #[serde(default = "one")]
        #[schemars(range(min = 0.001, max = 10.0))]
        std: f64,
    },
    /// Density `1 − u − s·(cos²(πu/2) − 1 + u)` of uniform u: heavier tails than `logit_normal`.
    Mode {
        /// s. Default 1.29.
        #[serde(default = "mode_scale")]
        #[schemars(range(min = -1.0, max = 1.75))]
        scale: f64,
    },
    /// Weight `2/(π(1 − 2σ + 2σ²))`.
    Cosmap,
    /// Weight `σ⁻²`: the loss on x0 becomes that on the velocity.
    SigmaSqrt,
}

fn one() -> f64 {
    1.0
}
fn mode_scale() -> f64 {
    1.29
}

/// Smallest σ that is weighed: the reference's `sigma_sqrt` is infinite at 0, which ends the run with NaN.
const SMALLEST: f64 = 1e-3;

impl Scheme {
    /// Out of range. Beyond 1.75 the density of `mode` is no longer one.
    pub fn check(&self) -> Result<(), Invalid> {
        match *self {
            Scheme::LogitNormal { mean, std } => {
                crate::within("mean", mean, -10.0, 10.0)?;
                crate::within("std", std, 1e-3, 10.0)
            }
            Scheme::Mode { scale } => crate::within("scale", scale, -1.0, 1.75),
            _ => Ok(()),
        }
    }

    /// Whether the density is not uniform.
    pub fn is_density(&self) -> bool {
        matches!(self, Scheme::LogitNormal { .. } | Scheme::Mode { .. })
    }

    /// Whether the loss is weighed.
    pub fn is_weight(&self) -> bool {
        matches!(self, Scheme::Cosmap | Scheme::SigmaSqrt)
    }

    /// u from its draw: standard normal for `logit_normal`, uniform of `[0, 1)` for the others.
    pub fn density(&self, draw: f64) -> f64 {
        match *self {
            Scheme::LogitNormal { mean, std } => sigmoid(mean + std * draw),
            Scheme::Mode { scale } => {
                let u = draw;
                1.0 - u - scale * ((PI * u / 2.0).cos().powi(2) - 1.0 + u)
            }
            _ => draw,
        }
    }

    /// The draw that [`Scheme::density`] takes.
    pub fn draw(&self, rng: &mut impl Rng) -> f64 {
        match self {
            Scheme::LogitNormal { .. } => rng.sample(StandardNormal),
            _ => rng.random(),
        }
    }

    /// Weight of the loss on x0 at σ; finite everywhere.
    pub fn weight(&self, sigma: f64) -> f64 {
        match self {
            Scheme::SigmaSqrt => sigma.max(SMALLEST).powi(-2),
            Scheme::Cosmap => 2.0 / (PI * (1.0 - 2.0 * sigma + 2.0 * sigma * sigma)),
            _ => 1.0,
        }
    }
}

/// `1/(1+e⁻ˣ)`.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
