//! Sentencepiece models as files hold them: `spiece.model`, `tokenizer.model`, or the tensor `spiece_model`.
//!
//! The format is a protobuf message (`sentencepiece_model.proto`); only what tokenizers of this crate need is read.

/// What a model file says.
#[derive(Debug)]
pub(super) struct SpModel<'a> {
    pub kind: SpKind,
    /// In order of their ids.
    pub pieces: Vec<Piece<'a>>,
    /// Characters without a piece become one piece a byte.
    pub byte_fallback: bool,
    /// Table of character replacements, maybe empty.
    pub charsmap: &'a [u8],
    /// A space is put in front of the text.
    pub dummy_prefix: bool,
    /// Spaces at the ends and runs of them are cut.
    pub trims_spaces: bool,
    /// Spaces become `▁`.
    pub escapes_spaces: bool,
}

/// How a model finds its pieces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum SpKind {
    Unigram,
    Bpe,
    Other,
}

/// A piece of the vocabulary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub text: &'a str,
    pub score: f32,
    pub role: Role,
}

/// What a piece is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Role {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Byte,
    Unused,
}

/// Most pieces of a vocabulary, of any format.
pub(super) const MAX_PIECES: usize = 1 << 19;
/// Longest piece in bytes; those of the real vocabularies have up to 93.
pub(super) const MAX_PIECE: usize = 128;

impl<'a> SpModel<'a> {
    /// Reads a model; the error says what is wrong with the bytes.
    pub fn read(bytes: &'a [u8]) -> Result<SpModel<'a>, String> {
        // Defaults as in the format's definition.
        let mut model = SpModel {
            kind: SpKind::Unigram,
            pieces: Vec::new(),
            byte_fallback: false,
            charsmap: &[],
            dummy_prefix: true,
            trims_spaces: true,
            escapes_spaces: true,
        };
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(piece)) if model.pieces.len() < MAX_PIECES => model.pieces.push(Piece::read(piece)?),
                (1, Value::Bytes(_)) => return Err(format!("it has more than {MAX_PIECES} pieces")),
                (2, Value::Bytes(trainer)) => model.read_trainer(trainer)?,
                (3, Value::Bytes(normaliser)) => model.read_normaliser(normaliser)?,
                _ => (),
            }
        }
        if model.pieces.is_empty() {
            return Err("it has no pieces".into());
        }
        Ok(model)
    }

    fn read_trainer(&mut self, bytes: &'a [u8]) -> Result<(), String> {
        for field in Fields(bytes) {
            match field? {
                (3, Value::Number(1)) => self.kind = SpKind::Unigram,
                (3, Value::Number(2)) => self.kind = SpKind::Bpe,
                (3, Value::Number(_)) => self.kind = SpKind::Other,
                (24, Value::Number(1)) => return Err("it puts spaces at the end of words".into()),
                (35, Value::Number(x)) => self.byte_fallback = x != 0,
                _ => (),
            }
        }
        Ok(())
    }

    fn read_normaliser(&mut self, bytes: &'a [u8]) -> Result<(), String> {
        for field in Fields(bytes) {
            match field? {
                (2, Value::Bytes(x)) => self.charsmap = x,
                (3, Value::Number(x)) => self.dummy_prefix = x != 0,
                (4, Value::Number(x)) => self.trims_spaces = x != 0,
                (5, Value::Number(x)) => self.escapes_spaces = x != 0,
                _ => (),
            }
        }
        Ok(())
    }

    /// The pieces with their ids.
    pub fn numbered(&self) -> impl Iterator<Item = (u32, &Piece<'a>)> {
        (0..).zip(&self.pieces)
    }
}

impl<'a> Piece<'a> {
    fn read(bytes: &'a [u8]) -> Result<Piece<'a>, String> {
        let mut piece = Piece { text: "", score: 0.0, role: Role::Normal };
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(x)) if x.len() > MAX_PIECE => return Err("a piece is too long".into()),
                (1, Value::Bytes(x)) => {
                    piece.text = std::str::from_utf8(x).map_err(|_| "a piece is not UTF-8".to_owned())?;
                }
                (2, Value::Word(x)) => piece.score = f32::from_bits(x),
                (3, Value::Number(x)) => {
                    piece.role = match x {
                        1 => Role::Normal,
                        2 => Role::Unknown,
                        3 => Role::Control,
                        4 => Role::UserDefined,
                        5 => Role::Unused,
                        6 => Role::Byte,
                        _ => return Err(format!("a piece has the unknown type {x}")),
                    }
                }
                _ => (),
            }
        }
        Ok(piece)
    }
}

/// The fields of a protobuf message, in order: number and value.
struct Fields<'a>(&'a [u8]);

/// A field's value.
enum Value<'a> {
    Number(u64),
    Word(u32),
    Long,
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(len).ok_or("it ends in the middle of a field")?;
        self.0 = rest;
        Ok(head)
    }

    /// A number in groups of seven bits, lowest first.
    fn number(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number in it never ends".into())
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), String> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            1 => self.take(8).map(|_| Value::Long)?,
            2 => {
                let len = self.number()?;
                Value::Bytes(self.take(usize::try_from(len).unwrap_or(usize::MAX))?)
            }
            5 => {
                let word = self.take(4)?;
                Value::Word(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            }
            _ => return Err("it is no sentencepiece model".into()),
        };
        Ok((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}
