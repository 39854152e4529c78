//! The numbers of a step: loss, its averages and its parts by timestep, and the norms of the gradient.
//!
//! All loggers write what is made here; where a device makes reading costly, several steps are read at once.

use pipe_core::run::{Position, StepReport};
use pipe_ops::Tensor;

use crate::loss::Losses;
use crate::loss::buckets::ByTimestep;

/// Name of the loss that keeps the base model's output.
pub const PRESERVATION: &str = "preservation_loss";

/// Squares of the L2 norms of what is clipped by itself: the whole gradient, or each tensor's.
pub enum Norm {
    /// Read; none where the gradient was not finite and the update was left out.
    Known(Vec<f64>),
    /// On the device.
    Device(Box<Tensor>),
}

impl Norm {
    /// The squares. Waits for the device.
    pub fn squares(&self) -> Vec<f64> {
        match self {
            Norm::Known(squares) => squares.clone(),
            Norm::Device(squares) => squares.to_vec().iter().map(|&x| x as f64).collect(),
        }
    }
}

/// Norm of the whole gradient.
fn whole(squares: &[f64]) -> f64 {
    squares.iter().sum::<f64>().sqrt()
}

/// Norm of the whole gradient after clipping.
fn clipped(squares: &[f64], max: f64) -> f64 {
    let square = |square: &f64| (square.sqrt() * clip(square.sqrt(), max)).powi(2);
    squares.iter().map(square).sum::<f64>().sqrt()
}

/// A step whose numbers are not read yet.
pub struct Unread {
    /// The step, from 1.
    pub step: u64,
    /// Losses of its forward passes.
    pub losses: Vec<Losses>,
    /// Norm of its gradient before clipping.
    pub norm: Norm,
    /// Images seen.
    pub samples: u64,
    /// Their names.
    pub names: Vec<String>,
    /// Learning rates and what else the update told.
    pub rates: Vec<(String, f64)>,
    /// What limiting the norms of adapters told.
    pub limits: Vec<(String, f64)>,
    known: Option<Known>,
}

/// What was read of a step.
#[derive(Debug, Default)]
struct Known {
    /// Losses of each pass.
    losses: Vec<Vec<f64>>,
    /// Mean of the second loss over the passes, where there is one.
    preservation: Option<f64>,
    squares: Vec<f64>,
}

impl Unread {
    /// A step before its update.
    pub fn new(step: u64, losses: Vec<Losses>, norm: Norm, samples: u64, names: Vec<String>) -> Self {
        let (rates, limits, known) = Default::default();
        Unread { step, losses, norm, samples, names, rates, limits, known }
    }

    /// Mean loss and norm. The first call waits for the device.
    pub fn read(&mut self) -> (f64, f64) {
        let known = self.known.get_or_insert_with(|| {
            let second: Vec<f64> = self.losses.iter().filter_map(Losses::preservation).collect();
            let passes = self.losses.len().max(1) as f64;
            Known {
                losses: self.losses.iter().map(Losses::values).collect(),
                preservation: (!second.is_empty()).then(|| second.iter().sum::<f64>() / passes),
                squares: self.norm.squares(),
            }
        });
        (mean(&known.losses) + known.preservation.unwrap_or(0.0), whole(&known.squares))
    }
}

/// What the numbers of a step depend on besides the step itself.
#[derive(Debug, Default)]
pub struct Numbers {
    /// The latest loss of each step of an epoch, in order.
    window: Vec<f64>,
}

impl Numbers {
    /// The report of a step, in the order of steps. `max_norm` is what gradients are clipped to.
    pub fn report(&mut self, mut unread: Unread, max_norm: Option<f64>, position: Position) -> StepReport {
        let (loss, norm) = unread.read();
        let mut values = self.averages(unread.step, loss, position.steps_per_epoch);
        values.extend(unread.rates);
        let known = unread.known.unwrap_or_default();
        if !known.squares.is_empty() {
            values.push(("grad_norm".into(), norm));
        }
        if let Some(max) = max_norm.filter(|_| !known.squares.is_empty()) {
            values.push(("grad_norm_clipped".into(), clipped(&known.squares, max)));
        }
        values.extend(unread.limits);
        let mut by = ByTimestep::default();
        values.extend(known.preservation.map(|loss| (PRESERVATION.to_string(), loss)));
        known.losses.iter().zip(&unread.losses).for_each(|(values, of)| by.add(values, &of.timesteps));
        values.extend(by.means());
        StepReport { step: unread.step, loss, values, samples: unread.samples }
    }

    /// Mean over the latest loss of each step of an epoch; of the epoch itself when the step closes it.
    fn averages(&mut self, step: u64, loss: f64, per_epoch: u64) -> Vec<(String, f64)> {
        let per_epoch = per_epoch.max(1);
        match self.window.get_mut((step.saturating_sub(1) % per_epoch) as usize) {
            Some(old) => *old = loss,
            None => self.window.push(loss),
        }
        let average = self.window.iter().sum::<f64>() / self.window.len() as f64;
        let mut values = vec![("loss_average".to_string(), average)];
        if step.is_multiple_of(per_epoch) {
            values.push(("loss_epoch".into(), average));
        }
        values
    }

    /// For the saved state.
    pub fn bytes(&self) -> Vec<u8> {
        self.window.iter().flat_map(|loss| loss.to_le_bytes()).collect()
    }

    /// From a saved state.
    pub fn load(&mut self, bytes: &[u8]) {
        self.window = bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
    }
}

/// Mean over the passes of their means over samples.
fn mean(losses: &[Vec<f64>]) -> f64 {
    let of = |values: &Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
    losses.iter().map(of).sum::<f64>() / losses.len().max(1) as f64
}

/// Factor that makes a gradient no longer than `max`, as PyTorch's `clip_grad_norm_`.
pub fn clip(norm: f64, max: f64) -> f64 {
    (max / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_norm_is_clipped_at_once_or_by_tensor() {
        // 3, 4 and 12 are 13 together.
        let each = [9.0, 16.0, 144.0];
        assert_eq!((whole(&each), whole(&[169.0])), (13.0, 13.0));
        assert!((clipped(&[169.0], 5.0) - 5.0).abs() < 1e-6, "{}", clipped(&[169.0], 5.0));
        // Only the third is longer than 5.
        let expected = (9.0f64 + 16.0 + 25.0).sqrt();
        assert!((clipped(&each, 5.0) - expected).abs() < 1e-6, "{}", clipped(&each, 5.0));
        assert_eq!(clipped(&each, 100.0), 13.0);
    }

    #[test]
    fn averages_are_of_the_latest_epoch() {
        let mut numbers = Numbers::default();
        let mut averages = Vec::new();
        for (i, loss) in [4.0, 2.0, 3.0, 1.0, 5.0, 6.0, 2.0].into_iter().enumerate() {
            if i == 4 {
                // Through a saved state.
                let saved = numbers.bytes();
                numbers = Numbers::default();
                numbers.load(&saved);
            }
            averages.push(numbers.averages(i as u64 + 1, loss, 3));
        }
        let average: Vec<f64> = averages.iter().map(|values| values[0].1).collect();
        // The first epoch appends, later ones replace.
        assert_eq!(average, [4.0, 3.0, 3.0, 2.0, 3.0, 4.0, 13.0 / 3.0]);
        let of_epochs: Vec<usize> = (0..7).filter(|i| averages[*i].len() == 2).collect();
        assert_eq!(of_epochs, [2, 5]);
        assert_eq!(averages[5][1], ("loss_epoch".to_string(), 4.0));
    }
}
