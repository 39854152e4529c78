//! Errors of files and weights as a run reports them.

use pipe_core::run::RunError;
use pipe_data::weights::FileError;
use pipe_networks::{SizesError, WeightsError};

/// Code of a file error.
pub fn file_code(error: &FileError) -> &'static str {
    match error {
        FileError::Missing { .. } => "P0301",
        FileError::NoScale { .. } => "P0304",
        FileError::Damaged { .. } | FileError::BadJson { .. } => "P0303",
        // What was to be written is no number: see `write::tensor_out`.
        FileError::Io { action: "written", source, .. } if source.kind() == std::io::ErrorKind::InvalidData => "P0901",
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

/// What to do where what was learned is no number.
pub const NO_NUMBERS: &str = "the files before it are whole: go on from an earlier state with a lower `learning_rate`, or look at the file that the training began with";
const ROOM: &str = "free some space, then continue with `--resume`";

/// A file that could not be written, with the help that fits what went wrong: room, or anything else.
pub fn write_error(error: &FileError) -> RunError {
    let help = match error {
        FileError::DiskFull { .. } => ROOM,
        FileError::Io { source, .. } if source.kind() == std::io::ErrorKind::FileTooLarge => ROOM,
        error if file_code(error) == "P0901" => NO_NUMBERS,
        FileError::BadTensors { .. } => {
            "two parts of the model would be written under one name, or one of them has no such layout; save them apart"
        }
        _ => "see that the run's folder can be written, then continue with `--resume`",
    };
    file_error(error, "").help(help)
}

/// Code of a weights error.
pub fn weights_code(error: &WeightsError) -> &'static str {
    match error {
        WeightsError::File(error) => file_code(error),
        WeightsError::Missing { .. } | WeightsError::Unexpected(_) => "P0304",
        WeightsError::Shape { .. } => "P0305",
        WeightsError::NotANumber(_) => "P0303",
    }
}

/// Code and message of sizes that cannot be read from a file.
pub fn sizes(error: SizesError) -> (&'static str, String) {
    let code = match error {
        SizesError::Missing(_) => "P0304",
        SizesError::Odd(_) => "P0305",
    };
    (code, error.to_string())
}

/// A weights error as a run error at `weights`.
pub fn weights_error(error: WeightsError) -> RunError {
    RunError::new(weights_code(&error), error.to_string()).at("weights")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_is_for_what_went_wrong() {
        let help = |error: &FileError| write_error(error).help.unwrap();
        let clash = FileError::BadTensors { path: "a".into(), problem: "two tensors are named `x`".into() };
        assert!(help(&clash).contains("one name") && !help(&clash).contains("space"));
        assert!(help(&FileError::DiskFull { path: "a".into() }).contains("free some space"));
    }
}
