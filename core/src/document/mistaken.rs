//! YAML in a file called `.toml` and TOML in one that is not: one message in place of a hundred.

use super::{Map, Parsed, Syntax, Tree, toml, yaml};
use crate::diagnostic::{Diagnostic, FileId, Span};

/// Syntax errors shown of one document: beyond, most follow from those before.
const MOST: usize = 20;

/// What to say when `text` could not be read as `syntax` but is well-formed, or nearly, in the other one.
pub(super) fn other(text: &str, file: FileId, base: usize, syntax: Syntax) -> Option<Diagnostic> {
    let reads = |parsed: &Parsed| parsed.tree.as_ref().and_then(Tree::as_map).map_or(0, Map::len);
    let (is, named, code, help) = match syntax {
        Syntax::Toml => {
            let parsed = yaml::parse(text, file, base);
            // One line that happens to have a colon is no document.
            let yaml = reads(&parsed) > 1 || keys(text, ':') > keys(text, '=') + 2;
            (
                yaml,
                ".toml",
                "P0004",
                "YAML goes into a file called `.yaml`; TOML is written `key = value`, with tables as `[nodes.photos]`",
            )
        }
        Syntax::Yaml => {
            let parsed = toml::parse(text, file, base);
            let toml = (parsed.diagnostics.is_empty() && reads(&parsed) > 0) || keys(text, '=') > keys(text, ':') + 2;
            (
                toml,
                ".yaml",
                "P0003",
                "TOML goes into a file called `.toml`; YAML is written `key: value`, with tables indented",
            )
        }
    };
    let found = if syntax == Syntax::Toml { "YAML" } else { "TOML" };
    is.then(|| {
        let message =
            format!("this looks like {found}, but the file is read as {} by its name", &named[1..].to_uppercase());
        Diagnostic::error(code, first_line(text, file, base), message).help(help)
    })
}

/// Lines that begin with a plain key and the sign.
fn keys(text: &str, sign: char) -> usize {
    let key = |line: &&str| {
        let line = line.trim_start();
        let name = line.find(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c))).unwrap_or(line.len());
        name > 0 && line[name..].trim_start().starts_with(sign)
    };
    text.lines().filter(key).count()
}

/// The first line that says something.
fn first_line(text: &str, file: FileId, base: usize) -> Span {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let body = line.trim();
        if !body.is_empty() && !body.starts_with('#') {
            let start = base + at + (line.len() - line.trim_start().len());
            return Span::new(file, start, start + body.len());
        }
        at += line.len();
    }
    Span::new(file, base, base)
}

/// Keeps the first errors and says how many there are beside them.
pub(super) fn limit(diagnostics: &mut Vec<Diagnostic>) {
    let syntax = |one: &Diagnostic| one.code < "P0007";
    let count = diagnostics.iter().filter(|one| syntax(one)).count();
    if count <= MOST {
        return;
    }
    diagnostics.sort_by_key(|one| one.span);
    let mut seen = 0;
    diagnostics.retain(|one| {
        seen += usize::from(syntax(one));
        !syntax(one) || seen <= MOST
    });
    if let Some(last) = diagnostics.iter_mut().rev().find(|one| syntax(one)) {
        let more = format!("{} more errors of syntax follow, most of them perhaps from these", count - MOST);
        last.help = Some(last.help.take().map_or(more.clone(), |help| format!("{help}; {more}")));
    }
}
