//! Savers: when, how many, in which form; the training state.

use serde_json::{Value as Json, json};

use super::Job;
use crate::report::Kind;
use crate::script::Family;

impl Job<'_> {
    pub fn saver(&mut self) {
        let adapter = self.script.adapter;
        self.draft.node("save", if adapter { "saver.adapter" } else { "saver.checkpoint" });
        if adapter {
            self.put_plain("nodes.save.adapter", json!("lora"));
            self.put_plain("nodes.save.update", json!("optimizer"));
        } else {
            self.put_plain("nodes.save.model", json!("full"));
        }
        self.form();
        self.cadence();
        self.element_type();
        self.state();
        if self.flag("no_metadata") && self.write("no_metadata", "nodes.save.metadata", json!(false), "") {
            let words: Vec<&'static str> = self.given.keys().copied().collect();
            for name in words.into_iter().filter(|n| n.starts_with("metadata_") || *n == "training_comment") {
                self.tell(name, Kind::Refused, None, "not beside `--no_metadata`, which leaves no place for it");
            }
        }
    }

    fn form(&mut self) {
        if self.script.adapter {
            if let Some(form) = self.text("save_model_as").map(str::to_owned) {
                match form.as_str() {
                    "safetensors" => self.tell("save_model_as", Kind::Mapped, None, "the only form of an adapter here"),
                    _ => {
                        let note = "written as safetensors, which every program that loads such a file reads";
                        self.tell("save_model_as", Kind::Changed, None, note);
                    }
                }
            }
            return;
        }
        let base = self.text("pretrained_model_name_or_path").unwrap_or_default().to_lowercase();
        let bare = matches!(self.family, Family::Flux | Family::Lumina2 | Family::LuminaNext);
        let single = if bare { "model_only" } else { "single_file" };
        let given = self.text("save_model_as").map(str::to_owned);
        let legacy = self.flag("use_safetensors") && given.is_none();
        let like_base = if base.ends_with(".ckpt") && !legacy { "ckpt" } else { "safetensors" };
        let wanted = given.as_deref().unwrap_or(like_base);
        let form = match wanted {
            "ckpt" if !bare => "ckpt",
            "diffusers" | "diffusers_safetensors" => "diffusers",
            _ => single,
        };
        let option = if legacy { "use_safetensors" } else { "save_model_as" };
        let note = match wanted {
            "diffusers" => "tensors are written as safetensors",
            "ckpt" if bare => "written as safetensors",
            _ => "",
        };
        let path = "nodes.save.format";
        match note {
            "" if !self.has(option) => self.put_plain(path, json!(form)),
            "" => {
                self.write(option, path, json!(form), "");
            }
            note => {
                self.change(option, path, json!(form), note);
            }
        }
        if self.has("use_safetensors") && !legacy {
            self.tell("use_safetensors", Kind::Ignored, None, "`--save_model_as` counts");
        }
        if form != "model_only" {
            self.put_plain("nodes.save.vae", json!("vae"));
            let encoders: Vec<&str> = match self.family {
                // The reference leaves SD3's encoders out of its file.
                Family::Sd3 => self.scope.trained.iter().map(|(name, _)| *name).collect(),
                _ => self.scope.encoders.clone(),
            };
            if !encoders.is_empty() {
                self.put_plain("nodes.save.text", Self::names(&encoders));
            }
        }
    }

    fn cadence(&mut self) {
        let mut counts: Vec<(i64, &'static str)> = Vec::new();
        let ratio = self.int("save_n_epoch_ratio").filter(|n| *n > 0);
        let mut epochs = self.int("save_every_n_epochs").filter(|n| *n > 0);
        if let Some(ratio) = ratio {
            match self.int("max_train_epochs").filter(|n| *n > 0) {
                Some(total) => {
                    let every = (total / ratio).max(1);
                    epochs = Some(every);
                    let note = "epochs divided by it, rounded down";
                    self.change("save_n_epoch_ratio", "nodes.save.every.epochs", json!(every), note);
                    if self.has("save_every_n_epochs") {
                        self.tell("save_every_n_epochs", Kind::Ignored, None, "`--save_n_epoch_ratio` counts");
                    }
                }
                None => {
                    let note =
                        "it needs the number of epochs, which depends on the data; give `nodes.save.every.epochs`";
                    self.tell("save_n_epoch_ratio", Kind::Refused, None, note);
                }
            }
        } else if let Some(every) = epochs {
            self.write("save_every_n_epochs", "nodes.save.every.epochs", json!(every), "");
        }
        let steps = self.int("save_every_n_steps").filter(|n| *n > 0);
        if let Some(every) = steps {
            let note = "at the last step there is the final file alone; sd-scripts writes one of the step beside it";
            self.change("save_every_n_steps", "nodes.save.every.steps", json!(every), note);
        }
        if let Some(n) = self.int("save_last_n_epochs").filter(|n| *n > 0) {
            match epochs {
                Some(_) => counts.push((n, "save_last_n_epochs")),
                None => self.tell(
                    "save_last_n_epochs",
                    Kind::Ignored,
                    None,
                    "without effect without `--save_every_n_epochs`",
                ),
            }
        }
        if let Some(n) = self.int("save_last_n_steps").filter(|n| *n > 0) {
            match steps {
                Some(every) => counts.push(((n + every) / every, "save_last_n_steps")),
                None => {
                    self.tell("save_last_n_steps", Kind::Ignored, None, "without effect without `--save_every_n_steps`")
                }
            }
        }
        self.keep(&counts);
    }

    fn keep(&mut self, counts: &[(i64, &'static str)]) {
        for (n, name) in counts {
            match *name {
                "save_last_n_steps" => {
                    let note = format!("a number of files, {n}; in sd-scripts it is a window in steps");
                    self.change(name, "nodes.save.keep_last.step_files", json!(n), &note);
                }
                name => {
                    self.write(name, "nodes.save.keep_last.epoch_files", json!(n), "");
                }
            }
        }
    }

    fn element_type(&mut self) {
        let path = "nodes.save.dtype";
        let own = match self.text("save_precision") {
            Some("float") => "f32",
            Some("fp16") => "f16",
            Some(_) => "bf16",
            None => {
                let told = [("full_bf16", "bf16"), ("full_fp16", "f16")].into_iter().find(|(name, _)| self.flag(name));
                let run = self.half.unwrap_or("f32").to_owned();
                let halved = !self.script.adapter && self.family.flow();
                if halved && told.is_none() && self.family == Family::Sd3 {
                    let note = "exact; sd-scripts saves in the type of the checkpoint, f16 in the published ones";
                    self.write("save_precision", path, json!("f32"), note);
                    return;
                }
                let kind = match told {
                    Some((_, kind)) => kind.to_owned(),
                    None if halved => run,
                    None => "f32".into(),
                };
                self.write("save_precision", path, json!(kind), "the type sd-scripts saves in then");
                return;
            }
        };
        self.write("save_precision", path, json!(own), "");
    }

    /// How many states are kept: without options of their own those of the models count for them too.
    fn states_kept(&mut self, every: Option<i64>, written: bool) {
        let names =
            [("save_last_n_epochs_state", "save_last_n_epochs"), ("save_last_n_steps_state", "save_last_n_steps")];
        let of = |name: &str| self.int(name).filter(|n| *n > 0);
        let count = |own: &str, other: &str| {
            let n = of(own).or(of(other))?;
            // A window in steps holds so many.
            if own.contains("steps") { every.map(|every| (n + every) / every) } else { Some(n) }
        };
        let given: Vec<(&str, Option<i64>)> = names.iter().map(|(own, _)| (*own, of(own))).collect();
        let most = names.iter().filter_map(|(own, other)| count(own, other)).max();
        let path = "train.save_state.keep_last.count";
        let put = most.filter(|_| written).map(|n| self.draft.put(path, json!(n)));
        for (own, _) in names.into_iter().filter(|(own, _)| self.given.contains_key(own)).collect::<Vec<_>>() {
            match (&put, written) {
                (Some(Ok(())), _) if own.contains("steps") => {
                    let note = "a number of states; in sd-scripts it is a window in steps";
                    self.tell(own, Kind::Changed, Some(path), note);
                }
                (Some(Ok(())), _) if given.iter().any(|(name, n)| *name == own && *n != most) => {
                    let note = "one number for all states, the larger of both";
                    self.tell(own, Kind::Changed, Some(path), note);
                }
                (Some(Ok(())), _) => self.tell(own, Kind::Mapped, Some(path), ""),
                (_, false) => self.tell(own, Kind::Ignored, None, "without effect without `--save_state`"),
                _ => {
                    let note = "the training state is written by itself and the newest ones are kept";
                    self.tell(own, Kind::Ignored, None, note);
                }
            }
        }
    }

    fn state(&mut self) {
        // With every file but the final one, so as often as those.
        let every = |unit: &str| self.draft.get(&format!("nodes.save.every.{unit}")).cloned();
        let places = [(every("epochs"), "epochs"), (every("steps"), "steps")];
        let steps = places[1].0.as_ref().and_then(Json::as_i64);
        let asked = self.flag("save_state");
        let mut written = false;
        for (n, unit) in places {
            if let Some(n) = n.filter(|_| asked) {
                written |= self.write("save_state", &format!("train.save_state.{unit}"), n, "");
            }
        }
        if asked && !written {
            let note = "the training state is written by itself, every few minutes and at the end";
            self.tell("save_state", Kind::Mapped, None, note);
        }
        self.states_kept(steps, written);
        if self.has("resume") {
            let begin = if self.script.adapter { "`nodes.lora.weights`" } else { "`nodes.model.weights`" };
            let note = format!(
                "a state of sd-scripts cannot be continued here: begin with its weights at {begin}; runs of `pipe` continue with `pipe run --resume`"
            );
            self.tell("resume", Kind::Refused, None, &note);
        }
    }
}
