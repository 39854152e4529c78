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

    /// When the images that the loader sets aside are looked at.
    fn validation(&mut self) {
        let asked = self.data.subsets.iter().any(|subset| {
            subset.get("validation_split").and_then(serde_json::Value::as_f64).is_some_and(|part| part > 0.0)
        });
        let options = ["validate_every_n_steps", "validate_every_n_epochs", "max_validation_steps"];
        if self.draft.get("nodes.images.validation_split").is_none() {
            let (kind, note) = match asked {
                true => (Kind::Refused, "it belongs to the validation split, which is not available yet"),
                false => (Kind::Ignored, "no images are set aside for validation"),
            };
            for name in options {
                if self.has(name) {
                    self.tell(name, kind, None, note);
                }
            }
            return;
        }
        self.draft.node("validation", "logger.validation");
        self.put_plain("nodes.validation.loss", json!("loss"));
        self.put_plain("nodes.validation.batch", json!("cached.validation"));
        let paths = ["nodes.validation.every.steps", "nodes.validation.every.epochs", "nodes.validation.batches"];
        for (name, path) in options.into_iter().zip(paths) {
            if let Some(n) = self.int(name).filter(|n| *n > 0) {
                self.write(name, path, json!(n), "");
            }
        }
    }
}
