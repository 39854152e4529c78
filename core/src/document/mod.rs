//! The document: YAML or TOML text, and `--set` overrides, as one spanned tree.
//!
//! Owns reading and syntax; does not know any field. Both syntaxes give the same model: YAML by
//! the 1.2 core schema with anchors and merge keys, TOML without dates. A key given twice, a tab
//! in the indentation and merge-conflict markers get their own messages.
//!
//! ```
//! use pipe_core::document::{Document, Syntax};
//! let yaml = Document::parse("train: { steps: 1e3 }", "a.yaml", Syntax::Yaml, &[]);
//! let toml = Document::parse("[train]\nsteps = 1000", "a.toml", Syntax::Toml, &[]);
//! assert_eq!(yaml.tree.unwrap().to_json(), toml.tree.unwrap().to_json());
//! ```

mod mistaken;
mod overrides;
mod read;
pub mod scalar;
mod toml;
mod tree;
mod yaml;

use std::path::{Path, PathBuf};

pub use read::STDIN;
pub use tree::{Deepest, Entry, Map, Tree, Value};

use crate::diagnostic::{Diagnostic, FileId, SourceFiles, Span};

/// Largest document in bytes.
pub const MAX_BYTES: usize = 8 << 20;
/// Deepest nesting of tables and lists.
pub const MAX_DEPTH: usize = 64;
/// Most values after aliases are expanded.
pub const MAX_VALUES: usize = 1 << 20;

/// Syntax of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// YAML 1.2.
    Yaml,
    /// TOML 1.1.
    Toml,
}

impl Syntax {
    /// By extension: `.toml` is TOML, everything else YAML.
    pub fn of(path: &Path) -> Syntax {
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("toml") => Syntax::Toml,
            _ => Syntax::Yaml,
        }
    }
}

/// A document as read: its tree, if it could be read, and what was wrong with it.
#[derive(Clone, Debug)]
pub struct Document {
    /// Path as given.
    pub path: PathBuf,
    /// Syntax.
    pub syntax: Syntax,
    /// The tree with overrides applied; `None` when reading failed.
    pub tree: Option<Tree>,
    /// The texts that spans point into: the document first, then one for each `--set`.
    pub files: SourceFiles,
    /// The document's own text in `files`.
    pub main: FileId,
    /// Problems of reading.
    pub diagnostics: Vec<Diagnostic>,
}

impl Document {
    /// Reads a file, or standard input for `-`, and applies overrides (`path.to.field=value`).
    pub fn load(path: &Path, sets: &[String]) -> Document {
        let syntax = Syntax::of(path);
        match read::read(path) {
            Ok(text) if path == Path::new(STDIN) => {
                // No name says what it is.
                let yaml = Document::parse(&text, "<stdin>", Syntax::Yaml, sets);
                let mistaken = yaml.diagnostics.iter().any(|one| one.message.starts_with("this looks like TOML"));
                if mistaken { Document::parse(&text, "<stdin>", Syntax::Toml, sets) } else { yaml }
            }
            Ok(text) => Document::parse(&text, path, syntax, sets),
            Err(why) => {
                let (text, range) = why.shown.unwrap_or_default();
                let mut document = Document::empty(path, syntax, text);
                let span = Span::new(document.main, range.start, range.end);
                let diagnostic = Diagnostic::error(why.code, span, why.message);
                document.diagnostics.push(match why.help {
                    Some(help) => diagnostic.help(help),
                    None => diagnostic,
                });
                document
            }
        }
    }

    /// Parses a text and applies overrides.
    pub fn parse(text: &str, path: impl AsRef<Path>, syntax: Syntax, sets: &[String]) -> Document {
        if text.len() > MAX_BYTES {
            let mut document = Document::empty(path.as_ref(), syntax, String::new());
            let message = format!("the document has {} bytes, the limit is {MAX_BYTES}", text.len());
            document.diagnostics.push(Diagnostic::error("P0011", Span::new(document.main, 0, 0), message));
            return document;
        }
        let mut document = Document::empty(path.as_ref(), syntax, text.to_owned());
        let parsed = parse(text, document.main, syntax);
        document.tree = parsed.tree;
        document.diagnostics = parsed.diagnostics;
        if let Some(tree) = &mut document.tree {
            overrides::apply(tree, sets, &mut document.files, &mut document.diagnostics);
        }
        document
    }

    fn empty(path: &Path, syntax: Syntax, text: String) -> Document {
        let mut files = SourceFiles::new();
        let main = files.add(path, text);
        Document { path: path.to_owned(), syntax, tree: None, files, main, diagnostics: Vec::new() }
    }

    /// Folder that relative paths of the document start from.
    pub fn base_dir(&self) -> PathBuf {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        }
    }
}

/// Result of [`parse`].
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The tree; present also when there are diagnostics that leave a usable tree.
    pub tree: Option<Tree>,
    /// Problems, unsorted.
    pub diagnostics: Vec<Diagnostic>,
}

/// Parses the text of `file`. The root of the tree is a table.
pub fn parse(text: &str, file: FileId, syntax: Syntax) -> Parsed {
    let (body, base) = match text.strip_prefix('\u{feff}') {
        Some(rest) => (rest, text.len() - rest.len()),
        None => (text, 0),
    };
    if let Some(conflict) = conflict_markers(body, file, base) {
        return Parsed { tree: None, diagnostics: vec![conflict] };
    }
    let mut parsed = match syntax {
        Syntax::Yaml => yaml::parse(body, file, base),
        Syntax::Toml => toml::parse(body, file, base),
    };
    let table = parsed.tree.as_ref().is_some_and(|tree| tree.as_map().is_some());
    if (!table || parsed.diagnostics.iter().any(|one| one.code < "P0005"))
        && let Some(mistaken) = mistaken::other(body, file, base, syntax)
    {
        return Parsed { tree: None, diagnostics: vec![mistaken] };
    }
    mistaken::limit(&mut parsed.diagnostics);
    let start = Span::new(file, base, base);
    match &parsed.tree {
        None if parsed.diagnostics.is_empty() => {
            parsed.diagnostics.push(Diagnostic::error("P0015", start, "the document is empty"));
        }
        Some(tree) if tree.as_map().is_none() => {
            let message =
                format!("a document is a table with `version`, `name` and `nodes`, found {}", tree.describe());
            let span = Span { end: tree.span.end.min(tree.span.start + 40), ..tree.span };
            parsed.diagnostics.push(Diagnostic::error("P0101", span, message));
            parsed.tree = None;
        }
        Some(tree) if syntax == Syntax::Toml && tree.as_map().is_some_and(Map::is_empty) => {
            if parsed.diagnostics.is_empty() {
                parsed.diagnostics.push(Diagnostic::error("P0015", start, "the document is empty"));
            }
            parsed.tree = None;
        }
        _ => {}
    }
    parsed
}

/// An I/O error in plain words.
pub(crate) fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        std::io::ErrorKind::StorageFull => "the disk is full".into(),
        std::io::ErrorKind::QuotaExceeded => "the quota is used up".into(),
        std::io::ErrorKind::FileTooLarge => "the file would be larger than is allowed here".into(),
        _ => error.to_string(),
    }
}

fn conflict_markers(text: &str, file: FileId, base: usize) -> Option<Diagnostic> {
    if !text.contains("<<<<<<< ") && !text.contains(">>>>>>> ") {
        return None;
    }
    let mut marks = Vec::new();
    let mut offset = base;
    for line in text.split_inclusive('\n') {
        let body = line.trim_end_matches(['\n', '\r']);
        let fence = ["<<<<<<< ", ">>>>>>> ", "||||||| "].iter().any(|mark| body.starts_with(mark));
        if fence || (!marks.is_empty() && body == "=======") {
            marks.push(Span::new(file, offset, offset + body.len()));
        }
        offset += line.len();
    }
    let (first, rest) = marks.split_first()?;
    let mut diagnostic = Diagnostic::error("P0006", *first, "the file holds merge-conflict markers")
        .help("choose one side, delete the markers and finish the merge");
    for span in rest.iter().take(8) {
        diagnostic = diagnostic.label(*span, "another marker");
    }
    Some(diagnostic)
}

/// A key that a table has already: both places in one diagnostic.
fn duplicate(key: &str, first: Span, second: Span) -> Diagnostic {
    Diagnostic::error("P0007", second, format!("the key `{key}` is given twice"))
        .label(first, "first given here")
        .label(second, "given again here")
        .help("remove one of the two")
}
