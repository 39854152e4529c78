//! What can be wrong with an image folder, an image or a caption, in plain words.

use std::io;
use std::path::{Path, PathBuf};

/// Why images or captions could not be read, or a picture not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Nothing at that path.
    #[error("`{}` does not exist", path.display())]
    Missing {
        /// The path asked for.
        path: PathBuf,
    },
    /// A file where a folder is needed.
    #[error("`{}` is not a folder", path.display())]
    NotFolder {
        /// The path.
        path: PathBuf,
    },
    /// Something that is no file.
    #[error("`{}` is {what}, not a file", path.display())]
    NotFile {
        /// The path.
        path: PathBuf,
        /// What it is, with its article.
        what: &'static str,
    },
    /// A link whose target is not there.
    #[error("`{}` is a link to nothing", path.display())]
    DeadLink {
        /// The link.
        path: PathBuf,
    },
    /// Not one of the known formats.
    #[error("`{}` is not a PNG, JPEG, WebP or BMP image{}", path.display(), if *empty { ": it is empty" } else { "" })]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Whether it has no bytes at all.
        empty: bool,
    },
    /// A file that breaks its format.
    #[error("`{}` is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// An image beyond what is decoded.
    #[error("`{}` is too large: {width}×{height} pixels", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
    },
    /// A caption that is not UTF-8.
    #[error("caption `{}` is not UTF-8 text (byte {at})", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// First byte that is not.
        at: usize,
    },
    /// A caption file without text.
    #[error("caption `{}` is empty", path.display())]
    EmptyCaption {
        /// The file.
        path: PathBuf,
    },
    /// Anything the operating system refused.
    #[error("`{}` cannot be {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl ImageError {
    /// Whether the file is there but may not be read by this user.
    pub fn is_denied(&self) -> bool {
        matches!(self, ImageError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }

    pub(crate) fn reading(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound if path.is_symlink() => ImageError::DeadLink { path: path.into() },
            io::ErrorKind::NotFound => ImageError::Missing { path: path.into() },
            io::ErrorKind::NotADirectory => ImageError::NotFolder { path: path.into() },
            io::ErrorKind::UnexpectedEof => ImageError::damaged(path, "it ends too early"),
            _ => ImageError::Io { path: path.into(), action: "read", source },
        }
    }

    pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        ImageError::Damaged { path: path.into(), problem: problem.into() }
    }
}
