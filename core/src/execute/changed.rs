//! Which fields of a document changed since a state was saved, with both values.
//!
//! The identity of a state holds hashes, which only say that something changed; the resolved pipeline beside it has the
//! values.

use std::path::Path;

use serde_json::{Map, Value as Json};

use crate::identity::Change;
use crate::run::RunError;

/// Settings that a continued run may have otherwise.
const FREE: [&str; 7] =
    ["name", "output", "train.device", "train.steps", "train.epochs", "train.save_state", "train.resume"];

/// A field with another value.
struct Field {
    /// The node, unless it is a setting.
    node: Option<String>,
    /// Path within the node or the settings.
    path: String,
    before: Option<Json>,
    now: Option<Json>,
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = self.node.as_ref().map_or_else(|| self.path.clone(), |node| format!("nodes.{node}.{}", self.path));
        let text = |value: &Option<Json>| value.as_ref().map(shown);
        match (text(&self.before), text(&self.now)) {
            (Some(before), Some(now)) => write!(f, "`{place}` was {before}, is {now}"),
            (Some(before), None) => write!(f, "`{place}` was {before}, is not given"),
            (None, now) => write!(f, "`{place}` was not given, is {}", now.unwrap_or_default()),
        }
    }
}

/// A value in a message, cut where it is long.
fn shown(value: &Json) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), |text| format!("`{text}`"));
    if text.chars().count() <= 60 { text } else { text.chars().take(59).chain(['…']).collect() }
}

/// The refusal to go on from a state of another pipeline. `lock` is the resolved pipeline of the run that saved it, `now`
/// that of this run.
pub(super) fn refusal(step: u64, changes: &[Change], lock: &Path, now: &Json) -> RunError {
    let before: Json =
        std::fs::read_to_string(lock).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let mut fields = Vec::new();
    let mut words = Vec::new();
    for change in changes {
        let from = fields.len();
        match change {
            Change::Settings => compare(None, "", before.get("settings"), now.get("settings"), &mut fields),
            Change::Node(name) => {
                compare(Some(name), "", before["nodes"].get(name), now["nodes"].get(name), &mut fields);
            }
            Change::Added(_) | Change::Removed(_) => {}
        }
        match &fields[from..] {
            [] => words.push(change.to_string()),
            some => words.extend(some.iter().map(Field::to_string)),
        }
    }
    let more = if words.len() > 5 { format!(" and {} more", words.len() - 5) } else { String::new() };
    words.truncate(5);
    let message = format!("the pipeline changed since the state of step {step}: {}{more}", words.join(", "));
    let help =
        "undo the change, or start a new run in another folder; steps, device, output and event nodes may change";
    let error = RunError::new("P0908", message).help(help);
    // The first field that the document still has, else the first node.
    if let Some(field) = fields.iter().find(|field| field.now.is_some()) {
        return match &field.node {
            Some(node) => error.of(node).at(&field.path),
            None => error.at(&format!("/{}", field.path)),
        };
    }
    let node = changes.iter().find_map(|change| match change {
        Change::Node(name) | Change::Added(name) => Some(name),
        _ => None,
    });
    match node {
        Some(name) => error.of(name),
        None => error,
    }
}

/// Collects the leaves that differ.
fn compare(node: Option<&String>, path: &str, before: Option<&Json>, now: Option<&Json>, out: &mut Vec<Field>) {
    if before == now || (node.is_none() && FREE.contains(&path)) {
        return;
    }
    let empty = Map::new();
    let table = |value: Option<&Json>| value.is_none_or(Json::is_object);
    if table(before) && table(now) && (before.is_some() || now.is_some()) {
        let [old, new] = [before, now].map(|value| value.and_then(Json::as_object).unwrap_or(&empty));
        let added = new.keys().filter(|key| !old.contains_key(*key));
        for key in old.keys().chain(added) {
            let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            compare(node, &inner, old.get(key), new.get(key), out);
        }
        return;
    }
    out.push(Field { node: node.cloned(), path: path.to_owned(), before: before.cloned(), now: now.cloned() });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_values_are_told_and_what_may_change_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join("lock.json");
        let of = |rank: u32, batch: u32, steps: u32, more: Json| {
            json!({
                "settings": { "seed": 7, "train": { "batch_size": batch, "steps": steps } },
                "nodes": { "lora": { "rank": rank, "conv": more } },
            })
        };
        std::fs::write(&lock, of(8, 1, 10, json!({ "rank": 4 })).to_string()).unwrap();
        let changes = [Change::Settings, Change::Node("lora".into()), Change::Removed("old".into())];
        let error = refusal(5, &changes, &lock, &of(4, 2, 20, json!(null)));
        for part in [
            "step 5: `train.batch_size` was 1, is 2, ",
            "`nodes.lora.rank` was 8, is 4",
            "`nodes.lora.conv` was {\"rank\":4}, is null",
            "node `old` is gone",
        ] {
            assert!(error.message.contains(part), "{part}: {}", error.message);
        }
        assert!(!error.message.contains("steps"), "{}", error.message);
        assert_eq!(error.field, "/train.batch_size");
        // Without the file of the earlier run there are still the hashes.
        let error = refusal(5, &changes[1..], &dir.path().join("none"), &json!({}));
        assert!(error.message.contains("node `lora` changed"), "{}", error.message);
        assert_eq!(error.node.as_deref(), Some("lora"));
    }
}
