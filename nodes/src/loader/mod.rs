//! Loaders: where training data comes from.

mod fitting;
pub mod images;
pub mod replay;
pub mod split;
