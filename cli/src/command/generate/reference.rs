//! The reference page of the command line, made from its definition.

use std::fmt::Write as _;

use clap::builder::StyledStr;
use clap::{Arg, Command};

use crate::args;

/// The page, in Markdown.
pub fn page() -> String {
    let mut root = args::definition();
    root.build();
    let mut out = String::from("# Commands\n\n<!-- Made by `pipe generate`; edit the definitions in cli/src. -->\n\n");
    let _ = writeln!(out, "{}\n", about(&root));
    let global: Vec<&Arg> = root.get_arguments().filter(|arg| shown(arg)).collect();
    let _ = writeln!(out, "Every command takes:\n\n{}", table(&global));
    let _ = writeln!(
        out,
        "Exit codes: 0 done, 1 errors found or run failed, 2 usage, 3 the plan does not fit, 130 interrupted after a \
         clean save.\nWhat was asked for goes to standard output, progress and messages to standard error."
    );
    let common: Vec<String> = global.iter().map(|arg| arg.get_id().to_string()).collect();
    for command in root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        let mut command = command.clone();
        let usage = command.render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ").trim();
        let _ = writeln!(out, "\n## pipe {}\n\n```\n{usage}\n```\n\n{}", command.get_name(), about(&command));
        let own: Vec<&Arg> = command
            .get_arguments()
            .filter(|arg| shown(arg) && !common.iter().any(|name| name == arg.get_id().as_str()))
            .collect();
        if !own.is_empty() {
            let _ = write!(out, "\n{}", table(&own));
        }
    }
    out
}

fn shown(arg: &Arg) -> bool {
    !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str())
}

fn about(command: &Command) -> String {
    text(command.get_long_about().or(command.get_about()))
}

fn text(styled: Option<&StyledStr>) -> String {
    styled.map(ToString::to_string).unwrap_or_default().trim().to_owned()
}

fn table(args: &[&Arg]) -> String {
    let mut out = String::from("| argument | meaning |\n|---|---|\n");
    for arg in args {
        let mut meaning = text(arg.get_long_help().or(arg.get_help())).replace("\n\n", " ").replace('\n', " ");
        if !meaning.ends_with('.') {
            meaning.push('.');
        }
        let values = arg.get_possible_values();
        let values: Vec<String> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
        if !values.is_empty() && arg.get_action().takes_values() {
            let _ = write!(meaning, " One of {}.", values.join(", "));
        }
        let default: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        if !default.is_empty() && arg.get_action().takes_values() {
            let _ = write!(meaning, " Default `{}`.", default.join(" "));
        }
        let _ = writeln!(out, "| `{}` | {} |", name(arg), meaning.replace('|', "\\|"));
    }
    out
}

fn name(arg: &Arg) -> String {
    let values = arg.get_value_names().unwrap_or_default();
    let value = values.first().map_or(String::new(), |value| format!("<{value}>"));
    let mut name = match (arg.get_short(), arg.get_long()) {
        (_, None) => value.trim_matches(['<', '>']).to_owned(),
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
    };
    if arg.get_long().is_some() && arg.get_action().takes_values() {
        name.push_str(&format!(" {value}"));
    }
    name.replace('|', "\\|")
}
