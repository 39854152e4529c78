//! Files that a set-up names: configurations, prompts, folders of images.

use std::io;
use std::path::{Path, PathBuf};

/// Access to files by the paths a set-up uses.
pub trait Files {
    /// Text of a file.
    fn read(&self, path: &str) -> io::Result<String>;
    /// Names of the folders directly inside a folder.
    fn folders(&self, path: &str) -> io::Result<Vec<String>>;
}

/// Files on this machine.
#[derive(Clone, Debug)]
pub struct Disk {
    base: PathBuf,
}

/// Largest file that is read.
const LIMIT: u64 = 8 << 20;

impl Disk {
    /// Relative paths start from this folder.
    pub fn at(base: impl Into<PathBuf>) -> Disk {
        Disk { base: base.into() }
    }
}

impl Files for Disk {
    fn read(&self, path: &str) -> io::Result<String> {
        let path = self.base.join(path);
        let about = std::fs::metadata(&path)?;
        if !about.is_file() || about.len() > LIMIT {
            return Err(io::Error::other("it is no text file of at most 8 MiB"));
        }
        std::fs::read_to_string(path)
    }

    fn folders(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.base.join(Path::new(path)))? {
            let entry = entry?;
            if entry.path().is_dir() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort();
        Ok(names)
    }
}

/// No files at all: what is named but not given stays unread, and the report says so.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl Files for Nothing {
    fn read(&self, _: &str) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn folders(&self, _: &str) -> io::Result<Vec<String>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// An error of reading in plain words.
pub(crate) fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::InvalidData => "it is not UTF-8 text".into(),
        _ => error.to_string(),
    }
}
