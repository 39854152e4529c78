//! Why a run does not fit, and which changes were found to need less.

use serde::Serialize;

use super::{Category, Change, Phase, bytes_text};
use crate::check::Checked;
use crate::diagnostic::{Diagnostic, Span};

/// Why a run does not fit.
#[derive(Clone, Debug, Serialize)]
pub struct Misfit {
    /// The largest phase.
    pub phase: String,
    /// The node it belongs to, except for training.
    pub node: Option<String>,
    /// Bytes it needs.
    pub total: u64,
    /// Bytes there are.
    pub memory: u64,
    /// What of the run takes most of it.
    pub category: Category,
    /// How much that is.
    pub bytes: u64,
    /// What the program takes beside the run.
    pub program: u64,
    /// The cheapest change known to fit, when one was looked for and found.
    pub cheapest: Option<Fitting>,
    /// All changes that were tried and need less, the cheapest first.
    pub changes: Vec<Fitting>,
}

/// A change that was planned, and what the run then needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fitting {
    /// What to change.
    #[serde(flatten)]
    pub change: Change,
    /// Bytes of the largest phase then.
    pub peak_bytes: u64,
    /// Whether that fits.
    pub fits: bool,
}

impl std::fmt::Display for Fitting {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let sets: Vec<String> = self.change.sets.iter().map(|set| format!("--set {set}")).collect();
        let (sets, peak) = (sets.join(" "), bytes_text(self.peak_bytes));
        match self.fits {
            true => write!(f, "`{sets}` fits: {peak} at the peak"),
            false => write!(f, "`{sets}` would need {peak}"),
        }
    }
}

impl Misfit {
    /// Of the largest phase of a plan.
    pub(super) fn of(phase: &Phase, memory: u64) -> Misfit {
        // The program itself cannot be made smaller, so it is not what to look at.
        let ours = phase.bytes.iter().filter(|(category, _)| **category != Category::Program);
        let (category, bytes) = ours.max_by_key(|(_, bytes)| **bytes).map_or((Category::Program, 0), |(c, b)| (*c, *b));
        Misfit {
            phase: phase.name.clone(),
            node: phase.node.clone(),
            total: phase.total,
            memory,
            category,
            bytes,
            program: phase.bytes.get(&Category::Program).copied().unwrap_or(0),
            cheapest: None,
            changes: Vec::new(),
        }
    }

    /// Whether no change of a document could help: the program alone is too large.
    pub fn hopeless(&self) -> bool {
        self.program >= self.memory
    }

    fn help(&self) -> String {
        if self.hopeless() {
            return "no change of the document helps: more memory is needed for the program itself".into();
        }
        let list = |some: &[&Fitting]| some.iter().map(ToString::to_string).collect::<Vec<_>>().join("; or ");
        let fitting: Vec<&Fitting> = self.changes.iter().filter(|one| one.fits).take(3).collect();
        if !fitting.is_empty() {
            return list(&fitting);
        }
        let mut nearest: Vec<&Fitting> = self.changes.iter().collect();
        nearest.sort_by_key(|one| one.peak_bytes);
        nearest.truncate(2);
        match nearest.is_empty() {
            true => "no change that was tried needs less; more memory or another model is needed".into(),
            false => format!("no change that was tried is enough; {}", list(&nearest)),
        }
    }

    /// As a diagnostic of the document: at the node whose phase it is, or at its `train` table.
    pub fn diagnostic(&self, checked: &Checked) -> Diagnostic {
        let start = Span::new(checked.document.main, 0, 0);
        let node = self.node.as_ref().and_then(|node| checked.entry(node)).map(|entry| entry.key_span);
        let train = || checked.document.tree.as_ref().map(|tree| tree.deepest("train").span());
        let span = node.or_else(|| train().filter(|span| span.start > 0)).unwrap_or(start);
        Diagnostic::error("P0501", span, self.to_string()).help(self.help())
    }
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [total, memory, program, bytes] = [self.total, self.memory, self.program, self.bytes].map(bytes_text);
        if self.hopeless() {
            return write!(
                f,
                "`{}` needs {total}, and the program alone takes {program} of the {memory} there are",
                self.phase
            );
        }
        let more = bytes_text(self.total.saturating_sub(self.memory));
        write!(f, "`{}` needs {total}, {more} more than the {memory} there are; ", self.phase)?;
        let name = self.category.name();
        match self.bytes.saturating_mul(2) > self.total {
            true => write!(f, "most of it ({bytes}) is {name}"),
            false if self.program > self.bytes => {
                write!(f, "beside {program} of the program itself the largest part ({bytes}) is {name}")
            }
            false => write!(f, "the largest part of it ({bytes}) is {name}"),
        }
    }
}
