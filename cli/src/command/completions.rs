//! `pipe completions`: scripts that complete `pipe` in a shell.

use clap_complete::Shell;

use crate::args;
use crate::exit::{Exit, Outcome};
use crate::terminal::Terminal;

/// Print the completion script of a shell.
///
/// For example: `pipe completions bash > ~/.local/share/bash-completion/completions/pipe`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell.
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// The script.
pub fn script(shell: Shell) -> String {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut args::definition(), "pipe", &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    terminal.out(&script(args.shell))?;
    Ok(Exit::Done)
}
