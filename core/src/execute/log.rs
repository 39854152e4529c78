//! `run.log`, and the progress that nodes tell, which goes to it as well.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::run::{Artifact, Position, Progress, RunError, StepReport};

/// The log of a run and the watcher behind it.
#[derive(Clone)]
pub(super) struct Log(Arc<Inner>);

struct Inner {
    file: Mutex<File>,
    watcher: Arc<dyn Progress>,
}

impl Log {
    pub(super) fn open(folder: &Path, watcher: Arc<dyn Progress>) -> Result<Log, RunError> {
        let path = folder.join("run.log");
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = Mutex::new(file.map_err(|error| RunError::io("write", &path, &error))?);
        Ok(Log(Arc::new(Inner { file, watcher })))
    }
    /// A line of the log alone. A full disk must not stop a run for the sake of its log.
    pub(super) fn line(&self, text: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut file = self.0.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = writeln!(file, "{} {text}", utc(now));
    }
    /// An error with all that belongs to it.
    pub(super) fn failure(&self, when: &str, error: &RunError) {
        self.line(&format!("{when}: {error}"));
        error.log.iter().flat_map(|log| &log.0).for_each(|more| self.line(more));
    }
    pub(super) fn say(&self, text: &str) {
        Progress::say(self, text);
    }
    pub(super) fn progress(&self) -> Arc<dyn Progress> {
        Arc::new(self.clone())
    }
}

impl Progress for Log {
    fn tick(&self, what: &str, done: u64, total: u64) {
        self.0.watcher.tick(what, done, total);
    }
    fn say(&self, line: &str) {
        self.line(line);
        self.0.watcher.say(line);
    }
    fn warn(&self, line: &str) {
        self.line(&format!("warning: {line}"));
        self.0.watcher.warn(line);
    }
    fn phase(&self, name: &str) {
        self.line(name);
        self.0.watcher.phase(name);
    }
    fn step(&self, position: &Position, report: &StepReport, seconds: f64) {
        self.0.watcher.step(position, report, seconds);
    }
    fn artifact(&self, artifact: &Artifact) {
        self.line(&format!("{}: {}", artifact.kind, artifact.path.display()));
        self.0.watcher.artifact(artifact);
    }
}

/// Seconds since 1970 as `2026-01-31T12:00:00Z` (days to date after Howard Hinnant,
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>).
pub(super) fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86400, seconds % 86400);
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest % 3600 / 60, rest % 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates() {
        assert_eq!(super::utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(super::utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(super::utc(1_709_210_096), "2024-02-29T12:34:56Z");
    }
}
