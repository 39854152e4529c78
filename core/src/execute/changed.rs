//! Whether a document is still that of a saved state, and which of its fields changed, with both values.
//!
//! The identity of a state holds hashes, which only say that something changed; the resolved pipeline beside it has the
//! values, also those that an earlier version took where the document says nothing.

use std::path::Path;

use serde_json::{Map, Value as Json};

use crate::identity::{Change, Identity, essence};
use crate::registry::Registry;
use crate::run::RunError;

use super::state::Saved;

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

/// The resolved pipelines of then and now.
struct Both<'a> {
    registry: &'a Registry,
    before: Json,
    now: &'a Json,
}

impl Both<'_> {
    /// Fields of a node that differ; nothing where one of the pipelines has no such node.
    fn node(&self, name: &str) -> Option<Vec<Field>> {
        let [before, now] = [&self.before, self.now].map(|all| all["nodes"].get(name));
        let (before, now) = (before?, now?);
        let schema = |fields: &Json| Some(self.registry.kind(fields["type"].as_str()?)?.schema.clone());
        // By the defaults of now, so that only what an earlier version took otherwise differs.
        let [old, new] = [before, now].map(|fields| essence(fields, &schema(now).unwrap_or_default()));
        let mut fields = Vec::new();
        compare(Some(&name.to_owned()), "", Some(&old), Some(&new), &mut fields);
        for field in &mut fields {
            let at = format!("/{}", field.path.replace('.', "/"));
            field.before = field.before.take().or_else(|| before.pointer(&at).cloned());
            field.now = field.now.take().or_else(|| now.pointer(&at).cloned());
        }
        Some(fields)
    }

    /// Whether only the place of weights differs whose content is compared when they are read.
    fn moved(&self, name: &str, fields: &[Field]) -> bool {
        let known = self.before["contents"][name].is_string();
        known && fields.iter().all(|field| field.path == "weights" && field.before.is_some() && field.now.is_some())
    }
}

/// Refuses to go on from a state of another pipeline. `now` is the resolved pipeline of this run.
pub(super) fn check(
    registry: &Registry,
    saved: &Saved,
    identity: &Identity,
    now: &Json,
    lock: &Path,
) -> Result<(), RunError> {
    let text = std::fs::read_to_string(lock).unwrap_or_default();
    let both = Both { registry, before: serde_json::from_str(&text).unwrap_or_default(), now };
    let mut changes = identity.changes(&saved.identity);
    changes.retain(|change| match change {
        Change::Node(name) => both.node(name).is_none_or(|fields| !both.moved(name, &fields) && !fields.is_empty()),
        _ => true,
    });
    for name in identity.nodes.keys() {
        let of_version = |field: &Field| field.before.is_some() && field.now.is_some();
        let known = changes.contains(&Change::Node(name.clone()));
        let fields = both.node(name).unwrap_or_default();
        if !known && !both.moved(name, &fields) && fields.iter().any(of_version) {
            changes.push(Change::Node(name.clone()));
        }
    }
    if changes.is_empty() { Ok(()) } else { Err(refusal(saved.step, &changes, &both)) }
}

/// The refusal, naming what changed.
fn refusal(step: u64, changes: &[Change], both: &Both) -> RunError {
    let mut fields = Vec::new();
    let mut words = Vec::new();
    for change in changes {
        let from = fields.len();
        match change {
            Change::Settings => {
                compare(None, "", both.before.get("settings"), both.now.get("settings"), &mut fields);
            }
            Change::Node(name) => fields.extend(both.node(name).unwrap_or_default()),
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
    let help = "undo the change, or start a new run in another folder; steps, device, output and what only saves, previews, \
                measures or logs may change";
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
        let registry = crate::testing::registry();
        let of = |rank: u32, batch: u32, steps: u32, more: Json| {
            json!({
                "settings": { "seed": 7, "train": { "batch_size": batch, "steps": steps } },
                "nodes": { "lora": { "rank": rank, "conv": more } },
            })
        };
        let now = of(4, 2, 20, json!(5));
        let both = Both { registry: &registry, before: of(8, 1, 10, json!({ "rank": 4 })), now: &now };
        let changes = [Change::Settings, Change::Node("lora".into()), Change::Removed("old".into())];
        let error = refusal(5, &changes, &both);
        for part in [
            "step 5: `train.batch_size` was 1, is 2, ",
            "`nodes.lora.rank` was 8, is 4",
            "`nodes.lora.conv` was {\"rank\":4}, is 5",
            "node `old` is gone",
        ] {
            assert!(error.message.contains(part), "{part}: {}", error.message);
        }
        assert!(!error.message.contains("steps"), "{}", error.message);
        assert_eq!(error.field, "/train.batch_size");
        // Without the file of the earlier run there are still the hashes.
        let error = refusal(5, &changes[1..], &Both { registry: &registry, before: Json::Null, now: &now });
        assert!(error.message.contains("node `lora` changed"), "{}", error.message);
        assert_eq!(error.node.as_deref(), Some("lora"));
    }
}
