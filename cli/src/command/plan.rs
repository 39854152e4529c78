//! `pipe plan`: what a run will need, before it runs.

use std::path::{Path, PathBuf};

use pipe_core::check::{Checked, check_path_with};
use pipe_core::diagnostic::{Format, render};
use pipe_core::plan::{Misfit, Plan, cheapest, plan_document};
use pipe_core::registry::Registry;
use serde_json::json;

use super::{Form, complain, json_text};
use crate::args::{Files, Overrides};
use crate::exit::{Exit, Outcome};
use crate::size::Size;
use crate::terminal::Terminal;
use crate::{machine, text};

/// Say what a run will need: steps, memory of each phase, disk.
///
/// With --memory the exit code is 3 when the run does not fit, and the report names the cheapest change that would.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The document, YAML or TOML.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Memory that the run may take, such as 12GiB.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// How to print the plan.
    #[arg(long, value_enum, default_value = "human")]
    pub format: Form,
    #[command(flatten)]
    pub overrides: Overrides,
    #[command(flatten)]
    pub needs: Files,
}

/// What the program holds beside the run: its code, its threads, and the freed pages its allocator keeps. Measured
/// with a run of a network so small that its own numbers are next to nothing.
const PROGRAM_BYTES: u64 = 124 << 20;

/// The plan of a document, the program included.
pub fn plan_of(registry: &Registry, checked: &Checked) -> Plan {
    plan_document(registry, checked).with_program(PROGRAM_BYTES)
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let registry = pipe_nodes::registry();
    let check = |sets: &[String]| check_path_with(&registry, &args.file, sets, args.needs.options());
    let checked = check(&args.overrides.sets());
    complain(&checked, terminal);
    if !checked.ok() {
        return Ok(Exit::Failed);
    }
    let plan = plan_of(&registry, &checked);
    let mut misfit = args.memory.and_then(|memory| plan.fits(memory.0).err());
    if let Some(misfit) = &mut misfit {
        misfit.cheapest = cheapest(&registry, &checked, misfit.memory, |more| {
            let sets: Vec<String> = args.overrides.sets().into_iter().chain(more.iter().cloned()).collect();
            Some(check(&sets)).filter(Checked::ok).map(|changed| plan_of(&registry, &changed))
        });
    }
    match args.format {
        Form::Json => terminal.out(&json_text(&report(&plan, args.memory, misfit.as_ref())))?,
        Form::Human => human(&plan, args.memory, misfit.is_none(), terminal)?,
    }
    if let Some(misfit) = &misfit {
        let (diagnostic, color) = (misfit.diagnostic(&checked), terminal.paint_err().on());
        terminal.error_text(&render(&[diagnostic], checked.files(), Format::Human, color));
        return Ok(Exit::Misfit);
    }
    if args.format == Form::Human {
        warn_of_limits(&plan, &checked, Path::new("."), args.memory.is_some(), terminal);
    }
    Ok(Exit::Done)
}

fn report(plan: &Plan, memory: Option<Size>, misfit: Option<&Misfit>) -> serde_json::Value {
    let mut value = serde_json::to_value(plan).unwrap_or_default();
    value["memory"] = json!(memory.map(|memory| memory.0));
    value["fits"] = json!(memory.map(|_| misfit.is_none()));
    value["misfit"] = json!(misfit);
    value
}

fn human(plan: &Plan, memory: Option<Size>, fits: bool, terminal: &Terminal) -> Result<(), crate::exit::Failure> {
    let mut out = plan.render(terminal.paint().on());
    if let Some(memory) = memory.filter(|_| fits) {
        out.push_str(&format!("\n{}\n", terminal.paint().green(&text::fits(plan.peak_bytes, memory.0))));
    }
    terminal.out(&out)
}

/// Warns when this machine has less memory or disk than the plan says. Only a warning: the plan is a prediction.
pub fn warn_of_limits(plan: &Plan, checked: &Checked, folder: &Path, memory_given: bool, terminal: &Terminal) {
    let on_cpu = checked.settings.as_ref().is_some_and(|settings| {
        let gpu_in_build = text::features() != "cpu";
        settings.train.device == "cpu" || (settings.train.device == "auto" && !gpu_in_build)
    });
    if on_cpu
        && !memory_given
        && let Err(misfit) = plan.fits(machine::memory())
    {
        terminal.warn(&text::may_not_fit(&misfit));
    }
    let need = plan.disk.saturating_add(plan.disk_passing).saturating_add(plan.cache_disk);
    if let Some(free) = machine::free_disk(folder).filter(|free| *free < need) {
        terminal.warn(&text::little_disk(need, free, folder));
    }
}
