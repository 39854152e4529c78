//! Training states on disk: `state/step-00000123/`, the newest ones.
//!
//! A state is a folder that the driver fills, with `state.json` saying where it stands and which
//! pipeline it belongs to. It is written under a temporary name, synced and renamed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::folder::{atomic_dir, is_temporary};
use crate::identity::Identity;
use crate::run::{Driver, Position, Record as StepRecord, RunError};

const FORMAT: u32 = 1;
/// Name of what says where a state stands.
const RECORD: &str = "state.json";

/// A saved state.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    pub path: PathBuf,
    pub step: u64,
    /// All steps of the run that saved it.
    pub total_steps: u64,
    pub identity: Identity,
    /// Hashes of its files by name; those of an earlier version have none.
    files: BTreeMap<String, String>,
    /// The events of its step were cut short by a stop or a failure: the steps that are still to be told.
    pub cut_short: Option<Vec<StepRecord>>,
}

impl Saved {
    /// The folder of the run that it is of.
    pub fn run(&self) -> &Path {
        self.path.parent().and_then(Path::parent).unwrap_or(&self.path)
    }
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    pipe: String,
    step: u64,
    total_steps: u64,
    steps_per_epoch: u64,
    identity: Identity,
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cut_short: Option<Vec<StepRecord>>,
}

impl Saved {
    /// Refuses a state whose files are not those that were written, bit for bit.
    pub fn verify(&self, folder: &Path) -> Result<(), RunError> {
        let damaged = |reason: &str| unusable(folder, &self.path, self.step, reason);
        let now = hashes(&self.path).map_err(|error| damaged(&crate::document::plain(&error)))?;
        match self.files.iter().find(|(name, hash)| now.get(*name) != Some(*hash)) {
            Some((name, _)) => Err(damaged(&format!("its file `{name}` is damaged"))),
            None => Ok(()),
        }
    }
}

/// BLAKE3 of the files of a folder by name, without `state.json`, which holds them.
fn hashes(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_file() && name != RECORD {
            let mut hasher = blake3::Hasher::new();
            io::copy(&mut io::BufReader::with_capacity(1 << 20, fs::File::open(&path)?), &mut hasher)?;
            found.insert(name, hasher.finalize().to_hex().to_string());
        }
    }
    Ok(found)
}

/// Writes the state of a step and removes all but the newest `keep`. `cut_short` are the steps that listeners have not
/// heard of, where the events of this step were cut short.
pub(super) fn save(
    folder: &Path,
    identity: &Identity,
    position: &Position,
    driver: &mut dyn Driver,
    keep: u64,
    cut_short: Option<&[StepRecord]>,
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
            files: hashes(dir).map_err(|error| RunError::io("read", dir, &error))?,
            cut_short: cut_short.map(<[StepRecord]>::to_vec),
        };
        let text = serde_json::to_string_pretty(&record).map_err(|error| RunError::new("P0903", error.to_string()))?;
        let file = dir.join(RECORD);
        fs::write(&file, text).map_err(|error| RunError::io("write", &file, &error))
    })?;
    let mut all = list(folder);
    all.sort();
    for (_, old) in all.iter().rev().skip(keep as usize) {
        let _ = fs::remove_dir_all(old);
    }
    Ok(())
}

/// Sees that the disk has room for the states of a run, by taking it for a moment: a run that could not save its
/// state later fails before its first step.
///
/// `total` is the number of states the run will write, if known. `keep` of them are kept and one is written beside
/// them; states that are there already have their room.
pub(super) fn reserve(folder: &Path, bytes: u64, total: Option<u64>, keep: u64) -> Result<(), RunError> {
    let wanted = total.unwrap_or(keep + 1).min(keep + 1);
    let count = wanted.saturating_sub(list(folder).len() as u64);
    if bytes == 0 || count == 0 {
        return Ok(());
    }
    let paths: Vec<PathBuf> =
        (0..count).map(|n| folder.join(format!(".room.tmp-{}-{n}", std::process::id()))).collect();
    let taken = paths.iter().try_for_each(|path| fs::File::create(path).and_then(|file| allocate(&file, bytes)));
    paths.iter().for_each(|path| drop(fs::remove_file(path)));
    taken.map_err(|error| {
        let text = crate::plan::bytes_text;
        let message = format!(
            "there is no room for the training state in `{}`: {} at a time, {} in all: {}",
            folder.display(),
            text(bytes),
            text(bytes.saturating_mul(count)),
            crate::document::plain(&error)
        );
        let help = "make room, give `output` a folder on a larger disk, or keep fewer states: `train.save_state` with \
                    `keep_last: { count: 1 }`";
        RunError::new("P0903", message).help(help)
    })
}

/// Takes room on the disk for a file, for real: not a hole that fills up later.
fn allocate(file: &fs::File, bytes: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::io::Errno;
        let taken =
            rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes));
        match taken {
            Ok(()) => return Ok(()),
            // File systems that cannot: the bytes are written instead.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (mut file, piece) = (file, vec![0u8; 1 << 20]);
    let mut left = bytes;
    while left > 0 {
        let now = left.min(piece.len() as u64);
        file.write_all(&piece[..now as usize])?;
        left -= now;
    }
    file.sync_all()
}

/// The newest whole state.
pub(super) fn newest(folder: &Path) -> Result<Option<Saved>, RunError> {
    match list(folder).into_iter().max() {
        Some((step, path)) => open(folder, step, path).map(Some),
        None => Ok(None),
    }
}

/// The state in a folder that the document names.
pub(super) fn named(folder: &Path, path: PathBuf) -> Result<Saved, RunError> {
    let step = step_of(&path).ok_or_else(|| {
        let message = format!("`{}` is no saved state: its name is not `step-` and a number", path.display());
        RunError::new("P0909", message).at("/train.resume")
    })?;
    open(folder, step, path).map_err(|error| error.at("/train.resume"))
}

/// Removes the states after a step that a run goes back to; gives how many there were.
pub(super) fn forget_after(folder: &Path, step: u64) -> usize {
    let later = list(folder).into_iter().filter(|(other, _)| *other > step);
    later.filter(|(_, path)| fs::remove_dir_all(path).is_ok()).count()
}

fn open(folder: &Path, step: u64, path: PathBuf) -> Result<Saved, RunError> {
    let damaged = |reason: String| unusable(folder, &path, step, &reason);
    let file = path.join(RECORD);
    let text = fs::read_to_string(&file).map_err(|error| damaged(crate::document::plain(&error)))?;
    let record: Record = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if record.format != FORMAT || record.step != step {
        return Err(damaged(format!("it was written by pipe {} in another format", record.pipe)));
    }
    Ok(Saved {
        path,
        step,
        total_steps: record.total_steps,
        identity: record.identity,
        files: record.files,
        cut_short: record.cut_short,
    })
}

/// A state that cannot be used, and the one to go on from instead.
pub(super) fn unusable(folder: &Path, path: &Path, step: u64, reason: &str) -> RunError {
    let message = format!("the state of step {step} cannot be used: {reason}");
    let older = list(folder).into_iter().filter(|(other, _)| *other < step).max();
    let help = match older {
        Some((older, _)) => format!("remove `{}` and resume again: the state of step {older} is kept", path.display()),
        None => format!("there is no older state; remove `{}` and start anew", path.display()),
    };
    RunError::new("P0909", message).help(help)
}

/// Removes what an interrupted write left behind: in the run's folder and in those of its states, checkpoints and
/// pictures.
pub(super) fn sweep(folder: &Path) {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let mut places = vec![folder.to_owned(), folder.join("state"), folder.join("checkpoints")];
    places.extend(entries(&folder.join("samples")).into_iter().filter(|path| path.is_dir()));
    for path in places.iter().flat_map(|place| entries(place)).filter(|path| is_temporary(path)) {
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
}

fn list(folder: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(folder.join("state")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let path = entry.path();
            Some((step_of(&path)?, path))
        })
        .collect()
}

/// The step of a state's folder, by its name.
fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_states_is_taken_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        reserve(dir.path(), 1 << 20, None, 2).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        // More than any disk has, or any file may be.
        let error = reserve(dir.path(), 1 << 62, None, 2).unwrap_err();
        assert_eq!(error.code, "P0903");
        assert!(error.message.contains("no room for the training state"), "{}", error.message);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        // Nothing will be saved, or as much is there as is ever kept.
        reserve(dir.path(), 1 << 62, Some(0), 2).unwrap();
        for step in 1..=3 {
            fs::create_dir_all(dir.path().join(format!("state/step-{step:08}"))).unwrap();
        }
        reserve(dir.path(), 1 << 62, None, 2).unwrap();
        assert!(reserve(dir.path(), 1 << 61, None, 3).is_err(), "a fourth would be written");
        assert_eq!(forget_after(dir.path(), 2), 1);
        assert!(newest(dir.path()).unwrap_err().message.contains("step 2"));
    }

    #[test]
    fn a_state_that_cannot_be_used_names_the_one_before_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("state/step-00000008")).unwrap();
        assert!(newest(dir.path()).unwrap_err().help.unwrap().contains("there is no older state"));
        fs::create_dir_all(dir.path().join("state/step-00000004")).unwrap();
        let error = newest(dir.path()).unwrap_err();
        assert_eq!(error.code, "P0909");
        let help = error.help.unwrap();
        assert!(help.contains("step-00000008` and resume again: the state of step 4 is kept"), "{help}");
    }

    #[test]
    fn what_was_not_finished_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("state/step-00000004.tmp-1-1")).unwrap();
        fs::write(dir.path().join(".room.tmp-1-0"), "x").unwrap();
        fs::write(dir.path().join("run.log"), "x").unwrap();
        for path in
            ["checkpoints/t.tmp-1-2/unet/x", "checkpoints/.rehearsal-t/x", "samples/a/.b.png.tmp-1-3", "samples/a/b"]
        {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        sweep(dir.path());
        for (folder, left) in [("state", 0), ("checkpoints", 0), ("samples/a", 1)] {
            assert_eq!(fs::read_dir(dir.path().join(folder)).unwrap().count(), left, "{folder}");
        }
        assert!(!dir.path().join(".room.tmp-1-0").exists() && dir.path().join("run.log").exists());
    }
}
