//! What nodes declare to write: two writers of one path are an error.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::diagnostic::{Diagnostic, Span};
use crate::pattern::meet;

/// A path that a node will write; numbers in it may stand as `{epoch}` and `{step}`.
struct Written {
    node: String,
    path: PathBuf,
    span: Span,
}

/// The paths declared so far, by folder.
#[derive(Default)]
pub(super) struct Writes(HashMap<PathBuf, Vec<Written>>);

impl Writes {
    /// Takes in a path; complains where another node's file would have its name.
    pub(super) fn declare(&mut self, node: &str, path: PathBuf, span: Span) -> Option<Diagnostic> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let list = self.0.entry(path.parent().unwrap_or(Path::new("")).to_owned()).or_default();
        let others = list.iter().filter(|other| other.node != node);
        let fault = others.into_iter().find(|other| meet(&name(&other.path), &name(&path))).map(|other| {
            let message = match other.path == path {
                true => format!("`{}` and `{node}` both write `{}`", other.node, path.display()),
                false => format!(
                    "files of `{node}` named `{}` could have the names of those of `{}`, `{}`",
                    path.display(),
                    other.node,
                    other.path.display()
                ),
            };
            let label = format!("`{}` writes it too", other.node);
            Diagnostic::error("P0213", span, message).label(other.span, label)
        });
        if fault.is_none() {
            list.push(Written { node: node.to_owned(), path, span });
        }
        fault
    }
}
