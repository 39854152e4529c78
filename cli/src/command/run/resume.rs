//! `--resume`: what it needs before anything begins, and what it changes.

use std::path::Path;

use pipe_core::execute;
use pipe_core::folder::LOCK_JSON;
use pipe_core::plan::{Curve, Plan};

use crate::exit::Failure;
use crate::terminal::Terminal;
use crate::text;

/// Refuses to go on where no run is, and tells what another number of steps changes. `replan` plans the document with
/// overrides.
///
/// A run that was killed before its first state is a run: it begins again, which loses nothing that could be kept.
pub fn look(
    folder: &Path,
    document: &Path,
    plan: &Plan,
    replan: impl FnOnce(&str) -> Option<Plan>,
    terminal: &Terminal,
) -> Result<(), Failure> {
    if let Some(saved) = execute::saved(folder) {
        if let Some(steps) = plan.steps.filter(|steps| *steps != saved.total_steps && *steps > saved.step)
            && let Some(now) = curve(plan)
            && let Some(before) = replan(&format!("train.steps={}", saved.total_steps))
            && let Some(before) = curve(&before).filter(|before| differ(before, now, saved.step))
        {
            terminal.warn(&text::other_length(&before.name, saved.total_steps, steps));
        }
        return Ok(());
    }
    if folder.join(LOCK_JSON).exists() {
        if terminal.quiet() {
            terminal.warn("there is no saved state, so the run starts from its first step");
        }
        return Ok(());
    }
    Err(nothing_there(folder, document))
}

/// The learning rate over the steps.
fn curve(plan: &Plan) -> Option<&Curve> {
    plan.nodes.values().find_map(|node| node.plan.schedule.as_ref())
}

/// Whether two schedules give another rate from a step on, as far as both go.
fn differ(before: &Curve, now: &Curve, step: u64) -> bool {
    let end = before.steps.min(now.steps);
    let near = |a: f64, b: f64| (a - b).abs() <= 0.03 * a.abs().max(b.abs()).max(1e-3);
    // Both are samples: beyond a bend they agree only nearly. Of a run that was over the last step counts.
    (step.min(end.saturating_sub(1))..end)
        .step_by((end.saturating_sub(step) / 8).max(1) as usize)
        .any(|at| !near(before.at(at), now.at(at)))
}

fn nothing_there(folder: &Path, document: &Path) -> Failure {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    // The usual reason: the run was started in the document's folder, and this is another one.
    let beside = document.parent().map(|parent| parent.join(folder)).filter(|_| folder.is_relative());
    let help = match beside.filter(|beside| execute::saved(beside).is_some()) {
        Some(beside) => {
            format!(
                "there is one in `{0}`: give `--output {1}`",
                beside.display(),
                text::quote(&beside.display().to_string())
            )
        }
        None => {
            "`--output DIR` names the folder of the run; without `--resume` the run starts from its first step".into()
        }
    };
    Failure::new(format!("there is no saved state to go on from in `{}`", absolute.display())).help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_over_the_whole_run_differs_and_a_constant_one_does_not() {
        let cosine = |steps: u64| {
            Curve::sample("c", steps, |t| 0.5 + 0.5 * (t as f64 / steps as f64 * std::f64::consts::PI).cos())
        };
        assert!(differ(&cosine(100), &cosine(150), 50));
        assert!(differ(&cosine(100), &cosine(150), 100));
        assert!(!differ(&cosine(100), &cosine(100), 50));
        let warm = |steps: u64| Curve::sample("w", steps, |t| (t as f64 / 10.0).min(1.0));
        assert!(!differ(&warm(100), &warm(400), 50));
    }
}
