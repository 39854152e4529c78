//! When a saver fires, what its files are called, and which old ones go.

use std::path::{Path, PathBuf};

use pipe_core::folder::REHEARSAL;
use pipe_core::node::CheckCx;
use pipe_core::plan::NodePlan;
use pipe_core::run::{EventCx, Moment, Position, Progress};
use pipe_core::settings::Every;

use super::best;
use super::files::KeepLast;
use super::names::{Field, Template};

/// The two cadences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cadence {
    Epochs,
    Steps,
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
    /// Names of files saved by epochs.
    pub epoch: Template,
    /// Names of files saved by steps.
    pub step: Template,
    /// Name of the file at the end.
    pub last: Template,
}

/// A file to write now, or to tell of when it is there.
pub struct Due {
    /// Where.
    pub path: PathBuf,
    /// It is the run's result.
    pub is_final: bool,
    cadence: Option<Cadence>,
}

impl Due {
    /// Whether it was written by the run that is resumed.
    pub fn is_there(&self, moment: Moment) -> bool {
        moment == Moment::Resume && self.path.exists()
    }
}

impl Plan {
    /// Templates that overwrite their own files, or that a file of the other cadence could be of; and what is written.
    pub fn check(&self, cx: &mut CheckCx) {
        let mut used: Vec<(&str, &Template)> = vec![("final", &self.last)];
        let cadences = [
            ("epoch", self.every.epochs, &self.epoch, "`{epoch}` or `{step}`"),
            ("step", self.every.steps, &self.step, "`{step}`"),
        ];
        let mut sound = true;
        for (field, _, template, wanted) in cadences.into_iter().filter(|(_, every, ..)| every.is_some()) {
            let counts = template.has(Field::Step) || (field == "epoch" && template.has(Field::Epoch));
            if !counts {
                let message = format!("every file would have the name of the one before; put {wanted} into it");
                cx.error("P0403", &format!("file_names.{field}"), message, None);
                sound = false;
            }
            used.push((field, template));
        }
        for (i, (field, template)) in used.iter().enumerate().filter(|_| sound) {
            if let Some((other, _)) = used[..i].iter().find(|(_, other)| other.meets(template)) {
                let message =
                    format!("files of `file_names.{field}` could have the names of those of `file_names.{other}`");
                let help = "make them differ by a letter, such as `{name}-step{step}`";
                cx.error("P0403", &format!("file_names.{field}"), message, Some(help.into()));
            }
        }
        // The name of the best weights is no template, and any other of the saver's names could be the same.
        let best = Template::parse(&best::stem(&self.name), &self.name).ok().filter(|_| best::is_kept(cx.inputs));
        for (field, _) in used.iter().filter(|(_, template)| best.as_ref().is_some_and(|best| best.meets(template))) {
            let message = format!("files of `file_names.{field}` could have the name of the best weights");
            let help = format!("`keep_best` writes `{}`: give the others another name", best::stem(&self.name));
            cx.error("P0403", &format!("file_names.{field}"), message, Some(help));
        }
        for (field, template) in used {
            let place = if field == "final" { "name".to_owned() } else { format!("file_names.{field}") };
            cx.will_write(&place, Path::new("checkpoints").join(template.written() + self.extension));
        }
    }

    /// Files due at a moment: the final one at the end of a finished run, others by cadence.
    pub fn due(&self, moment: Moment, position: Position, folder: &Path) -> Vec<Due> {
        let (epoch, step) = (position.epochs_done(), position.step);
        let at = |template: &Template, cadence: Option<Cadence>| Due {
            path: folder.join("checkpoints").join(template.text(epoch, step) + self.extension),
            is_final: cadence.is_none(),
            cadence,
        };
        let mut list = Vec::new();
        match moment {
            Moment::Step | Moment::Resume if !position.is_last() => {
                let by_steps = Every { epochs: None, ..self.every.clone() };
                let by_epochs = Every { steps: None, ..self.every.clone() };
                if position.due(&by_steps) {
                    list.push(at(&self.step, Some(Cadence::Steps)));
                }
                if position.due(&by_epochs) {
                    list.push(at(&self.epoch, Some(Cadence::Epochs)));
                }
            }
            // A finished run that is resumed has its result already; it is told again, or made again if it is gone.
            Moment::Step | Moment::Resume => list.push(at(&self.last, None)),
            _ => {}
        }
        if moment == Moment::Resume && !position.is_last() {
            // A run that ended here, or whose disk was full, has no file of a moment that is one of the middle now.
            list.retain(|due| !due.path.exists());
        }
        list
    }

    /// Says that the result of a run that goes on beyond its end will be written over, unless this moment's file holds
    /// the same.
    pub fn goes_on(&self, cx: &EventCx) {
        let due = |at: &Every| cx.position.due(at);
        let path = cx.folder.join("checkpoints").join(self.last.text(0, 0) + self.extension);
        let named = self.last.has(Field::Epoch) || self.last.has(Field::Step);
        if !cx.position.is_last() && !named && path.exists() && !due(&self.every) {
            let path = path.display();
            cx.progress.say(&format!("`{path}` is of an earlier end of this run; the new end replaces it"));
        }
    }

    /// The file that a rehearsal writes and removes.
    pub fn rehearsal(&self, folder: &Path) -> PathBuf {
        folder.join("checkpoints").join(format!("{REHEARSAL}{}{}", self.name, self.extension))
    }

    /// Files of a cadence that are kept.
    fn kept(&self, cadence: Cadence) -> Option<u64> {
        let keep = self.keep_last?;
        keep.count.or(match cadence {
            Cadence::Epochs => keep.epoch_files,
            Cadence::Steps => keep.step_files,
        })
    }

    /// The files of a cadence in a folder, with the epoch and step in their names, in that order.
    fn files(&self, cadence: Cadence, folder: &Path) -> Vec<((u64, u64), PathBuf)> {
        let template = match cadence {
            Cadence::Epochs => &self.epoch,
            Cadence::Steps => &self.step,
        };
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let mine = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let stem = path.file_name()?.to_str()?.strip_suffix(self.extension)?;
            Some((template.read(stem)?, path))
        });
        let mut mine: Vec<((u64, u64), PathBuf)> = mine.collect();
        mine.sort();
        mine
    }

    /// Deletes the oldest files of the cadence of one that was written, beyond the number kept. A file of a later
    /// moment, which a stopped run left, does not count.
    pub fn prune(&self, written: &Due) {
        let Some(cadence) = written.cadence else { return };
        let (Some(keep), Some(folder)) = (self.kept(cadence), written.path.parent()) else { return };
        let mut mine = self.files(cadence, folder);
        mine.truncate(mine.iter().position(|(_, path)| *path == written.path).map_or(mine.len(), |at| at + 1));
        let extra = mine.len().saturating_sub(keep as usize);
        mine[..extra].iter().for_each(|(_, old)| remove(old));
    }

    /// Deletes the files of what came after a moment to which the run goes back: so many.
    pub fn forget_after(&self, position: Position, folder: &Path) -> usize {
        let mut count = 0;
        for cadence in [Cadence::Epochs, Cadence::Steps] {
            let files = self.files(cadence, &folder.join("checkpoints"));
            let later = files
                .into_iter()
                .filter(|((epoch, step), _)| *step > position.step || (*step == 0 && *epoch > position.epochs_done()));
            later.for_each(|(_, path)| {
                remove(&path);
                count += 1;
            });
        }
        count
    }

    /// As [`Plan::forget_after`], and says so.
    pub fn go_back(&self, cx: &EventCx, progress: &dyn Progress) {
        match self.forget_after(cx.position, cx.folder) {
            0 => {}
            1 => progress.say(&format!("a file of `{}` from a later moment is removed", self.name)),
            count => progress.say(&format!("{count} files of `{}` from later moments are removed", self.name)),
        }
    }

    /// How many files are written in the middle of a run, and how many of them are kept.
    pub fn between(&self, total: u64, per_epoch: u64) -> Between {
        let last = total.saturating_sub(1);
        let by = |every: Option<u64>, steps: u64| every.map_or(0, |n| last / n.saturating_mul(steps).max(1));
        let (steps, epochs) = (by(self.every.steps, 1), by(self.every.epochs, per_epoch.max(1)));
        let kept = |cadence, written: u64| self.kept(cadence).map_or(written, |keep| keep.min(written));
        Between { written: steps + epochs, kept: kept(Cadence::Steps, steps) + kept(Cadence::Epochs, epochs) }
    }
}

/// Deletes a file or folder; one that is already gone is no problem.
fn remove(path: &Path) {
    drop(if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) });
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

#[cfg(test)]
mod tests {
    use pipe_core::settings::Settings;

    use super::super::files::Files;
    use super::*;

    fn plan(fields: serde_json::Value) -> Plan {
        let files: Files = serde_json::from_value(fields).unwrap();
        let settings: Settings = serde_json::from_value(serde_json::json!({ "version": 1, "name": "cat" })).unwrap();
        files.plan(&settings, ".safetensors")
    }

    #[test]
    fn files_from_the_middle_are_counted() {
        let of = |fields| {
            let between = plan(fields).between(100, 10);
            (between.written, between.kept)
        };
        assert_eq!(of(serde_json::json!({})), (0, 0));
        // At step 100 the final file is written instead.
        assert_eq!(of(serde_json::json!({ "every": { "steps": 25 } })), (3, 3));
        assert_eq!(of(serde_json::json!({ "every": { "epochs": 2 } })), (4, 4));
        let every = serde_json::json!({ "steps": 25, "epochs": 2 });
        assert_eq!(of(serde_json::json!({ "every": every, "keep_last": { "count": 2 } })), (7, 4));
        assert_eq!(of(serde_json::json!({ "every": every, "keep_last": { "step_files": 1 } })), (7, 5));
        assert_eq!(
            of(serde_json::json!({ "every": every, "keep_last": { "step_files": 1, "epoch_files": 3 } })),
            (7, 4)
        );
        let plan = Between { written: 7, kept: 2 }.disk(10);
        assert_eq!((plan.disk, plan.disk_passing, plan.event_count), (30, 10, 8));
        assert_eq!(Between { written: 2, kept: 2 }.disk(10).disk_passing, 0);
    }

    /// Both cadences over a run of 24 steps of 4 an epoch, with everything that is on disk after it.
    fn after_a_run(plan: &Plan) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("checkpoints")).unwrap();
        for step in 1..=24 {
            let position = Position { step, total_steps: 24, steps_per_epoch: 4 };
            for due in plan.due(Moment::Step, position, dir.path()) {
                std::fs::write(&due.path, "").unwrap();
                plan.prune(&due);
            }
        }
        let entries = std::fs::read_dir(dir.path().join("checkpoints")).unwrap();
        let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut names: Vec<String> = entries.map(|entry| stem(&entry.unwrap().path())).collect();
        names.sort();
        names
    }

    #[test]
    fn going_back_drops_what_came_after() {
        let plan = plan(serde_json::json!({ "every": { "steps": 1, "epochs": 1 }, "keep_last": { "step_files": 2 } }));
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("checkpoints");
        std::fs::create_dir(&folder).unwrap();
        let names = || {
            let mut names: Vec<String> =
                std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let position = |step| Position { step, total_steps: 10, steps_per_epoch: 3 };
        let write = |step| {
            for due in plan.due(Moment::Step, position(step), dir.path()) {
                std::fs::write(&due.path, "").unwrap();
                plan.prune(&due);
            }
        };
        (1..=9).for_each(write);
        let epochs = ["cat-000001.safetensors", "cat-000002.safetensors", "cat-000003.safetensors"];
        assert_eq!(names(), [&epochs[..], &["cat-step00000008.safetensors", "cat-step00000009.safetensors"]].concat());
        // A run that was killed and goes on: the files of later steps are good, and never in place of the one written.
        write(5);
        assert!(names().contains(&"cat-step00000005.safetensors".to_owned()), "{:?}", names());
        assert_eq!(plan.forget_after(position(4), dir.path()), 5);
        assert_eq!(names(), ["cat-000001.safetensors"]);
        [5, 6].into_iter().for_each(write);
        let steps = ["cat-step00000005.safetensors", "cat-step00000006.safetensors"];
        assert_eq!(names(), [&epochs[..2], &steps[..]].concat());
    }

    #[test]
    fn a_run_that_goes_on_writes_what_is_missing_of_its_moment() {
        let plan = plan(serde_json::json!({ "every": { "steps": 4 } }));
        let dir = tempfile::tempdir().unwrap();
        let of = |step, total_steps| {
            let position = Position { step, total_steps, steps_per_epoch: 3 };
            plan.due(Moment::Resume, position, dir.path())
        };
        let due = of(8, 12);
        assert!(due.len() == 1 && due[0].path.ends_with("checkpoints/cat-step00000008.safetensors"));
        std::fs::create_dir(dir.path().join("checkpoints")).unwrap();
        std::fs::write(&due[0].path, "").unwrap();
        assert!(of(8, 12).is_empty() && of(9, 12).is_empty());
        assert!(of(8, 8)[0].is_final);
    }

    #[test]
    fn cadences_are_independent_and_counted_apart() {
        let every = serde_json::json!({ "steps": 10, "epochs": 2 });
        assert_eq!(
            after_a_run(&plan(serde_json::json!({ "every": every }))),
            ["cat", "cat-000002", "cat-000004", "cat-step00000010", "cat-step00000020"]
        );
        assert_eq!(
            after_a_run(&plan(serde_json::json!({ "every": every, "keep_last": { "count": 1 } }))),
            ["cat", "cat-000004", "cat-step00000020"]
        );
        assert_eq!(
            after_a_run(&plan(serde_json::json!({ "every": every, "keep_last": { "step_files": 1 } }))),
            ["cat", "cat-000002", "cat-000004", "cat-step00000020"]
        );
        // Old files are found by number, not by letters: 5 is before 10.
        let names = serde_json::json!({ "step": "{name}-s{step}", "epoch": "e{epoch}_{name}", "final": "{name}-last" });
        let every = serde_json::json!({ "steps": 5, "epochs": 1 });
        assert_eq!(
            after_a_run(&plan(serde_json::json!({ "every": every, "file_names": names,
                "keep_last": { "step_files": 3, "epoch_files": 2 } }))),
            ["cat-last", "cat-s10", "cat-s15", "cat-s20", "e4_cat", "e5_cat"]
        );
    }
}
