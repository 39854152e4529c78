//! Files that are whole or not there: temporary name, sync, rename, sync of the folder.
//!
//! Also the run's folder itself, with its lock against two runs. Nodes write their own files
//! through [`atomic_write`] and [`atomic_dir`].

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::run::RunError;

/// Writes a file so that a reader sees the old content or the whole new one, whatever happens.
/// Folders on the way are made.
pub fn atomic_write(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), RunError> {
    let fail = |error: io::Error| RunError::io("write", path, &error);
    let parent = parent(path);
    fs::create_dir_all(parent).map_err(fail)?;
    let temporary = temporary(path);
    let result = (|| {
        let mut file = BufWriter::new(File::create(&temporary)?);
        write(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        drop(file);
        fs::rename(&temporary, path)
    })();
    if let Err(error) = result {
        let _ = fs::remove_file(&temporary);
        return Err(fail(error));
    }
    sync_dir(parent);
    Ok(())
}

/// Fills a new folder under a temporary name and renames it when it is whole. An existing folder
/// of that name is replaced.
pub fn atomic_dir(path: &Path, fill: impl FnOnce(&Path) -> Result<(), RunError>) -> Result<(), RunError> {
    let fail = |error: io::Error| RunError::io("write", path, &error);
    let parent = parent(path);
    let temporary = temporary(path);
    fs::create_dir_all(&temporary).map_err(fail)?;
    let result = fill(&temporary).and_then(|()| {
        sync_tree(&temporary).map_err(fail)?;
        if path.exists() {
            let old = self::temporary(path);
            fs::rename(path, &old).map_err(fail)?;
            fs::rename(&temporary, path).map_err(fail)?;
            let _ = fs::remove_dir_all(&old);
            return Ok(());
        }
        fs::rename(&temporary, path).map_err(fail)
    });
    if result.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    sync_dir(parent);
    result
}

/// Beginning of the names under which savers write for a test what they will need to write at the end.
pub const REHEARSAL: &str = ".rehearsal-";

/// Whether a name is one of a file or folder that was not finished, or only made for a test. All that is written whole
/// or not at all is named so on the way, in other crates too.
pub fn is_temporary(path: &Path) -> bool {
    let of = |name: &str| name.contains(".tmp-") || name.starts_with(REHEARSAL);
    path.file_name().is_some_and(|name| of(&name.to_string_lossy()))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn temporary(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".tmp-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

/// Makes renames in a folder last. Not every system can; the rename itself is atomic anyway.
fn sync_dir(dir: &Path) {
    if let Ok(dir) = File::open(dir) {
        let _ = dir.sync_all();
    }
}

fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path)?.sync_all()?;
        }
    }
    sync_dir(dir);
    Ok(())
}

/// A run's folder, locked for this process until dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: File,
}

/// Name of the resolved pipeline in a run's folder.
pub const LOCK_JSON: &str = "pipeline.lock.json";

impl RunFolder {
    /// Makes and locks a folder. A folder that holds another run is refused unless it is resumed.
    pub fn open(path: &Path, resume: bool) -> Result<RunFolder, RunError> {
        let fail = |error: io::Error| RunError::io("write", path, &error);
        fs::create_dir_all(path).map_err(fail)?;
        let lock = File::create(path.join("run.lock")).map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("another run is writing into `{}`", path.display());
                let help = "wait for it, stop it, or give `output` another folder";
                return Err(RunError::new("P0906", message).help(help));
            }
            // File systems without locks: the folder's own files still tell a second run.
            Err(TryLockError::Error(_)) => {}
        }
        if !resume && holds_run(path) {
            let message = format!("`{}` already holds a run", path.display());
            let help = "continue it with --resume, give `output` another folder, or remove it";
            return Err(RunError::new("P0907", message).help(help));
        }
        Ok(RunFolder { path: path.to_owned(), _lock: lock })
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A run leaves its pipeline first; it counts as a run once there is anything worth keeping.
fn holds_run(path: &Path) -> bool {
    let kept = ["state", "checkpoints", "samples", "events", "metrics.jsonl"];
    path.join(LOCK_JSON).exists() && kept.iter().any(|name| path.join(name).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.txt");
        atomic_write(&path, |file| file.write_all(b"one")).unwrap();
        let error = atomic_write(&path, |file| {
            file.write_all(b"tw")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert_eq!(error.code, "P0903");
        assert!(error.message.contains("the disk is full"), "{}", error.message);
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_folder_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let fill = |dir: &Path| {
            fs::write(dir.join("x"), "x").unwrap();
            Err(RunError::new("P0903", "no"))
        };
        assert!(atomic_dir(&path, fill).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        atomic_dir(&path, |dir| fs::write(dir.join("x"), "1").map_err(|e| RunError::io("write", dir, &e))).unwrap();
        atomic_dir(&path, |dir| fs::write(dir.join("y"), "2").map_err(|e| RunError::io("write", dir, &e))).unwrap();
        assert!(path.join("y").exists() && !path.join("x").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_runs_cannot_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunFolder::open(dir.path(), false).unwrap();
        assert_eq!(RunFolder::open(dir.path(), true).unwrap_err().code, "P0906");
        drop(first);
        RunFolder::open(dir.path(), true).unwrap();
    }
}
