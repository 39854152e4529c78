//! Losses: one forward pass of data to a number and gradients.

pub mod autoencoder;
pub mod buckets;
mod common;
pub mod diffusion;
pub mod flow;

use std::collections::HashMap;
use std::sync::Arc;

use pipe_core::run::RunError;
use pipe_ops::Tensor;

use crate::common::batch::{Batch, BatchSource};
use crate::common::engine::Engine;
use crate::common::plain_value;
use crate::common::trainable::Trainable;

/// Which draws a forward pass makes. Everything random in it is a function of this.
#[derive(Clone, Debug)]
pub struct At {
    /// Seed of the draws.
    pub seed: u64,
    /// Optimizer step.
    pub step: u64,
    /// Index of the batch's first sample within the step.
    pub first_sample: u64,
    /// Number of the forward pass in the run, for dropout.
    pub pass: u64,
    /// Multiplies the loss before backward: 1 / number of forward passes of the step.
    pub scale: f32,
    /// Timesteps to use instead of drawing them.
    pub timesteps: Option<Vec<f32>>,
}

/// Losses of one forward pass, still on the device.
pub struct Losses {
    /// Unweighted mean loss of each sample `[B]`.
    pub each: Tensor,
    /// Weight of each sample.
    pub weights: Vec<f32>,
    /// Timestep of each sample, 0 to 1000; none where there is no noise.
    pub timesteps: Vec<f32>,
}

impl Losses {
    /// Weighted loss of each sample. Waits for the device.
    pub fn values(&self) -> Vec<f64> {
        self.each.to_vec().iter().zip(&self.weights).map(|(&l, &w)| l as f64 * w as f64).collect()
    }
}

/// A loss over a trainable.
pub trait LossProgram: Send + Sync {
    /// What learns.
    fn trainable(&self) -> &Trainable;
    /// Where the data comes from.
    fn source(&self) -> &Arc<dyn BatchSource>;
    /// Device and types.
    fn engine(&self) -> &Engine;
    /// Forward and, with `leaves`, backward: gradients are added there.
    fn pass(&self, batch: &Batch, at: &At, leaves: Option<&mut HashMap<String, Tensor>>) -> Result<Losses, RunError>;
    /// Options of the loss that saved files tell, under their usual `ss_` names.
    fn metadata(&self) -> Vec<(String, String)>;
}

/// The value of a `Loss` port.
#[derive(Clone)]
pub struct Loss(pub Arc<dyn LossProgram>);

plain_value!(Loss);
