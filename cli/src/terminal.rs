//! Standard output and standard error: colour, quietness, and readers that hang up.
//!
//! What a command was asked for goes to standard output; everything else (diagnostics of a run, progress, notes) goes
//! to standard error. Colour only on a terminal, unless `--color` says otherwise; `NO_COLOR` and `TERM=dumb` are heeded.

use std::env;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process;

use clap::ColorChoice;

use crate::exit::{Exit, Failure};

/// The two streams as this call of `pipe` uses them.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    out: Paint,
    err: Paint,
    live: bool,
    quiet: bool,
}

impl Terminal {
    /// Looks at the streams and the environment.
    pub fn new(color: ColorChoice, quiet: bool) -> Terminal {
        let wanted = |is_terminal: bool| match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => is_terminal && !set("NO_COLOR") && !dumb(),
        };
        let (out, err) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Terminal { out: Paint(wanted(out)), err: Paint(wanted(err)), live: err && !dumb(), quiet }
    }
    /// Colours of standard output.
    pub fn paint(&self) -> Paint {
        self.out
    }
    /// Colours of standard error.
    pub fn paint_err(&self) -> Paint {
        self.err
    }
    /// Whether lines of standard error can be redrawn.
    pub fn live(&self) -> bool {
        self.live
    }
    /// Whether only errors and results are wanted.
    pub fn quiet(&self) -> bool {
        self.quiet
    }
    /// Prints a result.
    pub fn out(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            // `pipe nodes | head`: whoever reads has enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => process::exit(Exit::Done.code().into()),
            Err(error) => Err(Failure::new(format!("standard output cannot be written: {error}"))),
        }
    }
    /// Prints what is worth knowing, unless the user wants quiet.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.error_text(text);
            self.error_text("\n");
        }
    }
    /// Prints a warning.
    pub fn warn(&self, text: &str) {
        self.error_text(&format!("{}: {text}\n", self.err.yellow("warning")));
    }
    /// Prints to standard error whatever the user wants. Nobody is left to tell when that fails.
    pub fn error_text(&self, text: &str) {
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
    /// Prints why a command failed.
    pub fn fail(&self, failure: &Failure) -> Exit {
        let head = failure.code.map_or_else(|| "error".to_owned(), |code| format!("error[{code}]"));
        self.error_text(&format!("{}: {}\n", self.err.red(&head), failure.message));
        if let Some(place) = &failure.place {
            self.error_text(&format!(" {} {place}\n", self.err.cyan("-->")));
        }
        let explain = failure.code.map(|code| format!("pipe explain {code}"));
        for help in failure.help.iter().chain(&explain) {
            self.error_text(&format!("{}: {help}\n", self.err.cyan("help")));
        }
        failure.exit
    }
}

fn set(name: &str) -> bool {
    env::var_os(name).is_some_and(|value| !value.is_empty())
}

fn dumb() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub struct Paint(bool);

impl Paint {
    /// Whether there are colours.
    pub fn on(self) -> bool {
        self.0
    }
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }
    pub fn dim(self, text: &str) -> String {
        self.with("2", text)
    }
    pub fn red(self, text: &str) -> String {
        self.with("1;31", text)
    }
    pub fn green(self, text: &str) -> String {
        self.with("32", text)
    }
    pub fn yellow(self, text: &str) -> String {
        self.with("1;33", text)
    }
    pub fn cyan(self, text: &str) -> String {
        self.with("36", text)
    }
}
