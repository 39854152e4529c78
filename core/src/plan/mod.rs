//! What a run will need: the numbers each node predicts, added up over the phases of the schedule.
//!
//! Owns the vocabulary ([`NodePlan`], [`Category`]), the sum ([`plan_document`]) and its report
//! ([`Plan::render`]). The numbers themselves are the nodes'.

mod change;
mod document;
mod learning;
mod misfit;
mod render;

use serde::Serialize;

pub use change::{Change, changes};
pub use document::{Phase, PhaseKind, Plan, PlannedNode, plan_document};
pub use learning::{Curve, ParameterGroup};
pub use misfit::{Fitting, Misfit};
pub use render::{bytes_text, count_text, grouped, seconds_text};

/// What a number of bytes is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Frozen weights on the device.
    Weights,
    /// Trainable tensors (f32 masters).
    Trainable,
    /// Optimizer state.
    OptimizerState,
    /// Gradients of trainable tensors.
    Gradients,
    /// Activations at the peak of a step.
    Activations,
    /// Batches, latents and embeddings kept in memory.
    Batch,
    /// Working memory of a phase: decoding images, encoding latents, decoding previews.
    Working,
    /// The program itself.
    Program,
}

impl Category {
    /// All, in the order of the report.
    pub const ALL: [Category; 8] = [
        Category::Weights,
        Category::Trainable,
        Category::OptimizerState,
        Category::Gradients,
        Category::Activations,
        Category::Batch,
        Category::Working,
        Category::Program,
    ];
    /// The name used in the report.
    pub fn name(self) -> &'static str {
        match self {
            Category::Weights => "weights",
            Category::Trainable => "trainable",
            Category::OptimizerState => "optimizer state",
            Category::Gradients => "gradients",
            Category::Activations => "activations",
            Category::Batch => "batch",
            Category::Working => "working",
            Category::Program => "program",
        }
    }
}

/// What a plan's numbers are for.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Assumed {
    /// The device, such as `cuda`, once it is known.
    pub device: Option<String>,
    /// The type of matrix products and convolutions.
    pub precision: Option<String>,
    /// What the times go by, where there are any.
    pub speed: Option<String>,
    /// What the numbers leave out, since nothing says how much it is.
    pub not_counted: Vec<String>,
}

/// Bytes with their purpose.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bytes {
    /// Purpose.
    pub category: Category,
    /// Number of bytes.
    pub bytes: u64,
}

/// Whether there is nothing to tell.
fn none(bytes: &u64) -> bool {
    *bytes == 0
}

/// What one node needs. All figures are for the whole run or for one occurrence as said.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NodePlan {
    /// Held from the moment the node's value is (re)loaded until the schedule unloads or drops it.
    pub resident: Vec<Bytes>,
    /// Input ports whose values this node unloads when it is built, since it keeps what it needs of them itself. Where no
    /// other node reads such a value, what it held is not counted from then on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<&'static str>,
    /// Extra while the node works with its early inputs, long before it is built.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prepare: Vec<Bytes>,
    /// Extra while the node itself is built (a caching phase, a load), with FLOPs of it.
    pub build: Vec<Bytes>,
    /// FLOPs of building.
    pub build_flops: u64,
    /// Label of the build phase when it is worth a line of its own, such as `cache latents`.
    pub build_label: Option<String>,
    /// Extra inside every optimizer step (activations, gradients).
    pub step: Vec<Bytes>,
    /// FLOPs of one optimizer step.
    pub step_flops: u64,
    /// Extra when the node's event fires (a preview's decode, a save's buffer, the driver saving its state).
    pub event: Vec<Bytes>,
    /// FLOPs of one event.
    pub event_flops: u64,
    /// How often the event fires in the whole run.
    pub event_count: u64,
    /// Bytes in the host's memory, where that is not the device's: weights and activations that are copied to the device
    /// when they are used, state of an optimizer that runs on the CPU.
    #[serde(skip_serializing_if = "none")]
    pub host: u64,
    /// Bytes this node will have on disk outside the cache when the run ends.
    pub disk: u64,
    /// More that is on disk only while something is written: the new file beside those that are kept.
    pub disk_passing: u64,
    /// Bytes this node will have in the cache folder.
    pub cache_disk: u64,
    /// Optimizer steps, if this node decides them.
    pub steps: Option<u64>,
    /// Epochs, if this node decides them.
    pub epochs: Option<f64>,
    /// Extra during every event of another node, if this node drives the run: the averaged weights that are shown then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shown: Vec<Bytes>,
    /// What learns, if this node drives the run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ParameterGroup>,
    /// The learning rate over the steps, as a factor of the groups' rates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Curve>,
    /// Lines for the human report (modules, buckets, …).
    pub notes: Vec<String>,
}
