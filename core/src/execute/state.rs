//! Training states on disk: `state/step-00000123/`, the newest two.
//!
//! A state is a folder that the driver fills, with `state.json` saying where it stands and which
//! pipeline it belongs to. It is written under a temporary name, synced and renamed.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::folder::{atomic_dir, is_temporary};
use crate::identity::Identity;
use crate::run::{Driver, Position, RunError};

const FORMAT: u32 = 1;
const KEEP: usize = 2;

/// A saved state.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    pub path: PathBuf,
    pub step: u64,
    pub identity: Identity,
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    pipe: String,
    step: u64,
    total_steps: u64,
    steps_per_epoch: u64,
    identity: Identity,
}

/// Writes the state of a step and removes all but the newest two.
pub(super) fn save(
    folder: &Path,
    identity: &Identity,
    position: &Position,
    driver: &mut dyn Driver,
) -> Result<(), RunError> {
    let path = folder.join("state").join(format!("step-{:08}", position.step));
    atomic_dir(&path, |dir| {
        driver.save_state(dir)?;
        let record = Record {
            format: FORMAT,
            pipe: env!("CARGO_PKG_VERSION").into(),
            step: position.step,
            total_steps: position.total_steps,
            steps_per_epoch: position.steps_per_epoch,
            identity: identity.clone(),
        };
        let text = serde_json::to_string_pretty(&record).map_err(|error| RunError::new("P0903", error.to_string()))?;
        let file = dir.join("state.json");
        fs::write(&file, text).map_err(|error| RunError::io("write", &file, &error))
    })?;
    let mut all = list(folder);
    all.sort();
    for (_, old) in all.iter().rev().skip(KEEP) {
        let _ = fs::remove_dir_all(old);
    }
    Ok(())
}

/// The newest whole state.
pub(super) fn newest(folder: &Path) -> Result<Option<Saved>, RunError> {
    let Some((step, path)) = list(folder).into_iter().max() else { return Ok(None) };
    let damaged = |reason: String| {
        let message = format!("the state `{}` cannot be used: {reason}", path.display());
        RunError::new("P0909", message).help("remove this folder to go on from the state before it")
    };
    let file = path.join("state.json");
    let text = fs::read_to_string(&file).map_err(|error| damaged(crate::document::plain(&error)))?;
    let record: Record = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if record.format != FORMAT || record.step != step {
        return Err(damaged(format!("it was written by pipe {} in another format", record.pipe)));
    }
    Ok(Some(Saved { path, step, identity: record.identity }))
}

/// Removes what an interrupted write left behind.
pub(super) fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder.join("state")).into_iter().flatten().flatten() {
        if is_temporary(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn list(folder: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(folder.join("state")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let step = name.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect()
}
