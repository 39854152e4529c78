//! Loaders: where training data comes from.

mod captions;
mod facts;
mod faults;
mod fitting;
pub mod images;
mod listing;
mod masks;
mod notices;
pub mod pixels;
pub mod replay;
pub mod sample;
pub mod split;
mod weights;
