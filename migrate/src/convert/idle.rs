//! Fields that decide on nothing beside others. sd-scripts passes over such settings, here they are an error of the
//! check; so they are taken out of the document, and the report says why.

use std::path::Path;

use pipe_core::check::{Options, check_document_with};
use pipe_core::diagnostic::{Diagnostic, Severity, Span};
use pipe_core::document::{Document, Syntax, Tree, Value};
use pipe_core::registry::Registry;
use serde_json::Value as Json;

use super::Job;
use crate::report::Kind;

/// Fields of the adapter and of the optimizer that others may leave nothing to decide. Ports are none of them.
const MAY_BE_IDLE: [(&str, &[&str]); 2] = [
    (
        "lora",
        &[
            "rank",
            "alpha",
            "ranks",
            "text_ranks",
            "blocks",
            "conv",
            "patterns",
            "block_rates",
            "lora_plus",
            "tucker",
            "decompose_both",
            "rs_lora",
        ],
    ),
    (
        "optimizer",
        &[
            "learning_rate",
            "text_encoder_learning_rate",
            "text_encoder_2_learning_rate",
            "text_encoder_3_learning_rate",
        ],
    ),
];

/// A field that has no effect: the way to it from its node on, the node's name first, and why.
struct Idle {
    way: Vec<String>,
    why: String,
}

impl Job<'_> {
    /// Takes out what the check of the document finds without effect.
    pub fn leave_out_idle(&mut self, registry: &Registry) {
        // What is left out may leave another nothing to decide; each round takes out one at least.
        for _ in 0..64 {
            let found = self.idle(registry);
            if found.is_empty() {
                return;
            }
            found.into_iter().for_each(|idle| self.leave_out(&idle));
        }
    }

    /// Fields without effect, the last of a list first.
    fn idle(&self, registry: &Registry) -> Vec<Idle> {
        let text = self.draft.where_it_was_read().to_yaml();
        let document = Document::parse(&text, Path::new("a.yaml"), Syntax::Yaml, &[]);
        let mut fields = Vec::new();
        let nodes = document.tree.as_ref().and_then(|tree| tree.get("nodes"));
        for (node, names) in MAY_BE_IDLE {
            let Some(tree) = nodes.and_then(|nodes| nodes.get(node)) else { continue };
            collect(tree, vec![node.to_owned()], tree.span, &mut fields);
            fields.retain(|(way, _)| way[0] != node || way.get(1).is_some_and(|name| names.contains(&name.as_str())));
        }
        let checked = check_document_with(registry, document, Options { without_files: true, any_device: true });
        let of = |one: &Diagnostic| {
            let (before, after) = one.message.split_once("no effect")?;
            // Keys with dots are only named in the message, which else says `this`.
            let named = one.message.strip_prefix('`').and_then(|rest| rest.split('`').next());
            let by_name = |way: &[String]| named.is_some_and(|name| way[1..].join(".") == name);
            let (way, _) = fields
                .iter()
                .find(|(way, _)| by_name(way))
                .or_else(|| fields.iter().find(|(_, span)| *span == one.span))?;
            // The reason comes behind a colon, or before `so this has no effect`.
            let after = after.trim_start_matches([':', ' ']);
            let why = if after.is_empty() { before.split(", so").next().unwrap_or(before) } else { after };
            Some(Idle { way: way.clone(), why: why.to_owned() })
        };
        let idle = |one: &&Diagnostic| matches!(one, Diagnostic { code: "P0402", severity: Severity::Error, .. });
        let mut found: Vec<Idle> = checked.diagnostics.iter().filter(idle).filter_map(of).collect();
        let number =
            |way: &[String]| way.iter().map(|key| (key.parse::<usize>().ok(), key.clone())).collect::<Vec<_>>();
        found.sort_by_key(|idle| std::cmp::Reverse(number(&idle.way)));
        found.dedup_by(|a, b| a.way == b.way);
        // A rate of 0 is there to keep what should not learn from learning.
        let rate = |idle: &Idle| self.draft.get(&format!("nodes.{}", idle.way.join(".")));
        found.retain(|idle| {
            idle.way != ["optimizer", "learning_rate"] || rate(idle).is_none_or(|rate| !super::off(rate))
        });
        found
    }

    fn leave_out(&mut self, idle: &Idle) {
        let path = format!("nodes.{}", idle.way.join("."));
        let what = self.draft.get("nodes.lora.patterns").filter(|_| idle.way[1] == "patterns").and_then(|list| {
            let item = list.get(idle.way.get(2)?.parse::<usize>().ok()?)?;
            item.get("match")?.as_str().map(str::to_owned)
        });
        let last = idle.way.last().cloned().unwrap_or_default();
        self.draft.remove(&idle.way);
        // Two arguments share the list of patterns.
        let of_patterns = |option: &str| match last.as_str() {
            "rank" => option.ends_with("network_reg_dims"),
            _ => option.ends_with("network_reg_lrs"),
        };
        let left = self.draft.get("nodes.lora.patterns").and_then(Json::as_array).cloned().unwrap_or_default();
        let more = left.iter().any(|item| item.get(&last).is_some());
        let draft = &self.draft;
        let why = &idle.why;
        self.report.retain_mut(|entry| {
            let Some(target) = entry.target.clone() else { return true };
            let inside = target == path || target.starts_with(&format!("{path}."));
            let beside = path.starts_with(&format!("{target}.")) && target.split('.').count() > 2;
            if !(inside || beside) || what.is_some() && !of_patterns(&entry.option) {
                return true;
            }
            let gone = if what.is_some() { !more } else { draft.get(&target).is_none() };
            if entry.kind == Kind::Defaulted && gone {
                return false;
            }
            if gone {
                (entry.kind, entry.target) = (Kind::Ignored, None);
                entry.note = format!("without effect: {why}");
            } else {
                let part = what.clone().unwrap_or_else(|| path[target.len() + 1..].to_owned());
                let joint = if entry.note.is_empty() { "" } else { "; " };
                entry.note += &format!("{joint}`{part}` is left out, being without effect: {why}");
            }
            true
        });
    }
}

/// Every field under a value, with the place that a diagnostic of it has.
fn collect(tree: &Tree, way: Vec<String>, span: Span, fields: &mut Vec<(Vec<String>, Span)>) {
    let with = |key: String| way.iter().cloned().chain([key]).collect::<Vec<String>>();
    match &tree.value {
        Value::Map(map) => {
            for (key, entry) in map {
                let table = matches!(entry.value.value, Value::Map(_) | Value::Null);
                let span = if table { entry.key_span } else { entry.value.span };
                collect(&entry.value, with(key.clone()), span, fields);
            }
        }
        Value::Seq(items) => {
            for (i, item) in items.iter().enumerate() {
                collect(item, with(i.to_string()), item.span, fields);
            }
        }
        _ => {}
    }
    if way.len() > 1 {
        fields.push((way, span));
    }
}
