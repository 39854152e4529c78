//! `pipe schema`: the JSON Schema that editors and validators read.

use std::path::PathBuf;

use pipe_core::registry::Registry;

use super::{json_text, write_to};
use crate::exit::{Exit, Outcome};
use crate::terminal::Terminal;

/// Print the JSON Schema (draft-07) of documents, for editors.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to write it, instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// The schema as it is written.
pub fn text(registry: &Registry) -> String {
    json_text(&pipe_schema::json_schema(registry))
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    write_to(args.output.as_deref(), &text(&pipe_nodes::registry()), terminal)?;
    Ok(Exit::Done)
}
