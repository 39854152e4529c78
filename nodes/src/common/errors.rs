//! Errors of files and weights as a run reports them.

use pipe_core::run::RunError;
use pipe_data::weights::FileError;
use pipe_networks::WeightsError;

/// Code of a file error.
pub fn file_code(error: &FileError) -> &'static str {
    match error {
        FileError::Missing { .. } => "P0301",
        FileError::Damaged { .. } | FileError::BadJson { .. } => "P0303",
        FileError::DiskFull { .. } | FileError::BadTensors { .. } | FileError::Io { action: "written", .. } => "P0903",
        _ => "P0302",
    }
}

/// Whether a file is there but may not be read by this user.
pub fn is_denied(error: &FileError) -> bool {
    matches!(error, FileError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied)
}

/// A file error as a run error at `field`.
pub fn file_error(error: &FileError, field: &str) -> RunError {
    RunError::new(file_code(error), error.to_string()).at(field)
}

/// Code of a weights error.
pub fn weights_code(error: &WeightsError) -> &'static str {
    match error {
        WeightsError::File(error) => file_code(error),
        WeightsError::Missing(_) | WeightsError::Unexpected(_) => "P0304",
        WeightsError::Shape { .. } => "P0305",
    }
}

/// A weights error as a run error at `weights`.
pub fn weights_error(error: WeightsError) -> RunError {
    RunError::new(weights_code(&error), error.to_string()).at("weights")
}
