//! Paths of nodes that are not asked: a node with another fault must not hide that its files are missing.
//!
//! A field of a node's config names a file that must exist when its schema says so:
//! `#[schemars(extend("x-path" = "file"))]`, `"folder"`, or `"any"` for either. Nodes that are asked look for
//! themselves and say more; of them only what would block is found here, a pipe for example.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value as Json;

use crate::diagnostic::Diagnostic;
use crate::document::{Tree, Value};
use crate::node::{missing_help, missing_weights_help, resolve};

/// What is wrong with the paths of a node.
#[derive(Default)]
pub(super) struct Paths {
    /// Missing files, and folders for files.
    pub faults: Vec<Diagnostic>,
    /// Pipes and devices: opening one would wait for ever, so the node must not be asked.
    pub blocking: Vec<Diagnostic>,
}

/// Looks at every marked path of a node.
pub(super) fn look(tree: &Tree, schema: &Json, base: &Path, without_files: bool) -> Paths {
    let mut walk = Walk { root: schema, base, without_files, found: Paths::default() };
    walk.value(tree, schema, 0);
    walk.found
}

struct Walk<'a> {
    root: &'a Json,
    base: &'a Path,
    without_files: bool,
    found: Paths,
}

impl Walk<'_> {
    fn value(&mut self, tree: &Tree, schema: &Json, depth: u32) {
        let target = schema.get("$ref").and_then(Json::as_str).and_then(|name| name.strip_prefix("#/$defs/"));
        let target = target.and_then(|name| self.root.get("$defs")?.get(name)).cloned();
        let schema = target.as_ref().unwrap_or(schema);
        match &tree.value {
            Value::String(text) => {
                if let Some(kind) = schema.get("x-path").and_then(Json::as_str) {
                    self.path(tree, text, kind);
                }
            }
            Value::Map(map) if depth < 8 => {
                for (name, entry) in map {
                    if let Some(field) = schema.get("properties").and_then(|fields| fields.get(name)) {
                        self.value(&entry.value, field, depth + 1);
                    }
                }
            }
            Value::Seq(items) if depth < 8 => {
                if let Some(schema) = schema.get("items") {
                    items.iter().for_each(|item| self.value(item, schema, depth + 1));
                }
            }
            _ => {}
        }
    }

    fn path(&mut self, tree: &Tree, text: &str, kind: &str) {
        let path = resolve(self.base, text);
        let shown = path.display();
        let fault = |code, message: String| Diagnostic::error(code, tree.span, message);
        match std::fs::metadata(&path) {
            Ok(about) if blocks(&about) => {
                self.found.blocking.push(fault("P0302", format!("`{shown}` is a pipe or a device, not a file")));
            }
            Ok(about) if kind == "file" && about.is_dir() => {
                self.found.faults.push(fault("P0302", format!("`{shown}` is a folder, not a file")));
            }
            Ok(about) if kind == "folder" && about.is_file() => {
                self.found.faults.push(fault("P0302", format!("`{shown}` is a file, not a folder")));
            }
            Err(error)
                if !self.without_files && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                let missing = fault("P0301", format!("`{shown}` does not exist"));
                let help = if kind == "folder" { missing_help(&path) } else { missing_weights_help(&path) };
                self.found.faults.push(missing.help(help));
            }
            _ => {}
        }
    }
}

fn blocks(about: &Metadata) -> bool {
    !about.is_file() && !about.is_dir()
}
