//! Progress on a terminal: one bar that is redrawn, with lines above it for what stays true.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pipe_core::plan::seconds_text;
use pipe_core::run::{Artifact, Position, Progress, StepReport};

use super::{Display, LossChange, Meter, locked};
use crate::terminal::Terminal;

/// A bar on standard error.
pub struct Bars {
    terminal: Terminal,
    bar: ProgressBar,
    state: Mutex<State>,
}

struct State {
    meter: Meter,
    stage: Stage,
    /// The latest step, to be shown again after work that came between steps.
    trained: Option<Position>,
}

/// What the bar shows.
enum Stage {
    Nothing,
    /// Work inside a build, with its beginning.
    Work(String, Instant),
    Train,
}

const BUILD: &str = "{spinner} {wide_msg}";
const WORK: &str = "{spinner} {prefix} {bar:20.cyan/dim} {pos}/{len}  {wide_msg}";
const TRAIN: &str = "{prefix} {bar:20.cyan/dim} {pos}/{len}  {wide_msg}";

/// Only work that took this long leaves a line behind.
const WORTH_A_LINE: Duration = Duration::from_secs(1);

/// Columns that a line of training has beside its bar.
fn room(position: &Position) -> usize {
    let (_, columns) = console::Term::stderr().size();
    let counts = format!("train {}/{}   ", position.step, position.total_steps);
    usize::from(columns).saturating_sub(counts.chars().count() + 20)
}

impl Bars {
    pub fn new(terminal: Terminal) -> Bars {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(12));
        let state = State { meter: Meter::default(), stage: Stage::Nothing, trained: None };
        let bars = Bars { terminal, bar, state: Mutex::new(state) };
        bars.style(BUILD);
        bars.bar.enable_steady_tick(Duration::from_millis(120));
        bars
    }

    fn style(&self, template: &str) {
        // The templates are constants, and a wrong one costs the colours only.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style.progress_chars("━╸─"));
    }

    /// Begins a stage. The texts come before the style, which draws them.
    fn show(&self, template: &str, prefix: &str, message: &str, total: u64) {
        self.bar.set_prefix(prefix.to_owned());
        self.bar.set_message(message.to_owned());
        self.bar.set_length(total);
        self.bar.set_position(0);
        self.style(template);
    }

    /// Shows a step.
    fn show_step(&self, state: &mut State, position: &Position) {
        if !matches!(state.stage, Stage::Train) {
            state.stage = Stage::Train;
            self.show(TRAIN, "train", "", position.total_steps);
        }
        self.bar.set_length(position.total_steps);
        self.bar.set_position(position.step);
        self.bar.set_message(state.meter.line_within(room(position)));
    }

    /// Leaves a line for work that is over.
    fn conclude(&self, state: &mut State) {
        if let Stage::Work(what, begun) = &state.stage {
            let (took, total) = (begun.elapsed(), self.bar.length().unwrap_or(0));
            if took >= WORTH_A_LINE {
                let time = self.terminal.paint_err().dim(&seconds_text(took.as_secs_f64()));
                self.bar.println(format!("  {what} {total}/{total}  {time}"));
            }
        }
        state.stage = Stage::Nothing;
    }
}

impl Progress for Bars {
    fn tick(&self, what: &str, done: u64, total: u64) {
        let mut state = locked(&self.state);
        if !matches!(&state.stage, Stage::Work(before, _) if before == what) {
            self.conclude(&mut state);
            state.stage = Stage::Work(what.to_owned(), Instant::now());
            self.show(WORK, what, "", total);
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
        if let (true, Some(position)) = (done >= total, state.trained) {
            self.conclude(&mut state);
            return self.show_step(&mut state, &position);
        }
        let Stage::Work(_, begun) = &state.stage else { return };
        let left = begun.elapsed().as_secs_f64() / done.max(1) as f64 * total.saturating_sub(done) as f64;
        self.bar.set_message(if done > 0 && left >= 1.0 {
            format!("{} left", seconds_text(left))
        } else {
            String::new()
        });
    }
    fn say(&self, line: &str) {
        self.bar.println(format!("  {line}"));
    }
    fn warn(&self, line: &str) {
        self.bar.println(format!("{}: {line}", self.terminal.paint_err().yellow("warning")));
    }
    fn phase(&self, name: &str) {
        let mut state = locked(&self.state);
        self.conclude(&mut state);
        if name == "train" {
            state.stage = Stage::Train;
            self.show(TRAIN, name, "first step", 0);
        } else {
            self.show(BUILD, "", name, 0);
        }
    }
    fn step(&self, position: &Position, report: &StepReport, seconds: f64) {
        let mut state = locked(&self.state);
        state.meter.update(position, report, seconds);
        state.trained = Some(*position);
        self.show_step(&mut state, position);
    }
    fn artifact(&self, artifact: &Artifact) {
        if !artifact.final_result {
            let kind = self.terminal.paint_err().cyan(artifact.kind);
            self.bar.println(format!("  {kind}  {}", artifact.path.display()));
        }
    }
}

impl Display for Bars {
    fn announce(&self, line: &str) {
        self.bar.println(line);
    }
    fn close(&self) {
        self.conclude(&mut locked(&self.state));
        self.bar.finish_and_clear();
    }
    fn loss_change(&self) -> Option<LossChange> {
        locked(&self.state).meter.loss_change()
    }
    fn step_seconds(&self) -> Vec<f64> {
        locked(&self.state).meter.step_seconds()
    }
}
