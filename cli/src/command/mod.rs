//! The commands, one file each: its flags, and what it does with the crates below.

pub mod check;
pub mod completions;
pub mod convert;
pub mod doctor;
pub mod explain;
pub mod extract;
pub mod generate;
pub mod graph;
pub mod init;
pub mod inspect;
pub mod merge;
pub mod migrate;
pub mod nodes;
pub mod plan;
pub mod resize;
pub mod run;
pub mod schema;

use std::path::Path;

use pipe_core::check::Checked;
use pipe_core::diagnostic::{Format, Severity, render};

use crate::args::Command;
use crate::exit::{Failure, Outcome};
use crate::terminal::Terminal;

/// Carries out a command.
pub fn dispatch(command: Command, terminal: &Terminal) -> Outcome {
    match command {
        Command::Run(args) => run::run(&args, terminal),
        Command::Check(args) => check::run(&args, terminal),
        Command::Plan(args) => plan::run(&args, terminal),
        Command::Graph(args) => graph::run(&args, terminal),
        Command::Init(args) => init::run(&args, terminal),
        Command::Nodes(args) => nodes::run(&args, terminal),
        Command::Explain(args) => explain::run(&args, terminal),
        Command::Inspect(args) => inspect::run(&args, terminal),
        Command::Merge(args) => merge::run(&args, terminal),
        Command::Extract(args) => extract::run(&args, terminal),
        Command::Convert(args) => convert::run(&args, terminal),
        Command::Resize(args) => resize::run(&args, terminal),
        Command::Migrate(args) => migrate::run(&args, terminal),
        Command::Schema(args) => schema::run(&args, terminal),
        Command::Doctor(args) => doctor::run(&args, terminal),
        Command::Completions(args) => completions::run(&args, terminal),
    }
}

/// Output for people or for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// For people.
    #[default]
    Human,
    /// For programs.
    Json,
}

/// Prints the diagnostics of a document to standard error.
fn complain(checked: &Checked, terminal: &Terminal) {
    let color = terminal.paint_err().on();
    terminal.error_text(&render(&checked.diagnostics, checked.files(), Format::Human, color));
}

/// What a document still needs: weights and folders that are not there, each once with the lines that name it.
fn missing(checked: &Checked) -> Vec<String> {
    let errors = checked.diagnostics.iter().filter(|one| one.severity == Severity::Error);
    let mut needs: Vec<(String, Vec<String>)> = Vec::new();
    for one in errors {
        let need = match one.code {
            "P0301" => one.message.replace("does not exist", "is for you to bring"),
            _ => one.message.clone(),
        };
        let places = one.places().filter_map(|span| checked.files().places(span));
        let lines: Vec<String> = places.map(|(_, at, _)| at.line.to_string()).collect();
        match needs.iter_mut().find(|(other, _)| *other == need) {
            Some((_, more)) => more.extend(lines),
            None => needs.push((need, lines)),
        }
    }
    needs
        .into_iter()
        .map(|(need, lines)| match lines.len() {
            0 => need,
            1 => format!("{need} (line {})", lines[0]),
            _ => format!("{need} (lines {})", lines.join(", ")),
        })
        .collect()
}

/// Writes a file, or standard output when no file is named.
fn write_to(path: Option<&Path>, text: &str, terminal: &Terminal) -> Result<(), Failure> {
    match path {
        None => terminal.out(text),
        Some(path) => write_file(path, text.as_bytes()),
    }
}

/// Writes a file and the folders on the way to it.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write;
    pipe_core::folder::atomic_write(path, |file| file.write_all(bytes)).map_err(|error| Failure::new(error.message))
}

/// A value as indented JSON with its line break.
fn json_text(value: &impl serde::Serialize) -> String {
    // Only maps with keys that are no text could fail, and there are none.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
