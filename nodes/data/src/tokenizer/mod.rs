//! From text to token ids.
//!
//! Owns the vocabularies and the splitting of text; knows nothing of encoders.

mod bpe;
pub mod clip;

pub use clip::{ClipTokenizer, TokenizerError};
