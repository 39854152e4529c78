//! `pipe init`: a pipeline to begin with, in a folder that editors understand at once.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use pipe_core::check::{Options, check_path_with};
use pipe_core::diagnostic::{did_you_mean, suggest};
use serde_json::{Value as Json, json};

use super::{json_text, missing, schema, write_file};
use crate::choices::{Open, templates};
use crate::exit::{Exit, Failure, Outcome};
use crate::templates::{TEMPLATES, Template};
use crate::terminal::Terminal;
use crate::text;

/// Write a pipeline to begin with, its schema, and settings for editors.
///
/// The folder then has the document, `pipeline.schema.json` beside it, and settings for VS Code and Taplo; any editor
/// with a YAML language server completes and checks the document through its first line.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The template; `pipe init --list` shows them.
    #[arg(value_name = "TEMPLATE", value_parser = Open(templates), hide_possible_values = true)]
    pub template: Option<String>,
    /// The folder to write to, made if need be.
    #[arg(value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// List the templates.
    #[arg(long)]
    pub list: bool,
    /// Overwrite files that are already there.
    #[arg(long)]
    pub force: bool,
}

const SCHEMA: &str = "pipeline.schema.json";

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    if args.list {
        terminal.out(&list())?;
        return Ok(Exit::Done);
    }
    let template = template(args.template.as_deref())?;
    let name = format!("{}.pipe.yaml", template.name);
    let files = files(template, &name);

    let mut written: Vec<String> = Vec::new();
    let changed: Vec<&(String, Vec<u8>)> =
        files.iter().filter(|(path, bytes)| std::fs::read(args.dir.join(path)).ok().as_ref() != Some(bytes)).collect();
    let standing: Vec<&str> =
        changed.iter().map(|(path, _)| path.as_str()).filter(|path| args.dir.join(path).exists()).collect();
    // A document that was worked on stays; what is missing beside it is written again.
    let restores = changed.len() > standing.len() && standing == [name.as_str()];
    if !args.force && !standing.is_empty() && !restores {
        let message = format!("`{}` already has {}", args.dir.display(), quoted(&standing));
        return Err(Failure::new(message).help("name another folder, or overwrite with --force"));
    }
    let kept = |path: &str| restores && !args.force && path == name;
    for (path, bytes) in changed.iter().filter(|(path, _)| !kept(path)) {
        write_file(&args.dir.join(path), bytes)?;
        written.push(path.clone());
    }
    editor_settings(&args.dir, &mut written, terminal)?;

    if restores && !args.force {
        terminal.note(&format!("`{name}` was left as it is; --force writes the template's"));
    }
    if written.is_empty() {
        terminal.note(&format!("`{}` has everything already", args.dir.display()));
    }
    for path in summarized(&written) {
        terminal.note(&format!("wrote {}", args.dir.join(path).display()));
    }
    let document = args.dir.join(&name);
    let shown = document.strip_prefix(".").unwrap_or(&document);
    terminal.note("");
    let options = Options { any_device: true, ..Default::default() };
    terminal.note(&text::next_steps(
        &text::quote(&shown.display().to_string()),
        &missing(&check_path_with(&pipe_nodes::registry(), &document, &[], options)),
    ));
    Ok(Exit::Done)
}

fn template(name: Option<&str>) -> Result<&'static Template, Failure> {
    let Some(name) = name else {
        return Template::default().ok_or_else(|| Failure::new("this build has no templates"));
    };
    Template::find(name).ok_or_else(|| {
        let near = suggest(name, TEMPLATES.iter().map(|template| template.name));
        let help = did_you_mean(&near).unwrap_or_else(|| {
            format!("`pipe init --list` shows the templates; a folder comes second: `pipe init quickstart {name}`")
        });
        Failure::usage(format!("there is no template `{name}`")).help(help)
    })
}

fn list() -> String {
    let width = TEMPLATES.iter().map(|template| template.name.len()).max().unwrap_or(0);
    TEMPLATES.iter().map(|one| format!("{:<width$}  {}\n", one.name, one.summary())).collect()
}

/// The files of a template; those for editors are apart.
fn files(template: &Template, name: &str) -> Vec<(String, Vec<u8>)> {
    let schema = schema::text(&pipe_nodes::registry());
    let mut files =
        vec![(name.to_owned(), template.document(SCHEMA).into_bytes()), (SCHEMA.to_owned(), schema.into_bytes())];
    files.extend(template.assets.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())));
    files
}

/// Writes the settings of editors. Settings that are there already are extended, never overwritten.
fn editor_settings(dir: &Path, written: &mut Vec<String>, terminal: &Terminal) -> Result<(), Failure> {
    let schemas = json!({ "yaml.schemas": { (format!("./{SCHEMA}")): ["*.pipe.yaml", "*.pipe.yml"] } });
    let extensions = json!({ "recommendations": ["redhat.vscode-yaml", "tamasfe.even-better-toml"] });
    for (path, ours) in [(".vscode/settings.json", schemas), (".vscode/extensions.json", extensions)] {
        let place = dir.join(path);
        let Ok(before) = std::fs::read_to_string(&place) else {
            write_file(&place, json_text(&ours).as_bytes())?;
            written.push(path.into());
            continue;
        };
        match serde_json::from_str::<Json>(&before) {
            Ok(mut merged) => {
                merge(&mut merged, ours);
                let after = json_text(&merged);
                if serde_json::from_str::<Json>(&before).ok() != Some(merged) {
                    write_file(&place, after.as_bytes())?;
                    written.push(path.into());
                }
            }
            // With comments, as VS Code allows: left to the user.
            Err(_) => terminal.warn(&format!("`{path}` was left as it is; add this to it: {ours}")),
        }
    }
    let taplo = format!("[[rule]]\ninclude = [\"**/*.pipe.toml\"]\n\n[rule.schema]\npath = \"./{SCHEMA}\"\n");
    let place = dir.join(".taplo.toml");
    if !place.exists() {
        write_file(&place, taplo.as_bytes())?;
        written.push(".taplo.toml".into());
    } else if std::fs::read_to_string(&place).ok().as_deref() != Some(&taplo) {
        terminal.warn(&format!("`.taplo.toml` was left as it is; for TOML documents add this to it:\n{taplo}"));
    }
    Ok(())
}

/// Adds `more` to `base`: tables by key, lists without repetition.
fn merge(base: &mut Json, more: Json) {
    match (base, more) {
        (Json::Object(base), Json::Object(more)) => {
            for (key, value) in more {
                match base.get_mut(&key) {
                    Some(inner) => merge(inner, value),
                    None => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (Json::Array(base), Json::Array(more)) => {
            let new: Vec<Json> = more.into_iter().filter(|item| !base.contains(item)).collect();
            base.extend(new);
        }
        (base, more) => *base = more,
    }
}

/// Paths as told: many files of one folder become one line.
fn summarized(written: &[String]) -> Vec<String> {
    let mut lines: Vec<(String, usize)> = Vec::new();
    for path in written {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        match lines.last_mut().filter(|(last, _)| !folder.is_empty() && last == folder) {
            Some((_, count)) => *count += 1,
            None => lines.push((if folder.is_empty() { path.clone() } else { folder.to_owned() }, 1)),
        }
    }
    let line = |(path, count): (String, usize)| if count > 1 { format!("{path}/ ({count} files)") } else { path };
    lines.into_iter().map(line).collect()
}

fn quoted(paths: &[&str]) -> String {
    let mut out = String::new();
    for (at, path) in paths.iter().take(4).enumerate() {
        let _ = write!(out, "{}`{path}`", if at == 0 { "" } else { ", " });
    }
    if paths.len() > 4 {
        let _ = write!(out, " and {} more", paths.len() - 4);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_extended() {
        let mut base = json!({ "a": { "b": 1 }, "list": ["x"] });
        merge(&mut base, json!({ "a": { "c": 2 }, "list": ["x", "y"] }));
        assert_eq!(base, json!({ "a": { "b": 1, "c": 2 }, "list": ["x", "y"] }));
    }

    #[test]
    fn folders_are_one_line() {
        let written = ["a.yaml", "img/x.png", "img/y.png", ".vscode/settings.json"].map(str::to_owned);
        assert_eq!(summarized(&written), ["a.yaml", "img/ (2 files)", ".vscode"]);
    }
}
