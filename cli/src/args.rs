//! The command line: the commands and the flags that all of them have.
//!
//! The flags of one command stand in its own file under [`crate::command`]. Help, completions and the reference page
//! are made from these definitions.

use clap::{ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::command::{
    check, completions, convert, doctor, explain, extract, generate, graph, init, inspect, merge, migrate, nodes, plan,
    resize, run, schema,
};

/// Trains diffusion models from a checked graph of nodes.
///
/// A training run is one YAML or TOML document. `pipe init` writes one to begin with, `pipe check` and `pipe plan` say
/// what is wrong with it and what it will need, `pipe run` trains.
#[derive(Debug, Parser)]
#[command(name = "pipe", version, max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 errors found or run failed, 2 usage, 3 plan does not fit, 130 interrupted."
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
    #[command(hide = true)]
    Generate(generate::Args),
}

/// Fields of the document given on the command line.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Overrides {
    /// Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
    /// Sets `train.device`: auto, cpu, cuda, wgpu, or one of several as in cuda:1.
    #[arg(long, value_name = "DEVICE")]
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
    /// As the check takes it.
    pub fn options(self) -> pipe_core::check::Options {
        pipe_core::check::Options { without_files: self.without_files }
    }
}

impl Overrides {
    /// All of them in the form of `--set`.
    pub fn sets(&self) -> Vec<String> {
        let device = self.device.iter().map(|device| format!("train.device={device}"));
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
    let matches = definition.get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
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
    fn device_is_an_override() {
        let cli = Cli::parse_from(["pipe", "plan", "a.yaml", "--set", "seed=1", "--device", "cuda:1"]);
        let Command::Plan(args) = cli.command else { panic!("another command") };
        assert_eq!(args.overrides.sets(), ["seed=1", "train.device=cuda:1"]);
    }
}
