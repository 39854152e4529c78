//! The diagnostic cases of `tests/diagnostics/core`.

use std::path::Path;

use pipe_core::document::{Document, Syntax};
use serde_json::Value as Json;

/// A case: a document, overrides, and the report expected of it.
pub struct Case {
    pub name: String,
    pub source: String,
    pub syntax: Syntax,
    pub sets: Vec<String>,
    report: String,
}

impl Case {
    /// The document as JSON; `None` when it cannot be read.
    pub fn document(&self) -> Option<Json> {
        let document = Document::parse(&self.source, "case", self.syntax, &self.sets);
        document.tree.filter(|_| document.diagnostics.is_empty()).map(|tree| tree.to_json())
    }

    /// Codes of the report.
    pub fn codes(&self) -> Vec<String> {
        let starts = self.report.match_indices('[').map(|(at, _)| &self.report[at + 1..]);
        let codes = starts.filter(|rest| rest.starts_with('P') && rest.get(5..7) == Some("]:"));
        codes.map(|rest| rest[..5].to_owned()).collect()
    }
}

/// All cases, by name.
pub fn all() -> Vec<Case> {
    let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/diagnostics/core");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Case {
    let text = std::fs::read_to_string(path).unwrap();
    let (source, syntax) = match (block(&text, "yaml"), block(&text, "toml")) {
        (Some(source), _) => (source, Syntax::Yaml),
        (None, Some(source)) => (source, Syntax::Toml),
        _ => panic!("{}: no document", path.display()),
    };
    let sets = block(&text, "sh").unwrap_or_default();
    let sets = sets.lines().filter_map(|line| line.strip_prefix("--set ")).map(|set| set.trim_matches('\'').to_owned());
    Case {
        name: path.file_stem().unwrap().to_string_lossy().into_owned(),
        source: source.replace("\\t", "\t"),
        syntax,
        sets: sets.collect(),
        report: block(&text, "text").unwrap_or_default(),
    }
}

/// The first fenced block of a language.
fn block(text: &str, language: &str) -> Option<String> {
    let mut lines = text.lines().skip_while(|line| *line != format!("```{language}"));
    lines.next()?;
    Some(lines.take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect())
}
