//! `pipe check`: everything that is wrong with documents, without loading a weight.

use std::path::PathBuf;

use clap::ValueEnum;
use pipe_core::check::{Checked, check_path_with};
use pipe_core::diagnostic::{Format, count, render_all};

use crate::args::{Files, Overrides};
use crate::exit::{Exit, Outcome};
use crate::terminal::Terminal;
use crate::text;

/// Check documents: structure, graph, files, and whether the nodes go together.
///
/// What passes is ready to run. All errors are found at once, each at its place.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Documents, YAML or TOML.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How to print what is found.
    #[arg(long, value_enum, default_value = "human")]
    pub format: Report,
    #[command(flatten)]
    pub overrides: Overrides,
    #[command(flatten)]
    pub needs: Files,
}

/// How diagnostics are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Report {
    /// With the lines of the document.
    Human,
    /// One line each.
    Concise,
    /// A JSON array.
    Json,
    /// Workflow commands of GitHub Actions.
    Github,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
}

impl From<Report> for Format {
    fn from(report: Report) -> Format {
        match report {
            Report::Human => Format::Human,
            Report::Concise => Format::Concise,
            Report::Json => Format::Json,
            Report::Github => Format::Github,
            Report::Sarif => Format::Sarif,
        }
    }
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let registry = pipe_nodes::registry();
    let sets = args.overrides.sets();
    let options = args.needs.options();
    let checked: Vec<Checked> =
        args.files.iter().map(|file| check_path_with(&registry, file, &sets, options)).collect();

    let groups: Vec<_> = checked.iter().map(|one| (one.diagnostics.as_slice(), one.files())).collect();
    terminal.out(&render_all(&groups, args.format.into(), terminal.paint().on()))?;

    let (errors, warnings) =
        checked.iter().map(|one| count(&one.diagnostics)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    if args.format == Report::Human {
        let nodes = checked.iter().map(|one| one.nodes.len()).sum();
        terminal.note(&text::check_summary(checked.len(), nodes, errors, warnings));
    }
    Ok(if errors == 0 { Exit::Done } else { Exit::Failed })
}
