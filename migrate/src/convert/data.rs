//! Loaders of images, and the cache behind them.

use std::collections::HashSet;

use serde_json::{Value as Json, json};

use super::{Job, off};
use crate::args;
use crate::dataset::{Found, Subset};
use crate::options::{self, Fate, How, Place};
use crate::python;
use crate::report::{Entry, Kind};
use crate::script::Family;

/// Options of the command line that a dataset file has under another name, and those read with others.
const ALIASES: [(&str, &str); 3] = [
    ("batch_size", "train_batch_size"),
    ("num_repeats", "dataset_repeats"),
    ("caption_extension", "caption_extention"),
];

impl Job<'_> {
    /// The loaders: one for each folder, if a run can have several.
    pub fn images(&mut self) {
        for entry in std::mem::take(&mut self.data.entries) {
            let name = entry.option.trim_start_matches("--").to_owned();
            match options::find(Place::Command, &name, self.script).filter(|opt| opt.scripts.has(self.script)) {
                Some(opt) => self.tell(opt.name, entry.kind, entry.target.as_deref(), &entry.note),
                None => self.report.push(entry),
            }
        }
        let subsets = std::mem::take(&mut self.data.subsets);
        let several = self.draft.product().takes("cacher.disk", "samples", &json!(["a", "b"]));
        let mut spoken = HashSet::new();
        let mut made = 0;
        for subset in &subsets {
            if let Some(why) = self.unusable(subset) {
                self.lose(subset, &why, &mut spoken);
                continue;
            }
            if made > 0 && !several {
                let why = "not available yet: several folders in one run";
                self.lose(subset, why, &mut spoken);
                continue;
            }
            made += 1;
            let node = if made == 1 { "images".to_owned() } else { format!("images_{made}") };
            self.loader(&node, subset, &mut spoken);
        }
        self.data.subsets = subsets;
        if made == 0 {
            self.empty_loader();
        }
        for opt in options::all().filter(|opt| opt.place == Place::Dataset) {
            let name = ALIASES.iter().find(|(key, _)| *key == opt.name).map_or(opt.name, |(_, name)| name);
            for name in [name, opt.name] {
                if spoken.contains(&format!("--{name}"))
                    && let Some(known) = options::find(Place::Command, name, self.script)
                {
                    // The loader has spoken of it with the key's own entry.
                    self.silence(known.name);
                }
            }
        }
    }

    fn silence(&mut self, name: &'static str) {
        self.told.insert(name);
    }

    /// Why a subset cannot be trained on.
    fn unusable(&self, subset: &Subset) -> Option<String> {
        let takes = |field: &str, value: Json| self.draft.product().takes("loader.images", field, &value);
        if subset.get("num_repeats").and_then(Json::as_i64).is_some_and(|n| n < 1) {
            return Some("a folder repeated less than once is left out; sd-scripts does so too".into());
        }
        if subset.flag("is_reg") && !takes("regularization", json!({ "weight": 1 })) {
            return Some("not available yet: regularization images".into());
        }
        if subset.text("metadata_file").is_some() && !takes("metadata", json!("a.json")) {
            return Some(
                "not available yet: captions in one metadata file; write a text file beside each image".into(),
            );
        }
        if subset.text("image_dir").is_none() && subset.text("metadata_file").is_none() {
            return Some("it names no folder; sd-scripts stops here".into());
        }
        None
    }

    fn lose(&mut self, subset: &Subset, why: &str, spoken: &mut HashSet<String>) {
        for key in ["image_dir", "metadata_file"] {
            if let Some(found) = subset.values.get(key).filter(|found| spoken.insert(format!("{} {key}", found.origin)))
            {
                self.note(&found.origin, &Entry::show(&found.value), Kind::Refused, None, why);
                self.draft.intro.push(format!("Left out: {} ({why})", Entry::show(&found.value).replace('\n', " ")));
                return;
            }
        }
    }

    fn loader(&mut self, node: &str, subset: &Subset, spoken: &mut HashSet<String>) {
        self.draft.node(node, "loader.images");
        let path = |field: &str| format!("nodes.{node}.{field}");
        let mut job = Loader { job: self, node, subset, spoken };
        job.put("image_dir", &path("path"), |value| value.clone(), "");
        job.put("metadata_file", &path("metadata"), |value| value.clone(), "");
        job.size();
        job.buckets();
        job.caption_files();
        job.put("num_repeats", &path("repeats"), |value| value.clone(), "");
        if subset.flag("is_reg") {
            let weight = subset.get("prior_loss_weight").and_then(Json::as_f64);
            let weight = weight.or(job.job.float("prior_loss_weight")).unwrap_or(1.0);
            job.put("is_reg", &path("regularization"), |_| json!({ "weight": weight }), "");
            job.speak("prior_loss_weight", Kind::Mapped, Some(&path("regularization.weight")), "");
        } else {
            job.speak("prior_loss_weight", Kind::Ignored, None, "there are no regularization images in this folder");
        }
        job.shuffling();
        job.attributes();
        job.held_out();
        job.plain_keys();
    }

    /// Where no data is known, the document still says what belongs there.
    fn empty_loader(&mut self) {
        self.draft.node("images", "loader.images");
        self.put_plain("nodes.images.path", json!("images"));
        self.draft.comment("nodes.images.path", "put the folder of the images here");
        let side = if matches!(self.family, Family::Sd1) { 512 } else { 1024 };
        let given = self.text("resolution").and_then(|text| args::typed(options::Type::Size, text).ok());
        let known = given.is_some();
        self.put_plain("nodes.images.resolution", given.unwrap_or(json!(side)));
        if !known {
            self.draft.comment("nodes.images.resolution", "put the size of training here");
        } else {
            self.tell("resolution", Kind::Mapped, Some("nodes.images.resolution"), "");
        }
        self.put_plain("nodes.images.caption_extension", json!(".caption"));
        self.draft.comment("nodes.images.caption_extension", "default of sd-scripts");
        for name in self.given.keys().copied().collect::<Vec<_>>() {
            let held = options::all().any(|opt| opt.place == Place::Dataset && opt.name == name);
            if (held || ALIASES.iter().any(|(_, alias)| *alias == name)) && name != "train_batch_size" {
                let note = "not carried over: there is no data to set it on; give the dataset and migrate again";
                self.tell(name, Kind::Refused, None, note);
            }
        }
    }

    /// The cache: latents always, and the outputs of text encoders that do not learn.
    pub fn cache(&mut self) {
        let disk = self.flag("cache_latents_to_disk") || self.flag("cache_text_encoder_outputs_to_disk");
        let node_type = if disk { "cacher.disk" } else { "cacher.memory" };
        self.draft.node("cached", node_type);
        let loaders: Vec<String> = (1..)
            .map(|i| if i == 1 { "images".into() } else { format!("images_{i}") })
            .take_while(|n| self.draft.has(n))
            .collect();
        let loaders: Vec<&str> = loaders.iter().map(String::as_str).collect();
        self.put_plain("nodes.cached.samples", Self::names(&loaders));
        self.put_plain("nodes.cached.vae", json!("vae"));
        let frozen: Vec<&str> = self.scope.encoders.iter().copied().filter(|e| !self.scope.trains(e)).collect();
        if !frozen.is_empty() {
            self.put_plain("nodes.cached.text", Self::names(&frozen));
        }
        for name in ["cache_latents", "cache_latents_to_disk"] {
            if self.has(name) {
                self.tell(name, Kind::Mapped, Some("nodes.cached.type"), "");
            }
        }
        for name in ["cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk", "use_t5xxl_cache_only"] {
            if !self.has(name) {
                continue;
            }
            match self.scope.refused {
                Some(why) => self.tell(name, Kind::Changed, Some("nodes.cached.text"), why),
                None => {
                    let note = "encoders that do not learn are always cached";
                    self.tell(name, Kind::Mapped, Some("nodes.cached.text"), note);
                }
            }
        }
        if self.has("cache_info") {
            let note = "captions and sizes are read anew at each start, which takes a moment";
            self.tell("cache_info", Kind::Ignored, None, note);
        }
    }
}

/// One loader being filled.
struct Loader<'j, 'a> {
    job: &'j mut Job<'a>,
    node: &'j str,
    subset: &'j Subset,
    spoken: &'j mut HashSet<String>,
}

impl Loader<'_, '_> {
    fn path(&self, field: &str) -> String {
        format!("nodes.{}.{field}", self.node)
    }

    fn found(&self, key: &str) -> Option<&Found> {
        self.subset.values.get(key)
    }

    /// Says what became of a key, once for each place it is written at.
    fn speak(&mut self, key: &str, kind: Kind, target: Option<&str>, note: &str) {
        let Some(found) = self.found(key).cloned() else { return };
        // A folder's name speaks for three keys.
        let id = if found.origin.contains(' ') { format!("{} {key}", found.origin) } else { found.origin.clone() };
        if self.spoken.insert(id) {
            let value = if found.value == json!(true) { String::new() } else { Entry::show(&found.value) };
            self.job.note(&found.origin, &value, kind, target, note);
        }
    }

    /// Writes a key, if it was given.
    fn put(&mut self, key: &str, path: &str, make: impl Fn(&Json) -> Json, note: &str) -> bool {
        let Some(found) = self.found(key).cloned() else { return false };
        match self.job.draft.put(path, make(&found.value)) {
            Ok(()) => {
                self.speak(key, Kind::Mapped, Some(path), note);
                true
            }
            Err(miss) => {
                self.speak(key, Kind::Refused, None, &miss.to_string());
                false
            }
        }
    }

    fn size(&mut self) {
        let path = self.path("resolution");
        if self.put("resolution", &path, |value| value.clone(), "") {
            return;
        }
        let side = if matches!(self.job.family, Family::Sd1) { 512 } else { 1024 };
        self.job.put_plain(&path, json!(side));
        self.job.draft.comment(&path, "not given: put the size of training here");
        let note = "not given; sd-scripts stops without it";
        self.job.note("resolution (not given)", "", Kind::Refused, Some(&path), note);
    }

    fn buckets(&mut self) {
        let fields = [("min_bucket_reso", "min"), ("max_bucket_reso", "max"), ("bucket_reso_steps", "step")];
        if !self.subset.flag("enable_bucket") {
            self.speak("enable_bucket", Kind::Mapped, None, "off, so left out");
            for key in ["min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale"] {
                self.speak(key, Kind::Ignored, None, "without effect without `enable_bucket`");
            }
            return;
        }
        let path = self.path("buckets");
        let free = self.subset.flag("bucket_no_upscale");
        self.job.put_plain(&path, json!({}));
        self.speak("enable_bucket", Kind::Mapped, Some(&path), "");
        for (key, field) in fields {
            if free && field != "step" {
                self.speak(key, Kind::Ignored, None, "without effect with `bucket_no_upscale`");
            } else {
                self.put(key, &self.path(&format!("buckets.{field}")), |value| value.clone(), "");
            }
        }
        if free {
            self.put("bucket_no_upscale", &self.path("buckets.no_upscale"), |_| json!(true), "");
        } else {
            self.speak("bucket_no_upscale", Kind::Mapped, None, "off, so left out");
        }
    }

    /// Captions: files beside the images, else the class.
    fn caption_files(&mut self) {
        let (path, class) = (self.path("caption_extension"), self.path("default_caption"));
        let dotted = |value: &Json| match value.as_str() {
            Some(text) if !text.is_empty() && !text.starts_with('.') => json!(format!(".{text}")),
            _ => value.clone(),
        };
        if self.subset.text("metadata_file").is_some() {
            self.speak("caption_extension", Kind::Ignored, None, "captions come from the metadata file");
            self.speak("class_tokens", Kind::Ignored, None, "captions come from the metadata file");
            return;
        }
        if !self.put("caption_extension", &path, dotted, "") && self.job.draft.put(&path, json!(".caption")).is_ok() {
            self.job.draft.comment(&path, "default of sd-scripts");
            let note = "`.txt` here; files with `.txt` need `caption_extension: .txt`";
            self.once("caption_extension", ".caption", Kind::Defaulted, &path, note);
        }
        if !self.put("class_tokens", &class, |value| value.clone(), "") && self.job.draft.put(&class, json!("")).is_ok()
        {
            self.job.draft.comment(&class, "as sd-scripts; without it an image without caption is an error");
            let note = "an image without caption file is trained with an empty caption, as sd-scripts does; leave the line out to have it reported";
            self.once("class_tokens", "", Kind::Defaulted, &class, note);
        }
    }

    /// A default, told for the first loader.
    fn once(&mut self, key: &str, value: &str, kind: Kind, target: &str, note: &str) {
        if self.spoken.insert(format!("default {key}")) {
            self.job.note(&format!("{key} (not given)"), value, kind, Some(target), note);
        }
    }

    /// Shuffling changes a caption at each use, so every encoder has to run in training.
    fn shuffling(&mut self) {
        let keep = self.subset.get("keep_tokens").and_then(Json::as_i64).unwrap_or(0) > 0;
        if !self.subset.flag("shuffle_caption") {
            self.speak("shuffle_caption", Kind::Mapped, None, "off, so left out");
        } else if self.job.scope.encoders.iter().all(|encoder| self.job.scope.trains(encoder)) {
            self.put("shuffle_caption", &self.path("shuffle_caption"), |value| value.clone(), "");
        } else {
            let note = "not available yet: changing captions at each use while text encoders do not learn; their outputs are cached once";
            self.speak("shuffle_caption", Kind::Refused, None, note);
        }
        let shuffled = self.job.draft.get(&self.path("shuffle_caption")).is_some();
        if keep && shuffled {
            self.put("keep_tokens", &self.path("keep_tokens"), |value| value.clone(), "");
        } else {
            self.speak("keep_tokens", Kind::Ignored, None, "without effect without `shuffle_caption`");
        }
        if !keep && !shuffled {
            self.speak("keep_tokens_separator", Kind::Ignored, None, "without effect without `shuffle_caption`");
        }
        let steps = self.subset.get("token_warmup_step").and_then(Json::as_f64).unwrap_or(0.0);
        if steps > 0.0 {
            let length = if steps < 1.0 { json!({ "ratio": steps }) } else { json!({ "steps": steps as i64 }) };
            self.put("token_warmup_step", &self.path("token_warmup"), |_| length.clone(), "");
            self.put("token_warmup_min", &self.path("token_warmup.min"), |value| value.clone(), "");
        } else {
            self.speak("token_warmup_step", Kind::Mapped, None, "off, so left out");
            self.speak("token_warmup_min", Kind::Ignored, None, "without effect without `token_warmup_step`");
        }
        let commas = self.subset.text("caption_separator").is_none_or(|text| text == ",");
        if commas {
            self.speak("caption_separator", Kind::Mapped, None, "a comma, as here");
        } else {
            self.put("caption_separator", &self.path("caption_separator"), |value| value.clone(), "");
        }
    }

    fn attributes(&mut self) {
        let attributes = self.subset.get("custom_attributes").and_then(Json::as_object);
        for (key, value) in attributes.cloned().into_iter().flatten() {
            let origin = self.found("custom_attributes").map(|found| found.origin.clone()).unwrap_or_default();
            let text = Entry::show(&value);
            if key != "diff_output_preservation" {
                let note = "sd-scripts hands it on to nobody";
                self.job.note(&format!("{origin}.{key}"), &text, Kind::Ignored, None, note);
            } else if value == json!(true) {
                let path = self.path("preserve_output");
                let (kind, target, note) = match self.job.draft.put(&path, json!(true)) {
                    Ok(()) => (Kind::Mapped, Some(path.as_str()), String::new()),
                    Err(miss) => (Kind::Refused, None, miss.to_string()),
                };
                self.job.note(&format!("{origin}.{key}"), &text, kind, target, &note);
            }
        }
        if let Some(origin) = self.found("custom_attributes").map(|found| found.origin.clone()) {
            self.spoken.insert(origin);
        }
        let one = self.subset.get("network_multiplier").and_then(Json::as_f64).unwrap_or(1.0) == 1.0;
        if one {
            self.speak("network_multiplier", Kind::Mapped, None, "1, as here");
        } else {
            self.put("network_multiplier", &self.path("adapter_multiplier"), |value| value.clone(), "");
        }
    }

    /// Images set aside for validation.
    fn held_out(&mut self) {
        let part = self.subset.get("validation_split").and_then(Json::as_f64).unwrap_or(0.0);
        if part <= 0.0 {
            self.speak("validation_split", Kind::Mapped, None, "off, so left out");
            self.speak("validation_seed", Kind::Ignored, None, "no images are set aside for validation");
            return;
        }
        let path = self.path("validation_split");
        match self.job.draft.put(&path, python::number(part)) {
            Ok(()) => {
                let note = "images are in one of the two parts; in sd-scripts the parts overlap";
                self.speak("validation_split", Kind::Changed, Some(&path), note);
                self.put("validation_seed", &self.path("validation_seed"), |value| value.clone(), "");
            }
            Err(miss) => {
                let note = format!("{miss}; put held-out images in a folder of their own, with a `logger.validation`");
                self.speak("validation_split", Kind::Refused, None, &note);
                self.speak("validation_seed", Kind::Refused, None, "it belongs to the validation split");
            }
        }
    }

    /// Keys that the table alone can place.
    fn plain_keys(&mut self) {
        for opt in options::all().filter(|opt| opt.place == Place::Dataset) {
            let Some(found) = self.found(opt.name).cloned() else { continue };
            match opt.fate {
                Fate::Set(path, how) => {
                    let path = path.replacen("nodes.images.", &format!("nodes.{}.", self.node), 1);
                    if off(&found.value) && (how == How::OffAtZero || found.value == json!(false)) {
                        self.speak(opt.name, Kind::Mapped, None, "off, so left out");
                    } else {
                        self.put(opt.name, &path, |value| value.clone(), opt.note);
                    }
                }
                Fate::Ignored(why) => self.speak(opt.name, Kind::Ignored, None, why),
                Fate::Refused(why) => self.speak(opt.name, Kind::Refused, None, why),
                // Read with the run's head.
                Fate::Part(_) if opt.name == "batch_size" => {}
                Fate::Part(_) => self.speak(opt.name, Kind::Ignored, None, "without effect beside the other keys"),
            }
        }
    }
}
