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
        for (on, node) in [(board, "tensorboard"), (wandb, "wandb")] {
            if on {
                self.draft.node(node, &format!("logger.{node}"));
                self.put_plain(&format!("nodes.{node}.update"), json!("optimizer"));
            }
        }
        if self.has("log_with") {
            self.tell("log_with", Kind::Mapped, Some("nodes"), "");
        }
        if let Some(folder) = self.text("logging_dir").map(str::to_owned) {
            match board {
                true => {
                    self.write("logging_dir", "nodes.tensorboard.folder", json!(folder), "");
                }
                false => self.tell("logging_dir", Kind::Changed, Some("output"), "logs are in the run's folder"),
            }
        }
        for (name, field) in [("wandb_run_name", "name"), ("log_tracker_name", "project")] {
            let Some(text) = self.text(name).map(str::to_owned) else { continue };
            match wandb {
                true => {
                    self.write(name, &format!("nodes.wandb.{field}"), json!(text), "");
                }
                false => self.tell(name, Kind::Ignored, None, "only W&B shows it, which is not asked for"),
            }
        }
        self.validation();
    }

    /// When the images that the loaders set aside are looked at.
    fn validation(&mut self) {
        let options = ["validate_every_n_steps", "validate_every_n_epochs", "max_validation_steps"];
        let loaders = (1..).map(|i| if i == 1 { "images".to_owned() } else { format!("images_{i}") });
        let aside = loaders
            .take_while(|node| self.draft.has(node))
            .any(|node| self.draft.get(&format!("nodes.{node}.validation_split")).is_some());
        if !aside {
            for name in options.into_iter().filter(|name| self.given.contains_key(name)).collect::<Vec<_>>() {
                self.tell(name, Kind::Ignored, None, "no images are set aside for validation");
            }
            return;
        }
        self.draft.node("validation", "logger.validation");
        self.put_plain("nodes.validation.loss", json!("loss"));
        self.put_plain("nodes.validation.batch", json!("cached.validation"));
        let paths = ["nodes.validation.every.steps", "nodes.validation.every.epochs", "nodes.validation.batches"];
        for (name, path) in options.into_iter().zip(paths) {
            match self.int(name).filter(|n| *n > 0) {
                Some(n) => {
                    self.write(name, path, json!(n), "");
                }
                None if self.has(name) => self.tell(name, Kind::Mapped, None, "off, so left out"),
                // Whenever there are such images, beside a cadence in steps too.
                None if name == "validate_every_n_epochs" && self.draft.put(path, json!(1)).is_ok() => {
                    self.draft.comment(path, "default of sd-scripts");
                    self.tell_value(
                        name,
                        "1",
                        Kind::Defaulted,
                        Some(path),
                        "every epoch, whenever images are set aside",
                    );
                }
                None => {}
            }
        }
    }
}
