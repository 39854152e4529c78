//! What is seen of a run while it goes on: a bar on a terminal, lines elsewhere.
//!
//! [`Meter`] owns the numbers, [`Bars`] and [`Lines`] how they look. All of it goes to standard error.

mod bars;
mod lines;
mod meter;
mod opening;

use std::sync::{Arc, Mutex, MutexGuard};

use pipe_core::run::Progress;

pub use bars::Bars;
pub use lines::Lines;
pub use meter::{LossChange, Meter};
pub use opening::Opening;

use crate::terminal::Terminal;

/// A watcher of a run that the command itself can talk to.
pub trait Display: Progress {
    /// A line from the command, not from the run.
    fn announce(&self, line: &str);
    /// Removes what is redrawn; lines stay.
    fn close(&self);
    /// How the loss went.
    fn loss_change(&self) -> Option<LossChange>;
    /// Seconds of the last steps, without what came between them.
    fn step_seconds(&self) -> Vec<f64>;
}

/// The display that fits the terminal.
pub fn display(terminal: &Terminal) -> Arc<dyn Display> {
    if terminal.live() && !terminal.quiet() { Arc::new(Bars::new(*terminal)) } else { Arc::new(Lines::new(*terminal)) }
}

/// A lock that a panic elsewhere does not make unusable: what is shown may be stale, never wrong.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
