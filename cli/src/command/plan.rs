//! `pipe plan`: what a run will need, before it runs.

use std::path::{Path, PathBuf};

use pipe_core::check::{Checked, check_path_with};
use pipe_core::diagnostic::{Format, render};
use pipe_core::plan::{Assumed, Misfit, Plan, bytes_text, changes, plan_document};
use pipe_core::registry::Registry;
use pipe_core::settings::Settings;
use pipe_ops::backend::Kind;
use serde_json::json;

use super::{Form, complain, json_text};
use crate::args::{Files, Overrides};
use crate::exit::{Exit, Outcome};
use crate::size::Size;
use crate::terminal::Terminal;
use crate::{machine, speed, text};

/// Say what a run will need: steps, memory and time of each phase, disk.
///
/// With --memory the exit code is 3 when the run does not fit, and the report names changes that would, each planned.
/// The device need not be in this build or machine: `--device cuda` plans for a GPU anywhere.
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

/// The plan of a document, the program included where it shares the memory.
pub fn plan_of(registry: &Registry, checked: &Checked) -> Plan {
    let plan = plan_document(registry, checked);
    let Some(settings) = &checked.settings else { return plan };
    let kind = pipe_nodes::planned_kind(settings);
    let plan = if kind == Kind::Cpu { plan.with_program(PROGRAM_BYTES) } else { plan };
    Plan { assumed: assumed(settings, kind), ..plan }
}

/// What the numbers are for, and what they cannot say of that device.
fn assumed(settings: &Settings, kind: Kind) -> Assumed {
    let mut not_counted = Vec::new();
    if kind != Kind::Cpu {
        not_counted.push(format!(
            "what the driver, its kernels and the freed blocks it keeps take on a {} device, which was not measured",
            kind.name()
        ));
        not_counted.push(format!("{} of the program in the machine's own memory", bytes_text(PROGRAM_BYTES)));
    }
    Assumed {
        device: Some(kind.name().into()),
        precision: Some(format!("{:?}", pipe_nodes::planned_type(settings)).to_lowercase()),
        speed: None,
        not_counted,
    }
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let registry = pipe_nodes::registry();
    let options = args.needs.options();
    let check = |sets: &[String]| check_path_with(&registry, &args.file, sets, options);
    let checked = check(&args.overrides.sets());
    complain(&checked, terminal);
    if !checked.ok() {
        return Ok(Exit::Failed);
    }
    let plan = speed::timed(plan_of(&registry, &checked), true);
    let mut misfit = args.memory.and_then(|memory| plan.fits(memory.0).err());
    if let Some(misfit) = &mut misfit {
        changes(&registry, &checked, misfit, |more| {
            let sets: Vec<String> = args.overrides.sets().into_iter().chain(more.iter().cloned()).collect();
            Some(check(&sets)).filter(Checked::ok).map(|changed| plan_of(&registry, &changed))
        });
    }
    match args.format {
        Form::Json => terminal.out(&json_text(&report(&plan, args.memory, misfit.as_deref())))?,
        Form::Human => human(&plan, args.memory, misfit.is_none(), terminal)?,
    }
    if let Some(misfit) = &misfit {
        let (diagnostic, color) = (misfit.diagnostic(&checked), terminal.paint_err().on());
        terminal.error_text(&render(&[diagnostic], checked.files(), Format::Human, color));
        return Ok(Exit::Misfit);
    }
    if args.format == Form::Human {
        limits(&plan, &checked, Path::new("."), args.memory.is_some())
            .iter()
            .for_each(|warning| terminal.warn(warning));
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

/// Warnings where this machine has less memory or disk than the plan says. Only warnings: the plan is a prediction.
pub fn limits(plan: &Plan, checked: &Checked, folder: &Path, memory_given: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let on_cpu = checked.settings.as_ref().is_some_and(|settings| pipe_nodes::planned_kind(settings) == Kind::Cpu);
    if on_cpu
        && !memory_given
        && let Err(misfit) = plan.fits(machine::memory())
    {
        warnings.push(text::may_not_fit(&misfit));
    }
    let need = plan.disk.saturating_add(plan.disk_passing).saturating_add(plan.cache_disk);
    let free = machine::free_disk(folder).filter(|free| *free < need);
    warnings.extend(free.map(|free| text::little_disk(need, free, folder)));
    warnings
}
