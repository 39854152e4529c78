//! Why a tokenizer could not be had, in plain words.

use std::path::{Path, PathBuf};

use super::find::TokenizerKind;
use crate::weights::FileError;

/// Why a vocabulary could not be found or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file that cannot be read.
    #[error("`{}` cannot be read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A weight file, looked into for a tokenizer, that is broken.
    #[error(transparent)]
    Weights(#[from] FileError),
    /// A file that is not what it should be.
    #[error("`{}` is not a {what}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What it should be, such as `CLIP vocabulary`.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// No file to be found.
    #[error(
        "no {kind} tokenizer found for `{}`; put the `tokenizer.json` or `tokenizer.model` of the model beside the \
         weights. Looked at: {}",
        weights.display(),
        looked.join("; ")
    )]
    NotFound {
        /// What was looked for.
        kind: TokenizerKind,
        /// The weights it belongs to.
        weights: PathBuf,
        /// Each place that was looked at, and what was there if it was something else.
        looked: Vec<String>,
    },
}

impl TokenizerError {
    pub(super) fn invalid(path: &Path, what: &'static str, problem: impl Into<String>) -> Self {
        TokenizerError::Invalid { path: path.into(), what, problem: problem.into() }
    }
}

/// A file's bytes, if it is of reasonable size.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let failed = |source| TokenizerError::Io { path: path.into(), source };
    let about = std::fs::metadata(path).map_err(failed)?;
    if about.len() > MAX_FILE {
        let many = format!("it has {} bytes, too many for a tokenizer", about.len());
        return Err(failed(std::io::Error::other(many)));
    }
    std::fs::read(path).map_err(failed)
}

/// Longest tokenizer file read; Gemma's are 4 MB (`tokenizer.model`) to 34 MB (`tokenizer.json`).
const MAX_FILE: u64 = 64 << 20;
