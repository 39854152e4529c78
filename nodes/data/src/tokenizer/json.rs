//! `tokenizer.json`, the format of Hugging Face's tokenizers, as far as T5's and Gemma's files use it.
//!
//! Every list is bounded and nothing is kept that is not needed, so that no file takes more memory than a few times its
//! size.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::spiece::{MAX_PIECE, MAX_PIECES};

/// A file with a model of type `M`.
#[derive(serde::Deserialize)]
#[serde(bound(deserialize = "M: Deserialize<'de>"))]
pub(super) struct TokenizerJson<M> {
    #[serde(default)]
    pub added_tokens: List<AddedToken>,
    pub normalizer: Option<Step>,
    pub pre_tokenizer: Option<Step>,
    pub model: M,
}

/// Which model a file has.
#[derive(Default, serde::Deserialize)]
pub(super) struct ModelType<'a> {
    #[serde(borrow, rename = "type")]
    pub name: Option<Text<'a>>,
    #[serde(default)]
    pub byte_fallback: bool,
}

/// A model of type `Unigram`.
#[derive(serde::Deserialize)]
pub(super) struct UnigramJson<'a> {
    pub unk_id: Option<u32>,
    /// Pieces and their log probabilities, in order of their ids.
    #[serde(borrow)]
    pub vocab: List<(Text<'a>, f64)>,
    #[serde(default)]
    pub byte_fallback: bool,
}

/// A model of type `BPE`.
#[derive(serde::Deserialize)]
pub(super) struct BpeJson<'a> {
    /// Pieces and their ids.
    #[serde(borrow)]
    pub vocab: Vocabulary<'a>,
    /// In order of their ranks.
    #[serde(borrow)]
    pub merges: List<Merge<'a>>,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub ignore_merges: bool,
    pub dropout: Option<f64>,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
}

/// A token found in the text before the model sees it.
#[derive(serde::Deserialize)]
#[serde(default)]
pub(super) struct AddedToken {
    pub id: u32,
    pub content: String,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
    /// Looked for after normalisation, not before.
    pub normalized: bool,
}

impl Default for AddedToken {
    fn default() -> Self {
        let content = String::new();
        AddedToken { id: 0, content, single_word: false, lstrip: false, rstrip: false, normalized: true }
    }
}

/// A normaliser or pre-tokenizer.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Step {
    #[serde(rename = "type")]
    pub kind: String,
    pub precompiled_charsmap: Option<String>,
    pub pattern: Option<Pattern>,
    pub content: Option<String>,
    pub behavior: Option<String>,
    pub replacement: Option<String>,
    pub prepend_scheme: Option<String>,
    pub add_prefix_space: Option<bool>,
    pub normalizers: List<Step>,
    pub pretokenizers: List<Step>,
}

/// What a step looks for.
#[derive(Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct Pattern {
    #[serde(rename = "String")]
    pub text: Option<String>,
    #[serde(rename = "Regex")]
    pub regex: Option<String>,
}

impl Step {
    /// The steps of a sequence, sequences inside it resolved; of anything else itself.
    pub fn flat(&self) -> Vec<&Step> {
        if self.kind != "Sequence" {
            return vec![self];
        }
        self.normalizers.0.iter().chain(&self.pretokenizers.0).flat_map(Step::flat).collect()
    }

    /// Whether it looks for this text.
    pub fn finds(&self, text: &str) -> bool {
        self.pattern.as_ref().and_then(|p| p.text.as_deref()) == Some(text)
    }
}

/// Most entries of a list; Gemma has 580,604 merges.
const MAX_LIST: usize = 3 << 19;

/// A list of bounded length.
pub(super) struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        List(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = List<T>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if items.len() == MAX_LIST {
                        return Err(A::Error::custom(format_args!("a list has more than {MAX_LIST} entries")));
                    }
                    items.push(item);
                }
                Ok(List(items))
            }
        }
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

/// A text, borrowed from the file where it has no escapes.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Chars;
        impl<'de> Visitor<'de> for Chars {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "a text")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(text.into()))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(text.to_owned().into()))
            }
        }
        deserializer.deserialize_str(Chars)
    }
}

/// Pieces and their ids; no piece twice, no id out of bounds.
pub(super) struct Vocabulary<'a>(pub HashMap<Cow<'a, str>, u32>);

impl<'de: 'a, 'a> Deserialize<'de> for Vocabulary<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocabulary<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "pieces with ids")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary<'de>, A::Error> {
                let mut pieces = HashMap::new();
                while let Some((Text(piece), id)) = map.next_entry::<Text, u32>()? {
                    if piece.len() > MAX_PIECE || pieces.len() == MAX_PIECES || id as usize >= MAX_PIECES {
                        let limits = format_args!(
                            "a piece, its id or the number of pieces is over the limit ({MAX_PIECE} bytes, {MAX_PIECES})"
                        );
                        return Err(A::Error::custom(limits));
                    }
                    pieces.insert(piece, id);
                }
                Ok(Vocabulary(pieces))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A merge rule, written `"left right"` or `["left", "right"]`.
pub(super) struct Merge<'a>(pub Cow<'a, str>, pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        const TWO: &str = "a merge has not two parts";
        impl<'de> Visitor<'de> for Either {
            type Value = Merge<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "a merge of two pieces")
            }
            fn visit_borrowed_str<E: Error>(self, rule: &'de str) -> Result<Merge<'de>, E> {
                let (left, right) = rule.split_once(' ').ok_or_else(|| E::custom(TWO))?;
                Ok(Merge(left.into(), right.into()))
            }
            fn visit_str<E: Error>(self, rule: &str) -> Result<Merge<'de>, E> {
                let (left, right) = rule.split_once(' ').ok_or_else(|| E::custom(TWO))?;
                Ok(Merge(left.to_owned().into(), right.to_owned().into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge<'de>, A::Error> {
                let mut part = || seq.next_element::<Text>()?.ok_or_else(|| A::Error::custom(TWO));
                let (Text(left), Text(right)) = (part()?, part()?);
                match seq.next_element::<Text>()? {
                    Some(_) => Err(A::Error::custom(TWO)),
                    None => Ok(Merge(left, right)),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}
