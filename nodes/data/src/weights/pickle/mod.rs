//! Torch checkpoints (`.ckpt`, `.pt`, `.pth`, `.bin`), read without running anything of them.
//!
//! A pickle is a program for a small stack machine that may name any function of the reader's process. Here the machine
//! makes numbers, texts, containers and descriptions of tensors and nothing else; the few names that checkpoints need
//! are on a list ([`globals`]), and a file with any other is refused by that name. Both forms of `torch.save` are read:
//! the zip of torch 1.6 and later ([`zip`]) and the row of pickles before it ([`legacy`]).
//!
//! Nothing is allocated by a number the file states. Texts stay slices of the file, tensors stay where they are in it,
//! and what the machine builds is counted against the limits below; a file at all of them takes less than 200 MB.
//!
//! Format: `torch/serialization.py`, `pickletools.py` of CPython, and PKWARE's APPNOTE 6.3 for the zip.

mod globals;
mod legacy;
mod machine;
mod state;
mod value;
mod view;
mod zip;

use std::collections::HashMap;
use std::path::Path;

use super::error::{Damage, FileError};
use super::header::Header;
pub(crate) use view::gather;

/// Longest pickle; that of Stable Diffusion 1 with optimizer state has 2 MB.
const MAX_PICKLE: usize = 32 << 20;
/// Longest text or bytes value.
const MAX_TEXT: usize = 1 << 20;
/// Values on the stack.
const MAX_STACK: usize = 1 << 19;
/// Numbered values.
const MAX_MEMO: usize = 1 << 19;
/// Containers that are open at a time.
const MAX_OPEN: usize = 1000;
/// Containers and tensors.
const MAX_NODES: usize = 1 << 18;
/// Values in all containers together.
const MAX_ITEMS: usize = 1 << 20;
/// Members of a zip.
const MAX_MEMBERS: usize = 1 << 17;
/// Dimensions of a tensor.
const MAX_DIMENSIONS: usize = 64;
/// A view with more elements than its storage, as `expand` makes it, may have up to this many bytes.
const MAX_EXPANDED: usize = 16 << 20;

/// What a checkpoint holds.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Its tensors; `start` is the place of the first element in the file.
    pub header: Header,
    /// Steps between neighbours in elements, outermost first, of the tensors that are not contiguous.
    pub strides: HashMap<String, Vec<usize>>,
}

/// Whether these first bytes are those of a zip archive.
pub(crate) fn is_zip(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06")
}

/// Whether these first bytes are those of a pickle.
pub(crate) fn is_pickle(head: &[u8]) -> bool {
    matches!(head, [0x80, 2..=5, ..])
}

/// Finds the tensors of a checkpoint; `path` is for messages.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Contents, FileError> {
    let contents = if is_zip(bytes) { zip::read(bytes) } else { legacy::read(bytes) };
    contents.map_err(|problem| problem.of(path))
}

/// Why a checkpoint is refused.
#[derive(Debug)]
enum Problem {
    /// It names something that is not on the list.
    Forbidden(String),
    /// The zip is broken.
    Zip(String),
    /// The pickle is broken.
    Pickle {
        at: usize,
        problem: String,
    },
    /// A tensor does not fit the data.
    Tensor {
        tensor: String,
        problem: String,
    },
    Unsupported(String),
}

impl Problem {
    fn of(self, path: &Path) -> FileError {
        let path = path.to_path_buf();
        let damage = match self {
            Problem::Forbidden(global) => return FileError::Forbidden { path, global },
            Problem::Unsupported(problem) => return FileError::Unsupported { path, problem },
            Problem::Zip(problem) => Damage::Zip(problem),
            Problem::Pickle { at, problem } => Damage::Pickle { at, problem },
            Problem::Tensor { tensor, problem } => Damage::Tensor { tensor, problem },
        };
        FileError::Damaged { path, damage }
    }
}

/// A name from the file, fit for a message.
fn shown(name: &str) -> String {
    const LONGEST: usize = 100;
    let mut text: String = name.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if name.chars().nth(LONGEST).is_some() {
        text.push('…');
    }
    text
}
