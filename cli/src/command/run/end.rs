//! What is said at the end of a run: the results, or where it stopped and how to go on.

use std::fs;
use std::path::{Path, PathBuf};

use pipe_core::check::Checked;
use pipe_core::diagnostic::{Format, render};
use pipe_core::execute::{Outcome as Ran, Status};
use pipe_core::plan::{bytes_text, seconds_text};
use pipe_core::run::{Artifact, RunError};

use crate::exit::{Exit, Failure};
use crate::machine;
use crate::progress::{LossChange, number};
use crate::terminal::Terminal;

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
        let paint = self.terminal.paint();
        let mut out = String::new();
        let position = ran.position;
        let begun = ran.resumed_from.unwrap_or(0);
        let steps = position.step.saturating_sub(begun);
        match ran.status {
            Status::Finished => {
                let from = ran.resumed_from.map_or(String::new(), |step| format!(", continued after step {step}"));
                let time = seconds_text(ran.seconds);
                out.push_str(&format!("\n{} {steps} steps in {time}{from}\n", paint.green("done:")));
            }
            Status::Interrupted => {
                let (step, total) = (position.step, position.total_steps);
                let at =
                    if total > 0 { format!("after step {step} of {total}") } else { "before the first step".into() };
                out.push_str(&format!("\n{} {at}; nothing is lost\n", paint.yellow("stopped")));
            }
        }
        if let Some(change) = self.loss.filter(|_| steps > 1) {
            out.push_str(&loss_line(&change));
        }
        if let Some(peak) = machine::peak_resident() {
            out.push_str(&format!("memory   {} at the peak\n", bytes_text(peak)));
        }
        out.push_str(&self.results(&ran.artifacts, ran.status == Status::Finished));
        self.terminal.out(&out)?;
        if ran.status == Status::Finished {
            return Ok(Exit::Done);
        }
        self.terminal.error_text(&format!("continue with: {}\n", self.terminal.paint_err().bold(&self.again)));
        Ok(Exit::Interrupted)
    }

    /// Final results, each once; of an interrupted run also what it saved on the way.
    fn results(&self, artifacts: &[Artifact], finished: bool) -> String {
        let mut last: Vec<(&str, &Path)> = Vec::new();
        for artifact in artifacts.iter().filter(|artifact| artifact.final_result || !finished) {
            let place = (artifact.kind, artifact.path.as_path());
            last.retain(|(kind, path)| *path != place.1 && (finished || *kind != place.0));
            last.push(place);
        }
        let log = self.folder.join("run.log");
        last.push(("log", &log));
        let width = last.iter().map(|(kind, _)| kind.len()).max().unwrap_or(0).max(7);
        let paint = self.terminal.paint();
        let lines =
            last.iter().map(|(kind, path)| format!("{}  {}\n", paint.cyan(&format!("{kind:<width$}")), path.display()));
        lines.collect()
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

fn loss_line(change: &LossChange) -> String {
    let LossChange { first, last, steps } = *change;
    let percent = (last / first - 1.0) * 100.0;
    let over =
        if steps == 1 { "first and last step".into() } else { format!("means of the first and last {steps} steps") };
    format!("loss     {} → {} ({percent:+.0} %; {over})\n", number(first), number(last))
}

/// The entry of a folder whose name comes last and that is whole.
fn newest(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    entries.filter(|path| !pipe_core::folder::is_temporary(path)).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_in_words() {
        let change = LossChange { first: 0.2, last: 0.15, steps: 40 };
        assert_eq!(loss_line(&change), "loss     0.2000 → 0.1500 (-25 %; means of the first and last 40 steps)\n");
    }
}
