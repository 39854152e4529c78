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
    /// When the training state is written for `--resume`. It is also written at the end and on Ctrl-C.
    pub save_state: StateCadence,
}

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
            save_state: StateCadence { steps: None, minutes: None },
        }
    }
}

/// How often the training state is written; default every 5 minutes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct StateCadence {
    /// Every so many optimizer steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub steps: Option<u64>,
    /// Every so many minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01))]
    pub minutes: Option<f64>,
}

/// Compute type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// The recommended type of the device.
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
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
