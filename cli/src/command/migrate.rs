//! `pipe migrate`: the set-up of another trainer as a document, and what became of each of its options.

use std::path::{Component, Path, PathBuf};

use clap::ValueEnum;
use pipe_core::check::{Checked, Options, check_document_with};
use pipe_core::diagnostic::{Format, count, render};
use pipe_core::document::{Document, Syntax};
use pipe_core::registry::Registry;
use pipe_migrate::{Disk, Error, Files, Input, Kind, Outcome as Migrated, Product, migrate_checked, shell};
use serde_json::{Value as Json, json};

use super::{Form, complain, json_text, missing, write_file};
use crate::exit::{Exit, Failure, Outcome};
use crate::terminal::{Paint, Terminal};
use crate::text;

/// Turn a set-up of another trainer into a document.
///
/// Reads a configuration file, a command line behind `--`, or both, and writes a document that `pipe run` takes. The
/// report says of every option whether it was carried over, changed in meaning (and why), written out as a default of
/// the other trainer, or not carried over. The document is checked; weights and images need not be there yet.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose set-up it is.
    #[arg(value_enum, value_name = "TRAINER")]
    pub from: Trainer,
    /// The configuration, the file of `--config_file` (TOML).
    #[arg(long, value_name = "FILE", required_unless_present = "line")]
    pub config: Option<PathBuf>,
    /// The dataset, the file of `--dataset_config` (TOML or JSON). Default: the one that the set-up names.
    #[arg(long, value_name = "FILE")]
    pub dataset: Option<PathBuf>,
    /// Name of the training script, such as sdxl_train_network, where the set-up does not tell it.
    #[arg(long, value_name = "NAME")]
    pub script: Option<String>,
    /// Where to write the document; `-` is standard output. Default: the run's name with `.pipe.yaml`.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite the file if it is there.
    #[arg(long)]
    pub force: bool,
    /// Exit with 1 when an option could not be carried over.
    #[arg(long)]
    pub strict: bool,
    /// How to print the report: on standard error for people, on standard output for programs.
    #[arg(long, value_enum, default_value = "human")]
    pub format: Form,
    /// The command line, with or without launcher and script; one argument in quotes is taken apart.
    #[arg(last = true, value_name = "COMMAND")]
    pub line: Vec<String>,
}

/// A trainer whose set-ups can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Trainer {
    /// sd-scripts of kohya-ss.
    SdScripts,
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    match args.from {
        Trainer::SdScripts => sd_scripts(args, terminal),
    }
}

fn sd_scripts(args: &Args, terminal: &Terminal) -> Outcome {
    let registry = pipe_nodes::registry();
    let product = Product::from_schema(pipe_schema::json_schema(&registry));
    let mut input = input(args)?;
    let mut outcome = migrated(&input, &product, &registry)?;

    let printed = args.output.as_deref() == Some(Path::new("-"));
    let file = args.output.clone().unwrap_or_else(|| format!("{}.pipe.yaml", outcome.name).into());
    input.base = if printed { String::new() } else { way_back(&file)? };
    if !input.base.is_empty() {
        outcome = migrated(&input, &product, &registry)?;
    }
    if !printed {
        write(&file, &outcome.document, args.force)?;
    }
    let path = if printed { PathBuf::from("document.pipe.yaml") } else { file };
    let check = |without_files| {
        let document = Document::parse(&outcome.document, &path, Syntax::Yaml, &[]);
        check_document_with(&registry, document, Options { without_files, any_device: true })
    };
    let checked = check(true);
    let mut unready = check(false);
    // Without the data other numbers are unknown too; what is to be brought are files.
    unready.diagnostics.retain(|one| checked.ok() && one.code.starts_with("P03"));
    let needs = missing(&unready);

    match args.format {
        Form::Json => {
            let file = (!printed).then_some(path.as_path());
            terminal.out(&json_text(&report(&outcome, file, &checked, &needs)))?;
        }
        Form::Human => {
            if printed {
                terminal.out(&outcome.document)?;
            }
            let paint = terminal.paint_err();
            terminal.note(outcome.render(|kind, title| coloured(paint, kind, title)).trim_end());
            complain(&checked, terminal);
            terminal.note("");
            terminal.note(&summary(&outcome, (!printed).then_some(path.as_path())));
            if !printed && checked.ok() {
                terminal.note("");
                terminal.note(&text::next_steps(&text::quote(&path.display().to_string()), &needs));
            }
        }
    }
    let lost = args.strict && outcome.of(Kind::Refused).next().is_some();
    Ok(if checked.ok() && !lost { Exit::Done } else { Exit::Failed })
}

/// The set-up as it was given.
fn input(args: &Args) -> Result<Input, Failure> {
    let read = |path: &Option<PathBuf>| -> Result<Option<(String, String)>, Failure> {
        let Some(path) = path else { return Ok(None) };
        let name = path.to_string_lossy().into_owned();
        let text = Disk::at(".").read(&name).map_err(|error| {
            Failure::new(format!("`{name}` cannot be read: {error}")).help("paths start from the current folder")
        })?;
        Ok(Some((name, text)))
    };
    let line = match &args.line[..] {
        [one] if one.contains(char::is_whitespace) => shell::split(one).map_err(failure)?,
        words => words.to_vec(),
    };
    Ok(Input {
        script: args.script.clone(),
        args: line,
        config_toml: read(&args.config)?,
        dataset_toml: read(&args.dataset)?,
        base: String::new(),
    })
}

fn migrated(input: &Input, product: &Product, registry: &Registry) -> Result<Migrated, Failure> {
    migrate_checked(input, &Disk::at("."), product, registry).map_err(failure)
}

/// What cannot be asked for is a matter of the command line, a file that cannot be read is not.
fn failure(error: Error) -> Failure {
    let text = error.to_string();
    let (message, help) = text.split_once("\nhelp: ").map_or((text.as_str(), None), |(m, h)| (m, Some(h)));
    let failure = match error {
        Error::Quote { .. } | Error::Script { .. } | Error::WhichScript { .. } => Failure::usage(message),
        Error::Toml { .. } | Error::Config { .. } => Failure::new(message),
    };
    match (help, error) {
        (Some(help), Error::WhichScript { .. }) => failure.help(format!("{help}, with `--script`")),
        (Some(help), _) => failure.help(help),
        (None, _) => failure,
    }
}

/// Writes the document. Another file of the name is left alone, unless told otherwise.
fn write(file: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let same = std::fs::read(file).is_ok_and(|found| found == text.as_bytes());
    if file.exists() && !same && !force {
        let message = format!("`{}` is already there", file.display());
        return Err(Failure::new(message).help("name another file with --output, or overwrite it with --force"));
    }
    write_file(file, text.as_bytes())
}

/// The way from a file's folder to the current one: empty where they are the same, `../..` where the file is deeper,
/// else the current folder's own path.
fn way_back(file: &Path) -> Result<String, Failure> {
    let here = std::env::current_dir()
        .map_err(|error| Failure::new(format!("the current folder cannot be found: {error}")))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let plain = folder.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if plain {
        let deep = folder.components().filter(|part| matches!(part, Component::Normal(_))).count();
        return Ok(vec![".."; deep].join("/"));
    }
    let absolute = std::path::absolute(folder).ok().and_then(|folder| folder.canonicalize().ok());
    let same = absolute.is_some_and(|folder| here.canonicalize().is_ok_and(|here| here == folder));
    Ok(if same { String::new() } else { here.to_string_lossy().replace('\\', "/") })
}

fn coloured(paint: Paint, kind: Kind, title: &str) -> String {
    match kind {
        Kind::Refused => paint.red(title),
        Kind::Changed => paint.yellow(title),
        _ => paint.bold(title),
    }
}

/// `wrote a.pipe.yaml: 21 options carried over, 1 changed`.
fn summary(outcome: &Migrated, file: Option<&Path>) -> String {
    let counts = Kind::ALL.into_iter().map(|kind| (kind, outcome.of(kind).count()));
    let parts: Vec<String> = counts
        .filter(|(_, number)| *number > 0)
        .map(|(kind, number)| match kind {
            Kind::Mapped => format!("{} carried over", text::count(number, "option")),
            Kind::Ignored => format!("{number} without effect on the result"),
            Kind::Defaulted => format!("{} written out", text::count(number, "default")),
            Kind::Changed => format!("{number} changed on the way"),
            Kind::Refused => format!("{number} not carried over"),
        })
        .collect();
    let wrote = file.map(|file| format!("wrote {} for ", file.display())).unwrap_or_default();
    format!("{wrote}{}: {}", outcome.script, parts.join(", "))
}

/// The report for programs.
fn report(outcome: &Migrated, file: Option<&Path>, checked: &Checked, needs: &[String]) -> Json {
    let problems = render(&checked.diagnostics, checked.files(), Format::Json, false);
    let counts = Kind::ALL.into_iter().map(|kind| (kind.name().to_owned(), json!(outcome.of(kind).count())));
    json!({
        "script": outcome.script,
        "file": file,
        "document": file.is_none().then_some(&outcome.document),
        "counts": Json::Object(counts.collect()),
        "options": outcome.to_json(),
        "errors": count(&checked.diagnostics).0,
        "problems": serde_json::from_str::<Json>(&problems).unwrap_or_default(),
        "needs": needs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_from_a_file() {
        let here = std::env::current_dir().unwrap();
        for (file, way) in [
            ("a.yaml".into(), String::new()),
            ("./a.yaml".into(), String::new()),
            ("x/y/a.yaml".into(), "../..".into()),
            (here.join("a.yaml"), String::new()),
            (here.parent().unwrap().join("a.yaml"), here.to_string_lossy().replace('\\', "/")),
        ] {
            assert_eq!(way_back(&file).unwrap(), way, "{}", file.display());
        }
    }
}
