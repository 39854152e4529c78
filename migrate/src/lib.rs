//! sd-scripts set-ups into documents of `pipe`, with a report of what became of every option.
//!
//! Owns the table of the reference's options ([`reference_page`]), reading its command lines and files, and the
//! choice of nodes. Does not know how a node works: what exists is asked of the product's JSON Schema ([`Product`]), and
//! what has no effect in a document of the check ([`migrate_checked`]).
//! Stages: words ([`shell`]) → script and launcher → typed values → data → document and report.
//!
//! ```
//! use pipe_migrate::{Input, Nothing, Product, migrate};
//! let line = "accelerate launch sdxl_train_network.py --pretrained_model_name_or_path xl.safetensors \
//!             --train_data_dir photos --network_module networks.lora --network_dim 32 --min_snr_gamma 5";
//! let outcome = migrate(&Input::from_command(line)?, &Nothing, &Product::everything())?;
//! assert!(outcome.document.contains("min_snr_gamma: 5"));
//! # Ok::<(), pipe_migrate::Error>(())
//! ```

mod args;
mod command;
mod config;
mod convert;
mod dataset;
mod draft;
mod files;
mod options;
mod product;
mod python;
mod reference;
mod report;
mod script;
pub mod shell;

pub use files::{Disk, Files, Nothing};
pub use product::{Fit, Product};
pub use reference::{names, reference_page};
pub use report::{Entry, Kind, Outcome};

use args::{Given, Parsed};
use convert::Job;
use draft::Draft;
use pipe_core::registry::Registry;
use script::{SCRIPTS, Script};

/// A set-up to migrate.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// Name of the training script, where the words do not hold it.
    pub script: Option<String>,
    /// Words of the command line, with or without launcher and script.
    pub args: Vec<String>,
    /// Path and text of the file of `--config_file`.
    pub config_toml: Option<(String, String)>,
    /// Path and text of the file of `--dataset_config`.
    pub dataset_toml: Option<(String, String)>,
    /// The way from the document's folder to the folder that relative paths of the set-up start from; empty where they
    /// are the same.
    pub base: String,
}

impl Input {
    /// From a pasted command line. Errors when a quote is never closed.
    pub fn from_command(line: &str) -> Result<Input, Error> {
        Ok(Input { args: shell::split(line)?, ..Input::default() })
    }
}

/// Why a set-up cannot be migrated at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An open quote in a pasted command line.
    #[error("the quote {quote} in line {line} of the command is never closed")]
    Quote {
        /// Line of the text, from 1.
        line: usize,
        /// `'` or `"`.
        quote: char,
    },
    /// A script that trains something else.
    #[error("cannot migrate `{name}`: {why}\nhelp: the scripts are {}", scripts())]
    Script {
        /// Its name.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// A set-up that does not say which script it is for.
    #[error("the set-up does not say which script it is for\nhelp: give its name, one of {}", list(fit))]
    WhichScript {
        /// Scripts it fits.
        fit: Vec<String>,
    },
    /// A file that is no TOML or JSON.
    #[error("`{path}`, line {line}: {message}")]
    Toml {
        /// Its path.
        path: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The file of `--config_file`.
    #[error("cannot read `{path}`, which `--config_file` names: {why}")]
    Config {
        /// Its path.
        path: String,
        /// Why not.
        why: String,
    },
}

fn scripts() -> String {
    list(&SCRIPTS.iter().map(|script| script.file()).collect::<Vec<_>>())
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Migrates a set-up. `files` gives access to what it names (the configuration, the dataset, prompts, folders of
/// images); `product` says what the document may use.
///
/// # Errors
/// When the script is unknown or trains something that `pipe` does not, or a file is unreadable or not well-formed.
/// Everything else is an entry of the report.
pub fn migrate(input: &Input, files: &dyn Files, product: &Product) -> Result<Outcome, Error> {
    run(input, files, product, None)
}

/// As [`migrate`]; what the check of the node types in `registry` finds without effect, because other fields decide, is
/// left out of the document and told in the report. Weights and images need not be there.
///
/// # Errors
/// As [`migrate`].
pub fn migrate_checked(
    input: &Input,
    files: &dyn Files,
    product: &Product,
    registry: &Registry,
) -> Result<Outcome, Error> {
    run(input, files, product, Some(registry))
}

fn run(input: &Input, files: &dyn Files, product: &Product, registry: Option<&Registry>) -> Result<Outcome, Error> {
    let command = command::take_apart(&input.args);
    let named = input.script.clone().or(command.script.clone());
    let config = configuration(input, &command.args, files)?;
    let script = match &named {
        Some(name) => command::known(name)?,
        None => inferred(&command.args, &config)?,
    };
    let Parsed { mut given, wrong } = args::parse(&command.args, script);
    let (from_file, about_file) = config::settings(config, script, &given);
    given.extend(from_file);
    let sources = dataset::Sources {
        file: input.dataset_toml.as_ref().map(|(path, text)| (path.as_str(), text.as_str())),
        files,
    };
    let data = dataset::load(&given, script, &sources)?;
    let mut draft = Draft::new(product.clone());
    draft.base = input.base.clone();
    let mut job = Job::new(script, given, data, files, draft);
    job.launcher = command.launcher_precision;
    job.report.extend(command.entries.into_iter().chain(wrong).chain(about_file));
    if named.is_none() {
        let note = "not said; found by the options in use";
        job.note("script", &script.file(), Kind::Defaulted, None, note);
    }
    job.run();
    if let Some(registry) = registry {
        job.leave_out_idle(registry);
    }
    job.settle();
    let name = job.draft.get("name").and_then(serde_json::Value::as_str).unwrap_or("migrated").to_owned();
    Ok(Outcome { script: script.file(), name, document: job.draft.to_yaml(), report: job.report })
}

/// Flattened keys of the configuration file, handed over or named on the command line.
fn configuration(
    input: &Input,
    words: &[String],
    files: &dyn Files,
) -> Result<Vec<(String, serde_json::Value)>, Error> {
    if let Some((path, text)) = &input.config_toml {
        return config::flatten(path, text);
    }
    // What begins with `conf` is this option in every script.
    let names = |word: &str| word.starts_with("--conf") && "--config_file".starts_with(word);
    let mut words = words.iter();
    let mut path = None;
    while let Some(word) = words.next() {
        match word.split_once('=') {
            Some((name, value)) if names(name) => path = Some(value.to_owned()),
            None if names(word) => path = words.next().cloned(),
            _ => {}
        }
    }
    let Some(mut path) = path else { return Ok(Vec::new()) };
    if !path.ends_with(".toml") {
        path += ".toml";
    }
    match files.read(&path) {
        Ok(text) => config::flatten(&path, &text),
        Err(error) => Err(Error::Config { why: files::plain(&error), path }),
    }
}

/// The script by the options in use.
fn inferred(words: &[String], config: &[(String, serde_json::Value)]) -> Result<Script, Error> {
    let mut used: Vec<&str> =
        words.iter().filter_map(|word| word.strip_prefix("--")).map(|w| w.split('=').next().unwrap_or(w)).collect();
    used.extend(config.iter().map(|(key, _)| key.as_str()));
    // Any script reads these words alike; only the names matter.
    let of = |name: &str| -> Option<String> {
        let plain = SCRIPTS.iter().find_map(|script| {
            let parsed: Given = args::parse(words, *script).given;
            parsed.get(name).and_then(|setting| setting.value.as_str().map(str::to_owned))
        });
        plain.or_else(|| config.iter().find(|(key, _)| key == name).and_then(|(_, v)| v.as_str().map(str::to_owned)))
    };
    command::infer(&used, of("network_module").as_deref(), of("pretrained_model_name_or_path").as_deref())
}
