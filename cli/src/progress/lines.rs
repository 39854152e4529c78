//! Progress where lines cannot be redrawn: plain lines, at intervals that grow with the run.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use pipe_core::run::{Artifact, Position, Progress, StepReport};

use super::{Display, LossChange, Meter, locked};
use crate::terminal::Terminal;

/// Plain lines on standard error; with `--quiet` warnings only.
#[derive(Debug)]
pub struct Lines {
    terminal: Terminal,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    begun: Instant,
    meter: Meter,
    /// When a step was last printed.
    printed: Option<Instant>,
    /// The work of the last tick, and when it was last printed.
    work: Option<(String, Instant)>,
    /// Steps are made: what comes between them is told only where it takes long.
    training: bool,
}

impl Lines {
    pub fn new(terminal: Terminal) -> Lines {
        let state =
            State { begun: Instant::now(), meter: Meter::default(), printed: None, work: None, training: false };
        Lines { terminal, state: Mutex::new(state) }
    }
}

/// Time between two lines: 5 s in the first minute, 30 s in the first hour, then 2 min.
fn interval(since_begin: Duration) -> Duration {
    Duration::from_secs(match since_begin.as_secs() {
        0..60 => 5,
        60..3600 => 30,
        _ => 120,
    })
}

impl Progress for Lines {
    fn tick(&self, what: &str, done: u64, total: u64) {
        let mut state = locked(&self.state);
        let pause = interval(state.begun.elapsed());
        let due = match &state.work {
            Some((before, printed)) if before == what && done > 0 => {
                printed.elapsed() >= pause || (done >= total && !state.training)
            }
            _ if state.training => {
                state.work = Some((what.to_owned(), Instant::now()));
                false
            }
            _ => true,
        };
        if due {
            state.work = Some((what.to_owned(), Instant::now()));
            self.terminal.note(&format!("{what} {done}/{total}"));
        }
    }
    fn say(&self, line: &str) {
        self.terminal.note(line);
    }
    fn warn(&self, line: &str) {
        self.terminal.warn(line);
    }
    fn phase(&self, name: &str) {
        let mut state = locked(&self.state);
        (state.work, state.training) = (None, name == "train");
        self.terminal.note(name);
    }
    fn step(&self, position: &Position, report: &StepReport, seconds: f64) {
        let mut state = locked(&self.state);
        state.meter.update(position, report, seconds);
        let pause = interval(state.begun.elapsed());
        if position.is_last() || state.printed.is_none_or(|printed| printed.elapsed() >= pause) {
            state.printed = Some(Instant::now());
            let line = format!("step {}/{}  {}", position.step, position.total_steps, state.meter.line());
            self.terminal.note(&line);
        }
    }
    fn artifact(&self, artifact: &Artifact) {
        if !artifact.final_result {
            self.terminal.note(&format!("{} written: {}", artifact.kind, artifact.path.display()));
        }
    }
}

impl Display for Lines {
    fn announce(&self, line: &str) {
        self.terminal.note(line);
    }
    fn close(&self) {}
    fn loss_change(&self) -> Option<LossChange> {
        locked(&self.state).meter.loss_change()
    }
    fn step_seconds(&self) -> Vec<f64> {
        locked(&self.state).meter.step_seconds()
    }
}
