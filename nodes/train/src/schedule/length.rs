//! A length of the run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Invalid;

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
    /// A number of optimizer steps.
    pub fn steps(steps: u64) -> Self {
        Length { steps: Some(steps), ratio: None }
    }

    /// A part of the run.
    pub fn ratio(ratio: f64) -> Self {
        Length { steps: None, ratio: Some(ratio) }
    }

    /// In steps of a run of `total`; parts are rounded down.
    pub fn of(&self, total: u64) -> u64 {
        self.steps.unwrap_or_else(|| self.ratio.map_or(0, |r| (r * total as f64) as u64))
    }

    /// Says that a part of the run comes to no step at all, in a run of `total`.
    pub fn none_of(&self, total: u64) -> Option<Invalid> {
        let ratio = self.ratio.filter(|_| self.of(total) == 0)?;
        let reason = format!("has no effect: {ratio} of {total} steps is less than one");
        Some(Invalid::new("ratio", reason).help("give `steps`, or leave it out for none"))
    }

    /// Exactly one of the two, in range.
    pub fn check(&self) -> Result<(), Invalid> {
        match (self.steps, self.ratio) {
            (Some(0), None) => {
                Err(Invalid::new("steps", "a length is at least one step").help("leave it out for none"))
            }
            (Some(_), None) => Ok(()),
            (None, Some(0.0)) => Err(Invalid::new("ratio", "has no effect at 0").help("leave it out for none")),
            (None, Some(r)) => crate::within("ratio", r, 0.0, 1.0),
            (Some(_), Some(_)) => Err(Invalid::new("ratio", "stands beside `steps`; only one of them counts")),
            (None, None) => Err(Invalid::new("steps", "neither `steps` nor `ratio` is given")),
        }
    }
}
