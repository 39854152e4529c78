//! How many tokens of CLIP captions have.

use pipe_data::captions::{CaptionOptions, variants};
use pipe_data::tokenizer::clip::WINDOW;
use pipe_data::tokenizer::{ClipTokenizer, parse_weights};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Windows that CLIP can read one after another.
pub const MOST: usize = 3;

/// Captions by their number of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths {
    /// Captions.
    pub captions: u64,
    /// Those that are longer than one, two and three windows.
    pub over: [u64; MOST],
}

/// Of captions as they are, and where emphasis is read and its signs are no text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BothLengths {
    /// Brackets are text.
    pub plain: Lengths,
    /// Brackets are signs.
    pub weighted: Lengths,
}

impl Lengths {
    fn add(&mut self, tokens: usize) {
        self.captions += 1;
        for (window, over) in self.over.iter_mut().enumerate() {
            *over += u64::from(tokens > WINDOW * (window + 1));
        }
    }

    fn join(&mut self, other: Lengths) {
        self.captions += other.captions;
        self.over.iter_mut().zip(other.over).for_each(|(over, other)| *over += other);
    }
}

impl BothLengths {
    /// Of captions, each the longest of its lines and alternatives.
    pub fn of(captions: &[&str], options: &CaptionOptions) -> Self {
        captions.par_iter().map(|caption| Self::of_one(caption, options)).reduce(Self::default, Self::join)
    }

    fn of_one(caption: &str, options: &CaptionOptions) -> Self {
        let mut both = BothLengths::default();
        // A token has a byte at least.
        if caption.len() <= WINDOW {
            both.plain.add(0);
            both.weighted.add(0);
            return both;
        }
        let tokenizer = ClipTokenizer::embedded();
        let count = |text: &str| tokenizer.tokens(text).len();
        let texts = variants(caption, options);
        let plain: Vec<usize> = texts.iter().map(|text| count(text)).collect();
        let weighted = texts.iter().zip(&plain).map(|(text, plain)| match parse_weights(text) {
            Ok(runs) if text.contains(['(', '[', '\\']) => runs.iter().map(|run| count(&run.text)).sum(),
            _ => *plain,
        });
        both.weighted.add(weighted.max().unwrap_or(0));
        both.plain.add(plain.into_iter().max().unwrap_or(0));
        both
    }

    /// With those of other captions.
    pub fn join(mut self, other: BothLengths) -> Self {
        self.plain.join(other.plain);
        self.weighted.join(other.weighted);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted_and_not_letters() {
        let words = |n: usize| "cat ".repeat(n);
        let brackets = format!("({}:1.2)", words(74));
        let captions = [words(75), words(76), words(200), words(400), brackets, "x".into()];
        let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
        let both = BothLengths::of(&captions, &CaptionOptions::default());
        // The sign before a number is text where emphasis is not read.
        assert_eq!(both.plain, Lengths { captions: 6, over: [4, 2, 1] });
        assert_eq!(both.weighted, Lengths { captions: 6, over: [3, 2, 1] });
        assert_eq!(both.join(both).plain.over, [8, 4, 2]);
        let lines = CaptionOptions { wildcards: true, ..Default::default() };
        let longest = format!("a\n{}", words(80));
        assert_eq!(BothLengths::of(&[&longest], &lines).plain.over, [1, 0, 0]);
    }
}
