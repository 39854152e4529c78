//! Why a tool could not do its work.

use std::fmt;
use std::path::{Path, PathBuf};

use pipe_core::run::RunError;
use pipe_data::weights::FileError;
use pipe_data::weights::keymap::PlanError;

/// A failure with its code, the file to blame and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolError {
    /// Code of the table that `pipe explain` prints.
    pub code: &'static str,
    /// What is wrong; no final period.
    pub message: String,
    /// The file it is wrong with.
    pub place: Option<PathBuf>,
    /// How to mend it.
    pub help: Option<String>,
}

/// What a tool returns.
pub type Result<T, E = ToolError> = std::result::Result<T, E>;

impl ToolError {
    /// With code and message.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        ToolError { code, message: message.into(), place: None, help: None }
    }

    /// At a file.
    pub fn at(self, place: &Path) -> Self {
        ToolError { place: Some(place.into()), ..self }
    }

    /// With a fix.
    pub fn help(self, help: impl Into<String>) -> Self {
        ToolError { help: Some(help.into()), ..self }
    }
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ToolError {}

impl From<FileError> for ToolError {
    fn from(error: FileError) -> Self {
        let message = error.to_string();
        let new = |code| ToolError::new(code, message.clone());
        match &error {
            FileError::Missing { .. } => new("P0301"),
            FileError::Damaged { .. } | FileError::BadJson { .. } | FileError::BadIndex { .. } => {
                new("P0303").help("get the file again and compare its size")
            }
            FileError::WrongShape { .. } => new("P0305"),
            FileError::NoTensor { .. } => new("P0304"),
            FileError::DiskFull { .. } => new("P0903").help("make room and run the command again"),
            FileError::BadTensors { .. } | FileError::Io { action: "written", .. } => new("P0903"),
            _ => new("P0302").help("`pipe inspect` shows what the file is"),
        }
    }
}

impl From<RunError> for ToolError {
    fn from(error: RunError) -> Self {
        ToolError { code: error.code, message: error.message, place: None, help: error.help }
    }
}

impl From<PlanError> for ToolError {
    fn from(error: PlanError) -> Self {
        let code = match &error {
            PlanError::NoPart { .. } => "P0401",
            PlanError::Missing { .. } => "P0304",
            PlanError::Unknown { .. } => "P0320",
            PlanError::Shape { .. } => "P0305",
        };
        ToolError::new(code, error.to_string())
    }
}

/// The first names of a list, and how many more.
pub(crate) fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = names.iter().take(SHOWN).map(|n| format!("`{}`", n.escape_debug())).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
