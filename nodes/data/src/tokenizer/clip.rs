//! The CLIP tokenizer: one vocabulary for the text encoders of SD1, SD2, SDXL, SD3 and FLUX.
//!
//! Text is brought to Unicode's composed form and lower case, cut into words, digits and runs of other signs, and each
//! piece is byte-pair merged with a mark on its last symbol. The vocabulary is embedded; nothing is ever downloaded.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use flate2::read::GzDecoder;
use regex::Regex;
use unicode_normalization::UnicodeNormalization;

use super::bpe::{Merges, QuickMap};
use super::error::TokenizerError;

/// First id of every sequence, `<|startoftext|>`.
pub const BOS: u32 = 49406;
/// Last id of every sequence, `<|endoftext|>`.
pub const EOS: u32 = 49407;
/// Tokens of a window between its first and its last.
pub const WINDOW: usize = 75;
/// Ids of a window, what a text encoder takes at once.
pub const LENGTH: usize = WINDOW + 2;

/// The 48,894 merge rules, one a line.
static MERGES: &[u8] = include_bytes!("../../assets/clip_merges.txt.gz");

/// Merge rules in use; files may hold more.
const RULES: usize = 48_894;

/// Cuts text into pieces; special tokens stay whole.
static PIECES: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+";
    Regex::new(pattern).expect("the pattern is valid")
});

/// Turns text into CLIP token ids.
#[derive(Debug)]
pub struct ClipTokenizer {
    merges: Merges,
    /// Symbol of each byte inside a piece, and at its end.
    bytes: [[u32; 2]; 256],
    bos: u32,
    eos: u32,
}

impl ClipTokenizer {
    /// The embedded vocabulary, made ready on first use.
    pub fn embedded() -> &'static ClipTokenizer {
        static EMBEDDED: OnceLock<ClipTokenizer> = OnceLock::new();
        EMBEDDED.get_or_init(|| Self::of_merges(&merges()).expect("the embedded vocabulary is complete"))
    }

    /// A vocabulary in the two files `vocab.json` and `merges.txt`.
    pub fn from_files(vocab: impl AsRef<Path>, merges: impl AsRef<Path>) -> Result<ClipTokenizer, TokenizerError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| TokenizerError::Io { path: path.into(), source })
        };
        let (vocab_path, merges_path) = (vocab.as_ref(), merges.as_ref());
        let invalid = |path: &Path, problem: String| TokenizerError::invalid(path, "CLIP vocabulary", problem);
        let ids: HashMap<String, u32> =
            serde_json::from_str(&read(vocab_path)?).map_err(|e| invalid(vocab_path, e.to_string()))?;
        let find = |symbol: &str| ids.get(symbol).copied().ok_or_else(|| format!("it has no `{symbol}`"));
        let special = |symbol: &str| find(symbol).map_err(|problem| invalid(vocab_path, problem));
        let mut tokenizer = ClipTokenizer {
            merges: Merges::with_capacity(RULES),
            bytes: [[0; 2]; 256],
            bos: special("<|startoftext|>")?,
            eos: special("<|endoftext|>")?,
        };
        for (byte, sign, _) in alphabet() {
            tokenizer.bytes[usize::from(byte)] = [special(&sign.to_string())?, special(&format!("{sign}</w>"))?];
        }
        for (rank, (left, right)) in rules(&read(merges_path)?).enumerate() {
            let rule = || Ok((find(left)?, find(right)?, find(&format!("{left}{right}"))?));
            let (left, right, becomes) = rule().map_err(|problem: String| invalid(vocab_path, problem))?;
            tokenizer.merges.add(left, right, rank as u32, becomes);
        }
        Ok(tokenizer)
    }

    /// A vocabulary from its merge rules alone: bytes, bytes at an end, merged symbols in order, the two specials.
    fn of_merges(text: &str) -> Option<ClipTokenizer> {
        // Symbols are known by a hash of their text, which saves fifty thousand small texts. No two of this vocabulary
        // share one, or the count at the end would be short.
        let mut ids: QuickMap<u64, u32> = QuickMap::with_capacity_and_hasher(RULES + 512, Default::default());
        let mut bytes = [[0; 2]; 256];
        for (byte, sign, id) in alphabet() {
            bytes[usize::from(byte)] = [id, id + 256];
            let inside = hash(NOTHING, sign.encode_utf8(&mut [0; 4]));
            ids.insert(inside, id);
            ids.insert(hash(inside, "</w>"), id + 256);
        }
        let mut merges = Merges::with_capacity(RULES);
        for (rank, (left, right)) in rules(text).enumerate() {
            let (rank, becomes) = (rank as u32, 512 + rank as u32);
            let start = hash(NOTHING, left);
            merges.add(*ids.get(&start)?, *ids.get(&hash(NOTHING, right))?, rank, becomes);
            ids.insert(hash(start, right), becomes);
        }
        (ids.len() == RULES + 512).then_some(ClipTokenizer { merges, bytes, bos: BOS, eos: EOS })
    }

    /// The ids of a text alone: neither begin, nor end, nor limit.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        let text = text.nfc().collect::<String>().to_lowercase();
        let mut ids = Vec::new();
        let mut symbols = Vec::new();
        for piece in PIECES.find_iter(&text) {
            match piece.as_str() {
                "<|startoftext|>" => ids.push(self.bos),
                "<|endoftext|>" => ids.push(self.eos),
                piece => {
                    let last = piece.len() - 1;
                    symbols.clear();
                    let symbol = |(i, byte)| self.bytes[usize::from(byte)][usize::from(i == last)];
                    symbols.extend(piece.bytes().enumerate().map(symbol));
                    ids.extend(self.merges.apply(&symbols));
                }
            }
        }
        ids
    }

    /// One sequence of `max_length` ids: begin, text cut to fit, end, then `pad_id`.
    pub fn encode(&self, text: &str, max_length: usize, pad_id: u32) -> Vec<u32> {
        self.framed(&self.tokens(text), max_length, pad_id)
    }

    /// A text as `windows` sequences (one to three are of use) for an encoder to take one by one: up to 75 tokens of
    /// text in each, what is more is cut. `pad_id` is [`EOS`] for CLIP-L in every model and 0 for the OpenCLIP encoders.
    ///
    /// With the padding [`EOS`] every window ends with it. With any other, a window full of text gets its end, and an
    /// empty one begins with the end, as the usual trainers have it.
    pub fn encode_windows(&self, text: &str, windows: usize, pad_id: u32) -> Vec<[u32; LENGTH]> {
        self.windows(&self.tokens(text), windows, pad_id)
    }

    /// Windows of tokens without begin and end.
    pub(super) fn windows(&self, tokens: &[u32], windows: usize, pad_id: u32) -> Vec<[u32; LENGTH]> {
        let ids = self.framed(tokens, WINDOW * windows + 2, pad_id);
        let window = |j: usize| {
            let mut chunk = [self.bos; LENGTH];
            chunk[1..=WINDOW].copy_from_slice(&ids[1 + WINDOW * j..1 + WINDOW * (j + 1)]);
            chunk[WINDOW + 1] = ids[ids.len() - 1];
            // One window is a plain sequence; nothing is to be mended.
            if windows > 1 && pad_id != self.eos {
                if chunk[WINDOW] != self.eos && chunk[WINDOW] != pad_id {
                    chunk[WINDOW + 1] = self.eos;
                }
                if chunk[1] == pad_id {
                    chunk[1] = self.eos;
                }
            }
            chunk
        };
        (0..windows).map(window).collect()
    }

    /// Begin, as many tokens as fit, end, padding.
    fn framed(&self, tokens: &[u32], max_length: usize, pad_id: u32) -> Vec<u32> {
        let mut ids = vec![self.bos];
        ids.extend(tokens.iter().take(max_length.saturating_sub(2)));
        ids.push(self.eos);
        ids.resize(max_length.max(2), pad_id);
        ids
    }

    /// Where a window's pooled vector is taken: the place of the first end. The last place if there is none.
    pub fn first_end(&self, ids: &[u32]) -> usize {
        ids.iter().position(|&id| id == self.eos).unwrap_or(ids.len().saturating_sub(1))
    }
}

/// The embedded merge rules.
fn merges() -> String {
    let mut text = String::with_capacity(1 << 19);
    GzDecoder::new(MERGES).read_to_string(&mut text).expect("the embedded vocabulary is intact");
    text
}

/// The embedded vocabulary as files have it: the symbols in order of their ids without the two specials that follow
/// them, and the lines of `merges.txt`.
pub(super) fn vocabulary() -> (Vec<String>, String) {
    let rules_text = merges();
    let signs: Vec<char> = alphabet().map(|(_, sign, _)| sign).collect();
    let mut symbols: Vec<String> = signs.iter().map(char::to_string).collect();
    symbols.extend(signs.iter().map(|sign| format!("{sign}</w>")));
    let mut lines = String::from("#version: 0.2\n");
    for (left, right) in rules(&rules_text) {
        symbols.push(format!("{left}{right}"));
        lines.extend([left, " ", right, "\n"]);
    }
    (symbols, lines)
}

/// Hash of the empty text.
const NOTHING: u64 = 0xcbf2_9ce4_8422_2325;

/// The hash (FNV-1a) of a text that starts with one of hash `start` and goes on with `text`.
fn hash(start: u64, text: &str) -> u64 {
    text.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Each byte with its printable sign and its place in the vocabulary: printable bytes stand for themselves and come
/// first, the others follow under signs from U+0100 on.
fn alphabet() -> impl Iterator<Item = (u8, char, u32)> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let shown = (0..=255u8).filter(printable).map(|byte| (byte, char::from(byte)));
    let hidden = (0..=255u8).filter(move |byte| !printable(byte)).zip('\u{100}'..);
    shown.chain(hidden).zip(0..).map(|((byte, sign), id)| (byte, sign, id))
}

/// The rules of a merges file; a version line and anything past the vocabulary's end are passed over.
fn rules(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().filter(|line| !line.starts_with("#version"));
    lines.filter_map(|line| line.split_once(' ')).take(RULES)
}
