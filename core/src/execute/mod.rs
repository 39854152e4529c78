//! The run: builds the nodes, then drives the training from its first step, or from a saved
//! state, to its end.
//!
//! Stages, in [`run`]: where to start → folder and lock → state to resume from → build → life cycle. Killed at any
//! moment, a run leaves whole files only, and `--resume` goes on from the newest state.

mod build;
mod changed;
mod life;
mod log;
mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::check::Checked;
use crate::folder::{LOCK_JSON, RunFolder, atomic_write};
use crate::identity::{Identity, resolved};
use crate::registry::Registry;
use crate::run::{Artifact, Position, Progress, RunError, StepReport, StopFlag};
use crate::settings::{LATEST, Settings};

use log::Log;

/// How a run is carried out.
#[derive(Clone)]
pub struct RunOptions {
    /// The run's folder.
    pub folder: PathBuf,
    /// Go on from the newest state, if there is one, whatever the document's `train.resume` says.
    pub resume: bool,
    /// Where to tell progress.
    pub progress: Arc<dyn Progress>,
    /// Set by Ctrl-C.
    pub stop: StopFlag,
}

/// How a run ended, if it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All steps are done.
    Finished,
    /// Stopped on demand, with its state saved when any step was done.
    Interrupted,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Where it stands.
    pub position: Position,
    /// Report of the last step done by this process.
    pub report: StepReport,
    /// Files made by this process.
    pub artifacts: Vec<Artifact>,
    /// The run's folder.
    pub folder: PathBuf,
    /// What to read again at the end: images that were set aside.
    pub remarks: Vec<String>,
    /// Step of the state it went on from.
    pub resumed_from: Option<u64>,
    /// Seconds of this process, building included.
    pub seconds: f64,
}

/// The run's folder when none is given: `output`, else `runs/<name>`.
pub fn default_folder(settings: &Settings) -> PathBuf {
    match &settings.output {
        Some(output) => crate::node::resolve(std::path::Path::new(""), output),
        None => PathBuf::from("runs").join(&settings.name),
    }
}

/// A state that a run's folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedState {
    /// Optimizer steps done.
    pub step: u64,
    /// All steps that the run was to make.
    pub total_steps: u64,
}

/// The newest state in a run's folder, if there is one that can be read.
pub fn saved(folder: &std::path::Path) -> Option<SavedState> {
    let saved = state::newest(folder).ok()??;
    Some(SavedState { step: saved.step, total_steps: saved.total_steps })
}

/// Carries out a checked document.
pub fn run(registry: &Registry, checked: &Checked, options: RunOptions) -> Result<Outcome, RunError> {
    let begun = Instant::now();
    let (Some(settings), Some(graph), true) = (&checked.settings, &checked.graph, checked.ok()) else {
        return Err(RunError::new("P0911", "the document has errors; `pipe check` lists them"));
    };
    let identity = Identity::of(registry, checked);
    let start = Start::of(settings, checked, &options);
    let folder = RunFolder::open(&options.folder, start.continues(&options.folder))?;
    state::sweep(folder.path());
    let log = Log::open(folder.path(), options.progress.clone())?;
    log.line(&format!("pipe {} runs `{}`", env!("CARGO_PKG_VERSION"), settings.name));

    let mut document = resolved(registry, checked, &identity);
    let lock = folder.path().join(LOCK_JSON);
    let state = start.state(registry, folder.path(), &identity, &document, &log)?;
    let before = state.as_ref().map(|state| contents_of(&state.run().join(LOCK_JSON))).unwrap_or_default();
    if state.is_none() {
        atomic_write(&lock, |file| serde_json::to_writer_pretty(file, &document).map_err(Into::into))?;
    }

    let parts = build::Parts {
        registry,
        checked,
        settings,
        graph,
        folder: folder.path(),
        log: log.clone(),
        stop: options.stop.clone(),
    };
    let built = match parts.build() {
        Ok(built) => built,
        Err(error) if error.is_interrupt() => {
            log.line("interrupted before the first step");
            return Ok(Outcome {
                status: Status::Interrupted,
                position: Position::default(),
                report: StepReport::default(),
                artifacts: Vec::new(),
                folder: options.folder,
                remarks: Vec::new(),
                resumed_from: None,
                seconds: begun.elapsed().as_secs_f64(),
            });
        }
        Err(error) => {
            log.failure("failed", &error);
            return Err(error);
        }
    };
    same_contents(&before, &built.contents, &identity)?;
    document["contents"] = serde_json::json!(built.contents);
    atomic_write(&lock, |file| serde_json::to_writer_pretty(file, &document).map_err(Into::into))?;
    let remarks = built.remarks.clone();
    let mut life = life::Life::new(built, settings, &identity, folder.path(), log.clone(), options.stop, begun);
    let result = life.live(state.as_ref());
    match &result {
        Ok(status) => log.line(&format!("{status:?} at step {}", life.position.step).to_lowercase()),
        Err(error) => log.failure(&format!("failed at step {}", life.position.step), error),
    }
    Ok(Outcome {
        status: result?,
        position: life.position,
        report: life.report,
        artifacts: life.artifacts,
        folder: options.folder,
        remarks,
        resumed_from: state.map(|state| state.step),
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// Hashes of the files an earlier run of this folder was built from.
fn contents_of(lock: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(lock).unwrap_or_default();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    serde_json::from_value(document["contents"].clone()).unwrap_or_default()
}

/// Refuses to go on when the files of a node that training depends on are no longer those the state was made with.
fn same_contents(
    before: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
    identity: &Identity,
) -> Result<(), RunError> {
    let mut trained = now.iter().filter(|(name, _)| identity.nodes.contains_key(*name));
    match trained.find(|(name, hash)| before.get(*name).is_some_and(|old| old != *hash)) {
        Some((name, _)) => {
            let message = format!("the files of `{name}` are not those the saved state was made with");
            Err(RunError::new("P0908", message)
                .help("put the old files back, or start a new run in another folder")
                .of(name))
        }
        None => Ok(()),
    }
}

/// Where a run begins.
enum Start {
    /// At its first step.
    Fresh,
    /// After the newest state of its folder, if there is one.
    Latest,
    /// After a state that the document names.
    After(PathBuf),
}

impl Start {
    fn of(settings: &Settings, checked: &Checked, options: &RunOptions) -> Start {
        match &settings.train.resume {
            _ if options.resume => Start::Latest,
            Some(word) if word == LATEST => Start::Latest,
            Some(path) => Start::After(crate::node::resolve(&checked.base_dir, path)),
            None => Start::Fresh,
        }
    }

    /// Whether the run that a folder holds is continued.
    fn continues(&self, folder: &Path) -> bool {
        let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        match self {
            Start::Fresh => false,
            Start::Latest => true,
            Start::After(state) => whole(state).starts_with(whole(folder)),
        }
    }

    /// The state, when it belongs to this pipeline.
    fn state(
        &self,
        registry: &Registry,
        folder: &Path,
        identity: &Identity,
        document: &serde_json::Value,
        log: &Log,
    ) -> Result<Option<state::Saved>, RunError> {
        let saved = match self {
            Start::Fresh => None,
            Start::After(path) => Some(state::named(folder, path.clone())?),
            Start::Latest => {
                let newest = state::newest(folder)?;
                if newest.is_none() {
                    log.say("there is no saved state, so the run starts from its first step");
                }
                newest
            }
        };
        if let Some(saved) = &saved {
            changed::check(registry, saved, identity, document, &saved.run().join(LOCK_JSON))?;
        }
        Ok(saved)
    }
}
