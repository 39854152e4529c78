//! Loggers and validation.

use serde_json::json;

use super::Job;
use crate::report::Kind;

impl Job<'_> {
    pub fn loggers(&mut self) {
        self.draft.node("metrics", "logger.metrics");
        self.put_plain("nodes.metrics.update", json!("optimizer"));
        let asked = self.effective_text("log_with");
        let folder = self.has("logging_dir");
        let board = asked == "tensorboard" || asked == "all" || (asked.is_empty() && folder);
        let wandb = asked == "wandb" || asked == "all";
        let mut missing = Vec::new();
        for (on, node, node_type) in [(board, "tensorboard", "logger.tensorboard"), (wandb, "wandb", "logger.wandb")] {
            if !on {
                continue;
            }
            if self.draft.product().has_type(node_type) {
                self.draft.node(node, node_type);
                self.put_plain(&format!("nodes.{node}.update"), json!("optimizer"));
            } else {
                missing.push(node_type);
            }
        }
        if self.has("log_with") {
            match missing.is_empty() {
                true => self.tell("log_with", Kind::Mapped, Some("nodes"), ""),
                false => {
                    let note =
                        format!("not available yet: `{}`; `logger.metrics` writes a line a step", missing.join("`, `"));
                    self.tell("log_with", Kind::Refused, None, &note);
                }
            }
        }
        self.places(board && !missing.is_empty(), wandb);
        self.validation();
    }

    fn places(&mut self, no_board: bool, wandb: bool) {
        if let Some(folder) = self.text("logging_dir").map(str::to_owned) {
            if no_board && !self.draft.has("tensorboard") {
                self.tell(
                    "logging_dir",
                    Kind::Refused,
                    None,
                    "not available yet: `logger.tensorboard`; `logger.metrics` writes a line a step",
                );
            } else if self.draft.has("tensorboard") {
                let taken = self.draft.put("nodes.tensorboard.folder", json!(folder)).is_ok();
                match taken {
                    true => self.tell("logging_dir", Kind::Mapped, Some("nodes.tensorboard.folder"), ""),
                    false => self.tell("logging_dir", Kind::Changed, Some("output"), "logs are in the run's folder"),
                }
            } else {
                self.tell("logging_dir", Kind::Changed, Some("output"), "logs are in the run's folder");
            }
        }
        for (name, field) in [("wandb_run_name", "name"), ("log_tracker_name", "project")] {
            let Some(text) = self.text(name).map(str::to_owned) else { continue };
            match wandb {
                true if self.draft.has("wandb") => {
                    self.write(name, &format!("nodes.wandb.{field}"), json!(text), "");
                }
                true => self.tell(name, Kind::Refused, None, "not available yet: `logger.wandb`"),
                false => self.tell(name, Kind::Ignored, None, "only W&B shows it, which is not asked for"),
            }
        }
    }

    /// A part of the images set aside, or none.
    fn validation(&mut self) {
        let from_file = self.data.subsets.iter().find_map(|subset| subset.values.get("validation_split").cloned());
        let split =
            from_file.as_ref().map(|found| found.value.clone()).or_else(|| self.value("validation_split").cloned());
        let on = split.as_ref().and_then(|value| value.as_f64()).is_some_and(|v| v > 0.0);
        let options = ["validation_seed", "validate_every_n_steps", "validate_every_n_epochs", "max_validation_steps"];
        if !on {
            for name in options.into_iter().chain(["validation_split"]) {
                if self.has(name) {
                    self.tell(name, Kind::Ignored, None, "no images are set aside for validation");
                }
            }
            return;
        }
        let split = split.unwrap_or_default();
        let path = "nodes.images.validation_split";
        let origin = from_file.map_or("--validation_split".to_owned(), |found| found.origin);
        if let Err(miss) = self.draft.put(path, split.clone()) {
            let note = format!("{miss}; put held-out images in a folder of their own, with a `logger.validation`");
            if self.has("validation_split") {
                self.tell("validation_split", Kind::Refused, None, &note);
            } else {
                self.note(&origin, &split.to_string(), Kind::Refused, None, &note);
            }
            for name in options {
                if self.has(name) {
                    self.tell(
                        name,
                        Kind::Refused,
                        None,
                        "it belongs to the validation split, which is not available yet",
                    );
                }
            }
            return;
        }
        let note = "training and validation images are disjoint; in sd-scripts they overlap";
        self.tell("validation_split", Kind::Changed, Some(path), note);
        self.draft.node("validation", "logger.validation");
        self.put_plain("nodes.validation.loss", json!("loss"));
        self.put_plain("nodes.validation.batch", json!("cached.validation"));
        for (name, path) in [
            ("validation_seed", "nodes.images.validation_seed"),
            ("validate_every_n_steps", "nodes.validation.every.steps"),
            ("validate_every_n_epochs", "nodes.validation.every.epochs"),
            ("max_validation_steps", "nodes.validation.batches"),
        ] {
            if let Some(n) = self.int(name) {
                self.write(name, path, json!(n), "");
            }
        }
    }
}
