//! The run's life cycle as nodes see it: building values, the driver that steps, the listeners
//! that save, preview and log.
//!
//! Owns the contract between nodes and the executor ([`crate::execute`]). Knows no tensor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::node::SharedValue;
use crate::settings::Settings;

/// Why a run stopped.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct RunError {
    /// Stable code.
    pub code: &'static str,
    /// Message without final period.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
    /// Field of the node that is to blame, if one is.
    pub field: String,
    /// Node to blame; filled in by the executor.
    pub node: Option<String>,
    /// More that is worth keeping, for the run's log alone. Boxed: every result carries the size of its error.
    pub log: Option<Box<LogLines>>,
}

/// Lines for the run's log.
#[derive(Clone, Debug, Default)]
pub struct LogLines(pub Vec<String>);

impl RunError {
    /// A new error.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        RunError { code, message: message.into(), help: None, field: String::new(), node: None, log: None }
    }
    /// With a fix.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
    /// With a line for the run's log.
    pub fn logged(mut self, line: impl Into<String>) -> Self {
        self.log.get_or_insert_default().0.push(line.into());
        self
    }
    /// At a field of the node. With a leading `/` a path from the document's root, such as `/output`.
    pub fn at(mut self, field: &str) -> Self {
        self.field = field.into();
        self
    }
    /// Of a node, unless one is named already.
    pub fn of(mut self, node: &str) -> Self {
        self.node.get_or_insert_with(|| node.to_owned());
        self
    }
    /// A file that could not be read or written.
    pub fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        let message = format!("cannot {action} `{}`: {}", path.display(), crate::document::plain(error));
        RunError::new("P0903", message)
    }
    /// At the place of the node and field to blame.
    pub fn diagnostic(&self, checked: &crate::check::Checked) -> crate::diagnostic::Diagnostic {
        let span = match (self.field.strip_prefix('/'), &self.node) {
            (Some(path), _) => checked.span_at(&[path, "name"]),
            // The run's own folder, which `output` or `name` gives.
            (None, None) if matches!(self.code, "P0903" | "P0906" | "P0907") => checked.span_at(&["output", "name"]),
            (None, node) => checked.span_of(node.as_deref().unwrap_or_default(), &self.field),
        };
        let message = match &self.node {
            Some(node) if !self.message.contains(&format!("`{node}`")) => format!("node `{node}`: {}", self.message),
            _ => self.message.clone(),
        };
        let diagnostic = crate::diagnostic::Diagnostic::error(self.code, span, message);
        match &self.help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        }
    }
    /// True for the clean stop after Ctrl-C.
    pub fn is_interrupt(&self) -> bool {
        self.code == INTERRUPTED
    }
    /// The error that a driver or a listener returns when the stop flag was seen.
    pub fn interrupted() -> Self {
        RunError::new(INTERRUPTED, "interrupted")
    }
}

/// Code of a clean stop.
pub const INTERRUPTED: &str = "P0900";

/// Set by Ctrl-C; drivers and listeners look at it between forward passes.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<Stop>);

#[derive(Debug, Default)]
struct Stop {
    set: AtomicBool,
    /// Looks until the flag sets itself; 0 for never.
    looks: AtomicU64,
}

impl StopFlag {
    /// Asks the run to stop.
    pub fn set(&self) {
        self.0.set.store(true, Ordering::SeqCst);
    }
    /// Asks the run to stop where the flag is looked at for the n-th time from now, so that a stop at a chosen place,
    /// such as between two forward passes of a step, can be tested.
    pub fn set_after(&self, looks: u64) {
        self.0.looks.store(looks, Ordering::SeqCst);
    }
    /// Whether it was asked.
    pub fn is_set(&self) -> bool {
        let count = |looks: u64| looks.checked_sub(1);
        if self.0.looks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count) == Ok(1) {
            self.set();
        }
        self.0.set.load(Ordering::SeqCst)
    }
}

/// Where the run stands: everything is derived from the number of optimizer steps done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Position {
    /// Optimizer steps done.
    pub step: u64,
    /// All optimizer steps of the run.
    pub total_steps: u64,
    /// Optimizer steps of one epoch.
    pub steps_per_epoch: u64,
}

impl Position {
    /// Finished epochs.
    pub fn epochs_done(&self) -> u64 {
        self.step / self.steps_per_epoch.max(1)
    }
    /// True when the last step done closed an epoch.
    pub fn at_epoch_end(&self) -> bool {
        self.step > 0 && self.step.is_multiple_of(self.steps_per_epoch.max(1))
    }
    /// True at the end of the run.
    pub fn is_last(&self) -> bool {
        self.step >= self.total_steps
    }
    /// Whether `every` fires here (never at step 0).
    pub fn due(&self, every: &crate::settings::Every) -> bool {
        let by_steps = every.steps.is_some_and(|n| self.step > 0 && self.step.is_multiple_of(n.max(1)));
        let by_epochs =
            every.epochs.is_some_and(|n| self.at_epoch_end() && self.epochs_done().is_multiple_of(n.max(1)));
        by_steps || by_epochs
    }
}

/// What one optimizer step reports. `loss` is the mean over the step's forward passes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step, from 1.
    pub step: u64,
    /// Loss before weighting by accumulation.
    pub loss: f64,
    /// Named numbers for the loggers, in order: `lr_unet`, `grad_norm`, ….
    pub values: Vec<(String, f64)>,
    /// Images seen in this step.
    pub samples: u64,
}

/// A finished step as loggers write it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its numbers.
    pub report: StepReport,
    /// Seconds it took.
    pub seconds: f64,
}

/// A number that a listener measured, for those that come after it at the same moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// What it is: `validation_loss`.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// It belongs to a whole epoch.
    pub of_epoch: bool,
}

/// The node that drives the run: an optimizer.
pub trait Driver: Send {
    /// Where the run stands.
    fn position(&self) -> Position;
    /// One optimizer step. Between forward passes it looks at `stop` and returns
    /// [`RunError::interrupted`] with the partial step dropped. With `read` it gives the reports of this step and of all
    /// that were not read before; without, it may leave its numbers on the device and give none.
    fn step(&mut self, stop: &StopFlag, read: bool) -> Result<Vec<StepReport>, RunError>;
    /// Reports of the steps that are not read yet.
    fn settle(&mut self) -> Result<Vec<StepReport>, RunError> {
        Ok(Vec::new())
    }
    /// Writes everything a continued run needs into the empty folder `dir`.
    fn save_state(&mut self, dir: &Path) -> Result<(), RunError>;
    /// Restores what [`Driver::save_state`] wrote.
    fn load_state(&mut self, dir: &Path) -> Result<(), RunError>;
    /// Bytes of what [`Driver::save_state`] writes in the middle of the run, to see at its start that there is room.
    fn state_bytes(&self) -> u64 {
        0
    }
    /// Puts the weights that events are to see (averages) in place of those that learn. [`Driver::hide`] follows.
    fn show(&mut self) {}
    /// Puts the weights that learn back, to the bit.
    fn hide(&mut self) {}
    /// Node-independent facts for the run's log: number of trainable parameters, device, ….
    fn describe(&self) -> Vec<(String, String)>;
}

/// Why a listener is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the first step of a fresh run: rehearse what will be needed at the end.
    Start,
    /// Continuing from a state: drop what lies after it.
    Resume,
    /// After every optimizer step.
    Step,
    /// After the last step, also when the run is interrupted or fails.
    End,
}

/// What a listener is called with.
pub struct EventCx<'a> {
    /// Why.
    pub moment: Moment,
    /// Where the run stands.
    pub position: Position,
    /// Report of the latest step (default at `Start` and `Resume`).
    pub report: &'a StepReport,
    /// Seconds of the latest step.
    pub seconds: f64,
    /// Steps whose numbers became known since the last moment, in order. Loggers write them, whatever the moment is.
    pub records: &'a [Record],
    /// Numbers that listeners before this one measured at this moment; one that measures adds its own.
    pub measured: &'a mut Vec<Measure>,
    /// Files that listeners before this one made at this moment.
    pub made: &'a [Artifact],
    /// Seconds since this process began the run.
    pub elapsed: f64,
    /// The run goes back to an earlier state: files of what came after it are of no run any more. At `Resume` alone.
    pub goes_back: bool,
    /// A stop or a failure cut the events of this step short, and they follow anew: what was told of it is dropped too. At `Resume`
    /// alone.
    pub again: bool,
    /// Set by Ctrl-C. Who draws or measures looks at it between forward passes and returns [`RunError::interrupted`].
    pub stop: &'a StopFlag,
    /// Where to tell progress of long work.
    pub progress: &'a dyn Progress,
    /// The run's folder.
    pub folder: &'a Path,
    /// Lines and files to tell the user.
    pub artifacts: &'a mut Vec<Artifact>,
}

impl EventCx<'_> {
    /// The last step of which everything was told. At `Resume` loggers drop what lies behind it.
    pub fn told(&self) -> u64 {
        self.position.step.saturating_sub(u64::from(self.again))
    }
}

/// A file the run made, told to the user as it appears and again at the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// `lora`, `checkpoint`, `preview`, `metrics`.
    pub kind: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// True when it is a final result to list at the end.
    pub final_result: bool,
}

/// Priority from which on listeners come after all that keeps weights.
pub const AFTER_KEEPING: u32 = 10;

/// A node that acts on events: savers, samplers, loggers.
pub trait Listener: Send {
    /// Order among listeners at one moment: savers 0, then what measures 5, then samplers 10 ([`AFTER_KEEPING`]), then
    /// loggers 20: a preview that fails loses no weights.
    fn priority(&self) -> u32;
    /// Whether it will look at the weights when it is called now. Where none does, the driver need not show averages.
    fn looks(&self, _moment: Moment, _position: Position) -> bool {
        true
    }
    /// Called at every moment; decides by itself whether it is due. After a listener that failed only those are called
    /// that do not look at the weights: the numbers of a step are told in any case.
    fn on(&mut self, cx: &mut EventCx) -> Result<(), RunError>;
    /// Called once all listeners below [`AFTER_KEEPING`], or all above it, have heard of the moment: what depends on a
    /// measurement made at it. The weights are those that the listeners saw.
    fn after(&mut self, _cx: &mut EventCx) -> Result<(), RunError> {
        Ok(())
    }
    /// Makes what was appended to files last. Called before a state is saved: a run that goes on from it relies on them.
    fn sync(&mut self) -> Result<(), RunError> {
        Ok(())
    }
}

/// Progress of long work inside a build or an event, told to whoever watches the run.
pub trait Progress: Send + Sync {
    /// `done` of `total` of `what` (`encode latents`).
    fn tick(&self, what: &str, done: u64, total: u64);
    /// A line worth reading.
    fn say(&self, line: &str);
    /// A warning.
    fn warn(&self, line: &str);
    /// A node begins to be built, or training begins.
    fn phase(&self, _name: &str) {}
    /// An optimizer step is done.
    fn step(&self, _position: &Position, _report: &StepReport, _seconds: f64) {}
    /// A file appeared.
    fn artifact(&self, _artifact: &Artifact) {}
}

/// Context of a node's build.
pub struct BuildCx<'a> {
    /// The node's name in the document.
    pub name: &'a str,
    /// Run-wide settings.
    pub settings: &'a Settings,
    /// Folder that relative paths start from.
    pub base_dir: &'a Path,
    /// The run's folder.
    pub folder: &'a Path,
    /// Values of the inputs: of those marked early for [`crate::node::Node::prepare`], of the others for `build`.
    pub inputs: BTreeMap<&'static str, Vec<SharedValue>>,
    /// What [`crate::node::Node::prepare`] gave.
    pub prepared: Option<SharedValue>,
    /// What the check made known of the inputs.
    pub facts: &'a crate::node::InputFacts,
    /// Where to tell progress.
    pub progress: Arc<dyn Progress>,
    /// Set by Ctrl-C.
    pub stop: StopFlag,
}

impl BuildCx<'_> {
    /// Resolves a path of the document.
    pub fn path(&self, text: &str) -> PathBuf {
        crate::node::resolve(self.base_dir, text)
    }
    /// All values of a port.
    pub fn values(&self, port: &str) -> &[SharedValue] {
        self.inputs.get(port).map_or(&[], Vec::as_slice)
    }
    /// Values of a port, downcast.
    pub fn typed<T: 'static>(&self, port: &str) -> Result<Vec<&T>, RunError> {
        self.values(port)
            .iter()
            .map(|v| {
                v.as_any().downcast_ref::<T>().ok_or_else(|| {
                    RunError::new("P0902", format!("input `{port}` carries another kind of value than expected"))
                        .at(port)
                })
            })
            .collect()
    }
    /// The single value of a required port, downcast.
    pub fn one<T: 'static>(&self, port: &str) -> Result<&T, RunError> {
        self.typed::<T>(port)?
            .into_iter()
            .next()
            .ok_or_else(|| RunError::new("P0902", format!("input `{port}` is not filled")).at(port))
    }
}

/// What a build gives.
#[derive(Default)]
pub struct Built {
    /// One value an output port, in order.
    pub outputs: Vec<SharedValue>,
    /// The run's driver, from the optimizer.
    pub driver: Option<Box<dyn Driver>>,
    /// A listener, from savers, samplers and loggers.
    pub listener: Option<Box<dyn Listener>>,
    /// Hash of the files the node was built from, if training depends on them. A continued run whose files changed is refused.
    pub content: Option<String>,
    /// What the user should read again when the run ends: images that were set aside.
    pub remarks: Vec<String>,
}
