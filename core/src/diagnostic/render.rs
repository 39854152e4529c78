//! Printing diagnostics for people: the `human` and `concise` formats.
//!
//! ```text
//! error[P0104]: unknown field `min_snr_gama` on node `loss` (loss.diffusion)
//!   --> sdxl-lora.yaml:31:7
//!    |
//! 31 |       min_snr_gama: 5
//!    |       ^^^^^^^^^^^^ did you mean `min_snr_gamma`?
//! help: pipe explain P0104
//! ```

use std::fmt::Write as _;

use super::{Diagnostic, Severity, SourceFile, SourceFiles, Span, machine};

/// How diagnostics are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// With the lines of the document and carets.
    #[default]
    Human,
    /// `file:line:col: error[P0104]: message`.
    Concise,
    /// An array of objects.
    Json,
    /// Workflow commands of GitHub Actions.
    Github,
    /// SARIF 2.1.0.
    Sarif,
}

impl std::str::FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "human" => Format::Human,
            "concise" => Format::Concise,
            "json" => Format::Json,
            "github" => Format::Github,
            "sarif" => Format::Sarif,
            _ => return Err(format!("unknown format `{text}`, expected human, concise, json, github or sarif")),
        })
    }
}

/// Prints the diagnostics of one document.
pub fn render(diagnostics: &[Diagnostic], files: &SourceFiles, format: Format, color: bool) -> String {
    render_all(&[(diagnostics, files)], format, color)
}

/// Prints the diagnostics of several documents as one report.
pub fn render_all(groups: &[(&[Diagnostic], &SourceFiles)], format: Format, color: bool) -> String {
    match format {
        Format::Json => return machine::json(groups),
        Format::Github => return machine::github(groups),
        Format::Sarif => return machine::sarif(groups),
        Format::Human | Format::Concise => {}
    }
    let mut out = String::new();
    for (diagnostics, files) in groups {
        for diagnostic in *diagnostics {
            match format {
                Format::Concise => concise(&mut out, diagnostic, files),
                _ => human(&mut out, diagnostic, files, Paint(color)),
            }
        }
    }
    out
}

fn concise(out: &mut String, d: &Diagnostic, files: &SourceFiles) {
    for span in d.places() {
        if let Some((file, at, _)) = files.places(span) {
            let _ = write!(out, "{}:{}:{}: ", clean(&file.name()), at.line, at.column);
        }
        let _ = writeln!(out, "{}[{}]: {}", d.severity.name(), d.code, clean(&d.message).replace('\n', " "));
    }
}

fn human(out: &mut String, d: &Diagnostic, files: &SourceFiles, paint: Paint) {
    if !out.is_empty() {
        out.push('\n');
    }
    let tone = if d.severity == Severity::Error { RED } else { YELLOW };
    let head = format!("{}[{}]", d.severity.name(), d.code);
    let _ = writeln!(out, "{}{}", paint.with(tone, &head), paint.with(BOLD, &format!(": {}", clean(&d.message))));

    let mut marks: Vec<Mark> = d
        .labels
        .iter()
        .map(|(span, text)| Mark { span: *span, text: text.clone(), primary: *span == d.span })
        .collect();
    marks.extend(d.also.iter().map(|span| Mark { span: *span, text: "here too".into(), primary: false }));
    if !marks.iter().any(|mark| mark.primary) {
        marks.push(Mark { span: d.span, text: String::new(), primary: true });
    }
    marks.sort_by_key(|mark| (mark.span.file != d.span.file, mark.span, !mark.primary));
    let width = marks
        .iter()
        .filter_map(|mark| files.places(mark.span))
        .map(|(_, at, _)| at.line.to_string().len())
        .max()
        .unwrap_or(1);

    let mut rest = marks.as_slice();
    let mut arrow = "-->";
    while let Some(first) = rest.first() {
        let end = rest.iter().position(|mark| mark.span.file != first.span.file).unwrap_or(rest.len());
        let (group, others) = rest.split_at(end);
        rest = others;
        if let Some(file) = files.get(first.span.file) {
            snippet(out, file, group, width, arrow, paint, tone);
        }
        arrow = ":::";
    }
    if let Some(help) = &d.help {
        let _ = writeln!(out, "{}: {}", paint.with(CYAN, "help"), clean(help));
    }
    let _ = writeln!(out, "{}: pipe explain {}", paint.with(CYAN, "help"), d.code);
}

struct Mark {
    span: Span,
    text: String,
    primary: bool,
}

fn snippet(out: &mut String, file: &SourceFile, marks: &[Mark], width: usize, arrow: &str, paint: Paint, tone: &str) {
    let lead = marks.iter().find(|mark| mark.primary).unwrap_or(&marks[0]);
    let at = file.place(lead.span.start as usize);
    let pad = " ".repeat(width);
    let name = clean(&file.name());
    if file.text.is_empty() {
        let _ = writeln!(out, "{pad}{} {name}", paint.with(BLUE, arrow));
        return;
    }
    // A flag of the command line is named; there is no line to count.
    let flag = name.starts_with("--") && name != "--set";
    let place = if flag { String::new() } else { format!(":{}:{}", at.line, at.column) };
    let _ = writeln!(out, "{pad}{} {name}{place}", paint.with(BLUE, arrow));
    let bar = paint.with(BLUE, "|");
    let _ = writeln!(out, "{pad} {bar}");
    let mut previous: Option<usize> = None;
    for mark in marks {
        let line = file.line_of(mark.span.start as usize);
        let view = View::new(file, line, mark.span);
        if previous != Some(line) {
            if previous.is_some_and(|p| line > p + 1) {
                let _ = writeln!(out, "{}", paint.with(BLUE, "..."));
            }
            let number = paint.with(BLUE, &format!("{:>width$}", line + 1));
            let _ = writeln!(out, "{}", format!("{number} {bar} {}", view.text).trim_end());
        }
        let (sign, color) = if mark.primary { ("^", tone) } else { ("-", BLUE) };
        let under = format!("{} {}", sign.repeat(view.length), clean(&mark.text).replace('\n', " "));
        let _ = writeln!(out, "{pad} {bar} {}{}", " ".repeat(view.indent), paint.with(color, under.trim_end()));
        previous = Some(line);
    }
}

/// A line as printed, cut to a window around the mark when it is very long.
struct View {
    text: String,
    indent: usize,
    length: usize,
}

const WINDOW: usize = 160;

impl View {
    fn new(file: &SourceFile, line: usize, span: Span) -> View {
        let range = file.line_range(line);
        let text = &file.text[range.clone()];
        let within = |offset: u32| {
            let mut at = (offset as usize).clamp(range.start, range.end) - range.start;
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let (mut start, mut end) = (within(span.start), within(span.end));
        let mut shown = text;
        let mut cut = "";
        if text.chars().count() > WINDOW {
            let from = floor(text, start.saturating_sub(WINDOW / 2));
            let to = floor(text, (from + WINDOW).min(text.len()));
            shown = &text[from..to];
            cut = if from > 0 { "…" } else { "" };
            start = start.clamp(from, to) - from;
            end = end.clamp(from, to) - from;
        }
        View {
            text: format!("{cut}{}", clean(shown).replace('\t', " ")),
            indent: columns(cut) + columns(&shown[..start]),
            length: columns(&shown[start..end.max(start)]).max(1),
        }
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Width on a terminal: East Asian wide characters and emoji take two columns, marks none.
fn columns(text: &str) -> usize {
    text.chars()
        .map(|c| match c as u32 {
            0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
            0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f => 2,
            0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd => 2,
            _ => 1,
        })
        .sum()
}

/// Control characters of a document must not reach the terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

const BOLD: &str = "1";
const RED: &str = "1;31";
const YELLOW: &str = "1;33";
const BLUE: &str = "1;34";
const CYAN: &str = "1;36";

#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn with(self, style: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}
