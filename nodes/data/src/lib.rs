//! Files, images, captions and tokenizers: everything that is read or written as bytes.
//!
//! Owns the safetensors format with the layouts and names of public checkpoints ([`weights`]), images and the buckets
//! they are fitted into ([`images`]), the processing of captions ([`captions`]) and token ids ([`tokenizer`]). It knows
//! no tensor library, no node and no document; what it reads is checked and never trusted, and bad bytes give an error
//! in plain words.

pub mod captions;
pub mod images;
pub mod tokenizer;
pub mod weights;

pub use weights::{detect, hash, keymap, lora_names, metadata};
