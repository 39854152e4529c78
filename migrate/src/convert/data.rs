//! Loaders of images, and the cache behind them.

use std::collections::HashSet;

use serde_json::{Value as Json, json};

use super::Job;
use super::loader::Loader;
use crate::args;
use crate::dataset::Subset;
use crate::draft::Draft;
use crate::options::{self, Fate, Place};
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
            self.loader(&node, subset, &subsets, &mut spoken);
        }
        self.data.subsets = subsets;
        if made == 0 {
            self.empty_loader();
        }
        // Places of data that are no keys of a dataset file: the loader's entry bears their name.
        for name in ["in_json", "train_data_dir"] {
            let label = format!("--{name}");
            if spoken.contains(&label) || self.report.iter().any(|entry| entry.option == label) {
                self.silence(name);
            }
        }
        for opt in options::all().filter(|opt| opt.place == Place::Dataset) {
            let name = ALIASES.iter().find(|(key, _)| *key == opt.name).map_or(opt.name, |(_, name)| name);
            for name in [name, opt.name] {
                let known = options::find(Place::Command, name, self.script);
                let Some(known) = known.filter(|known| self.has(known.name) && made > 0) else { continue };
                if spoken.contains(&format!("--{name}")) {
                    // The loader has spoken of it with the key's own entry.
                    self.silence(known.name);
                } else if !matches!(known.fate, Fate::Refused(_)) {
                    self.tell(known.name, Kind::Ignored, None, "the dataset file has it too, and counts");
                }
            }
        }
    }

    fn silence(&mut self, name: &'static str) {
        self.told.insert(name);
    }

    /// Why a subset cannot be trained on.
    pub(super) fn unusable(&self, subset: &Subset) -> Option<String> {
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

    fn loader(&mut self, node: &str, subset: &Subset, all: &[Subset], spoken: &mut HashSet<String>) {
        self.draft.node(node, "loader.images");
        Loader { job: self, node, subset, all, spoken }.fill();
    }

    /// Where no data is known, the document still says what belongs there.
    fn empty_loader(&mut self) {
        self.draft.node("images", "loader.images");
        let folder = self.text("train_data_dir").unwrap_or("images").to_owned();
        self.put_plain("nodes.images.path", json!(folder));
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
        let given = |draft: &Draft, fields: &[&'static str]| {
            let set = |field: &&str| loaders.iter().any(|node| draft.get(&format!("nodes.{node}.{field}")).is_some());
            fields.iter().copied().find(|field| set(field))
        };
        let moving = given(&self.draft, &["random_crop", "face_crop", "color_aug"]);
        let vae_port = if moving.is_some() { "nodes.cached.live_vae" } else { "nodes.cached.vae" };
        self.put_plain(vae_port, json!("vae"));
        if let Some(field) = moving {
            self.draft.comment(vae_port, format!("it runs in every step, since `{field}` changes images"));
        }
        let frozen: Vec<&str> = self.scope.encoders.iter().copied().filter(|e| !self.scope.trains(e)).collect();
        let varying = given(&self.draft, &["shuffle_caption", "wildcards", "tag_dropout_rate", "token_warmup"]);
        let port = if varying.is_some() { "nodes.cached.live_text" } else { "nodes.cached.text" };
        if !frozen.is_empty() {
            self.put_plain(port, Self::names(&frozen));
            if let Some(field) = varying {
                self.draft.comment(port, format!("they run in every step, since `{field}` changes captions"));
            }
        }
        for name in ["cache_latents", "cache_latents_to_disk"] {
            if self.has(name) && moving.is_some() {
                let note = "images change at each use, so they are encoded in every step; sd-scripts stops here";
                self.tell(name, Kind::Changed, Some(vae_port), note);
            } else if self.has(name) {
                self.tell(name, Kind::Mapped, Some("nodes.cached.type"), "");
            }
        }
        for name in ["cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk", "use_t5xxl_cache_only"] {
            if !self.has(name) {
                continue;
            }
            match self.scope.refused {
                Some(why) => self.tell(name, Kind::Changed, Some(port), why),
                None if varying.is_some() => {
                    let note = "captions change at each use, so the encoders run in every step; sd-scripts stops here";
                    self.tell(name, Kind::Changed, Some(port), note);
                }
                None => {
                    let note = "encoders that do not learn are always cached";
                    self.tell(name, Kind::Mapped, Some("nodes.cached.text"), note);
                }
            }
        }
        if self.has("cache_info") {
            let note = "not needed: captions and sizes are read anew at each start, which takes a moment, so that they are never out of date";
            self.tell("cache_info", Kind::Ignored, None, note);
        }
    }
}
