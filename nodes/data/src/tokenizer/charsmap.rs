//! How sentencepiece brings text to one form before it looks for pieces.
//!
//! A precompiled table maps runs of characters to others (compatibility composition, wide forms, every kind of space);
//! the rest is about spaces: none at the ends, one between, one put in front, each shown as `▁`. (T. Kudo, J.
//! Richardson: SentencePiece, EMNLP 2018.)

/// The sign that stands for a space inside pieces.
pub(super) const SPACE: char = '▁';

/// Replacements of a `precompiled_charsmap`: a double-array trie (S. Yata's Darts-clone) over the texts to replace.
#[derive(Debug, Default)]
pub(super) struct Charsmap {
    /// The trie's units.
    units: Vec<u32>,
    /// The replacements, each closed by a zero.
    texts: String,
}

impl Charsmap {
    /// Reads the table as models hold it: the trie's size in bytes, the trie, the texts. An empty one changes nothing.
    pub fn new(bytes: &[u8]) -> Result<Charsmap, String> {
        if bytes.is_empty() {
            return Ok(Charsmap::default());
        }
        let damaged = || "its table of character replacements is damaged".to_owned();
        let (size, rest) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
        let size = u32::from_le_bytes(*size) as usize;
        let (trie, texts) = rest.split_at_checked(size).ok_or_else(damaged)?;
        if trie.is_empty() || !trie.len().is_multiple_of(4) {
            return Err(damaged());
        }
        let units = trie.chunks_exact(4).map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]));
        let texts = String::from_utf8(texts.to_vec()).map_err(|_| damaged())?;
        Ok(Charsmap { units: units.collect(), texts })
    }

    /// The longest replaceable run that `text` starts with: its length and what it becomes.
    fn longest(&self, text: &str) -> Option<(usize, &str)> {
        // A unit: bit 8 says that a value hangs below, bits 0-7 and 31 are the label, bits 10-30 the offset of the units
        // below, shifted by 8 more when bit 9 is set. A unit with a value has bit 31 set and the value in the others.
        let below = |at: usize, unit: u32| at ^ ((unit >> 10) << ((unit & 0x200) >> 6)) as usize;
        let mut at = below(0, *self.units.first()?);
        let mut found = None;
        for (i, byte) in text.bytes().enumerate() {
            at ^= usize::from(byte);
            let Some(&unit) = self.units.get(at) else { break };
            if byte == 0 || unit & 0x8000_00ff != u32::from(byte) {
                break;
            }
            at = below(at, unit);
            if unit & 0x100 != 0 {
                let Some(value) = self.units.get(at) else { break };
                found = Some((i + 1, (value & 0x7fff_ffff) as usize));
            }
        }
        let (len, from) = found?;
        let becomes = self.texts.get(from..)?;
        Some((len, becomes.split('\0').next().unwrap_or_default()))
    }

    /// The text in the form pieces are made of, with spaces as T5 wants them. Nothing becomes of mere spaces.
    pub fn normalise(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + text.len() / 8 + 3);
        let mut rest = text;
        let mut after_space = true;
        while let Some(next) = rest.chars().next() {
            let (len, part) = match self.longest(rest) {
                // A length inside a character could only come from a broken table.
                Some((len, part)) if rest.is_char_boundary(len) => (len, part),
                _ => (next.len_utf8(), &rest[..next.len_utf8()]),
            };
            let part = if after_space { part.trim_start_matches(' ') } else { part };
            if !part.is_empty() {
                if out.is_empty() {
                    out.push(SPACE);
                }
                out.extend(part.chars().map(|c| if c == ' ' { SPACE } else { c }));
                after_space = part.ends_with(' ');
            }
            rest = &rest[len..];
        }
        out.truncate(out.trim_end_matches(SPACE).len());
        out
    }
}
