//! Forms of rise and fall.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Form of a rise or fall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Ramp {
    /// A straight line.
    #[default]
    #[serde(rename = "linear")]
    Linear,
    /// Half a cosine.
    #[serde(rename = "cosine")]
    Cosine,
    /// One minus a root: `1 − √u` falling, `1 − √(1−u)` rising.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

/// `½(1 + cos πp)`: from 1 to 0.
pub fn half_cosine(p: f64) -> f64 {
    0.5 * (1.0 + (PI * p).cos())
}

impl Ramp {
    /// The default of a fall.
    pub fn cosine() -> Self {
        Ramp::Cosine
    }

    /// From 0 to 1.
    pub fn rise(self, u: f64) -> f64 {
        match self {
            Ramp::Linear => u,
            Ramp::Cosine => 0.5 * (1.0 - (PI * u).cos()),
            Ramp::OneMinusSqrt => 1.0 - (1.0 - u).sqrt(),
        }
    }

    /// From 1 to 0; `cycles` counts half cosines.
    pub fn fall(self, u: f64, cycles: u64) -> f64 {
        match self {
            Ramp::Linear => 1.0 - u,
            Ramp::Cosine => half_cosine(cycles as f64 * u),
            Ramp::OneMinusSqrt => 1.0 - u.sqrt(),
        }
    }
}
