//! `pipe generate`: the files of the repository that are made from the code, written or compared.
//!
//! Hidden from the help: it is for those who change `pipe`, and for the check that nothing made is out of date.

mod reference;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap_complete::Shell;

use super::{completions, schema, write_file};
use crate::exit::{Exit, Failure, Outcome};
use crate::terminal::Terminal;

/// Write or check the files made from the code: schema, reference pages, completions.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do.
    #[arg(long, value_enum)]
    pub mode: Mode,
    /// The root of the repository.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub root: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Fail when a file differs from what would be written.
    Check,
    /// Write the files, and remove those no longer made.
    Write,
}

/// Folders that hold made files only.
const OWNED: [&str; 2] = ["docs/reference", "docs/completions"];

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    if !args.root.join("Cargo.toml").is_file() {
        return Err(Failure::usage(format!("`{}` is not the root of the repository", args.root.display())));
    }
    let made = made();
    let differing: Vec<&String> = made.keys().filter(|path| !same(&args.root.join(path), &made[*path])).collect();
    let stale: Vec<String> = present(&args.root).into_iter().filter(|path| !made.contains_key(path)).collect();
    if args.mode == Mode::Check {
        let report = differing.iter().map(|path| format!("out of date: {path}\n"));
        let report: String = report.chain(stale.iter().map(|path| format!("no longer made: {path}\n"))).collect();
        if report.is_empty() {
            terminal.note(&format!("{} made files are current", made.len()));
            return Ok(Exit::Done);
        }
        terminal.out(&report)?;
        return Err(Failure::new("made files are not current").help("write them with `pipe generate --mode write`"));
    }
    for path in differing {
        write_file(&args.root.join(path), made[path].as_bytes())?;
        terminal.note(&format!("wrote {path}"));
    }
    for path in stale {
        std::fs::remove_file(args.root.join(&path))
            .map_err(|error| Failure::new(format!("`{path}` cannot be removed: {error}")))?;
        terminal.note(&format!("removed {path}"));
    }
    Ok(Exit::Done)
}

/// Every made file: path from the root, content.
fn made() -> BTreeMap<String, String> {
    let registry = pipe_nodes::registry();
    let mut made = BTreeMap::new();
    made.insert("schema/pipeline.schema.json".to_owned(), schema::text(&registry));
    for (path, text) in pipe_schema::reference(&registry) {
        let path = path.to_string();
        let path = path.strip_prefix("docs/reference/").unwrap_or(&path);
        made.insert(format!("docs/reference/{path}"), text);
    }
    made.insert("docs/reference/cli.md".into(), reference::page());
    let product = pipe_migrate::Product::from_schema(pipe_schema::json_schema(&registry));
    made.insert("docs/reference/sd-scripts.md".into(), pipe_migrate::reference_page(&product));
    let shells = [
        (Shell::Bash, "pipe.bash"),
        (Shell::Zsh, "_pipe"),
        (Shell::Fish, "pipe.fish"),
        (Shell::PowerShell, "_pipe.ps1"),
    ];
    for (shell, name) in shells {
        made.insert(format!("docs/completions/{name}"), completions::script(shell));
    }
    made
}

/// Whether a file holds a text. Line breaks may have been turned by a checkout.
fn same(path: &Path, text: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|found| found.replace("\r\n", "\n") == text)
}

/// Files in the folders of made files.
fn present(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest: Vec<PathBuf> = OWNED.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = rest.pop() {
        for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                rest.push(path);
            } else if let Ok(path) = path.strip_prefix(root) {
                found.push(path.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}
