//! What is said when a run really begins: its summary, and what may be too little.
//!
//! A run that is refused (another run's folder, a state that does not fit) should not be announced first.

use std::sync::{Arc, Mutex};

use pipe_core::run::{Artifact, Position, Progress, StepReport};

use super::{Display, locked};

/// Passes everything on, after the opening lines at the first phase.
pub struct Opening {
    display: Arc<dyn Display>,
    lines: Mutex<Option<(String, Vec<String>)>>,
}

impl Opening {
    /// A watcher that announces `summary` and `warnings` once.
    pub fn new(display: Arc<dyn Display>, summary: String, warnings: Vec<String>) -> Opening {
        Opening { display, lines: Mutex::new(Some((summary, warnings))) }
    }
}

impl Progress for Opening {
    fn tick(&self, what: &str, done: u64, total: u64) {
        self.display.tick(what, done, total);
    }
    fn say(&self, line: &str) {
        self.display.say(line);
    }
    fn warn(&self, line: &str) {
        self.display.warn(line);
    }
    fn phase(&self, name: &str) {
        if let Some((summary, warnings)) = locked(&self.lines).take() {
            self.display.announce(&summary);
            warnings.iter().for_each(|warning| self.display.warn(warning));
        }
        self.display.phase(name);
    }
    fn step(&self, position: &Position, report: &StepReport, seconds: f64) {
        self.display.step(position, report, seconds);
    }
    fn artifact(&self, artifact: &Artifact) {
        self.display.artifact(artifact);
    }
}
