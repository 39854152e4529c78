//! Files, images, captions and tokenizers: everything that is read or written as bytes.
//!
//! Owns the safetensors format with the layouts and names of public checkpoints ([`weights`]). It knows no tensor
//! library, no node and no document; what it reads is checked and never trusted, and bad bytes give an error in plain
//! words.

pub mod weights;

pub use weights::{detect, keymap};
