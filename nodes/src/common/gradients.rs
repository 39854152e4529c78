//! Where the gradients of a pass go: all are gathered, or each is used on the way back as soon as it is complete.

use std::collections::HashMap;

use pipe_core::run::RunError;
use pipe_ops::Tensor;

/// What takes in the gradients of a pass.
pub trait Gradients {
    /// Those that are not used yet, by the key of what learns. Every segment adds to them.
    fn leaves(&mut self) -> &mut HashMap<String, Tensor>;

    /// Told before the way back: the loss of each sample `[B]`, and the gradient of the output. An error ends the pass
    /// where nothing is changed yet.
    fn begin(&mut self, _losses: &Tensor, _output: &Tensor) -> Result<(), RunError> {
        Ok(())
    }

    /// Told after each segment of the way back, while nobody holds the weights. `awaits` says of a key whether a segment
    /// that is still to come may add to its gradient.
    fn segment(&mut self, _awaits: &dyn Fn(&str) -> bool) -> Result<(), RunError> {
        Ok(())
    }
}

/// Gathers all.
impl Gradients for HashMap<String, Tensor> {
    fn leaves(&mut self) -> &mut HashMap<String, Tensor> {
        self
    }
}

/// The same once more.
pub fn again<'a>(gradients: &'a mut Option<&mut dyn Gradients>) -> Option<&'a mut dyn Gradients> {
    match gradients {
        Some(gradients) => Some(&mut **gradients),
        None => None,
    }
}
