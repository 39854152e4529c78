//! `pipe`: trains diffusion models from a checked graph of nodes.
//!
//! Stages: the panic hook, the arguments, the terminal, the command, the exit code. Each command is a file under
//! [`command`]; how anything is computed is the business of the crates below.

mod args;
mod choices;
mod command;
mod exit;
mod fault;
mod machine;
mod progress;
mod size;
mod speed;
mod templates;
mod terminal;
mod text;
mod weights;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use crate::exit::{Exit, Outcome};
use crate::terminal::Terminal;

/// Tensors come and go by the megabyte: an allocator that keeps freed pages saves the system most of that work.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fault::install_hook();
    if let Some(maintain) = args::maintain() {
        let terminal = Terminal::new(maintain.color, maintain.quiet);
        return finish(&terminal, || command::generate::run(&maintain.args, &terminal));
    }
    let cli = args::parse();
    let terminal = Terminal::new(cli.color, cli.quiet);
    finish(&terminal, || command::dispatch(cli.command, &terminal))
}

/// Carries out a command and tells how it ended.
fn finish(terminal: &Terminal, work: impl FnOnce() -> Outcome) -> ExitCode {
    let result = catch_unwind(AssertUnwindSafe(work));
    let exit = match result {
        Ok(Ok(exit)) => exit,
        Ok(Err(failure)) => terminal.fail(&failure),
        Err(_) => Exit::Failed,
    };
    exit.into()
}
