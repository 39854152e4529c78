//! Learning-rate schedules: a multiplier λ(t) of the rate, t = optimizer steps done.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The learning rate over time.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Schedule {
    /// The same rate throughout, after the warm-up.
    Constant {
        /// Linear rise from 0 at the start. Default: none.
        #[serde(default)]
        warmup: Option<Length>,
    },
    /// A straight line from the rate to 0 at the end of the run.
    Linear {
        /// Linear rise from 0 at the start. Default: none.
        #[serde(default)]
        warmup: Option<Length>,
    },
    /// Half a cosine from the rate to 0 at the end of the run.
    Cosine {
        /// Linear rise from 0 at the start. Default: none.
        #[serde(default)]
        warmup: Option<Length>,
    },
}

/// A length of the run: steps or a part of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-one-of" = ["steps", "ratio"]))]
pub struct Length {
    /// Optimizer steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub steps: Option<u64>,
    /// Part of the run, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub ratio: Option<f64>,
}

impl Length {
    /// In steps of a run of `total`.
    pub fn of(&self, total: u64) -> u64 {
        self.steps.unwrap_or_else(|| self.ratio.map_or(0, |r| (r * total as f64) as u64))
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule::Constant { warmup: None }
    }
}

impl Schedule {
    /// Steps of warm-up in a run of `total`.
    pub fn warmup(&self, total: u64) -> u64 {
        let (Schedule::Constant { warmup } | Schedule::Linear { warmup } | Schedule::Cosine { warmup }) = self;
        warmup.as_ref().map_or(0, |w| w.of(total))
    }

    /// λ(t) in a run of `total` steps.
    pub fn factor(&self, t: u64, total: u64) -> f64 {
        let w = self.warmup(total);
        if t < w {
            return t as f64 / w.max(1) as f64;
        }
        let span = total.saturating_sub(w).max(1) as f64;
        match self {
            Schedule::Constant { .. } => 1.0,
            Schedule::Linear { .. } => (total.saturating_sub(t) as f64 / span).max(0.0),
            Schedule::Cosine { .. } => {
                let p = ((t - w) as f64 / span).min(1.0);
                0.5 * (1.0 + (std::f64::consts::PI * p).cos())
            }
        }
    }

    /// Name that other trainers use.
    pub fn name(&self, total: u64) -> &'static str {
        match self {
            Schedule::Constant { .. } if self.warmup(total) > 0 => "constant_with_warmup",
            Schedule::Constant { .. } => "constant",
            Schedule::Linear { .. } => "linear",
            Schedule::Cosine { .. } => "cosine",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_warmup() {
        let cosine = Schedule::Cosine { warmup: Some(Length { steps: Some(10), ratio: None }) };
        assert_eq!(cosine.factor(0, 100), 0.0);
        assert_eq!(cosine.factor(5, 100), 0.5);
        assert_eq!(cosine.factor(10, 100), 1.0);
        assert!((cosine.factor(55, 100) - 0.5).abs() < 1e-12);
        assert!(cosine.factor(100, 100).abs() < 1e-12);
        // The reference climbs again past the end; we stay at 0.
        assert!(cosine.factor(120, 100).abs() < 1e-12);
        let linear = Schedule::Linear { warmup: Some(Length { steps: None, ratio: Some(0.1) }) };
        assert!((linear.factor(55, 100) - 0.5).abs() < 1e-12);
    }
}
