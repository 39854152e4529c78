//! `pipe run`: check, plan, train.
//!
//! Stages: check → plan → folder → execute with a display and Ctrl-C → report of the end.

mod end;
mod interrupt;
mod resume;

use std::path::PathBuf;
use std::sync::Arc;

use pipe_core::check::check_path;
use pipe_core::execute::{self, RunOptions, default_folder};
use pipe_core::run::StopFlag;

use super::{complain, plan};
use crate::args::Overrides;
use crate::choices::steps;
use crate::exit::{Exit, Outcome};
use crate::terminal::Terminal;
use crate::{progress, speed, text};

/// Train: check the document, plan it, carry it out.
///
/// Ctrl-C saves and stops; the same command with --resume goes on as if the run had never stopped. Results and the
/// training state are in the run's folder, `runs/<name>` in the working directory unless the document or --output says
/// otherwise.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The document, YAML or TOML.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Train so many steps: short for `--set train.steps=N`.
    #[arg(long, value_name = "N", value_parser = steps)]
    pub steps: Option<u64>,
    /// Go on from the last saved state of the run's folder; an error where there is none. `train.resume: latest` in the
    /// document begins the run in that case.
    #[arg(long)]
    pub resume: bool,
    /// Folder for the run's files, in place of `output` in the document; from the working directory.
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

impl Args {
    fn sets(&self) -> Vec<String> {
        let steps = self.steps.map(|steps| format!("--steps={steps}"));
        let output = self.output.as_ref().map(|folder| format!("--output={}", folder.display()));
        self.overrides.sets().into_iter().chain(steps).chain(output).collect()
    }
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let registry = pipe_nodes::registry();
    let sets = args.sets();

    let checked = check_path(&registry, &args.file, &sets);
    complain(&checked, terminal);
    let Some(settings) = checked.settings.as_ref().filter(|_| checked.ok()) else { return Ok(Exit::Failed) };

    let plan = speed::timed(plan::plan_of(&registry, &checked), false);
    let folder = args.output.clone().unwrap_or_else(|| default_folder(settings));
    if args.resume {
        let replan = |set: &str| {
            let again = check_path(&registry, &args.file, &[&sets[..], &[set.to_owned()]].concat());
            again.ok().then(|| plan::plan_of(&registry, &again))
        };
        resume::look(&folder, &args.file, &plan, replan, terminal)?;
    }

    let display = progress::display(terminal);
    let stop = StopFlag::default();
    interrupt::watch(&stop, &display, !settings.train.save_state.is_off())?;
    // Said once the folder is ours and the state fits: before, nothing has begun.
    let summary = text::run_summary(&settings.name, checked.nodes.len(), &plan, &folder);
    let opening = progress::Opening::new(display.clone(), summary, plan::limits(&plan, &checked, &folder, false));
    let options = RunOptions { folder: folder.clone(), resume: args.resume, progress: Arc::new(opening), stop };
    let result = execute::run(&registry, &checked, options);
    display.close();
    speed::learn(&plan, &display.step_seconds());

    let end = end::End {
        checked: &checked,
        folder: &folder,
        again: text::resume_command(&args.file.display().to_string(), &sets),
        loss: display.loss_change(),
        terminal,
    };
    match result {
        Ok(outcome) => end.of_outcome(&outcome),
        Err(error) => Ok(end.of_failure(&error)),
    }
}
