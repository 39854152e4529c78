//! Diagnostics of the real node types as Markdown, in the form of `tests/diagnostics/core`: each file of
//! `tests/diagnostics/nodes` holds a document and the report expected of it, checked without files.
//! `UPDATE=1 cargo test -p pipe-nodes --test diagnostics` rewrites the reports.

use std::path::Path;

use pipe_core::check::{Options, check_document_with};
use pipe_core::diagnostic::{Format, render};
use pipe_core::document::{Document, Syntax};

/// The content of the only fenced block of a language, and where it stands.
fn block<'t>(text: &'t str, language: &str) -> (std::ops::Range<usize>, &'t str) {
    let open = format!("\n```{language}\n");
    let start = text.find(&open).unwrap_or_else(|| panic!("no block of {language}:\n{text}")) + open.len();
    let end = start + text[start..].find("```\n").expect("the block ends");
    (start..end, &text[start..end])
}

fn report(source: &str) -> String {
    let document = Document::parse(source, Path::new("case.yaml"), Syntax::Yaml, &[]);
    let checked = check_document_with(&pipe_nodes::registry(), document, Options { without_files: true });
    let report = render(&checked.diagnostics, checked.files(), Format::Human, false);
    if report.is_empty() { "no problems\n".into() } else { report }
}

#[test]
fn every_case_reports_as_written() {
    let update = std::env::var_os("UPDATE").is_some();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/diagnostics/nodes");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 14, "{} cases", paths.len());
    let mut wrong = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let report = report(block(&text, "yaml").1);
        let (range, expected) = block(&text, "text");
        if report == expected {
            continue;
        }
        if update {
            let mut text = text.clone();
            text.replace_range(range, &report);
            std::fs::write(&path, text).unwrap();
        } else {
            wrong.push(format!("{}\n--- expected\n{expected}--- found\n{report}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{} cases differ (UPDATE=1 rewrites them)\n\n{}", wrong.len(), wrong.join("\n"));
}
