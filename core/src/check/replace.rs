//! Overrides take the place of what they exclude: `--set train.epochs=3` over `train.steps` of the document.
//!
//! Only between the document and the command line: two fields of one text that exclude each other stay an error.

use serde_json::Value as Json;

use crate::diagnostic::FileId;
use crate::document::{Map, Tree, Value};
use crate::registry::Registry;

/// Takes fields of the document `main` out where an override gives one that excludes them.
pub(super) fn settle(tree: &mut Tree, main: FileId, registry: &Registry) {
    let schema = registry.settings_schema();
    Walk { root: schema, main }.value(tree, schema, 0);
    let Value::Map(top) = &mut tree.value else { return };
    let Some(Value::Map(nodes)) = top.get_mut("nodes").map(|entry| &mut entry.value.value) else { return };
    for entry in nodes.values_mut() {
        let kind = entry.value.get("type").and_then(Tree::as_str).and_then(|name| registry.kind(name));
        if let Some(kind) = kind {
            Walk { root: &kind.schema, main }.value(&mut entry.value, &kind.schema, 0);
        }
    }
}

struct Walk<'a> {
    root: &'a Json,
    main: FileId,
}

impl Walk<'_> {
    fn value(&self, tree: &mut Tree, schema: &Json, depth: u32) {
        if depth > 12 {
            return;
        }
        if let Some(target) = schema.get("$ref").and_then(Json::as_str).and_then(|name| name.strip_prefix("#/$defs/"))
            && let Some(target) = self.root.get("$defs").and_then(|defs| defs.get(target))
        {
            self.value(tree, target, depth + 1);
        }
        for keyword in ["anyOf", "oneOf", "allOf"] {
            for branch in schema.get(keyword).and_then(Json::as_array).into_iter().flatten() {
                self.value(tree, branch, depth + 1);
            }
        }
        match &mut tree.value {
            Value::Map(map) => {
                for keyword in ["x-exclusive", "x-one-of"] {
                    crate::structure::groups(schema.get(keyword)).iter().for_each(|names| self.group(map, names));
                }
                for (name, field) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
                    if let Some(entry) = map.get_mut(name) {
                        self.value(&mut entry.value, field, depth + 1);
                    }
                }
            }
            Value::Seq(items) => {
                if let Some(item) = schema.get("items") {
                    items.iter_mut().for_each(|tree| self.value(tree, item, depth + 1));
                }
            }
            _ => {}
        }
    }

    fn group(&self, map: &mut Map, names: &[&str]) {
        let given = |name: &&&str| map.get(**name).is_some_and(|entry| entry.key_span.file != self.main);
        if names.iter().any(|name| given(&name)) {
            map.retain(|name, entry| entry.key_span.file != self.main || !names.contains(&name.as_str()));
        }
    }
}
