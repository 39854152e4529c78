//! `pipe run`: check, plan, train.
//!
//! Stages: check → plan → folder → execute with a display and Ctrl-C → report of the end.

mod end;
mod interrupt;

use std::path::PathBuf;

use pipe_core::check::check_path;
use pipe_core::execute::{self, RunOptions, default_folder};
use pipe_core::run::StopFlag;

use super::{complain, plan};
use crate::args::Overrides;
use crate::exit::{Exit, Outcome};
use crate::terminal::Terminal;
use crate::{progress, text};

/// Train: check the document, plan it, carry it out.
///
/// Ctrl-C saves and stops; the same command with --resume goes on as if the run had never stopped. Results and the
/// training state are in the run's folder, `runs/<name>` unless the document or --output says otherwise.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The document, YAML or TOML.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Train so many steps: short for `--set train.steps=N`.
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Go on from the last saved state of the run's folder, as `train.resume: latest` in the document does.
    #[arg(long)]
    pub resume: bool,
    /// Folder for the run's files, instead of the document's.
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

impl Args {
    fn sets(&self) -> Vec<String> {
        let steps = self.steps.map(|steps| format!("train.steps={steps}"));
        self.overrides.sets().into_iter().chain(steps).collect()
    }
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let registry = pipe_nodes::registry();
    let sets = args.sets();

    let checked = check_path(&registry, &args.file, &sets);
    complain(&checked, terminal);
    let Some(settings) = checked.settings.as_ref().filter(|_| checked.ok()) else { return Ok(Exit::Failed) };

    let plan = plan::plan_of(&registry, &checked);
    let folder = args.output.clone().unwrap_or_else(|| default_folder(settings));
    terminal.note(&text::run_summary(&settings.name, checked.nodes.len(), &plan, &folder));
    plan::warn_of_limits(&plan, &checked, &folder, false, terminal);

    let display = progress::display(terminal);
    let stop = StopFlag::default();
    interrupt::watch(&stop, &display)?;
    let options = RunOptions { folder: folder.clone(), resume: args.resume, progress: display.clone(), stop };
    let result = execute::run(&registry, &checked, options);
    display.close();

    let end = end::End {
        checked: &checked,
        folder: &folder,
        again: text::resume_command(&args.file.display().to_string(), &sets, args.output.as_deref()),
        loss: display.loss_change(),
        terminal,
    };
    match result {
        Ok(outcome) => end.of_outcome(&outcome),
        Err(error) => Ok(end.of_failure(&error)),
    }
}
