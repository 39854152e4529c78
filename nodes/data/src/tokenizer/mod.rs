//! From text to token ids.
//!
//! Owns the vocabularies and the splitting of text; knows nothing of encoders. [`ClipTokenizer`] serves SD1, SD2, SDXL,
//! SD3 and FLUX, with prompts of up to three windows and weights in brackets ([`weighted`]); [`T5Tokenizer`] serves SD3
//! and FLUX; [`GemmaTokenizer`] both Lumina models. The vocabularies of CLIP and T5 are embedded, Gemma's lies beside
//! the weights ([`find_tokenizer`]). Nothing is ever downloaded.
//!
//! All take time in proportion to a text's length, or little more, whatever the text is.

mod bpe;
mod charsmap;
pub mod clip;
mod error;
mod find;
pub mod folder;
pub mod gemma;
mod json;
mod spiece;
pub mod t5;
mod trie;
mod unigram;
pub mod weighted;

pub use clip::ClipTokenizer;
pub use error::TokenizerError;
pub use find::{Origin, TokenizerKind, find_tokenizer};
pub use folder::TokenizerFolder;
pub use gemma::GemmaTokenizer;
pub use t5::T5Tokenizer;
pub use weighted::{PromptError, Run, WeightedWindows, parse_weights};

/// A padded sequence of token ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Ids, padding included.
    pub ids: Vec<u32>,
    /// For each id, 1 if it is part of the text or marks its begin or end, 0 if it is padding.
    pub mask: Vec<u8>,
}

/// A sequence padded on the right.
fn padded(mut ids: Vec<u32>, length: usize, pad: u32) -> Tokens {
    let mut mask = vec![1; ids.len()];
    let length = length.max(ids.len());
    mask.resize(length, 0);
    ids.resize(length, pad);
    Tokens { ids, mask }
}

/// Whether a tokenizer file is JSON; otherwise it is a sentencepiece model.
fn is_json(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}
