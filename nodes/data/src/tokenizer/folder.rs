//! The files of a tokenizer's folder in a Diffusers pipeline.
//!
//! CLIP's and T5's are written from the embedded vocabularies, Gemma's is the file it was read from: its licence does
//! not let this program carry it.

use std::borrow::Cow;

use indexmap::IndexMap;
use serde_json::{Value as Json, json};

use super::clip::{BOS, EOS, LENGTH, vocabulary};
use super::error::TokenizerError;
use super::find::Origin;
use super::is_json;
use super::t5::embedded_bytes;

/// A tokenizer to be written beside a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerFolder {
    /// CLIP's, with its padding id: [`EOS`] for CLIP-L, 0 for the OpenCLIP encoders.
    Clip {
        /// The padding id.
        pad: u32,
    },
    /// T5's, with the number of tokens that prompts are cut to.
    T5 {
        /// Tokens.
        length: usize,
    },
    /// Gemma's, from where it was found.
    Gemma(Origin),
}

/// A file of the folder: name and content.
pub type File = (&'static str, Cow<'static, [u8]>);

impl TokenizerFolder {
    /// The class that `model_index.json` names, of the library transformers.
    pub fn class(&self) -> &'static str {
        match self {
            TokenizerFolder::Clip { .. } => "CLIPTokenizer",
            TokenizerFolder::T5 { .. } => "T5TokenizerFast",
            TokenizerFolder::Gemma(_) => "GemmaTokenizerFast",
        }
    }

    /// The files.
    ///
    /// # Errors
    /// When Gemma's file is no longer where it was.
    pub fn files(&self) -> Result<Vec<File>, TokenizerError> {
        let (mut files, config) = match self {
            TokenizerFolder::Clip { pad } => clip(*pad),
            TokenizerFolder::T5 { length } => {
                let config = json!({"tokenizer_class": "T5Tokenizer", "model_max_length": length, "extra_ids": 100,
                    "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"});
                (vec![("spiece.model", embedded_bytes().into())], config)
            }
            TokenizerFolder::Gemma(origin) => {
                let bytes = origin.read()?;
                let name = if is_json(&bytes) { "tokenizer.json" } else { "tokenizer.model" };
                let config = json!({"tokenizer_class": "GemmaTokenizer", "add_bos_token": true, "add_eos_token": false,
                    "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"});
                (vec![(name, bytes)], config)
            }
        };
        let is_special = |(key, value): &(&String, &Json)| key.ends_with("_token") && value.is_string();
        let special: IndexMap<&String, &Json> = config.as_object().into_iter().flatten().filter(is_special).collect();
        files.push(("special_tokens_map.json", text(&special)));
        files.push(("tokenizer_config.json", text(&config)));
        Ok(files)
    }
}

fn text(value: &impl serde::Serialize) -> Cow<'static, [u8]> {
    serde_json::to_vec_pretty(value).unwrap_or_default().into()
}

/// Vocabulary and merge rules, and the configuration.
fn clip(pad: u32) -> (Vec<File>, Json) {
    let (begin, end) = ("<|startoftext|>", "<|endoftext|>");
    let (symbols, merges) = vocabulary();
    let padding = match pad {
        BOS => begin,
        EOS => end,
        _ => symbols.get(pad as usize).map_or(end, String::as_str),
    };
    let config = json!({"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "do_lower_case": true,
        "add_prefix_space": false, "errors": "replace", "bos_token": begin, "eos_token": end, "unk_token": end,
        "pad_token": padding});
    let specials = [begin.to_owned(), end.to_owned()];
    let vocabulary: IndexMap<&String, u32> = symbols.iter().chain(&specials).zip(0..).collect();
    let vocabulary = serde_json::to_vec(&vocabulary).unwrap_or_default();
    (vec![("merges.txt", merges.into_bytes().into()), ("vocab.json", vocabulary.into())], config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{ClipTokenizer, T5Tokenizer};

    /// What is written is read again, and is the same vocabulary.
    #[test]
    fn folders_hold_the_embedded_vocabularies() {
        let folder = tempfile::tempdir().unwrap();
        let text = "A photo of <b>20</b> cafés, 猫 🐱 at f/1.8 & more";
        for (pad, name) in [(EOS, "<|endoftext|>"), (0, "!")] {
            let source = TokenizerFolder::Clip { pad };
            assert_eq!(source.class(), "CLIPTokenizer");
            for (name, bytes) in source.files().unwrap() {
                std::fs::write(folder.path().join(name), bytes).unwrap();
            }
            let read =
                ClipTokenizer::from_files(folder.path().join("vocab.json"), folder.path().join("merges.txt")).unwrap();
            assert_eq!(read.encode(text, 77, pad), ClipTokenizer::embedded().encode(text, 77, pad));
            let config = std::fs::read_to_string(folder.path().join("tokenizer_config.json")).unwrap();
            assert_eq!(serde_json::from_str::<Json>(&config).unwrap()["pad_token"], name);
        }
        let files = TokenizerFolder::T5 { length: 256 }.files().unwrap();
        let read = T5Tokenizer::from_bytes(&files[0].1, files[0].0).unwrap();
        assert_eq!(read.encode(text, 40), T5Tokenizer::embedded().encode(text, 40));
        let special: Json = serde_json::from_slice(&files[1].1).unwrap();
        assert_eq!(special, json!({"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}));
    }
}
