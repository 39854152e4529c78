//! Samplers: pictures of what the model has learnt.

pub mod preview;
pub mod solver;
