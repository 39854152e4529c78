//! `keep_best`: the weights of the lowest validation loss, beside the files of the cadence.

use std::path::{Path, PathBuf};

use pipe_core::node::{CheckCx, InputFacts};
use pipe_core::port::{Input, PortType, Rate};
use pipe_core::run::{BuildCx, EventCx, Moment, RunError};
use pipe_core::settings::Every;

use crate::logger::validation::Measured;

const PORT: &str = "keep_best";

/// The port of savers.
pub fn input() -> Input {
    let doc = "Validation whose lowest loss decides which weights are kept as `NAME-best`, besides the others.";
    Input::optional(PORT, &[PortType::Validation], Rate::Event, doc)
}

/// Whether a saver keeps the best weights.
pub fn is_kept(inputs: &InputFacts) -> bool {
    inputs.one(PORT).is_some()
}

/// Name of the file or folder without extension.
pub fn stem(name: &str) -> String {
    format!("{name}-best")
}

/// Checks that there will be something to choose from, and declares the file.
pub fn check(cx: &mut CheckCx, name: &str, extension: &str) {
    let Some(validation) = cx.inputs.one(PORT).cloned() else { return };
    let every = validation.facts.get("every").and_then(|every| serde_json::from_value::<Every>(every.clone()).ok());
    if every == Some(Every::default()) {
        let message =
            format!("`keep_best` has no effect: `{}` measures what was trained only at the end", validation.node);
        cx.error("P0402", PORT, message, Some(format!("give `{}` an `every`", validation.node)));
    }
    cx.will_write(PORT, Path::new("checkpoints").join(stem(name) + extension));
}

/// Bytes of it on the disk, for files of `size`.
pub fn bytes(inputs: &InputFacts, size: u64) -> u64 {
    if is_kept(inputs) { size } else { 0 }
}

/// What a saver asks.
pub struct Best(Option<Measured>);

impl Best {
    /// From a saver's input.
    pub fn of(cx: &BuildCx) -> Result<Best, RunError> {
        Ok(Best(cx.typed::<Measured>(PORT)?.into_iter().next().cloned()))
    }

    /// The file to write now: the validation of this moment measured the lowest loss yet.
    pub fn due(&self, cx: &EventCx, name: &str, extension: &str) -> Option<PathBuf> {
        let latest = self.0.as_ref()?.latest()?;
        let now = matches!(cx.moment, Moment::Step | Moment::Resume) && latest.step == cx.position.step && latest.best;
        now.then(|| self.path(cx, name, extension))
    }

    /// The file to tell of at the end.
    pub fn kept(&self, cx: &EventCx, name: &str, extension: &str) -> Option<PathBuf> {
        self.0.as_ref().filter(|_| cx.moment == Moment::End)?;
        Some(self.path(cx, name, extension)).filter(|path| path.exists())
    }

    fn path(&self, cx: &EventCx, name: &str, extension: &str) -> PathBuf {
        cx.folder.join("checkpoints").join(stem(name) + extension)
    }
}
