//! Loggers: what a run writes down of itself.

pub mod metrics;
pub mod validation;
