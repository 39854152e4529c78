//! Losses: one forward pass of data to a number and gradients.

pub mod autoencoder;
pub mod buckets;
mod chance;
mod common;
pub mod diffusion;
pub mod flow;
mod mask;
mod preserve;

use std::sync::Arc;

use pipe_core::run::RunError;
use pipe_ops::Tensor;

use crate::common::batch::{Batch, BatchSource};
use crate::common::engine::Engine;
use crate::common::gradients::Gradients;
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
    /// A second loss with its weights: distance from the base model.
    pub preservation: Option<(Tensor, Vec<f32>)>,
}

impl Losses {
    /// Weighted loss of each sample, without the second loss. Waits for the device.
    pub fn values(&self) -> Vec<f64> {
        self.each.to_vec().iter().zip(&self.weights).map(|(&l, &w)| l as f64 * w as f64).collect()
    }
    /// The second loss alone, weighted.
    pub fn preservation(&self) -> Option<f64> {
        self.preservation.as_ref().map(|(each, weights)| mean(each, weights))
    }
}

/// `Σ wᵢℓᵢ / B`.
fn mean(each: &Tensor, weights: &[f32]) -> f64 {
    let each = each.to_vec();
    let sum: f64 = each.iter().zip(weights).map(|(&l, &w)| l as f64 * w as f64).sum();
    sum / each.len().max(1) as f64
}

/// A loss over a trainable.
pub trait LossProgram: Send + Sync {
    /// What learns.
    fn trainable(&self) -> &Trainable;
    /// Where the data comes from.
    fn source(&self) -> &Arc<dyn BatchSource>;
    /// Device and types.
    fn engine(&self) -> &Engine;
    /// Forward and, with `gradients`, backward: they go there.
    fn pass(&self, batch: &Batch, at: &At, gradients: Option<&mut dyn Gradients>) -> Result<Losses, RunError>;
    /// Options of the loss that saved files tell, under their usual `ss_` names.
    fn metadata(&self) -> Vec<(String, String)>;
    /// First and last timestep that are drawn, where the document limits them.
    fn timestep_range(&self) -> Option<(u32, u32)> {
        None
    }
}

/// The value of a `Loss` port.
#[derive(Clone)]
pub struct Loss(pub Arc<dyn LossProgram>);

plain_value!(Loss);
