//! Savers: write what was learnt.

pub mod adapter;
pub mod checkpoint;
pub mod metadata;

use std::path::{Path, PathBuf};

use pipe_core::run::{Moment, Position, RunError};
use pipe_core::settings::Every;
use pipe_data::weights::DType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Element type of a saved file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SaveType {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats: the usual choice, read everywhere.
    #[default]
    F16,
    /// bfloat16.
    Bf16,
}

impl SaveType {
    /// The file's element type.
    pub fn dtype(self) -> DType {
        match self {
            SaveType::F32 => DType::F32,
            SaveType::F16 => DType::F16,
            SaveType::Bf16 => DType::BF16,
        }
    }
}

/// How many files from the middle of the run are kept.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
pub struct KeepLast {
    /// Number of files; older ones are deleted. The final file is never counted.
    #[schemars(range(min = 1, max = 100000))]
    pub count: u64,
}

/// When a saver fires, what the file is called, and which old ones go.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Base name.
    pub name: String,
    /// Cadence.
    pub every: Every,
    /// Retention.
    pub keep_last: Option<KeepLast>,
    /// `.safetensors`, or empty for folders.
    pub extension: &'static str,
}

/// A file to write now.
pub struct Due {
    /// Where.
    pub path: PathBuf,
    /// It is the run's result.
    pub is_final: bool,
}

impl Plan {
    /// Files due at a moment: the final one at the end of a finished run, others by cadence.
    /// Names follow the field's custom: `name-000003` of an epoch, `name-step00000100` of a step.
    pub fn due(&self, moment: Moment, position: Position, folder: &Path) -> Vec<Due> {
        let at =
            |stem: String, is_final| Due { path: folder.join("checkpoints").join(stem + self.extension), is_final };
        let mut list = Vec::new();
        match moment {
            Moment::Step if !position.is_last() => {
                let by_steps = Every { epochs: None, ..self.every.clone() };
                let by_epochs = Every { steps: None, ..self.every.clone() };
                if position.due(&by_steps) {
                    list.push(at(format!("{}-step{:08}", self.name, position.step), false));
                }
                if position.due(&by_epochs) {
                    list.push(at(format!("{}-{:06}", self.name, position.epochs_done()), false));
                }
            }
            Moment::Step => list.push(at(self.name.clone(), true)),
            _ => {}
        }
        list
    }

    /// Deletes the oldest files of the same cadence beyond the number kept.
    pub fn prune(&self, written: &Path) {
        let Some(keep) = self.keep_last else { return };
        let (Some(folder), Some(name)) = (written.parent(), written.file_name().and_then(|n| n.to_str())) else {
            return;
        };
        let stepwise = name.contains("-step");
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        let mut mine: Vec<PathBuf> = entries
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| {
                let stem = p.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(self.extension));
                let rest = stem.and_then(|s| s.strip_prefix(&self.name)).and_then(|s| s.strip_prefix('-'));
                rest.is_some_and(|r| match r.strip_prefix("step") {
                    Some(digits) => stepwise && digits.bytes().all(|b| b.is_ascii_digit()),
                    None => !stepwise && r.len() == 6 && r.bytes().all(|b| b.is_ascii_digit()),
                })
            })
            .collect();
        mine.sort();
        let extra = mine.len().saturating_sub(keep.count as usize);
        for old in &mine[..extra] {
            let removed = if old.is_dir() { std::fs::remove_dir_all(old) } else { std::fs::remove_file(old) };
            drop(removed); // a file that is already gone is no problem
        }
    }
}

/// Makes the folder of a file.
pub fn make_folder(path: &Path) -> Result<(), RunError> {
    match path.parent() {
        Some(parent) => std::fs::create_dir_all(parent)
            .map_err(|e| RunError::new("P0903", format!("cannot make the folder `{}`: {e}", parent.display()))),
        None => Ok(()),
    }
}
