//! Diagnostics: what is wrong, where, and how to mend it.
//!
//! Owns the value that every stage reports problems with. Places in source texts are in
//! [`source`], suggestions by edit distance in [`suggest()`], words of commands in [`quote()`]; [`render()`] prints diagnostics and
//! [`crate::codes`] explains their codes.

pub mod machine;
pub mod render;
pub mod source;
pub mod suggest;
pub mod word;

use serde::Serialize;

pub use render::{Format, render, render_all};
pub use source::{FileId, Place, SourceFile, SourceFiles, Span};
pub use suggest::{did_you_mean, suggest};
pub use word::quote;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The run would not do what the document says.
    Error,
    /// Worth knowing; the run goes on.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// One problem with its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Diagnostic {
    /// Stable code, `P0104`.
    pub code: &'static str,
    /// Error or warning.
    pub severity: Severity,
    /// Message in plain words, without final period.
    pub message: String,
    /// The place to blame; it names its file too.
    pub span: Span,
    /// Notes beside places. A label at [`Diagnostic::span`] itself is printed after its carets.
    pub labels: Vec<(Span, String)>,
    /// Further places with the very same fault: the same missing file, named again.
    pub also: Vec<Span>,
    /// How to mend it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A new error.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        let (labels, also) = (Vec::new(), Vec::new());
        Diagnostic { code, severity: Severity::Error, message: message.into(), span, labels, also, help: None }
    }
    /// A new warning.
    pub fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Diagnostic { severity: Severity::Warning, ..Self::error(code, span, message) }
    }
    /// With a note at another place, or at the same one.
    pub fn label(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push((span, text.into()));
        self
    }
    /// With a note after the carets, if there is one to make.
    pub fn note(mut self, text: Option<String>) -> Self {
        self.labels.extend(text.map(|text| (self.span, text)));
        self
    }
    /// With a fix.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
    /// All places of the fault, the leading one first.
    pub fn places(&self) -> impl Iterator<Item = Span> {
        std::iter::once(self.span).chain(self.also.iter().copied())
    }
    /// The file of the place.
    pub fn file(&self) -> FileId {
        self.span.file
    }
    /// The note after the carets.
    pub fn primary_label(&self) -> Option<&str> {
        self.labels.iter().find(|(span, _)| *span == self.span).map(|(_, text)| text.as_str())
    }
    /// Note and fix in one line, for machine formats.
    pub fn help_text(&self) -> Option<String> {
        let parts: Vec<&str> = self.primary_label().into_iter().chain(self.help.as_deref()).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// Sorts by place and drops repetitions.
pub fn tidy(diagnostics: &mut Vec<Diagnostic>) {
    diagnostics.sort_by(|a, b| {
        (a.span.file, a.span.start, a.severity, a.code, a.span.end, &a.message).cmp(&(
            b.span.file,
            b.span.start,
            b.severity,
            b.code,
            b.span.end,
            &b.message,
        ))
    });
    diagnostics.dedup();
}

/// Numbers of errors and warnings.
pub fn count(diagnostics: &[Diagnostic]) -> (usize, usize) {
    let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
    (errors, diagnostics.len() - errors)
}
