//! Files that are either complete or not there: temporary name, sync, rename, sync of the folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::error::FileError;

/// Removes the temporary file unless it was renamed.
struct Temporary {
    path: PathBuf,
    done: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes a file through `write`; on any failure nothing is left behind and a file of that name stays as it was.
pub fn write_atomic<F>(path: impl AsRef<Path>, write: F) -> Result<(), FileError>
where
    F: FnOnce(&mut dyn Write) -> io::Result<()>,
{
    let path = path.as_ref();
    let failed = |e| FileError::writing(path, e);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if path.is_dir() {
        return Err(FileError::IsFolder { path: path.into() });
    }
    let (file, mut temporary) = create_temporary(path, folder).map_err(failed)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, file);
    write(&mut buffered).map_err(failed)?;
    let file = buffered.into_inner().map_err(|e| failed(e.into_error()))?;
    file.sync_all().map_err(failed)?;
    drop(file);
    fs::rename(&temporary.path, path).map_err(failed)?;
    temporary.done = true;
    sync_folder(folder).map_err(failed)
}

fn create_temporary(path: &Path, folder: &Path) -> io::Result<(File, Temporary)> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name =
        path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"))?;
    // Long names must leave room for the ending within the usual limit of 255 bytes.
    let stem: String = name.to_string_lossy().chars().take(50).collect();
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // `.tmp-` stands for what is not finished in every crate: the next run of a folder sweeps it.
        let path = folder.join(format!(".{stem}.tmp-{}-{count}", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, Temporary { path, done: false })),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

/// Makes a rename durable; systems without folder handles have nothing to sync.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_all_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_atomic(&path, |w| {
            let name = fs::read_dir(folder.path())?.next().unwrap()?.file_name();
            assert!(name.to_str().unwrap().starts_with(".a.bin.tmp-"), "{name:?}");
            w.write_all(b"first")
        })
        .unwrap();
        let error = write_atomic(&path, |w| {
            w.write_all(b"second")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert!(matches!(error, Err(FileError::DiskFull { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(matches!(write_atomic(folder.path(), |_| Ok(())), Err(FileError::IsFolder { .. })));
        let nowhere = write_atomic(folder.path().join("no/such/a.bin"), |_| Ok(()));
        assert!(matches!(nowhere, Err(FileError::Missing { .. } | FileError::Io { .. })));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_apart() {
        let error = FileError::writing(Path::new("x"), File::create("/dev/full").unwrap().write_all(b"x").unwrap_err());
        assert!(matches!(error, FileError::DiskFull { .. }), "{error}");
    }
}
