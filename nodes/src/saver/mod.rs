//! Savers: write what was learnt.

pub mod adapter;
pub mod best;
pub mod checkpoint;
pub mod metadata;
mod parts;

use std::path::{Path, PathBuf};

use pipe_core::plan::NodePlan;
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

/// How many files a saver writes in the middle of a run, and how many of them are kept at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between {
    /// Written.
    pub written: u64,
    /// Kept.
    pub kept: u64,
}

impl Between {
    /// Of a cadence, in a run of `total` steps with `per_epoch` of them in an epoch.
    pub fn of(every: &Every, keep: Option<KeepLast>, total: u64, per_epoch: u64) -> Self {
        let last = total.saturating_sub(1);
        let by = |every: Option<u64>, steps: u64| every.map_or(0, |n| last / n.saturating_mul(steps).max(1));
        let (steps, epochs) = (by(every.steps, 1), by(every.epochs, per_epoch.max(1)));
        // Files of the two cadences are counted apart when old ones go.
        let kept = |written: u64| keep.map_or(written, |keep| keep.count.min(written));
        Between { written: steps + epochs, kept: kept(steps) + kept(epochs) }
    }

    /// The plan of files of `size` bytes: those that are there at the end, and the one beside them before an old one goes.
    pub fn disk(&self, size: u64) -> NodePlan {
        let passing = if self.kept < self.written { size } else { 0 };
        NodePlan {
            disk: size * (self.kept + 1),
            disk_passing: passing,
            event_count: self.written + 1,
            ..Default::default()
        }
    }
}

/// A file to write now, or to tell of when it is there.
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
            // A finished run that is resumed has its result already; it is told again, or made again if it is gone.
            Moment::Resume if position.is_last() => list.push(at(self.name.clone(), true)),
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

impl Due {
    /// Whether it was written by the run that is resumed.
    pub fn is_there(&self, moment: Moment) -> bool {
        moment == Moment::Resume && self.path.exists()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_from_the_middle_are_counted() {
        let every = |steps, epochs| Every { steps, epochs };
        let of = |every: Every, keep: Option<u64>| {
            let between = Between::of(&every, keep.map(|count| KeepLast { count }), 100, 10);
            (between.written, between.kept)
        };
        assert_eq!(of(every(None, None), None), (0, 0));
        // At step 100 the final file is written instead.
        assert_eq!(of(every(Some(25), None), None), (3, 3));
        assert_eq!(of(every(None, Some(2)), None), (4, 4));
        assert_eq!(of(every(Some(25), Some(2)), Some(2)), (7, 4));
        let plan = Between { written: 7, kept: 2 }.disk(10);
        assert_eq!((plan.disk, plan.disk_passing, plan.event_count), (30, 10, 8));
        assert_eq!(Between { written: 2, kept: 2 }.disk(10).disk_passing, 0);
    }
}
