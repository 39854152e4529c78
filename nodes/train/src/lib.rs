//! The mathematics of training, on host slices: what a loss, an optimizer and a preview compute.
//!
//! Owns noise schedules and noise ([`ddpm`]), flow matching ([`flow`]), element losses ([`mod@loss`]),
//! preview samplers ([`solve`]), learning-rate schedules ([`schedule`]), optimizers ([`optim`]) and rounding of weights
//! ([`rounding`]). Knows no tensors library, no device and no document. Whatever is random takes its draws as
//! arguments; helpers that make the draws from a generator stand beside, so that every formula can
//! be compared with another implementation, number by number.
//!
//! ```
//! use pipe_train::schedule::{Length, Schedule};
//! let cosine = Schedule::Cosine { warmup: Some(Length::ratio(0.1)) };
//! assert_eq!(cosine.factor(0, 100), 0.0);
//! assert_eq!(cosine.factor(10, 100), 1.0);
//! ```

pub mod ddpm;
pub mod flow;
pub mod loss;
pub mod optim;
mod par;
pub mod rounding;
pub mod schedule;
pub mod solve;

/// An option that is out of range, or that has no effect beside another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {reason}")]
pub struct Invalid {
    /// Path of the field, such as `schedule.warmup`.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to do instead.
    pub help: Option<String>,
}

impl Invalid {
    /// Without help.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Invalid { field: field.into(), reason: reason.into(), help: None }
    }

    /// With what to do instead.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Below a field that holds this one.
    pub fn within(mut self, parent: &str) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }
}

/// Whether `value` lies in `[low, high]`; `NaN` does not.
pub(crate) fn within(field: &str, value: f64, low: f64, high: f64) -> Result<(), Invalid> {
    if value >= low && value <= high {
        return Ok(());
    }
    Err(Invalid::new(field, format!("{value} is not between {low} and {high}")))
}

/// `n` numbers from `low` to `high`, from both ends to the middle and rounded once, as PyTorch does.
pub(crate) fn linspace(low: f32, high: f32, n: usize) -> Vec<f32> {
    let step = (high - low) / (n - 1) as f32;
    let at = |i: usize| {
        let below = i < n / 2;
        if below { step.mul_add(i as f32, low) } else { (-step).mul_add((n - 1 - i) as f32, high) }
    };
    (0..n).map(at).collect()
}
