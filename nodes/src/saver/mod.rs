//! Savers: write what was learnt.

pub mod adapter;
pub mod best;
pub mod cadence;
pub mod checkpoint;
mod datasets;
pub mod describe;
pub mod files;
mod held_out;
pub mod metadata;
mod names;
mod parts;
mod range;
mod whole;
mod words;

use std::path::Path;

use pipe_core::run::RunError;

/// Makes the folder of a file.
pub fn make_folder(path: &Path) -> Result<(), RunError> {
    match path.parent() {
        Some(parent) => std::fs::create_dir_all(parent)
            .map_err(|e| RunError::new("P0903", format!("cannot make the folder `{}`: {e}", parent.display()))),
        None => Ok(()),
    }
}
