//! Loaders: where training data comes from.

mod captions;
mod faults;
mod fitting;
pub mod images;
mod masks;
mod notices;
pub mod replay;
pub mod sample;
pub mod split;
mod weights;
