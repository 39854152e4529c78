//! The T5 tokenizer: the text encoder T5 v1.1 XXL of SD3 and FLUX.
//!
//! ```
//! use pipe_data::tokenizer::T5Tokenizer;
//! let tokens = T5Tokenizer::embedded().encode("a photo of a cat", 10);
//! assert_eq!(tokens.ids, [3, 9, 1202, 13, 3, 9, 1712, 1, 0, 0]);
//! assert_eq!(tokens.mask, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
//! ```
//!
//! The ids are those of transformers' fast tokenizer, which the usual trainers and samplers use: special tokens written
//! out in a text (`</s>`, `<extra_id_0>`) become those tokens, and each word is cut on its own, so that cuts of equal
//! probability (`---` `-` or `-` `---`) do not depend on what is before. With one exception: that tokenizer drops accents
//! that follow a character with a replacement (`²` and U+0331); here they stay, as in the sentencepiece library.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::GzDecoder;

use super::charsmap::{Charsmap, SPACE};
use super::error::TokenizerError;
use super::find::Origin;
use super::json::{Step, TokenizerJson, UnigramJson};
use super::spiece::{MAX_PIECE, MAX_PIECES, Role, SpKind, SpModel};
use super::trie::{Part, Trie};
use super::unigram::Unigram;
use super::{Tokens, is_json, padded};

/// Tokens of a prompt for SD3.
pub const SD3_LENGTH: usize = 256;
/// Tokens of a prompt for FLUX.1 dev.
pub const FLUX_DEV_LENGTH: usize = 512;
/// Tokens of a prompt for FLUX.1 schnell.
pub const FLUX_SCHNELL_LENGTH: usize = 256;

/// `spiece.model` of T5.
static SPIECE: &[u8] = include_bytes!("../../assets/t5_spiece.model.gz");

const WHAT: &str = "T5 tokenizer";

/// Turns text into T5 token ids. Cheap to clone.
#[derive(Clone, Debug)]
pub struct T5Tokenizer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    special: Trie,
    charsmap: Charsmap,
    model: Unigram,
    eos: u32,
    pad: u32,
    vocabulary: usize,
}

impl T5Tokenizer {
    /// The embedded vocabulary, made ready on first use.
    pub fn embedded() -> &'static T5Tokenizer {
        static EMBEDDED: OnceLock<T5Tokenizer> = OnceLock::new();
        EMBEDDED.get_or_init(|| {
            let name = Path::new("the embedded T5 vocabulary");
            Self::from_bytes(&embedded_bytes(), name).expect("the embedded vocabulary is intact")
        })
    }

    /// The tokenizer at a place that [`find_tokenizer`](super::find_tokenizer) gave.
    ///
    /// # Errors
    /// When it cannot be read or is of another kind.
    pub fn open(origin: &Origin) -> Result<T5Tokenizer, TokenizerError> {
        match origin {
            Origin::Embedded => Ok(Self::embedded().clone()),
            _ => Self::from_bytes(&origin.read()?, origin.path()),
        }
    }

    /// The tokenizer in a `spiece.model` or `tokenizer.json`.
    ///
    /// # Errors
    /// When it cannot be read or is of another kind.
    pub fn from_file(path: impl AsRef<Path>) -> Result<T5Tokenizer, TokenizerError> {
        Self::open(&Origin::File(path.as_ref().into()))
    }

    /// The tokenizer in the bytes of such a file; `name` is for messages.
    ///
    /// # Errors
    /// When the bytes are anything else.
    pub fn from_bytes(bytes: &[u8], name: impl AsRef<Path>) -> Result<T5Tokenizer, TokenizerError> {
        let inner = if is_json(bytes) { Inner::of_json(bytes) } else { Inner::of_model(bytes) };
        match inner {
            Ok(inner) => Ok(T5Tokenizer(Arc::new(inner))),
            Err(problem) => Err(TokenizerError::invalid(name.as_ref(), WHAT, problem)),
        }
    }

    /// The ids of a text alone: no end, no limit.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        for part in self.0.special.split(text) {
            match part {
                Part::Found(id) => ids.push(id),
                Part::Text(text) => {
                    let text = self.0.charsmap.normalise(text);
                    words(&text).for_each(|word| self.0.model.encode(word, &mut ids));
                }
            }
        }
        ids
    }

    /// One sequence of `max_length` ids (at least one): the text cut to fit, the end, then padding.
    pub fn encode(&self, text: &str, max_length: usize) -> Tokens {
        let mut ids = self.tokens(text);
        ids.truncate(max_length.saturating_sub(1));
        ids.push(self.0.eos);
        padded(ids, max_length, self.0.pad)
    }

    /// Ids are below this number.
    pub fn vocabulary(&self) -> usize {
        self.0.vocabulary
    }
}

/// The words of a normalised text, each with the `▁` before it.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let begins = text.match_indices(SPACE).map(|(at, _)| at).filter(|&at| at > 0);
    let mut from = 0;
    begins.chain([text.len()]).map(move |to| &text[std::mem::replace(&mut from, to)..to])
}

pub(super) fn embedded_bytes() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(800_000);
    GzDecoder::new(SPIECE).read_to_end(&mut bytes).expect("the embedded vocabulary is intact");
    bytes
}

impl Inner {
    fn of_model(bytes: &[u8]) -> Result<Inner, String> {
        let model = SpModel::read(bytes)?;
        if model.kind != SpKind::Unigram {
            return Err("its model is not of the unigram type".into());
        }
        if !(model.dummy_prefix && model.trims_spaces && model.escapes_spaces) || model.byte_fallback {
            return Err("it treats spaces or unknown characters otherwise than T5 does".into());
        }
        let mut special = Trie::default();
        let mut unknown = None;
        for (id, piece) in model.numbered() {
            match piece.role {
                Role::Normal => continue,
                Role::Unknown => unknown = Some(id),
                Role::Control => (),
                Role::UserDefined | Role::Byte | Role::Unused => {
                    return Err(format!("its piece `{}` is of a type that T5 has not", piece.text));
                }
            }
            special.insert(piece.text, id);
        }
        // A hundred tokens more, the last one first, that the model file does not list.
        let listed = model.pieces.len() as u32;
        for i in 0..100 {
            special.insert(&format!("<extra_id_{i}>"), listed + 99 - i);
        }
        let find = |text: &str| {
            let found = model.numbered().find(|(_, piece)| piece.text == text);
            found.map(|(id, _)| id).ok_or_else(|| format!("it has no `{text}`"))
        };
        let normal = model.numbered().filter(|(_, piece)| piece.role == Role::Normal);
        let pieces = normal.map(|(id, piece)| (piece.text, id, f64::from(piece.score)));
        Ok(Inner {
            charsmap: Charsmap::new(model.charsmap)?,
            model: Unigram::new(pieces, unknown.ok_or("it has no piece for unknown characters")?),
            eos: find("</s>")?,
            pad: find("<pad>")?,
            vocabulary: model.pieces.len() + 100,
            special,
        })
    }

    fn of_json(bytes: &[u8]) -> Result<Inner, String> {
        let file: TokenizerJson<UnigramJson> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let vocab = &file.model.vocab.0;
        if vocab.len() > MAX_PIECES || vocab.iter().any(|(piece, _)| piece.0.len() > MAX_PIECE) {
            return Err(format!("a piece or the number of pieces is over the limit ({MAX_PIECE} bytes, {MAX_PIECES})"));
        }
        if file.model.byte_fallback {
            return Err("it treats unknown characters otherwise than T5 does".into());
        }
        let unknown = file.model.unk_id.filter(|&id| (id as usize) < vocab.len());
        let unknown = unknown.ok_or("it has no piece for unknown characters")?;
        let charsmap = charsmap_of(file.normalizer.as_ref(), file.pre_tokenizer.as_ref())?;
        let mut special = Trie::default();
        let mut is_special = vec![false; vocab.len()];
        is_special[unknown as usize] = true;
        let mut vocabulary = vocab.len();
        for token in &file.added_tokens.0 {
            // Whether spaces around it are cut makes no difference here: those at the ends of a text are cut anyway.
            if token.normalized || token.single_word || token.id as usize >= MAX_PIECES {
                return Err(format!("its token `{}` is of a kind that T5 has not", token.content));
            }
            special.insert(&token.content, token.id);
            if let Some(is_special) = is_special.get_mut(token.id as usize) {
                *is_special = true;
            }
            vocabulary = vocabulary.max(token.id as usize + 1);
        }
        let numbered = || (0u32..).zip(vocab);
        let find = |text: &str| {
            let found = numbered().find(|(_, (piece, _))| piece.0 == text);
            found.map(|(id, _)| id).ok_or_else(|| format!("it has no `{text}`"))
        };
        let normal = numbered().filter(|(id, _)| !is_special[*id as usize]);
        let model = Unigram::new(normal.map(|(id, (piece, score))| (&*piece.0, id, *score)), unknown);
        Ok(Inner { special, charsmap, model, eos: find("</s>")?, pad: find("<pad>")?, vocabulary })
    }
}

/// The table of replacements; checks that everything else is what sentencepiece does.
fn charsmap_of(normaliser: Option<&Step>, pre_tokenizer: Option<&Step>) -> Result<Charsmap, String> {
    let mut charsmap = None;
    for step in normaliser.map(Step::flat).unwrap_or_default() {
        match step.kind.as_str() {
            "Precompiled" if charsmap.is_none() => {
                let table = step.precompiled_charsmap.as_deref().unwrap_or_default();
                let table = BASE64.decode(table).map_err(|e| format!("its table of characters is damaged: {e}"))?;
                charsmap = Some(Charsmap::new(&table)?);
            }
            "Strip" => (),
            "Replace" if step.pattern.as_ref().and_then(|p| p.regex.as_deref()) == Some(" {2,}") => (),
            other => return Err(format!("its normaliser `{other}` is not one of T5's")),
        }
    }
    let mut puts_space = false;
    for step in pre_tokenizer.map(Step::flat).unwrap_or_default() {
        let always =
            step.prepend_scheme.as_deref().is_none_or(|s| s == "always") && step.add_prefix_space != Some(false);
        match step.kind.as_str() {
            "WhitespaceSplit" => (),
            "Metaspace" if always && step.replacement.as_deref() == Some("▁") => puts_space = true,
            other => return Err(format!("its pre-tokenizer `{other}` is not one of T5's")),
        }
    }
    match charsmap {
        Some(charsmap) if puts_space => Ok(charsmap),
        Some(_) => Err("it puts no space before the text".into()),
        None => Err("it has no table of character replacements".into()),
    }
}
