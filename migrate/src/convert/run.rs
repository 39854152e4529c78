//! The head of the document: name, seed, folder, length, batch, precision.

use serde_json::json;

use super::Job;
use crate::report::Kind;
use crate::script::Family;

/// Longest name of a run.
const NAME: usize = 100;

impl Job<'_> {
    /// SD 1.x or 2.x, Lumina-Image-2.0 or Lumina-Next: the script alone does not say.
    pub fn family(&mut self) {
        if self.flag("v2") {
            self.family = Family::Sd2;
        }
        let file = self.text("pretrained_model_name_or_path").unwrap_or_default();
        let name = crate::script::stem(file).to_lowercase();
        if self.family == Family::Lumina2 && name.contains("next") {
            self.family = Family::LuminaNext;
        }
    }

    pub fn head(&mut self) {
        if self.has("config_file") {
            self.tell("config_file", Kind::Mapped, None, "its options have entries of their own");
        }
        self.name();
        match self.int("seed") {
            Some(seed) if seed >= 0 => {
                self.write("seed", "seed", json!(seed), "");
            }
            Some(_) => self.tell("seed", Kind::Refused, None, "a seed is at least 0"),
            None => {
                if self.draft.put("seed", json!(42)).is_ok() {
                    let note = "sd-scripts draws a seed at random; here every run has one and can be repeated";
                    self.tell("seed", Kind::Defaulted, Some("seed"), note);
                }
            }
        }
        self.length();
        self.batch();
        self.precision();
    }

    fn name(&mut self) {
        let given = self.text("output_name").map(str::to_owned);
        let kind = if self.script.adapter { "lora" } else { "finetune" };
        let own = format!("{}-{kind}", self.family.id());
        let name = given.as_deref().map_or(own.clone(), |name| plain_name(name, &own));
        let changed = given.as_deref().is_some_and(|given| given != name);
        match given {
            _ if changed => {
                let note = "a name has letters, digits, `.`, `_` and `-`";
                self.change("output_name", "name", json!(name), note);
            }
            Some(_) => {
                self.write("output_name", "name", json!(name), "");
            }
            None => {
                self.write("output_name", "name", json!(name), "sd-scripts calls the file `last`");
            }
        }
        if let Some(folder) = self.text("output_dir").map(|dir| dir.trim_end_matches(['/', '\\']).to_owned()) {
            let path = if folder.is_empty() { format!("/{name}") } else { format!("{folder}/{name}") };
            let note = "the run's folder: models are in its `checkpoints`, pictures in `samples`";
            self.change("output_dir", "output", json!(path), note);
        }
    }

    fn length(&mut self) {
        match self.int("max_train_epochs") {
            Some(epochs) if epochs > 0 => {
                self.write("max_train_epochs", "train.epochs", json!(epochs), "");
                if self.has("max_train_steps") {
                    self.tell("max_train_steps", Kind::Ignored, None, "`--max_train_epochs` counts");
                }
            }
            epochs => {
                if epochs.is_some() {
                    self.tell("max_train_epochs", Kind::Refused, None, "there is at least one epoch");
                }
                let steps = self.effective("max_train_steps");
                match steps.as_i64() {
                    Some(n) if n > 0 => {
                        self.write("max_train_steps", "train.steps", steps, "");
                    }
                    _ => self.tell("max_train_steps", Kind::Refused, None, "there is at least one step"),
                }
            }
        }
    }

    /// One batch size for all, where datasets may have their own.
    fn batch(&mut self) {
        let mut sizes: Vec<(String, i64)> = Vec::new();
        for subset in &self.data.subsets {
            if let Some(found) = subset.values.get("batch_size")
                && let Some(size) = found.value.as_i64()
                && !sizes.iter().any(|(origin, _)| *origin == found.origin)
            {
                sizes.push((found.origin.clone(), size));
            }
        }
        let Some((origin, size)) = sizes.first().cloned() else {
            let size = self.effective("train_batch_size");
            self.write("train_batch_size", "train.batch_size", size, "");
            return;
        };
        match self.draft.put("train.batch_size", json!(size)) {
            Ok(()) if origin.starts_with("--") => {
                self.tell("train_batch_size", Kind::Mapped, Some("train.batch_size"), "");
            }
            Ok(()) => self.note(&origin, &size.to_string(), Kind::Mapped, Some("train.batch_size"), ""),
            Err(miss) => self.note(&origin, &size.to_string(), Kind::Refused, None, &miss.to_string()),
        }
        for (origin, other) in sizes.into_iter().skip(1) {
            let (kind, note) = match other == size {
                true => (Kind::Mapped, ""),
                false => (
                    Kind::Refused,
                    "not available yet: batch sizes that differ between datasets; the first one's is taken",
                ),
            };
            self.note(&origin, &other.to_string(), kind, Some("train.batch_size"), note);
        }
        if self.has("train_batch_size") {
            self.tell("train_batch_size", Kind::Ignored, None, "the dataset file has a `batch_size`");
        }
    }

    /// bf16 and fp16 are `auto`: bf16 wherever the device has it, so that the document runs on others too.
    fn precision(&mut self) {
        let of = |name: &str| match name {
            "fp16" => {
                ("auto", "bf16 on CUDA, which needs no loss scaling, f32 on devices without it; `f16` insists on fp16")
            }
            "bf16" => ("auto", "bf16 on CUDA, f32 on devices without it"),
            _ => ("f32", ""),
        };
        let launcher = self.launcher.clone();
        let own = self.text("mixed_precision").map(str::to_owned);
        let told = launcher.clone().filter(|name| ["fp16", "bf16"].contains(&name.as_str()));
        let meant = own.clone().or(told.clone());
        self.half = meant.as_deref().and_then(|name| match name {
            "fp16" => Some("f16"),
            "bf16" => Some("bf16"),
            _ => None,
        });
        let (value, note) = of(meant.as_deref().unwrap_or("no"));
        let path = "train.precision";
        match (own, told) {
            (None, Some(told)) => {
                let note = format!(
                    "{}taken from the launcher, as it was surely meant; sd-scripts overrides it with its own default `no` and trains in f32: write `f32` for that",
                    if note.is_empty() { String::new() } else { format!("{note}; ") }
                );
                match self.draft.put(path, json!(value)) {
                    Ok(()) => {
                        self.draft.comment(path, "sd-scripts ignores the launcher's and trains in f32");
                        self.note("launcher --mixed_precision", &told, Kind::Changed, Some(path), &note);
                    }
                    Err(miss) => self.note("launcher --mixed_precision", &told, Kind::Refused, None, &miss.to_string()),
                }
            }
            (own, _) => {
                if own.as_deref() == Some("fp16") {
                    self.change("mixed_precision", path, json!(value), note);
                } else if self.write("mixed_precision", path, json!(value), note) && !note.is_empty() {
                    self.draft.comment(path, note);
                }
                if let Some(told) = launcher {
                    let note = match own.is_some() {
                        true => "the script's own `--mixed_precision` counts",
                        false => "as the script's default",
                    };
                    self.note("launcher --mixed_precision", &told, Kind::Ignored, None, note);
                }
            }
        }
    }
}

/// A name of the form the document takes.
fn plain_name(name: &str, own: &str) -> String {
    let mapped: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }).collect();
    let trimmed = mapped.trim_start_matches(['.', '_', '-']);
    if trimmed.is_empty() { own.to_owned() } else { trimmed.chars().take(NAME).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, expected) in [("my_lora", "my_lora"), ("my lora (2)", "my-lora--2-"), ("-x", "x"), ("狐", "own")] {
            assert_eq!(plain_name(name, "own"), expected);
        }
        assert_eq!(plain_name(&"a".repeat(300), "own").len(), NAME);
    }
}
