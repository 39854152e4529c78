//! `pipe graph`: a picture of a document, or its graph as data.

use std::path::PathBuf;

use pipe_core::check::{Options, check_path_with};
use pipe_core::graph_export::{to_dot, to_json, to_mermaid, to_svg};

use super::{complain, write_to};
use crate::args::Overrides;
use crate::exit::{Exit, Outcome};
use crate::terminal::Terminal;

/// Draw the graph of a document.
///
/// A document with errors is drawn as far as it could be understood; the exit code is then 1.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The document, YAML or TOML.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What to write.
    #[arg(long, value_enum)]
    pub format: Drawing,
    /// Where to write it, instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub overrides: Overrides,
}

/// Formats of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Drawing {
    /// For Graphviz.
    Dot,
    /// For Markdown.
    Mermaid,
    /// Nodes, edges and the order of building as data.
    Json,
    /// A picture.
    Svg,
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let registry = pipe_nodes::registry();
    // A drawing needs no file and no device.
    let options = Options { without_files: true, any_device: true };
    let checked = check_path_with(&registry, &args.file, &args.overrides.sets(), options);
    complain(&checked, terminal);
    let text = match args.format {
        Drawing::Dot => to_dot(&checked),
        Drawing::Mermaid => to_mermaid(&checked),
        Drawing::Json => to_json(&checked),
        Drawing::Svg => to_svg(&checked),
    };
    write_to(args.output.as_deref(), &text, terminal)?;
    Ok(if checked.ok() { Exit::Done } else { Exit::Failed })
}
