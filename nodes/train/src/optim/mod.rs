//! Optimizers on host slices: f32 or bf16 weights, f32 gradients, one table of named state.
//!
//! An [`OptimizerConfig`] is checked, then built into an [`Optimizer`]. A step takes all groups at once, because some
//! optimizers measure over every parameter before they update any (Prodigy, D-Adaptation); those that do not
//! ([`Optimizer::streams`]) may also be given one tensor at a time, as its gradient becomes known. Every formula
//! stands with its optimizer, in the order in which the published code rounds.
//!
//! ```
//! use pipe_train::optim::{Context, Group, OptimizerConfig, Slot, Values};
//! let mut adamw = OptimizerConfig::AdamW(Default::default()).build()?;
//! let mut weights = [1.0f32, -2.0];
//! let slot = Slot { name: "w", shape: &[2], values: Values::F32(&mut weights), gradient: Some(&[0.5, 0.0]) };
//! adamw.step(&Context::default(), &mut [Group { name: "all", rate: 1e-2, slots: vec![slot] }])?;
//! assert!((weights[0] - 0.99).abs() < 1e-3 && weights[1] > -2.0);
//! # Ok::<(), pipe_train::optim::Error>(())
//! ```

mod adafactor;
mod adam;
mod came;
mod config;
mod dadapt;
mod eight_bit;
mod engine;
mod factored;
mod lion;
mod prodigy;
mod quant;
mod rule;
mod schedule_free;
mod sgd;
mod state;

use half::bf16;

pub use adafactor::Adafactor;
pub use adam::{Adam, AdamW};
pub use came::Came;
pub use config::OptimizerConfig;
pub use dadapt::{DAdaptAdaGrad, DAdaptAdam, DAdaptAdamPreprint, DAdaptAdan, DAdaptAdanIp, DAdaptLion, DAdaptSgd};
pub use eight_bit::{AdamW8bit, Lion8bit};
pub use lion::Lion;
pub use prodigy::Prodigy;
pub use quant::{BLOCK, dequantise, quantise, signed_map, unsigned_map};
pub use schedule_free::{ScheduleFreeAdamW, ScheduleFreeRAdam, ScheduleFreeSgd};
pub use sgd::Sgd;
pub use state::{Data, Entries, Entry, Kind, View};

use crate::Invalid;
use crate::rounding::Rounding;

/// Weights of a tensor.
#[derive(Debug)]
pub enum Values<'a> {
    /// Updated in place.
    F32(&'a mut [f32]),
    /// Updated in f32 and rounded once, as [`Context::rounding`] says.
    Bf16(&'a mut [bf16]),
}

impl Values<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(v) => v.len(),
            Values::Bf16(v) => v.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A trained tensor during a step.
#[derive(Debug)]
pub struct Slot<'a> {
    /// Its name in the state; unique over all groups.
    pub name: &'a str,
    /// Its shape; factored optimizers use the last two dimensions.
    pub shape: &'a [usize],
    /// Its weights.
    pub values: Values<'a>,
    /// Its gradient; without one the tensor is left alone.
    pub gradient: Option<&'a [f32]>,
}

/// Tensors that share a learning rate.
#[derive(Debug)]
pub struct Group<'a> {
    /// Its name in the state.
    pub name: &'a str,
    /// η of this step: the group's rate times the schedule's factor. Optimizers that set their own ignore it.
    pub rate: f64,
    /// Its tensors.
    pub slots: Vec<Slot<'a>>,
}

/// What holds for a whole step.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Multiplies every gradient first: clipping.
    pub gradient_scale: f32,
    /// How bf16 weights are written.
    pub rounding: Rounding,
}

impl Default for Context {
    fn default() -> Self {
        Context { gradient_scale: 1.0, rounding: Rounding::Nearest }
    }
}

/// What a step did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The rate each group was really updated with: `d·η` of Prodigy and D-Adaptation, Adafactor's own for the group's first
    /// tensor, the scheduled one otherwise.
    pub rates: Vec<f64>,
    /// d, the estimated distance to the solution, of optimizers that estimate one.
    pub distance: Option<f64>,
}

/// Which weights the slots hold with an averaging optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// y, at which gradients are taken.
    #[default]
    Train,
    /// x, the average, which is sampled from, validated and saved.
    Eval,
}

/// Name and shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// What can go wrong in a step or with saved state.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// A setting.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A tensor's sizes disagree.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Saved state does not fit.
    #[error("saved optimizer state: {0}")]
    State(String),
    /// A step in [`Mode::Eval`].
    #[error("the weights are averaged ones; a step needs `Mode::Train`")]
    Averaged,
}

/// An optimizer with its state.
pub trait Optimizer: Send {
    /// Name that other trainers use.
    fn name(&self) -> &'static str;

    /// One update of every tensor that has a gradient. Nothing is changed when it errors.
    fn step(&mut self, cx: &Context, groups: &mut [Group<'_>]) -> Result<Report, Error>;

    /// Whether tensors may be stepped one by one, in calls of their own.
    fn streams(&self) -> bool;

    /// Whether the weights to sample from and to save are averages of those that are trained.
    fn averages(&self) -> bool;

    /// Which weights the slots hold.
    fn mode(&self) -> Mode;

    /// Changes the weights in place between y and x. Rounds, so that training goes on slightly differently than
    /// without; [`Optimizer::averaged`] does not.
    fn set_mode(&mut self, mode: Mode, groups: &mut [Group<'_>]) -> Result<(), Error>;

    /// x of a tensor from its training weights y; `None` where they are the same.
    fn averaged(&self, name: &str, weights: &[f32]) -> Option<Vec<f32>>;

    /// The whole state, borrowed. Loading it continues bit for bit.
    fn views(&self) -> Vec<View<'_>>;

    /// A copy of the whole state.
    fn save(&self) -> Vec<Entry> {
        self.views().iter().map(View::entry).collect()
    }

    /// Replaces the state; `tensors` are those that are trained. Entries are read one at a time. Nothing is changed when
    /// it errors.
    fn load(&mut self, entries: &dyn Entries, tensors: &[TensorInfo]) -> Result<(), Error>;
}
