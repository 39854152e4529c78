//! The life cycle: start or resume, step after step with its listeners, end.

use std::path::Path;
use std::time::Instant;

use super::Status;
use super::build::Nodes;
use super::log::Log;
use super::state::{self, Saved};
use crate::identity::Identity;
use crate::run::{
    AFTER_KEEPING, Artifact, EventCx, Listener, Moment, Position, Progress, Record, RunError, StepReport, StopFlag,
};
use crate::settings::{Every, Settings};

/// Minutes between states when the document says nothing.
const STATE_MINUTES: f64 = 5.0;

/// A listener's call.
type Call = fn(&mut dyn Listener, &mut EventCx) -> Result<(), RunError>;

/// What is called at a moment, in order, each for all listeners of a group.
const CALLS: [Call; 2] = [|listener, cx| listener.on(cx), |listener, cx| listener.after(cx)];

/// A run from its first step to its end.
pub(super) struct Life<'a> {
    nodes: Nodes,
    settings: &'a Settings,
    identity: &'a Identity,
    folder: &'a Path,
    log: Log,
    stop: StopFlag,
    begun: Instant,
    /// When and at which step the latest state was saved.
    saved: (Instant, Option<u64>),
    /// The run went back to an earlier state of its folder.
    goes_back: bool,
    /// Seconds of the steps whose numbers the driver has not given yet.
    clock: Vec<f64>,
    /// Steps that loggers have not heard of.
    records: Vec<Record>,
    /// A stop or a failure cut the events of the latest step short.
    cut: bool,
    pub position: Position,
    pub report: StepReport,
    pub artifacts: Vec<Artifact>,
}

impl<'a> Life<'a> {
    pub(super) fn new(
        nodes: Nodes,
        settings: &'a Settings,
        identity: &'a Identity,
        folder: &'a Path,
        log: Log,
        stop: StopFlag,
        begun: Instant,
    ) -> Self {
        let position = nodes.driver.position();
        let saved = (Instant::now(), None);
        let (clock, records, report, artifacts) = Default::default();
        let (goes_back, cut) = (false, false);
        Life {
            nodes,
            settings,
            identity,
            folder,
            log,
            stop,
            begun,
            saved,
            goes_back,
            clock,
            records,
            cut,
            position,
            report,
            artifacts,
        }
    }

    /// Lives. Listeners hear of the end in every case, also of an end by failure.
    pub(super) fn live(&mut self, from: Option<&Saved>) -> Result<Status, RunError> {
        for (name, value) in self.nodes.driver.describe() {
            self.log.line(&format!("{name}: {value}"));
        }
        let keep = self.settings.train.save_state.keep_last.count;
        let room = state::reserve(self.folder, self.nodes.driver.state_bytes(), self.states(), keep);
        let trained = room.and_then(|()| self.begin(from)).and_then(|()| self.steps());
        let trained = trained.or_else(|error| match error.is_interrupt() {
            true => Ok(Status::Interrupted),
            false => Err(error),
        });
        let lived = trained.and_then(|status| {
            self.settle()?;
            // A stop that was asked for loses nothing, whatever the cadence says.
            if status == Status::Interrupted || self.settings.train.save_state.at_end {
                self.save_state()?;
            }
            Ok(status)
        });
        if self.cut {
            // The continued run tells of this step.
            self.records.clear();
        }
        let ended = self.tell(Moment::End, 0.0);
        let status = lived?;
        ended.map(|()| status)
    }

    fn begin(&mut self, from: Option<&Saved>) -> Result<(), RunError> {
        let Some(saved) = from else { return self.tell(Moment::Start, 0.0) };
        let verified = saved.verify(self.folder);
        self.nodes.driver.load_state(&saved.path).map_err(|error| match error.code {
            // The file itself is bad; other errors say that it does not fit.
            "P0301" | "P0302" | "P0303" => state::unusable(self.folder, &saved.path, saved.step, &error.message),
            _ => error.of(&self.nodes.driver_name),
        })?;
        // A file that cannot be read at all says by itself what is wrong with it.
        verified?;
        self.position = self.nodes.driver.position();
        if self.position.step != saved.step {
            let message = format!("the driver stands at step {} after loading step {}", self.position.step, saved.step);
            return Err(RunError::new("P0909", message).of(&self.nodes.driver_name));
        }
        // A state of another run is not in this folder yet.
        let own = saved.path.parent() == Some(&self.folder.join("state"));
        self.saved = (Instant::now(), own.then_some(saved.step));
        let later = state::forget_after(self.folder, saved.step);
        self.goes_back = later > 0;
        if later > 0 {
            self.log.say(&format!("going back to step {}: {later} later states are removed", saved.step));
        }
        let total = self.position.total_steps;
        self.log.say(&match self.position.is_last() {
            true if saved.step > total => {
                format!(
                    "step {} is done already, and the run now has {total}: nothing to train; `--steps` takes more",
                    saved.step
                )
            }
            true => format!("all {total} steps are done already; `--steps` takes more"),
            false => format!("continuing after step {} of {total}", saved.step),
        });
        self.cut = saved.cut_short.is_some();
        let told = self.tell(Moment::Resume, 0.0);
        let Some(records) = &saved.cut_short else { return told };
        self.report = records.last().map(|record| record.report.clone()).unwrap_or_default();
        self.records = records.clone();
        told?;
        self.log.say(&format!("first what was cut short after step {}", saved.step));
        self.hear(records.last().map_or(0.0, |record| record.seconds), false)
    }

    fn steps(&mut self) -> Result<Status, RunError> {
        self.log.phase("train");
        while !self.position.is_last() {
            if self.stop.is_set() {
                return Ok(Status::Interrupted);
            }
            let (due, clock) = (self.state_is_due(self.position.step + 1), Instant::now());
            let read = due || self.is_read(self.position.step + 1);
            let reports = match self.nodes.driver.step(&self.stop, read) {
                Ok(reports) => reports,
                Err(error) if error.is_interrupt() => return Ok(Status::Interrupted),
                Err(error) => return Err(error.of(&self.nodes.driver_name)),
            };
            let before = self.position.step;
            self.position = self.nodes.driver.position();
            if self.position.step != before + 1 {
                let message = format!("one step led from step {before} to step {}", self.position.step);
                return Err(RunError::new("P0910", message).of(&self.nodes.driver_name));
            }
            let seconds = clock.elapsed().as_secs_f64();
            self.clock.push(seconds);
            self.learn(reports)?;
            self.hear(seconds, due)?;
        }
        Ok(Status::Finished)
    }

    /// Tells the listeners of a step, and saves its state if it is due. It is saved after them, so that a run continued
    /// from it need not repeat them; and in any case when one of them failed or was stopped, since the step is done. The
    /// continued run then begins with them.
    fn hear(&mut self, seconds: f64, due: bool) -> Result<(), RunError> {
        let again = std::mem::take(&mut self.cut);
        let Err(error) = self.tell(Moment::Step, seconds) else {
            if again {
                // The state still says that its events are to come.
                self.saved.1 = None;
            }
            return if due || again { self.save_state() } else { Ok(()) };
        };
        // A loss that is not finite on held-out images says the same of the weights: nothing is saved of them.
        self.cut = error.code != "P0901";
        if !self.cut {
            self.records.clear();
        } else if !error.is_interrupt()
            && let Err(other) = self.settle().and_then(|()| self.save_state())
        {
            self.log.line(&format!("the state of step {} is not saved: {other}", self.position.step));
        }
        Err(error)
    }

    /// Reads what was not read: it may not be finite, and then there is nothing to save.
    fn settle(&mut self) -> Result<(), RunError> {
        let reports = self.nodes.driver.settle().map_err(|error| error.of(&self.nodes.driver_name))?;
        self.learn(reports)
    }

    /// Takes in the reports of steps, the latest of which is the driver's.
    fn learn(&mut self, reports: Vec<StepReport>) -> Result<(), RunError> {
        for report in reports {
            if !report.loss.is_finite() {
                let message = format!("the loss of step {} is {}", report.step, report.loss);
                let help = match report.step {
                    1 => {
                        "nothing was learned before it, so look at the weights and the images: `pipe inspect` reads a file"
                    }
                    _ => "lower the learning rate, or use bf16 or f32; the states and checkpoints before it are whole",
                };
                return Err(RunError::new("P0901", message).help(help).of(&self.nodes.driver_name));
            }
            let seconds = if self.clock.is_empty() { 0.0 } else { self.clock.remove(0) };
            self.log.step(&Position { step: report.step, ..self.position }, &report, seconds);
            self.report = report.clone();
            self.records.push(Record { report, seconds });
        }
        Ok(())
    }

    /// Whether the numbers of a step are read at once: by the cadence, at the end, and where a listener will look at the
    /// weights: nothing may be saved of a run whose numbers are no longer finite.
    fn is_read(&self, step: u64) -> bool {
        let position = Position { step, ..self.position };
        let looks = || self.nodes.listeners.iter().any(|(_, listener)| listener.looks(Moment::Step, position));
        step.is_multiple_of(self.settings.train.read_every.max(1)) || position.is_last() || looks()
    }

    /// How many states the rest of the run will save, if the clock does not decide.
    fn states(&self) -> Option<u64> {
        let Position { step, total_steps, steps_per_epoch } = self.position;
        self.settings.train.save_state.count(step, total_steps, steps_per_epoch)
    }

    /// Whether the state is to be saved after a step. The clock is asked before it.
    fn state_is_due(&self, step: u64) -> bool {
        let cadence = &self.settings.train.save_state;
        let every = Every { steps: cadence.steps, epochs: cadence.epochs };
        let minutes = cadence.minutes.or((!cadence.is_counted()).then_some(STATE_MINUTES));
        Position { step, ..self.position }.due(&every)
            || minutes.is_some_and(|minutes| self.saved.0.elapsed().as_secs_f64() >= minutes * 60.0)
    }

    fn save_state(&mut self) -> Result<(), RunError> {
        let step = self.position.step;
        if step == 0 || self.saved.1 == Some(step) {
            return Ok(());
        }
        for (name, listener) in &mut self.nodes.listeners {
            listener.sync().map_err(|error| error.of(name))?;
        }
        let driver = self.nodes.driver.as_mut();
        let keep = self.settings.train.save_state.keep_last.count;
        let cut_short = self.cut.then_some(self.records.as_slice());
        state::save(self.folder, self.identity, &self.position, driver, keep, cut_short).map_err(
            |error| match error.code {
                // Not the driver's fault: the run's folder takes no more.
                "P0903" => error.at("/output").help("make room; `--resume` then goes on from the state before it"),
                _ => error.of(&self.nodes.driver_name),
            },
        )?;
        self.saved = (Instant::now(), Some(step));
        self.log.line(&format!("saved the state of step {step}"));
        Ok(())
    }

    /// Calls the listeners in their order: those that keep weights, once more when all of them have heard, then the
    /// others likewise. At the end all are called, whatever the first says; after a step those that do not look at the
    /// weights are, unless it is stopped. What was cut short is told anew when the run goes on.
    fn tell(&mut self, moment: Moment, seconds: f64) -> Result<(), RunError> {
        let records = std::mem::take(&mut self.records);
        let looks = self.nodes.listeners.iter().any(|(_, listener)| listener.looks(moment, self.position));
        if looks {
            self.nodes.driver.show();
        }
        let (mut result, mut measured, mut all) = (Ok(()), Vec::new(), Vec::new());
        let keeping = self.nodes.listeners.partition_point(|(_, listener)| listener.priority() < AFTER_KEEPING);
        let count = self.nodes.listeners.len();
        let rounds = [0..keeping, keeping..count].map(|group| CALLS.map(|call| (group.clone(), call)));
        let calls = rounds.into_iter().flatten().flat_map(|(group, call)| group.map(move |at| (at, call)));
        for (at, call) in calls {
            let (name, listener) = &mut self.nodes.listeners[at];
            let looking = moment != Moment::End && listener.looks(moment, self.position);
            if result.is_err() && looking {
                continue;
            }
            let mut made = Vec::new();
            let mut cx = EventCx {
                moment,
                position: self.position,
                report: &self.report,
                seconds,
                records: &records,
                measured: &mut measured,
                made: &all,
                elapsed: self.begun.elapsed().as_secs_f64(),
                goes_back: self.goes_back && moment == Moment::Resume,
                again: self.cut && moment == Moment::Resume,
                stop: &self.stop,
                progress: &self.log,
                folder: self.folder,
                artifacts: &mut made,
            };
            let heard = call(listener.as_mut(), &mut cx);
            for artifact in made {
                self.log.artifact(&artifact);
                self.artifacts.push(artifact.clone());
                all.push(artifact);
            }
            let Err(error) = heard.map_err(|error| error.of(name)) else { continue };
            let stopped = error.is_interrupt();
            let how = if stopped { "stopped".into() } else { format!("failed: {error}") };
            self.log.line(&format!("node `{name}` {how}"));
            if result.is_ok() {
                result = Err(error);
            }
            if stopped || matches!(moment, Moment::Start | Moment::Resume) {
                break;
            }
        }
        if looks {
            self.nodes.driver.hide();
        }
        self.nodes.event_only.iter().for_each(|value| value.unload());
        if result.is_err() && moment == Moment::Step {
            self.records = records;
        }
        result
    }
}
