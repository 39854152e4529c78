//! The command line: the commands and the flags that all of them have.
//!
//! The flags of one command stand in its own file under [`crate::command`]. Help, completions and the reference page
//! are made from these definitions.

use std::io::Write as _;

use clap::error::{ContextKind, ContextValue};
use clap::{ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};
use pipe_core::diagnostic::suggest::and_list;
use pipe_core::diagnostic::{did_you_mean, suggest};

use crate::choices::Device;
use crate::command::{
    check, completions, convert, doctor, explain, extract, generate, graph, init, inspect, merge, migrate, nodes, plan,
    resize, run, schema,
};
use crate::exit::Exit;

/// Trains diffusion models from a checked graph of nodes.
///
/// A training run is one YAML or TOML document. `pipe init` writes one to begin with, `pipe check` and `pipe plan` say
/// what is wrong with it and what it will need, `pipe run` trains.
#[derive(Debug, Parser)]
#[command(name = "pipe", version, max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 errors found or run failed, 2 usage, 3 plan does not fit, 4 interrupted with
nothing saved, 130 interrupted after a save."
)]
pub struct Cli {
    /// When to use colours.
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "WHEN")]
    pub color: ColorChoice,
    /// Print errors and results only.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(run::Args),
    Check(check::Args),
    Plan(plan::Args),
    Graph(graph::Args),
    Init(init::Args),
    Migrate(migrate::Args),
    Nodes(nodes::Args),
    Explain(explain::Args),
    Inspect(inspect::Args),
    Merge(merge::Args),
    Extract(extract::Args),
    Convert(convert::Args),
    Resize(resize::Args),
    Schema(schema::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
}

/// `pipe generate`, for those who work on `pipe`: apart from the commands, so that neither help nor completions offer it.
#[derive(Debug, Parser)]
#[command(name = "pipe generate")]
pub struct Maintain {
    /// When to use colours.
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    pub color: ColorChoice,
    /// Print errors and results only.
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub args: generate::Args,
}

/// The arguments of `pipe generate`, if that is what was called.
pub fn maintain() -> Option<Maintain> {
    let generate = std::env::args_os().nth(1)? == "generate";
    generate.then(|| Maintain::parse_from(std::env::args_os().skip(1)))
}

/// Fields of the document given on the command line.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Overrides {
    /// Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`; `null` takes it out.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
    /// Sets `train.device`: auto, cpu, cuda, wgpu, or one of several as in cuda:1.
    #[arg(long, value_name = "DEVICE", value_parser = Device)]
    pub device: Option<String>,
}

/// What a check may do without.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Files {
    /// Do not ask for the weights and images that the document names: what is there is checked, for what is not a
    /// usual size is assumed (a hundred images, the full size of the model's family).
    #[arg(long)]
    pub without_files: bool,
}

impl Files {
    /// As a check takes it that nothing runs after: the device may be another machine's.
    pub fn options(self) -> pipe_core::check::Options {
        pipe_core::check::Options { without_files: self.without_files, any_device: true }
    }
}

impl Overrides {
    /// All of them in the form of `--set`.
    pub fn sets(&self) -> Vec<String> {
        let device = self.device.iter().map(|device| format!("--device={device}"));
        self.set.iter().cloned().chain(device).collect()
    }
}

/// The command as clap knows it.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Parses the arguments of this process; help, version and usage errors end it.
pub fn parse() -> Cli {
    let definition = definition().color(early_color());
    let matches = definition.try_get_matches().unwrap_or_else(|error| {
        if let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand) {
            let _ = std::io::stderr().lock().write_all(unknown_command(name).as_bytes());
            std::process::exit(Exit::Usage.code().into());
        }
        error.exit()
    });
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// What other programs call a command of this one.
const SYNONYMS: [(&str, &str); 12] = [
    ("train", "run"),
    ("start", "run"),
    ("fit", "run"),
    ("validate", "check"),
    ("lint", "check"),
    ("verify", "check"),
    ("estimate", "plan"),
    ("new", "init"),
    ("info", "inspect"),
    ("show", "inspect"),
    ("types", "nodes"),
    ("docs", "explain"),
];

/// A command that there is not, with the one that was meant, the nearest first.
fn unknown_command(name: &str) -> String {
    let definition = definition();
    let names: Vec<&str> = definition.get_subcommands().map(clap::Command::get_name).collect();
    let synonym = SYNONYMS.iter().find(|(other, _)| *other == name).map(|(_, ours)| vec![*ours]);
    let near = synonym.unwrap_or_else(|| suggest(name, names.iter().copied()));
    let help = did_you_mean(&near).unwrap_or_else(|| format!("the commands are {}", and_list(&names)));
    format!("error: there is no command `{name}`\nhelp: {help}\nhelp: `pipe --help` says what each does\n")
}

/// `--color`, found before parsing: usage errors and help are coloured by it too.
fn early_color() -> ColorChoice {
    let args: Vec<String> = std::env::args().take_while(|arg| arg != "--").collect();
    let value = args.iter().enumerate().find_map(|(at, arg)| match arg.strip_prefix("--color") {
        Some("") => args.get(at + 1).map(String::as_str),
        Some(rest) => rest.strip_prefix('='),
        None => None,
    });
    match value {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        _ => ColorChoice::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn the_nearest_command_comes_first() {
        assert!(unknown_command("chekc").contains("did you mean `check`"));
        assert!(unknown_command("train").contains("did you mean `run`?"));
        assert!(unknown_command("zzzzzzz").contains("`run`, `check`, `plan`"));
        for (_, ours) in SYNONYMS {
            assert!(definition().find_subcommand(ours).is_some(), "{ours}");
        }
    }

    #[test]
    fn device_is_an_override() {
        let cli = Cli::parse_from(["pipe", "plan", "a.yaml", "--set", "seed=1", "--device", "cuda:1"]);
        let Command::Plan(args) = cli.command else { panic!("another command") };
        assert_eq!(args.overrides.sets(), ["seed=1", "--device=cuda:1"]);
    }
}
