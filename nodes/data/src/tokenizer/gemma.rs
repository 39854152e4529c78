//! The Gemma tokenizer: one vocabulary for Gemma 1 (Lumina-Next) and Gemma 2 (Lumina-Image-2.0).
//!
//! Byte-pair merging over characters, with spaces shown as `▁`, and bytes for characters that have no token. The
//! vocabulary is Google's and not embedded: it is found beside the weights, see [`find_tokenizer`](super::find_tokenizer).
//! Tokens written out in a text (`<eos>`, `<b>`, line breaks) become those tokens, as in transformers.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::bpe::Merges;
use super::charsmap::SPACE;
use super::error::TokenizerError;
use super::find::Origin;
use super::json::{BpeJson, Step, TokenizerJson};
use super::spiece::{MAX_PIECES, Role, SpKind, SpModel};
use super::trie::{Part, Trie};
use super::{Tokens, is_json, padded};

/// Tokens of a prompt for both Lumina models.
pub const LENGTH: usize = 256;

/// What the authors of Lumina-Image-2.0 train with before the caption.
pub const LUMINA2_SYSTEM_PROMPT: &str =
    "You are an assistant designed to generate high-quality images based on user prompts.";

/// The prompt of Lumina-Image-2.0 for a caption: system prompt, a mark in plain text, caption. With no system prompt, as
/// for negative prompts, the caption alone.
pub fn lumina2_prompt(system_prompt: &str, caption: &str) -> String {
    match system_prompt {
        "" => caption.to_owned(),
        _ => format!("{system_prompt} <Prompt Start> {caption}"),
    }
}

const WHAT: &str = "Gemma tokenizer";

/// Turns text into Gemma token ids. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GemmaTokenizer(Arc<Inner>, String);

#[derive(Debug)]
struct Inner {
    /// Tokens found in the text as it is.
    special: Trie,
    /// Tokens found once spaces are `▁`.
    user: Trie,
    characters: HashMap<char, u32>,
    bytes: [u32; 256],
    merges: Merges,
    bos: u32,
    pad: u32,
    vocabulary: usize,
}

impl GemmaTokenizer {
    /// The tokenizer at a place that [`find_tokenizer`](super::find_tokenizer) gave.
    ///
    /// # Errors
    /// When it cannot be read or is of another kind.
    pub fn open(origin: &Origin) -> Result<GemmaTokenizer, TokenizerError> {
        Self::from_bytes(&origin.read()?, origin.path())
    }

    /// The tokenizer in a `tokenizer.json` or `tokenizer.model`.
    ///
    /// # Errors
    /// When it cannot be read or is of another kind.
    pub fn from_file(path: impl AsRef<Path>) -> Result<GemmaTokenizer, TokenizerError> {
        Self::open(&Origin::File(path.as_ref().into()))
    }

    /// The tokenizer in the bytes of such a file, or of the tensor `spiece_model`; `name` is for messages.
    ///
    /// # Errors
    /// When the bytes are anything else.
    pub fn from_bytes(bytes: &[u8], name: impl AsRef<Path>) -> Result<GemmaTokenizer, TokenizerError> {
        let inner = if is_json(bytes) { Inner::of_json(bytes) } else { Inner::of_model(bytes) };
        match inner {
            Ok(inner) => Ok(GemmaTokenizer(Arc::new(inner), blake3::hash(bytes).to_hex().to_string())),
            Err(problem) => Err(TokenizerError::invalid(name.as_ref(), WHAT, problem)),
        }
    }

    /// Names the file's content: what was made with one file is not taken for another's.
    pub fn digest(&self) -> &str {
        &self.1
    }

    /// The ids of a text alone: no begin, no limit.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        let inner = &*self.0;
        let (mut ids, mut symbols) = (Vec::new(), Vec::new());
        for part in inner.special.split(text) {
            let text = match part {
                Part::Found(id) => {
                    ids.push(id);
                    continue;
                }
                Part::Text(text) => text.replace(' ', "▁"),
            };
            for part in inner.user.split(&text) {
                let text = match part {
                    Part::Found(id) => {
                        ids.push(id);
                        continue;
                    }
                    Part::Text(text) => text,
                };
                symbols.clear();
                for (at, c) in text.char_indices() {
                    match inner.characters.get(&c) {
                        Some(&id) => symbols.push(id),
                        None => {
                            let bytes = text[at..at + c.len_utf8()].bytes();
                            symbols.extend(bytes.map(|byte| inner.bytes[usize::from(byte)]));
                        }
                    }
                }
                ids.extend(inner.merges.apply(&symbols));
            }
        }
        ids
    }

    /// One sequence of `max_length` ids (at least one): begin, the text cut to fit, then padding; there is no end.
    pub fn encode(&self, text: &str, max_length: usize) -> Tokens {
        let mut ids = vec![self.0.bos];
        ids.extend(self.tokens(text).into_iter().take(max_length.saturating_sub(1)));
        padded(ids, max_length, self.0.pad)
    }

    /// Ids are below this number.
    pub fn vocabulary(&self) -> usize {
        self.0.vocabulary
    }
}

/// Collects what both formats have in common.
fn inner(vocab: &HashMap<Cow<str>, u32>, characters: HashMap<char, u32>, merges: Merges) -> Result<Inner, String> {
    let find = |text: &str| vocab.get(text).copied().ok_or_else(|| format!("it has no `{text}`"));
    let mut bytes = [0; 256];
    for (byte, id) in (0..=255u8).zip(&mut bytes) {
        // A byte that is a character with a piece of its own is never spelled; Gemma has no `<0x09>`.
        let own = characters.get(&char::from(byte)).filter(|_| byte.is_ascii());
        *id = own.map_or_else(|| find(&format!("<0x{byte:02X}>")), |&id| Ok(id))?;
    }
    let (bos, pad) = (find("<bos>")?, find("<pad>")?);
    let vocabulary = vocab.values().max().map_or(0, |&id| id as usize + 1);
    Ok(Inner { special: Trie::default(), user: Trie::default(), characters, bytes, merges, bos, pad, vocabulary })
}

/// The character a piece consists of, if it is one.
fn single(piece: &str) -> Option<char> {
    let mut chars = piece.chars();
    chars.next().filter(|_| chars.as_str().is_empty())
}

impl Inner {
    fn of_model(bytes: &[u8]) -> Result<Inner, String> {
        let model = SpModel::read(bytes)?;
        if model.kind != SpKind::Bpe {
            return Err("its model is not of the byte-pair type".into());
        }
        if model.dummy_prefix || model.trims_spaces || !model.escapes_spaces || !model.charsmap.is_empty() {
            return Err("it treats spaces or other characters otherwise than Gemma does".into());
        }
        if model.numbered().any(|(_, piece)| piece.role == Role::Unused) {
            return Err("it has unused pieces, which Gemma has not".into());
        }
        let all: HashMap<Cow<str>, u32> = model.numbered().map(|(id, piece)| (piece.text.into(), id)).collect();
        let normal = || model.numbered().filter(|(_, piece)| piece.role == Role::Normal);
        let ids: HashMap<&str, u32> = normal().map(|(id, piece)| (piece.text, id)).collect();
        // Two neighbours merge when their text is a piece; the one with the greatest score first.
        let mut scores: Vec<f32> = normal().map(|(_, piece)| piece.score).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        scores.dedup_by(|a, b| a.total_cmp(b).is_eq());
        let mut merges = Merges::with_capacity(2 * ids.len());
        for (id, piece) in normal() {
            let rank = scores.binary_search_by(|score| piece.score.total_cmp(score)).unwrap_or(scores.len());
            for (at, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                    merges.add(left, right, rank as u32, id);
                }
            }
        }
        let characters = normal().filter_map(|(id, piece)| Some((single(piece.text)?, id))).collect();
        let mut inner = inner(&all, characters, merges)?;
        for (id, piece) in model.numbered() {
            match piece.role {
                Role::Control | Role::Unknown => inner.special.insert(piece.text, id),
                Role::UserDefined => inner.user.insert(piece.text, id),
                _ => (),
            }
        }
        Ok(inner)
    }

    fn of_json(bytes: &[u8]) -> Result<Inner, String> {
        let file: TokenizerJson<BpeJson> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        check_steps(file.normalizer.as_ref(), file.pre_tokenizer.as_ref())?;
        let model = &file.model;
        let affix = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        if model.ignore_merges
            || !model.byte_fallback
            || model.dropout.is_some_and(|p| p != 0.0)
            || affix(&model.continuing_subword_prefix)
            || affix(&model.end_of_word_suffix)
        {
            return Err("its model has settings that Gemma's has not".into());
        }
        let vocab = &model.vocab.0;
        let mut merges = Merges::with_capacity(model.merges.0.len());
        let mut both = String::new();
        let find =
            |text: &str| vocab.get(text).copied().ok_or_else(|| format!("its merges need `{text}`, not a piece"));
        for (rank, merge) in (0..).zip(&model.merges.0) {
            both.clear();
            both.extend([&*merge.0, &*merge.1]);
            merges.add(find(&merge.0)?, find(&merge.1)?, rank, find(&both)?);
        }
        let characters = vocab.iter().filter_map(|(piece, &id)| Some((single(piece)?, id))).collect();
        let mut inner = inner(vocab, characters, merges)?;
        for token in &file.added_tokens.0 {
            if token.single_word || token.lstrip || token.rstrip || token.id as usize >= MAX_PIECES {
                return Err(format!("its token `{}` is of a kind that Gemma has not", token.content));
            }
            match token.normalized {
                true => inner.user.insert(&token.content.replace(' ', "▁"), token.id),
                false => inner.special.insert(&token.content, token.id),
            }
            inner.vocabulary = inner.vocabulary.max(token.id as usize + 1);
        }
        Ok(inner)
    }
}

/// Checks that spaces become `▁` and nothing else is done to the text.
fn check_steps(normaliser: Option<&Step>, pre_tokenizer: Option<&Step>) -> Result<(), String> {
    let steps = normaliser.map(Step::flat).unwrap_or_default();
    let to_mark = |step: &Step| step.kind == "Replace" && step.finds(" ") && step.content == Some(SPACE.into());
    match steps[..] {
        [step] if to_mark(step) => (),
        _ => return Err("its normaliser is not Gemma's, which replaces spaces by `▁`".into()),
    }
    // After that there are no spaces to split at, so a split there does nothing.
    let idle = |step: &&Step| step.kind == "Split" && step.finds(" ");
    match pre_tokenizer.map(Step::flat).unwrap_or_default().iter().find(|step| !idle(step)) {
        Some(step) => Err(format!("its pre-tokenizer `{}` is not Gemma's", step.kind)),
        None => Ok(()),
    }
}
