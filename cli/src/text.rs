//! What `pipe` says to people, apart from diagnostics and the help of the command line.
//!
//! In one place, so that the tone is one: plain words, no final period in messages, what to do next.

use std::path::Path;

pub use pipe_core::diagnostic::quote;
use pipe_core::plan::{Misfit, Plan, bytes_text, seconds_text};

/// What a panic prints.
pub fn apology(message: &str, place: &str) -> String {
    format!(
        "\nSorry: `pipe` has a fault and cannot go on. Files already written are whole; a run goes on with --resume.\n\
         Please report it with the command, the document and these lines:\n\n  \
         pipe {} ({})\n  {message}\n  at {place}\n",
        env!("CARGO_PKG_VERSION"),
        features(),
    )
}

/// The devices compiled in.
pub fn features() -> String {
    let kinds = [pipe_ops::backend::Kind::Cpu, pipe_ops::backend::Kind::Wgpu, pipe_ops::backend::Kind::Cuda];
    let names: Vec<&str> = kinds.into_iter().filter(|kind| kind.in_build()).map(|kind| kind.name()).collect();
    names.join(", ")
}

pub const STOPPING: &str =
    "saving and stopping after this forward pass; press Ctrl-C again to stop at once without saving";

pub const STOPPING_UNSAVED: &str =
    "stopping after this forward pass; no state is kept (`train.save_state`), so the run cannot go on";

pub const STOPPED_AT_ONCE: &str = "stopped at once; whatever was saved before is whole";

/// `3 errors`, `1 warning`.
pub fn count(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// What `check` came to.
pub fn check_summary(files: usize, nodes: usize, errors: usize, warnings: usize) -> String {
    let what = if files == 1 { count(nodes, "node") } else { count(files, "document") };
    let problems: Vec<String> = [(errors, "error"), (warnings, "warning")]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, noun)| count(number, noun))
        .collect();
    let problems = if problems.is_empty() { "no problems".into() } else { problems.join(" and ") };
    format!("{what} checked: {problems}")
}

/// The line before a run.
pub fn run_summary(name: &str, nodes: usize, plan: &Plan, folder: &Path) -> String {
    let mut parts = vec![count(nodes, "node")];
    parts.extend(plan.steps.map(|steps| count(steps, "step")));
    if plan.peak_bytes > 0 {
        parts.push(format!("about {} of memory at the peak (`{}`)", bytes_text(plan.peak_bytes), plan.peak_phase));
    }
    let seconds: f64 = plan.phases.iter().filter_map(|phase| phase.seconds).sum();
    if seconds > 0.0 {
        parts.push(format!("about {}", seconds_text(seconds)));
    }
    format!("{name}: {}; results go to {}", parts.join(", "), folder.display())
}

/// The memory of the machine is less than planned.
pub fn may_not_fit(misfit: &Misfit) -> String {
    format!("this may not fit: {misfit}; `pipe plan FILE --memory SIZE` says what would help")
}

/// A run that goes on for another number of steps.
pub fn other_length(schedule: &str, before: u64, now: u64) -> String {
    format!(
        "the run was to have {before} steps and now has {now}: {schedule} is drawn over all of them, so the rate goes on as if it had been {now} from the start"
    )
}

/// The disk has less room than planned.
pub fn little_disk(need: u64, free: u64, folder: &Path) -> String {
    let (need, free) = (bytes_text(need), bytes_text(free));
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    format!("the run will write about {need}, and only {free} are free on the disk of `{}`", folder.display())
}

/// That a plan fits.
pub fn fits(peak: u64, memory: u64) -> String {
    format!("fits into {}, {} to spare", bytes_text(memory), bytes_text(memory.saturating_sub(peak)))
}

/// After `init`.
pub fn next_steps(document: &str, missing: &[String]) -> String {
    let mut lines = Vec::new();
    if !missing.is_empty() {
        lines.push("what the document still needs:".to_owned());
        lines.extend(missing.iter().map(|line| format!("  {line}")));
        lines.push(String::new());
    }
    lines.push("next:".into());
    lines.push(format!("  pipe check {document}    says what is wrong, at its place"));
    lines.push(format!("  pipe plan {document}     says what it needs before it runs"));
    lines.push(format!("  pipe run {document}      trains"));
    lines.push("  an editor with a YAML language server completes and checks the document as you type".into());
    lines.join("\n")
}

/// The command that continues a run.
pub fn resume_command(file: &str, sets: &[String]) -> String {
    let mut words = vec!["pipe".into(), "run".into(), quote(file)];
    for set in sets {
        // A flag that stands for a field is one word already.
        words.extend((!set.starts_with("--")).then(|| "--set".into()));
        words.push(quote(set));
    }
    words.push("--resume".into());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries() {
        assert_eq!(check_summary(1, 11, 0, 0), "11 nodes checked: no problems");
        assert_eq!(check_summary(2, 11, 1, 2), "2 documents checked: 1 error and 2 warnings");
    }

    #[test]
    fn the_resume_command_can_be_pasted() {
        let sets = ["--steps=5", "nodes.p.prompts=[a fox]", "--output=it's"].map(str::to_owned);
        assert_eq!(
            resume_command("a.yaml", &sets),
            r"pipe run a.yaml --steps=5 --set 'nodes.p.prompts=[a fox]' '--output=it'\''s' --resume"
        );
    }
}
