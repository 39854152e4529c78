//! `logger.tensorboard`: event files that TensorBoard reads.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use pipe_core::execute::default_folder;
use pipe_core::folder::atomic_write;
use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{Artifact, BuildCx, Built, EventCx, Listener, Moment, Position, RunError};
use schemars::JsonSchema;
use serde::Deserialize;

use super::rows::{self, Row};
use super::{config, events, pictures};

/// Fields of `logger.tensorboard`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Folder in which the run gets a folder of its name. Default: `events` in the run's folder.
    #[serde(default)]
    folder: Option<String>,
    /// Write every so many steps. Default 1.
    #[serde(default = "super::one")]
    #[schemars(range(min = 1))]
    every_steps: u64,
    /// Show previews. Default true.
    #[serde(default = "super::yes")]
    images: bool,
    /// Show the pipeline with all defaults, of paths the last part alone. Default true.
    #[serde(default = "super::yes")]
    config: bool,
}

/// The node type.
pub struct TensorBoard;

impl Node for TensorBoard {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "logger.tensorboard",
        summary: "Writes event files for TensorBoard: losses, learning rates, norms, previews and the configuration.",
        details: "`tensorboard --logdir runs` shows them. Names are those of sd-scripts: `loss/current`, `loss/average`, \
                  `loss/epoch_average` (over epochs), `lr/unet`, `lr/textencoder`, `lr/d*lr/…`, `loss/validation/…`; and \
                  `norm/grad_norm`, `norm/grad_norm_clipped`, `loss/timestep/300-399`, `time/seconds_per_step`. Each number is \
                  there once. A continued run cuts off what lies behind the state it continues from and goes on in a file of \
                  its own, so the curves are as if the run had never stopped.",
        example: "board:\n  type: logger.tensorboard\n  update: adamw",
    };

    fn inputs() -> Vec<Input> {
        super::inputs()
    }

    fn outputs() -> Vec<Output> {
        Vec::new()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        match &config.folder {
            Some(folder) => {
                let path = cx.path(folder).join(&cx.settings.name);
                if !cx.without_files {
                    check_folder(&path, cx);
                }
                cx.will_write("folder", path);
            }
            None => cx.will_write("", "events".into()),
        }
        Facts::new()
    }

    fn plan(config: &Config, cx: &PlanCx) -> NodePlan {
        super::plan(cx, config.every_steps, 300)
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let folder = match &config.folder {
            Some(folder) => cx.path(folder).join(&cx.settings.name),
            None => cx.folder.join("events"),
        };
        let board = Board { config, folder, file: None };
        Ok(Built { listener: Some(Box::new(board)), ..Default::default() })
    }
}

struct Board {
    config: Config,
    folder: PathBuf,
    file: Option<File>,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The event files of a folder, oldest first.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_events = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("events.out.tfevents."))
    };
    let mut list: Vec<PathBuf> = entries.filter(is_events).collect();
    list.sort();
    list
}

/// Keeps which folders of events a run has begun, so that it knows its own when it begins again.
const FILE: &str = "tensorboard.json";

fn whole(folder: &Path) -> PathBuf {
    folder.canonicalize().or_else(|_| std::path::absolute(folder)).unwrap_or_else(|_| folder.to_owned())
}

/// The folders of events that the run in a folder has begun.
fn owned(run: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(run.join(FILE)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Notes that a folder of events is of a run.
fn own(run: &Path, folder: PathBuf) -> Result<(), RunError> {
    let mut all = owned(run);
    if all.contains(&folder) {
        return Ok(());
    }
    all.push(folder);
    atomic_write(&run.join(FILE), |file| Ok(serde_json::to_writer(file, &all)?))
}

/// What is said where a folder has events that the run did not write, and what to do.
fn of_another(folder: &Path) -> (String, &'static str) {
    let message = format!("`{}` holds the events of another run", folder.display());
    (message, "give the run another `name`, or remove the folder")
}

/// Finds what would stop the run at its start: a file in the way, or the events of another run.
fn check_folder(path: &Path, cx: &mut CheckCx) {
    if let Some(file) = path.ancestors().find(|place| place.exists()).filter(|place| !place.is_dir()) {
        let message = format!("`{}` is a file, so the folder `{}` cannot be made", file.display(), path.display());
        return cx.error("P0403", "folder", message, Some("name another folder, or remove the file".into()));
    }
    let run = default_folder(cx.settings);
    if !files(path).is_empty() && !owned(&run).contains(&whole(path)) && !holds_state(&run) {
        let (message, help) = of_another(path);
        cx.error("P0907", "folder", message, Some(help.into()));
    }
}

/// Whether a run goes on from a state of its own, and cuts its events back whoever wrote them.
fn holds_state(run: &Path) -> bool {
    pipe_core::execute::saved(run).is_some()
}

/// Bytes of a file up to the first event that lies behind a step, or is damaged. Means of epochs have another axis.
fn length_until(bytes: &[u8], step: u64) -> usize {
    let behind = |event: &[u8]| match events::place(event) {
        Some((_, Some("loss/epoch_average"))) => false,
        Some((at, _)) => at > step,
        None => true,
    };
    events::frames(bytes).into_iter().take_while(|(_, event)| !behind(event)).last().map_or(0, |(end, _)| end)
}

impl Board {
    /// Cuts the files of this run back to a step. Gives the time in the name of the newest.
    fn cut(&self, step: u64) -> Result<u64, RunError> {
        let mut newest = 0;
        for path in files(&self.folder) {
            let failed = |e: std::io::Error| RunError::io("write", &path, &e);
            let bytes = std::fs::read(&path).map_err(failed)?;
            let length = length_until(&bytes, step);
            if length < bytes.len() {
                OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .and_then(|file| file.set_len(length as u64))
                    .map_err(failed)?;
            }
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            newest = newest.max(name.split('.').nth(3).and_then(|time| time.parse().ok()).unwrap_or(0));
        }
        Ok(newest)
    }

    /// Begins a file, named so that it comes after the others.
    fn begin(&mut self, cx: &EventCx) -> Result<(), RunError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |e: std::io::Error| RunError::io("write", &path, &e)
        };
        let (mut time, mut first) = (now() as u64, files(&self.folder).is_empty());
        if cx.moment == Moment::Resume {
            time = time.max(self.cut(cx.told())? + 1);
        } else if !first && owned(cx.folder).contains(&whole(&self.folder)) {
            // Of this run, which was killed before its first state.
            files(&self.folder).iter().try_for_each(|path| std::fs::remove_file(path).map_err(failed(path)))?;
            first = true;
        } else if !first {
            let (message, help) = of_another(&self.folder);
            return Err(RunError::new("P0907", message).at("folder").help(help));
        }
        std::fs::create_dir_all(&self.folder).map_err(failed(&self.folder))?;
        own(cx.folder, whole(&self.folder))?;
        let path = self.folder.join(format!("events.out.tfevents.{time:010}.pipe.{}", std::process::id()));
        let file = OpenOptions::new().create_new(true).append(true).open(&path).map_err(failed(&path))?;
        self.file = Some(file);
        self.write(&events::version(now()))?;
        if !first {
            // For a TensorBoard that has read what was cut off.
            self.write(&events::session(now(), cx.told() + 1))?;
        } else if self.config.config {
            let json = serde_json::to_string_pretty(&config::resolved(cx.folder)).unwrap_or_default();
            self.write(&events::text(now(), 0, "config", &format!("```json\n{json}\n```")))?;
        }
        Ok(())
    }

    fn write(&mut self, event: &[u8]) -> Result<(), RunError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(&events::frame(event)).map_err(|e| RunError::io("write", &self.folder, &e))
    }

    fn row(&mut self, row: &Row) -> Result<(), RunError> {
        let (of_epochs, of_steps): (Vec<_>, Vec<_>) =
            row.scalars.iter().partition(|scalar| scalar.column == rows::EPOCH_LOSS);
        let values =
            |list: Vec<&'_ rows::Scalar>| list.into_iter().map(|s| (s.tag.clone(), s.value)).collect::<Vec<_>>();
        for (at, list) in [(row.step, values(of_steps)), (row.epoch, values(of_epochs))] {
            if !list.is_empty() {
                self.write(&events::scalars(now(), at, list.iter().map(|(tag, value)| (tag.as_str(), *value))))?;
            }
        }
        Ok(())
    }
}

impl Listener for Board {
    fn priority(&self) -> u32 {
        20
    }

    fn looks(&self, _: Moment, _: Position) -> bool {
        false
    }

    fn sync(&mut self) -> Result<(), RunError> {
        self.file.as_ref().map_or(Ok(()), File::sync_data).map_err(|e| RunError::io("write", &self.folder, &e))
    }

    fn on(&mut self, cx: &mut EventCx) -> Result<(), RunError> {
        if matches!(cx.moment, Moment::Start | Moment::Resume) {
            self.begin(cx)?;
        }
        for row in rows::due(cx, self.config.every_steps) {
            self.row(&row)?;
        }
        if self.config.images {
            for picture in pictures::of(cx) {
                let Ok(png) = std::fs::read(&picture.path) else { continue };
                if let Some(size) = events::png_size(&png) {
                    self.write(&events::image(now(), cx.position.step, &picture.tag, &png, size))?;
                }
            }
        }
        if cx.moment == Moment::End {
            cx.artifacts.push(Artifact { kind: "events", path: self.folder.clone(), final_result: true });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_cut_behind_a_step() {
        let mut file = events::frame(&events::version(0.0));
        let mut ends = vec![file.len()];
        for (step, tag) in [(1, "loss/current"), (2, "loss/current"), (9, "loss/epoch_average"), (3, "loss/current")] {
            file.extend(events::frame(&events::scalars(0.0, step, [(tag, 0.5)])));
            ends.push(file.len());
        }
        assert_eq!(length_until(&file, 0), ends[0]);
        assert_eq!(length_until(&file, 1), ends[1]);
        // The epoch's mean comes with the step that closes it.
        assert_eq!(length_until(&file, 2), ends[3]);
        assert_eq!(length_until(&file[..file.len() - 2], 9), ends[3]);
    }
}
