//! Printing diagnostics for programs: the `json`, `github` and `sarif` formats.

use std::fmt::Write as _;

use serde_json::{Value as Json, json as value};

use super::{Diagnostic, Severity, SourceFiles, Span};

type Groups<'a> = [(&'a [Diagnostic], &'a SourceFiles)];

/// Every diagnostic at each of its places: programs mark one place an entry.
fn each<'a>(groups: &'a Groups<'a>) -> impl Iterator<Item = (Span, &'a Diagnostic, &'a SourceFiles)> {
    let at = |d: &'a Diagnostic, files: &'a SourceFiles| d.places().map(move |span| (span, d, files));
    groups.iter().flat_map(move |(diagnostics, files)| diagnostics.iter().flat_map(move |d| at(d, files)))
}

/// An array of `{code, severity, message, file, line, column, end_line, end_column, help}`.
pub(super) fn json(groups: &Groups) -> String {
    let all: Vec<Json> = each(groups)
        .map(|(span, d, files)| {
            let (file, start, end) = match files.places(span) {
                Some((file, start, end)) => (Json::from(file.name()), start, end),
                None => (Json::Null, Default::default(), Default::default()),
            };
            value!({
                "code": d.code, "severity": d.severity, "message": d.message, "file": file,
                "line": start.line, "column": start.column, "end_line": end.line, "end_column": end.column,
                "help": d.help_text(),
            })
        })
        .collect();
    let mut text = serde_json::to_string_pretty(&all).unwrap_or_default();
    text.push('\n');
    text
}

/// Workflow commands: <https://docs.github.com/actions/reference/workflow-commands-for-github-actions>.
pub(super) fn github(groups: &Groups) -> String {
    let mut out = String::new();
    for (span, d, files) in each(groups) {
        let _ = write!(out, "::{} ", d.severity.name());
        if let Some((file, start, end)) = files.places(span) {
            let _ = write!(
                out,
                "file={},line={},endLine={},col={},endColumn={},",
                escape(&file.name(), true),
                start.line,
                end.line,
                start.column,
                end.column
            );
        }
        let text = match d.help_text() {
            Some(help) => format!("{}\n{help}", d.message),
            None => d.message.clone(),
        };
        let _ = writeln!(out, "title={}::{}", d.code, escape(&text, false));
    }
    out
}

fn escape(text: &str, property: bool) -> String {
    let text = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    if property { text.replace(':', "%3A").replace(',', "%2C") } else { text }
}

/// SARIF 2.1.0, with one rule for each code that occurs.
pub(super) fn sarif(groups: &Groups) -> String {
    let mut codes: Vec<&'static str> = each(groups).map(|(_, d, _)| d.code).collect();
    codes.sort_unstable();
    codes.dedup();
    let rules: Vec<Json> = codes
        .iter()
        .map(|code| match crate::codes::find(code) {
            Some(entry) => value!({
                "id": code,
                "shortDescription": { "text": entry.title },
                "fullDescription": { "text": entry.text },
                "help": { "text": format!("pipe explain {code}") },
            }),
            None => value!({ "id": code }),
        })
        .collect();
    let results: Vec<Json> = each(groups)
        .map(|(span, d, files)| {
            let text = match d.help_text() {
                Some(help) => format!("{}. {help}", d.message),
                None => d.message.clone(),
            };
            let related: Vec<Json> = d
                .labels
                .iter()
                .filter(|(span, _)| *span != d.span)
                .enumerate()
                .filter_map(|(id, (span, text))| {
                    Some(value!({
                        "id": id,
                        "message": { "text": text },
                        "physicalLocation": physical(*span, files)?,
                    }))
                })
                .collect();
            let locations: Vec<Json> =
                physical(span, files).map(|p| value!({ "physicalLocation": p })).into_iter().collect();
            value!({
                "ruleId": d.code,
                "ruleIndex": codes.binary_search(&d.code).unwrap_or(0),
                "level": if d.severity == Severity::Error { "error" } else { "warning" },
                "message": { "text": text },
                "locations": locations,
                "relatedLocations": related,
            })
        })
        .collect();
    let log = value!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "pipe", "version": env!("CARGO_PKG_VERSION"), "rules": rules } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    let mut text = serde_json::to_string_pretty(&log).unwrap_or_default();
    text.push('\n');
    text
}

fn physical(span: Span, files: &SourceFiles) -> Option<Json> {
    let (file, start, end) = files.places(span)?;
    Some(value!({
        "artifactLocation": { "uri": uri(&file.name()) },
        "region": {
            "startLine": start.line, "startColumn": start.column,
            "endLine": end.line, "endColumn": end.column,
        },
    }))
}

/// A path as a relative or absolute URI reference.
fn uri(path: &str) -> String {
    let path = path.replace('\\', "/");
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(byte as char),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    if path.starts_with('/') { format!("file://{out}") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{Format, render};

    fn sample() -> (Vec<Diagnostic>, SourceFiles) {
        let mut files = SourceFiles::new();
        let file = files.add("a b,c.yaml", "rank: x\n");
        let span = Span::new(file, 0, 4);
        let d = Diagnostic::error("P0101", span, "100% wrong:\nreally").label(span, "here").help("mend it");
        (vec![d], files)
    }

    #[test]
    fn github_escapes() {
        let (d, files) = sample();
        assert_eq!(
            render(&d, &files, Format::Github, false),
            "::error file=a b%2Cc.yaml,line=1,endLine=1,col=1,endColumn=5,title=P0101::100%25 wrong:%0Areally%0Ahere; mend it\n"
        );
    }

    #[test]
    fn json_has_the_promised_keys() {
        let (d, files) = sample();
        let parsed: Json = serde_json::from_str(&render(&d, &files, Format::Json, false)).unwrap();
        let keys: Vec<&String> = parsed[0].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["code", "severity", "message", "file", "line", "column", "end_line", "end_column", "help"]);
        assert_eq!(parsed[0]["end_column"], 5);
    }

    #[test]
    fn sarif_has_rules_and_regions() {
        let (d, files) = sample();
        let parsed: Json = serde_json::from_str(&render(&d, &files, Format::Sarif, false)).unwrap();
        let result = &parsed["runs"][0]["results"][0];
        assert_eq!(parsed["runs"][0]["tool"]["driver"]["rules"][0]["id"], "P0101");
        assert_eq!(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], "a%20b%2Cc.yaml");
        assert_eq!(result["locations"][0]["physicalLocation"]["region"]["endColumn"], 5);
    }
}
