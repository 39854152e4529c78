//! Keeping what the base model predicts: as the target of some samples, and as a second loss on captions of a class.
//!
//! The base model is the one without the adapter, with `base_weights` merged; its predictions carry no gradient.

use pipe_core::run::RunError;
use pipe_ops::op::{self, Elementwise, Weigh};
use pipe_ops::{DType, Tensor};

use crate::common::batch::Batch;
use crate::common::denoise::{Runner, Shot};
use crate::common::gradients::Gradients;

/// Puts the base model's values in place of the targets of preserved samples. `value` makes of an output what is
/// compared with a target.
pub fn targets(
    runner: &Runner,
    batch: &Batch,
    shot: &Shot,
    target: &mut [f32],
    value: impl FnOnce(&Tensor) -> Tensor,
) -> Result<(), RunError> {
    if !batch.preserve.contains(&true) {
        return Ok(());
    }
    let base = value(&runner.base(batch, shot)?).cast(DType::F32).to_vec();
    let span = base.len() / batch.preserve.len();
    for (i, _) in batch.preserve.iter().enumerate().filter(|(_, keep)| **keep) {
        let own = i * span..(i + 1) * span;
        target[own.clone()].copy_from_slice(&base[own]);
    }
    Ok(())
}

/// The second loss: mean squared distance from what the base model predicts for the captions of the class, with the same
/// noise and timesteps. Gives the loss of each sample, and its weight.
pub fn class(
    runner: &Runner,
    batch: &Batch,
    shot: &Shot,
    scale: f32,
    gradients: &mut dyn Gradients,
) -> Result<Option<(Tensor, Vec<f32>)>, RunError> {
    let Some(class) = &batch.class else { return Ok(None) };
    let of_class = batch.of_class(class);
    let base = runner.base(&of_class, shot)?.cast(DType::F32);
    let scaled: Vec<f32> = class.weights.iter().map(|w| w * scale).collect();
    let cx = runner.subject().0.engine.cx();
    let weigh = Weigh { samples: &scaled, ..Default::default() };
    let mut loss = |out: &Tensor| op::loss_and_grad(&cx, Elementwise::L2, out, &base, weigh);
    let each = runner.learn(&of_class, shot, &mut loss, Some(gradients))?;
    Ok(Some((each, class.weights.clone())))
}
