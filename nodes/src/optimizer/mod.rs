//! Optimizers: what drives a run.

pub mod adamw;
pub mod estimate;
pub mod schedule;
pub mod state;
pub mod stepper;
