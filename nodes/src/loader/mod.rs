//! Loaders: where training data comes from.

mod fitting;
pub mod images;
mod notices;
pub mod replay;
