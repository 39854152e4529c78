//! Loaders: where training data comes from.

pub mod images;
pub mod replay;
