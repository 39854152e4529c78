//! One `loader.images` from a subset of the data.

use std::collections::HashSet;

use serde_json::{Value as Json, json};

use super::{Job, off};
use crate::dataset::{Found, Subset};
use crate::options::{self, Fate, How, Place};
use crate::python;
use crate::report::{Entry, Kind};
use crate::script::Family;

/// One loader being filled.
pub(super) struct Loader<'j, 'a> {
    pub job: &'j mut Job<'a>,
    pub node: &'j str,
    pub subset: &'j Subset,
    /// All subsets, of which this is one.
    pub all: &'j [Subset],
    pub spoken: &'j mut HashSet<String>,
}

impl Loader<'_, '_> {
    /// Writes every key of the subset, and says what became of each.
    pub fn fill(&mut self) {
        self.places();
        self.size();
        self.buckets();
        self.caption_files();
        self.put("num_repeats", &self.path("repeats"), |value| value.clone(), "");
        self.regularization();
        self.shuffling();
        self.pixels();
        self.attributes();
        self.held_out();
        self.plain_keys();
    }

    /// The folder, and the metadata file. Without a folder keys are absolute paths, and the file's own folder stands for it.
    fn places(&mut self) {
        let path = self.path("path");
        if !self.put("image_dir", &path, |value| value.clone(), "") {
            let file = self.subset.text("metadata_file").unwrap_or_default().to_owned();
            let folder = file.rfind(['/', '\\']).map_or(".", |at| &file[..at.max(1)]);
            self.job.put_plain(&path, json!(folder));
            self.job.draft.comment(&path, "paths of the metadata file that are not absolute start here");
        }
        self.put("metadata_file", &self.path("metadata"), |value| value.clone(), "");
    }

    /// What changes images from use to use.
    fn pixels(&mut self) {
        let cached = self.job.flag("cache_latents") || self.job.flag("cache_latents_to_disk");
        for key in ["random_crop", "color_aug"] {
            if self.subset.flag(key) {
                let note = options::all().find(|o| o.place == Place::Dataset && o.name == key).map_or("", |o| o.note);
                self.put(key, &self.path(key), |_| json!(true), note);
            } else {
                self.speak(key, Kind::Mapped, None, "off, so left out");
            }
        }
        let why = match (self.subset.flag("enable_bucket"), cached) {
            (true, _) => "without effect with `enable_bucket`: sd-scripts fits the whole image into its bucket",
            (_, true) => "without effect with `cache_latents`: sd-scripts fits the whole image",
            _ => "",
        };
        if why.is_empty() {
            self.put("face_crop_aug_range", &self.path("face_crop"), |value| value.clone(), "");
        } else {
            self.speak("face_crop_aug_range", Kind::Ignored, None, why);
        }
    }

    fn regularization(&mut self) {
        if !self.subset.flag("is_reg") {
            if self.counts_elsewhere("prior_loss_weight", true) {
                return;
            }
            let note = "there are no regularization images in this folder";
            self.speak("prior_loss_weight", Kind::Ignored, None, note);
            return;
        }
        let weight = self.subset.get("prior_loss_weight").and_then(Json::as_f64);
        let weight = weight.or(self.job.float("prior_loss_weight")).unwrap_or(1.0);
        let path = self.path("regularization");
        let note = match self.shares_resolution() {
            true => {
                "balanced against all images of this resolution: sd-scripts balances each dataset by itself, and two have it"
            }
            false => "",
        };
        match self.job.draft.put(&path, json!({ "weight": weight })) {
            Ok(()) => {
                let kind = if note.is_empty() { Kind::Mapped } else { Kind::Changed };
                self.speak("is_reg", kind, Some(&path), note);
            }
            Err(miss) => self.speak("is_reg", Kind::Refused, None, &miss.to_string()),
        }
        let ignored = ["fine_tune", "sdxl_train"].contains(&self.job.script.name) && weight != 1.0;
        let note =
            if ignored { "the weight counts here, as it should; this script of sd-scripts ignores it" } else { "" };
        let kind = if ignored { Kind::Changed } else { Kind::Mapped };
        self.speak("prior_loss_weight", kind, Some(&format!("{path}.weight")), note);
    }

    /// Whether another dataset has the resolution of this one: here they are one data set, in which regularization images
    /// are balanced.
    fn shares_resolution(&self) -> bool {
        let others = self.all.iter().filter(|other| other.dataset != self.subset.dataset);
        let mut others = others.filter(|other| self.job.unusable(other).is_none());
        others.any(|other| sides(other) == sides(self.subset))
    }

    /// Whether what is written of a key holds for another subset too, one of regularization images or not: it is spoken of
    /// where it counts.
    fn counts_elsewhere(&self, key: &str, regular: bool) -> bool {
        let origin = self.found(key).map(|found| &found.origin);
        let same = |other: &&Subset| other.values.get(key).map(|found| &found.origin) == origin;
        let mut others = self.all.iter().filter(same).filter(|other| other.flag("is_reg") == regular);
        others.any(|other| self.job.unusable(other).is_none())
    }

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
                let changed = !note.is_empty() && options::all().any(|o| o.changed && o.note == note);
                self.speak(key, if changed { Kind::Changed } else { Kind::Mapped }, Some(path), note);
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
        if self.job.draft.get(&path) == Some(&json!({})) && !free {
            self.job.draft.comment(&path, "sides from 256 to 1024 in steps of 64");
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

    /// What moves tags or leaves some out, and the options that count only beside it.
    fn shuffling(&mut self) {
        let number = |key: &str| self.subset.get(key).and_then(Json::as_f64).unwrap_or(0.0);
        let (keep, drops, steps) =
            (number("keep_tokens"), number("caption_tag_dropout_rate"), number("token_warmup_step"));
        let cut = self.subset.flag("shuffle_caption") || drops > 0.0 || steps > 0.0;
        if self.subset.flag("shuffle_caption") {
            self.put("shuffle_caption", &self.path("shuffle_caption"), |value| value.clone(), "");
        } else {
            self.speak("shuffle_caption", Kind::Mapped, None, "off, so left out");
        }
        let idle = "without effect: tags are neither moved nor left out";
        if keep <= 0.0 {
            self.speak("keep_tokens", Kind::Mapped, None, "off, so left out");
        } else if cut {
            self.put("keep_tokens", &self.path("keep_tokens"), |value| value.clone(), "");
        } else {
            self.speak("keep_tokens", Kind::Ignored, None, idle);
        }
        match self.subset.text("keep_tokens_separator") {
            Some(_) if cut => {
                self.put("keep_tokens_separator", &self.path("keep_tokens_separator"), |value| value.clone(), "");
            }
            Some(_) => self.speak("keep_tokens_separator", Kind::Ignored, None, idle),
            None => self.speak("keep_tokens_separator", Kind::Mapped, None, "off, so left out"),
        }
        if steps > 0.0 {
            let length = if steps < 1.0 { json!({ "ratio": steps }) } else { json!({ "steps": steps as i64 }) };
            self.put("token_warmup_step", &self.path("token_warmup"), |_| length.clone(), "");
            self.put("token_warmup_min", &self.path("token_warmup.min"), |value| value.clone(), "");
        } else {
            self.speak("token_warmup_step", Kind::Mapped, None, "off, so left out");
            self.speak("token_warmup_min", Kind::Ignored, None, "without effect without `token_warmup_step`");
        }
        let separator = self.subset.text("caption_separator").unwrap_or(",").to_owned();
        match self.subset.text("secondary_separator") {
            Some(mark) if mark == separator => {
                let note = "without effect: it is the `caption_separator`";
                self.speak("secondary_separator", Kind::Ignored, None, note);
            }
            Some(_) => {
                self.put("secondary_separator", &self.path("secondary_separator"), |value| value.clone(), "");
            }
            None => self.speak("secondary_separator", Kind::Mapped, None, "off, so left out"),
        }
        let groups = self.subset.text("secondary_separator").is_some_and(|mark| mark != separator);
        let used = cut || groups || self.subset.text("metadata_file").is_some();
        if separator == "," {
            self.speak("caption_separator", Kind::Mapped, None, "a comma, as here");
        } else if used {
            self.put("caption_separator", &self.path("caption_separator"), |value| value.clone(), "");
        } else {
            self.speak("caption_separator", Kind::Ignored, None, idle);
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
            let note = "an adapter has one strength here, in training as in use; `loss_weight` of the loader sets how much the images of a folder count";
            self.speak("network_multiplier", Kind::Refused, None, note);
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
        if self.subset.flag("is_reg") {
            if !self.counts_elsewhere("validation_split", false) {
                let note = "regularization images are never set aside";
                self.speak("validation_split", Kind::Ignored, None, note);
                self.speak("validation_seed", Kind::Ignored, None, note);
            }
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

    /// Whether the script reads alpha masks and does nothing with them: fine_tune always, sdxl_train unless another option
    /// makes it look at single elements of the loss.
    fn masks_are_ignored(&self) -> bool {
        let others = ["masked_loss", "scale_v_pred_loss_like_noise_pred", "debiased_estimation_loss"];
        let weighted = ["min_snr_gamma", "v_pred_like_loss"];
        match self.job.script.name {
            "fine_tune" => true,
            "sdxl_train" => {
                let on = |name: &&str| self.job.value(name).is_some_and(|value| !off(value));
                !others.iter().chain(&weighted).any(on)
            }
            _ => false,
        }
    }

    /// Keys that the table alone can place.
    fn plain_keys(&mut self) {
        for opt in options::all().filter(|opt| opt.place == Place::Dataset) {
            let Some(found) = self.found(opt.name).cloned() else { continue };
            if opt.name == "conditioning_data_dir" && !self.job.flag("masked_loss") {
                self.speak(opt.name, Kind::Ignored, None, "sd-scripts reads masks with `--masked_loss` only");
                continue;
            }
            if opt.name == "alpha_mask" && self.job.draft.get(&self.path("masks")).is_some() {
                self.speak(opt.name, Kind::Ignored, None, "the folder of masks counts, as in sd-scripts");
                continue;
            }
            if opt.name == "alpha_mask" && found.value == json!(true) && self.masks_are_ignored() {
                let path = self.path("alpha_mask");
                let note = "the mask counts here, as it should; this script of sd-scripts ignores it so";
                if self.job.draft.put(&path, json!(true)).is_ok() {
                    self.speak(opt.name, Kind::Changed, Some(&path), note);
                    continue;
                }
            }
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
                // Spoken of by the subset that they count for.
                Fate::Part(_) if ["prior_loss_weight", "validation_split", "validation_seed"].contains(&opt.name) => {}
                Fate::Part(_) => self.speak(opt.name, Kind::Ignored, None, "without effect beside the other keys"),
            }
        }
    }
}

/// The resolution of a subset, one number standing for two.
fn sides(subset: &Subset) -> Vec<String> {
    let text = match subset.get("resolution") {
        Some(Json::Array(sides)) => sides.iter().map(Json::to_string).collect::<Vec<_>>().join(","),
        Some(Json::String(text)) => text.clone(),
        other => other.map(Json::to_string).unwrap_or_default(),
    };
    let mut sides: Vec<String> = text.split(',').map(|side| side.trim().to_owned()).collect();
    if let [side] = sides.as_slice() {
        sides.push(side.clone());
    }
    sides
}
