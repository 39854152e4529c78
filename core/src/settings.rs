//! Run-wide settings of a document: everything outside `nodes`.
//!
//! The structs are read by serde after the structural check, and their schemars schema is part
//! of the generated JSON Schema, exactly as for nodes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The head of a document. `nodes` is checked apart.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Settings {
    /// Document version.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Name of the run: files and the run's folder are called after it.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"), length(max = 100))]
    #[schemars(extend("x-form" = "made of letters, digits, `.`, `_` and `-`, the first a letter or digit"))]
    pub name: String,
    /// Seed of every random draw of the run. Default 42.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Folder for the run's files, relative to the working directory. Default `runs/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// How long, how large and on what to train.
    #[serde(default)]
    pub train: Train,
}

fn default_seed() -> u64 {
    42
}

/// The `train` table.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("x-exclusive" = ["steps", "epochs"]))]
pub struct Train {
    /// Device: `auto` takes CUDA, then wgpu, then the CPU, of those in this build.
    #[schemars(regex(pattern = r"^(auto|cpu|(cuda|wgpu)(:[0-9]+)?)$"))]
    #[schemars(extend("x-form" = "`auto`, `cpu`, `cuda` or `wgpu`, the last two also with a number as in `cuda:1`"))]
    pub device: String,
    /// Compute type of matrix products and convolutions. `auto`: bf16 on CUDA, f32 elsewhere.
    pub precision: Precision,
    /// Optimizer steps. Exactly one of `steps` and `epochs`; default 1600 steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub steps: Option<u64>,
    /// Passes over the data, instead of `steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub epochs: Option<u64>,
    /// Images in one forward pass. Default 1.
    #[schemars(range(min = 1, max = 4096))]
    pub batch_size: u64,
    /// Forward passes whose gradients are averaged into one optimizer step. Default 1.
    #[schemars(range(min = 1, max = 65536))]
    pub accumulate: u64,
    /// Read losses and gradient norms from the device every so many steps; in between nothing waits for it. The loggers
    /// still get the numbers of every step, later. Steps at which files are saved or something is measured are always
    /// read. Default 1.
    #[schemars(range(min = 1, max = 1000))]
    pub read_every: u64,
    /// When the training state is written, and how many of them are kept. It is also written on Ctrl-C.
    pub save_state: SaveState,
    /// Where to go on. `latest`: from the newest state of the run's folder, if it has one, else from the start; the same
    /// command then begins a run and continues it. A path, from the document's folder: that state (`step-00000100` in the
    /// `state` of a run); in the run's own folder what came after it is dropped, of another run it begins a new folder.
    /// Default: from the start. `pipe run --resume` goes on from the newest state whatever stands here, and is an error where
    /// there is no run to continue.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub resume: Option<String>,
}

/// The word for the newest state of the run's folder.
pub const LATEST: &str = "latest";

impl Default for Train {
    fn default() -> Self {
        Train {
            device: "auto".into(),
            precision: Precision::Auto,
            steps: None,
            epochs: None,
            batch_size: 1,
            accumulate: 1,
            read_every: 1,
            save_state: SaveState::default(),
            resume: None,
        }
    }
}

/// How often the training state is written; default every 5 minutes and at the end.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct SaveState {
    /// Every so many optimizer steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub steps: Option<u64>,
    /// Every so many minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01))]
    pub minutes: Option<f64>,
    /// Every so many epochs, at their end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub epochs: Option<u64>,
    /// Also after the last step, so that a finished run can be continued with more steps. Default true.
    pub at_end: bool,
    /// How many states are kept. Default the newest 2: should one be damaged, the other serves.
    pub keep_last: KeepStates,
}

impl Default for SaveState {
    fn default() -> Self {
        SaveState { steps: None, minutes: None, epochs: None, at_end: true, keep_last: KeepStates::default() }
    }
}

impl SaveState {
    /// Whether steps or epochs alone say when, so that the number of states is known.
    pub fn is_counted(&self) -> bool {
        self.minutes.is_none() && (self.steps.is_some() || self.epochs.is_some())
    }
    /// States that a run still writes from a step on, if that is known.
    pub fn count(&self, from: u64, total: u64, per_epoch: u64) -> Option<u64> {
        if !self.is_counted() {
            return None;
        }
        let spans = [self.steps, self.epochs.map(|n| n.saturating_mul(per_epoch.max(1)))];
        // The last step has its own rule; where both fire at once one state is written.
        let last = total.saturating_sub(1);
        let fired = |n: u64| (last / n).saturating_sub(from / n);
        let [a, b] = spans.map(|span| span.map(|n| n.max(1)));
        let both = match (a, b) {
            (Some(a), Some(b)) => fired(least_common(a, b)),
            _ => 0,
        };
        let middle = a.map_or(0, fired) + b.map_or(0, fired) - both;
        let due_at_last = [a, b].into_iter().flatten().any(|n| total.is_multiple_of(n));
        Some(middle + u64::from(total > from && (self.at_end || due_at_last)))
    }
}

/// Least common multiple, or the largest number there is.
fn least_common(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x).saturating_mul(b)
}

/// How many training states are kept.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
pub struct KeepStates {
    /// Number of states; older ones are deleted.
    #[schemars(range(min = 1, max = 100000))]
    pub count: u64,
}

impl Default for KeepStates {
    fn default() -> Self {
        KeepStates { count: 2 }
    }
}

/// Compute type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// The recommended type of the device.
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats. The loss is scaled so that small gradients are not lost: by 65536 at first, twice as much after
    /// 2000 steps; where a gradient overflows, half as much, and that update is left out.
    F16,
    /// bfloat16.
    Bf16,
}

/// `every: { steps: 100 }`, `{ epochs: 1 }`: when an event node fires. Both may be given.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("minProperties" = 1))]
pub struct Every {
    /// Every so many optimizer steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub steps: Option<u64>,
    /// Every so many epochs, at their end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub epochs: Option<u64>,
}

impl Every {
    /// How often it fires before the last of `total` steps, of which `per_epoch` make an epoch.
    pub fn between(&self, total: u64, per_epoch: u64) -> u64 {
        let cadence = SaveState { steps: self.steps, epochs: self.epochs, at_end: true, ..SaveState::default() };
        cadence.count(0, total, per_epoch).unwrap_or(1).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_counted_as_they_fire() {
        for at_end in [true, false] {
            for (steps, epochs) in
                [(Some(3), None), (None, Some(2)), (Some(4), Some(1)), (Some(6), Some(3)), (Some(50), None)]
            {
                let cadence = SaveState { steps, epochs, at_end, ..SaveState::default() };
                for (from, total, per_epoch) in [(0, 24, 4), (5, 23, 4), (0, 1, 1), (12, 25, 6), (24, 24, 4)] {
                    let due = |step: u64| {
                        let by = |n: Option<u64>, span: u64| n.is_some_and(|n| step.is_multiple_of(n * span));
                        by(steps, 1) || by(epochs, per_epoch) || (at_end && step == total)
                    };
                    let expected = (from + 1..=total).filter(|step| due(*step)).count() as u64;
                    let found = cadence.count(from, total, per_epoch);
                    assert_eq!(found, Some(expected), "{steps:?} {epochs:?} {at_end} {from} {total} {per_epoch}");
                }
            }
        }
        let every = |steps, epochs| Every { steps, epochs };
        assert_eq!(every(None, Some(1)).between(500, 4), 124);
        assert_eq!(
            every(Some(6), Some(3)).between(24, 4),
            3,
            "6, 12 and 18, of which 12 is an epoch's end too, and no 24"
        );
        assert_eq!(every(None, None).between(24, 4), 0);
        assert_eq!(SaveState::default().count(0, 10, 1), None, "the clock decides");
        let timed = SaveState { steps: Some(1), minutes: Some(1.0), ..SaveState::default() };
        assert_eq!(timed.count(0, 10, 1), None);
    }
}
