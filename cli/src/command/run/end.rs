//! What is said at the end of a run: the results, or where it stopped and how to go on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pipe_core::check::Checked;
use pipe_core::diagnostic::{Format, render};
use pipe_core::execute::{self, Outcome as Ran, Status};
use pipe_core::plan::{bytes_text, seconds_text};
use pipe_core::run::{Artifact, RunError};

use crate::exit::{Exit, Failure};
use crate::machine;
use crate::progress::LossChange;
use crate::terminal::Terminal;
use crate::text::count;

/// What the report needs to know.
pub struct End<'a> {
    pub checked: &'a Checked,
    pub folder: &'a Path,
    /// The command that continues the run.
    pub again: String,
    pub loss: Option<LossChange>,
    pub terminal: &'a Terminal,
}

impl End<'_> {
    /// Of a run that did not fail.
    pub fn of_outcome(&self, ran: &Ran) -> Result<Exit, Failure> {
        let finished = ran.status == Status::Finished;
        let head = if finished { self.done(ran) } else { self.stopped(ran) };
        let mut rows: Vec<(&str, String)> = Vec::new();
        rows.extend(self.loss.map(|change| ("loss", change.to_string())));
        let held_out = ran.artifacts.iter().rev().find(|artifact| artifact.kind == "validation");
        rows.extend(held_out.and_then(|artifact| held_out_loss(&artifact.path)).map(|text| ("held-out loss", text)));
        rows.extend(machine::peak_resident().map(|peak| ("memory", format!("{} at the peak", bytes_text(peak)))));
        rows.extend(results(&ran.artifacts, finished).map(|(kind, path)| (kind, path.display().to_string())));
        rows.extend(ran.remarks.iter().map(|remark| ("note", remark.clone())));
        rows.push(("log", self.folder.join("run.log").display().to_string()));
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let paint = self.terminal.paint();
        let rows = rows.iter().map(|(name, text)| format!("  {}  {text}\n", paint.cyan(&format!("{name:<width$}"))));
        self.terminal.out(&format!("\n{head}\n{}", rows.collect::<String>()))?;
        if finished {
            return Ok(Exit::Done);
        }
        let saved = execute::saved(self.folder).is_some();
        let lead = if saved { "continue with" } else { "start again with" };
        self.terminal.error_text(&format!("{lead}: {}\n", self.terminal.paint_err().bold(&self.again)));
        Ok(if saved { Exit::Interrupted } else { Exit::Unsaved })
    }

    fn done(&self, ran: &Ran) -> String {
        let steps = ran.position.step.saturating_sub(ran.resumed_from.unwrap_or(0));
        if steps == 0 && ran.resumed_from.is_some() {
            let all = count(ran.position.step, "step");
            return format!("{} all {all} were done before; nothing was trained", self.terminal.paint().green("done:"));
        }
        let from = ran.resumed_from.map_or(String::new(), |step| format!(", continued after step {step}"));
        format!(
            "{} {} in {}{from}",
            self.terminal.paint().green("done:"),
            count(steps, "step"),
            seconds_text(ran.seconds)
        )
    }

    fn stopped(&self, ran: &Ran) -> String {
        let (step, total) = (ran.position.step, ran.position.total_steps);
        let at = if step > 0 { format!("after step {step} of {total}") } else { "before the first step".into() };
        let lost =
            if step > 0 || execute::saved(self.folder).is_some() { "nothing is lost" } else { "nothing was saved yet" };
        format!("{} {at}; {lost}", self.terminal.paint().yellow("stopped"))
    }

    /// Of a run that failed.
    pub fn of_failure(&self, error: &RunError) -> Exit {
        let diagnostic = error.diagnostic(self.checked);
        let color = self.terminal.paint_err().on();
        self.terminal.error_text("\n");
        self.terminal.error_text(&render(&[diagnostic], self.checked.files(), Format::Human, color));
        // These say by themselves what stands in the folder.
        if !["P0906", "P0907", "P0908", "P0909"].contains(&error.code) {
            self.terminal.error_text(&self.what_is_left());
        }
        Exit::Failed
    }

    fn what_is_left(&self) -> String {
        let mut out = String::new();
        if let Some(checkpoint) = newest(&self.folder.join("checkpoints")) {
            out.push_str(&format!("last checkpoint: {}\n", checkpoint.display()));
        }
        if let Some(state) = newest(&self.folder.join("state")) {
            out.push_str(&format!("last saved state: {}\n", state.display()));
            out.push_str(&format!("once mended, continue with: {}\n", self.again));
        }
        let log = self.folder.join("run.log");
        if log.exists() {
            out.push_str(&format!("log: {}\n", log.display()));
        }
        out
    }
}

/// Final results, each once; of an interrupted run also the last of each kind that it saved on the way.
fn results(artifacts: &[Artifact], finished: bool) -> impl Iterator<Item = (&'static str, &Path)> {
    let mut last: Vec<(&str, &Path)> = Vec::new();
    for artifact in artifacts.iter().filter(|artifact| artifact.final_result || !finished) {
        last.retain(|(kind, path)| *path != artifact.path && (finished || *kind != artifact.kind));
        last.push((artifact.kind, &artifact.path));
    }
    last.into_iter()
}

/// The first and the last loss that `logger.validation` measured.
fn held_out_loss(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let losses: Vec<f64> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["loss"].as_f64())
        .collect();
    match losses.as_slice() {
        [first, .., last] => Some(LossChange { first: *first, last: *last, steps: 0 }.to_string()),
        _ => None,
    }
}

/// The entry of a folder that was written last and is whole.
fn newest(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    entries.filter(|path| !pipe_core::folder::is_temporary(path) && !hidden(path)).max_by_key(written)
}

/// When an entry was written; of those of one moment the one whose name comes last.
fn written(path: &PathBuf) -> (Option<SystemTime>, PathBuf) {
    (fs::metadata(path).and_then(|about| about.modified()).ok(), path.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_file_is_not_the_last_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for (age, name) in [(30, "t.safetensors"), (20, "t-step00000021.safetensors"), (10, "t-000006.safetensors")] {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        }
        fs::write(dir.path().join(".t.tmp-1-1"), "").unwrap();
        assert!(newest(dir.path()).unwrap().ends_with("t-000006.safetensors"));
    }

    #[test]
    fn results_are_told_once() {
        let of = |kind, path: &str, final_result| Artifact { kind, path: path.into(), final_result };
        let all = [of("lora", "a", false), of("lora", "b", false), of("preview", "p", false), of("lora", "z", true)];
        let told = |finished| results(&all, finished).map(|(_, path)| path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(told(true), ["z"]);
        assert_eq!(told(false), ["p", "z"]);
    }
}
