//! What can be wrong with a weight file, in plain words.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The longest name shown in full.
const LONGEST: usize = 160;

/// A name from a file, fit for a message: control characters escaped, not longer than a line or two.
pub fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(LONGEST).flat_map(escaped).collect();
    if name.chars().nth(LONGEST).is_some() {
        text.push('…');
    }
    text
}

/// Letters as they are, whatever their script; what moves a terminal's cursor as `\u{1b}`.
fn escaped(c: char) -> impl Iterator<Item = char> {
    let plain = (!c.is_control() && c != '\u{2028}' && c != '\u{2029}' && !is_direction(c)).then_some(c);
    let hidden = plain.is_none().then(|| c.escape_default());
    plain.into_iter().chain(hidden.into_iter().flatten())
}

/// Marks that change the direction of the text after them.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Why weights could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Nothing at that path.
    #[error("`{}` does not exist", path.display())]
    Missing {
        /// The path asked for.
        path: PathBuf,
    },
    /// A folder where a file is needed.
    #[error("`{}` is a folder, not a file", path.display())]
    IsFolder {
        /// The folder.
        path: PathBuf,
    },
    /// Some other format.
    #[error("`{}` is not a weight file: it looks like {looks_like}", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What it seems to be.
        looks_like: &'static str,
    },
    /// A pickle that names something no weights need. Nothing of it was run.
    #[error("`{}` is refused: its pickle asks for `{global}`, which weights do not need; nothing of it was run", path.display())]
    Forbidden {
        /// The file.
        path: PathBuf,
        /// The name, with its module.
        global: String,
    },
    /// A weight file that breaks its format.
    #[error("`{}` is damaged: {damage}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is broken.
        damage: Damage,
    },
    /// A tensor type that exists but is not supported.
    #[error("`{}` holds `{}` as `{}`, a type that is not supported", path.display(), shown(tensor), shown(dtype))]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type as written.
        dtype: String,
    },
    /// A tensor that is not there.
    #[error("`{}` has no tensor `{}`", path.display(), shown(tensor))]
    NoTensor {
        /// The file or folder.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
    },
    /// A tensor of another kind of type than needed.
    #[error("tensor `{}` of `{}` is `{dtype}`, {wanted} needed", shown(tensor), path.display())]
    WrongType {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: super::DType,
        /// What was needed, with its article.
        wanted: &'static str,
    },
    /// A tensor whose shape does not fit.
    #[error("tensor `{}` of `{}` has shape {shape:?}, {wanted} needed", shown(tensor), path.display())]
    WrongShape {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// What was needed.
        wanted: String,
    },
    /// A file marked as scaled 8-bit floats with a weight that has no scale.
    #[error("`{}` is marked as scaled 8-bit floats, and the scale of `{}` is missing", path.display(), shown(tensor))]
    NoScale {
        /// The file or folder.
        path: PathBuf,
        /// The weight.
        tensor: String,
    },
    /// A folder without weights.
    #[error("`{}` holds no weights: {found}", path.display())]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// What was looked for, or found instead.
        found: String,
    },
    /// A shard index that cannot be followed.
    #[error("`{}` cannot be followed: {problem}", path.display())]
    BadIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A JSON file beside the weights that is none.
    #[error("`{}` is damaged: {problem}", path.display())]
    BadJson {
        /// The JSON file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Something that is neither a file nor a folder.
    #[error("`{}` is {what}, not a file", path.display())]
    NotFile {
        /// The path.
        path: PathBuf,
        /// What it is, with its article.
        what: &'static str,
    },
    /// A model without the wanted part.
    #[error("`{}` has no {component}: it holds {found}", path.display())]
    NoComponent {
        /// The file or folder.
        path: PathBuf,
        /// The part, in words.
        component: &'static str,
        /// What is there.
        found: String,
    },
    /// A model of a kind that cannot be used.
    #[error("`{}` cannot be used: {problem}", path.display())]
    Unsupported {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// What was to be written is not a valid set of tensors.
    #[error("`{}` cannot be written: {problem}", path.display())]
    BadTensors {
        /// The file to be written.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No room left.
    #[error("`{}` cannot be written: the disk is full", path.display())]
    DiskFull {
        /// The file to be written.
        path: PathBuf,
    },
    /// Anything the operating system refused.
    #[error("`{}` cannot be {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read`, `written`, …
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl FileError {
    /// Wraps a reading error, telling missing files apart.
    pub(crate) fn reading(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FileError::Missing { path: path.into() },
            io::ErrorKind::IsADirectory => FileError::IsFolder { path: path.into() },
            _ => FileError::Io { path: path.into(), action: "read", source },
        }
    }

    /// Wraps a writing error, telling a full disk apart.
    pub(crate) fn writing(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FileError::DiskFull { path: path.into() },
            _ => FileError::Io { path: path.into(), action: "written", source },
        }
    }

    /// A scale that is neither one number nor one for each row.
    pub(crate) fn unfit_scale(path: &Path, scale: String, info: &super::TensorInfo) -> Self {
        let wanted = "one float, or one for each row of its weight, is".into();
        FileError::WrongShape { path: path.into(), tensor: scale, shape: info.shape.clone(), wanted }
    }

    pub(crate) fn damaged(path: &Path, damage: Damage) -> Self {
        FileError::Damaged { path: path.into(), damage }
    }
}

/// How a file breaks its format.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// Nothing in it.
    Empty,
    /// Not even the length of the header.
    TooShort {
        /// Bytes in the file.
        bytes: u64,
    },
    /// A header length beyond what is reasonable.
    HeaderTooLong {
        /// The length it states.
        stated: u64,
    },
    /// The file ends inside the header.
    HeaderTruncated {
        /// The length it states.
        stated: u64,
        /// Bytes after the length.
        have: u64,
    },
    /// The header is not JSON of the right form.
    Json(String),
    /// A tensor listed twice.
    Duplicate(String),
    /// Sizes that multiply past what can be counted.
    ShapeOverflow {
        /// The tensor.
        tensor: String,
    },
    /// Offsets that run backwards.
    Backwards {
        /// The tensor.
        tensor: String,
        /// First byte.
        start: u64,
        /// End.
        end: u64,
    },
    /// More or fewer bytes than the shape needs.
    Size {
        /// The tensor.
        tensor: String,
        /// Bytes its shape and type need.
        needed: u64,
        /// Bytes its offsets give.
        given: u64,
    },
    /// The file ends before the data do.
    DataTruncated {
        /// Bytes of data the header promises.
        needed: u64,
        /// Bytes of data in the file.
        have: u64,
    },
    /// Bytes after the last tensor.
    Trailing {
        /// How many.
        extra: u64,
    },
    /// Two tensors share bytes.
    Overlap {
        /// The earlier tensor.
        first: String,
        /// The later tensor.
        second: String,
    },
    /// Bytes between tensors that belong to none.
    Hole {
        /// The tensor after the hole.
        before: String,
        /// Its length.
        bytes: u64,
    },
    /// More tensors than any model has.
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The zip archive of a torch checkpoint is broken.
    Zip(String),
    /// The pickle of a torch checkpoint is broken.
    Pickle {
        /// Where in the file.
        at: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A tensor of a torch checkpoint does not fit its data.
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong, to follow its name.
        problem: String,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Empty => f.write_str("the file is empty"),
            Damage::TooShort { bytes } => write!(f, "the file has only {bytes} bytes"),
            Damage::HeaderTooLong { stated } => {
                write!(f, "it states a header of {stated} bytes, more than the limit of {}", super::header::MAX_HEADER)
            }
            Damage::HeaderTruncated { stated, have } => {
                write!(f, "it states a header of {stated} bytes, but only {have} follow (an unfinished download?)")
            }
            Damage::Json(problem) => write!(f, "its header is not valid: {problem}"),
            Damage::Duplicate(tensor) => write!(f, "its header lists tensor `{}` twice", shown(tensor)),
            Damage::ShapeOverflow { tensor } => {
                write!(f, "the shape of tensor `{}` is impossibly large", shown(tensor))
            }
            Damage::Backwards { tensor, start, end } => {
                write!(f, "tensor `{}` starts at byte {start} and ends before it, at {end}", shown(tensor))
            }
            Damage::Size { tensor, needed, given } => {
                write!(f, "tensor `{}` needs {needed} bytes for its shape and has {given}", shown(tensor))
            }
            Damage::DataTruncated { needed, have } => {
                write!(f, "its tensors need {needed} bytes, but only {have} are there (an unfinished download?)")
            }
            Damage::Trailing { extra } => write!(f, "{extra} bytes after the last tensor belong to none"),
            Damage::Overlap { first, second } => {
                write!(f, "tensors `{}` and `{}` overlap", shown(first), shown(second))
            }
            Damage::Hole { before, bytes } => {
                write!(f, "{bytes} bytes before tensor `{}` belong to none", shown(before))
            }
            Damage::TooMany { limit } => write!(f, "its header lists more than {limit} tensors"),
            Damage::Zip(problem) => write!(f, "its zip archive is broken: {problem}"),
            Damage::Pickle { at, problem } => write!(f, "its pickle is broken at byte {at}: {problem}"),
            Damage::Tensor { tensor, problem } => write!(f, "tensor `{}` {problem}", shown(tensor)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(shown("\u{1b}[2J\r\n\u{202e}conv_in.weight"), "\\u{1b}[2J\\r\\n\\u{202e}conv_in.weight");
        assert_eq!(shown("blöcke.0.重み `a` \\"), "blöcke.0.重み `a` \\");
        assert_eq!(shown(&"x".repeat(500)).chars().count(), 161);
    }
}
