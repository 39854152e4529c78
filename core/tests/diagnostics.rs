//! Diagnostics as Markdown: each file of `tests/diagnostics/core` holds a document and the report
//! expected of it. `UPDATE=1 cargo test -p pipe-core --test diagnostics` rewrites the reports.
//!
//! A file has a title, prose if wanted, one fenced block of `yaml` or `toml`, perhaps a fenced
//! block of `sh` with one `--set` a line, and a fenced block of `text` with the report.

use std::fs;
use std::path::{Path, PathBuf};

use pipe_core::check::check_text;
use pipe_core::codes;
use pipe_core::diagnostic::{Format, render};
use pipe_core::document::Syntax;
use pipe_core::testing;

/// The content of the first fenced block of a language, and where it stands.
fn block<'t>(text: &'t str, language: &str) -> Option<(std::ops::Range<usize>, &'t str)> {
    let open = format!("```{language}\n");
    let start = if text.starts_with(&open) { open.len() } else { text.find(&format!("\n{open}"))? + 1 + open.len() };
    let end = start + text[start..].find("```\n").filter(|end| *end == 0 || text[start..][..*end].ends_with('\n'))?;
    Some((start..end, &text[start..end]))
}

fn report(path: &Path, text: &str) -> String {
    let (source, syntax) = match (block(text, "yaml"), block(text, "toml")) {
        (Some((_, source)), None) => (source, Syntax::Yaml),
        (None, Some((_, source))) => (source, Syntax::Toml),
        _ => panic!("{}: one fenced block of yaml or toml is needed", path.display()),
    };
    let sets: Vec<String> = block(text, "sh")
        .map(|(_, lines)| {
            lines
                .lines()
                .filter_map(|line| line.strip_prefix("--set "))
                .map(|set| set.trim_matches('\'').to_owned())
                .collect()
        })
        .unwrap_or_default();
    // Tabs and control characters are written as escapes, so that editors leave them alone.
    let source = source.replace("\\t", "\t");
    let name = if syntax == Syntax::Yaml { "case.yaml" } else { "case.toml" };
    let checked = check_text(&testing::registry(), &source, Path::new(name), syntax, &sets);
    let report = render(&checked.diagnostics, checked.files(), Format::Human, false);
    if report.is_empty() { "no problems\n".into() } else { report }
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/diagnostics/core");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    paths
}

#[test]
fn every_case_reports_as_written() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for path in cases() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{}: a title is needed", path.display());
        let report = report(&path, &text);
        let (range, expected) =
            block(&text, "text").unwrap_or_else(|| panic!("{}: a block of text is needed", path.display()));
        if report != expected {
            if update {
                let mut text = text.clone();
                text.replace_range(range, &report);
                fs::write(&path, text).unwrap();
            } else {
                wrong.push(format!("{}\n--- expected\n{expected}--- found\n{report}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases differ (UPDATE=1 rewrites them)\n\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn there_are_enough_cases_and_codes() {
    if std::env::var_os("UPDATE").is_some() {
        return;
    }
    let texts: Vec<String> = cases().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    assert!(texts.len() >= 45, "{} cases", texts.len());
    let shown = |code: &str| texts.iter().any(|text| text.contains(&format!("[{code}]:")));
    // What no document of the toy registry can show, and why.
    let exempt = ["P0001", "P0002", "P0011", "P0113", "P0199"];
    let missing: Vec<&str> =
        codes::all().map(|c| c.code).filter(|c| *c < "P0300" && !exempt.contains(c) && !shown(c)).collect();
    assert!(missing.is_empty(), "no case shows {missing:?}");
}

#[test]
fn the_good_document_is_good() {
    let checked = check_text(&testing::registry(), testing::GOOD, Path::new("good.yaml"), Syntax::Yaml, &[]);
    let report = render(&checked.diagnostics, checked.files(), Format::Human, false);
    assert!(checked.diagnostics.is_empty(), "{report}");
}
