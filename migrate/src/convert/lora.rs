//! The adapter's rank, weights and text encoders, or full training.

use serde_json::{Value as Json, json};

use super::{Job, off};
use crate::report::Kind;
use crate::script::Family;

impl Job<'_> {
    pub fn adapter(&mut self) {
        let node = if self.script.adapter { "lora" } else { "full" };
        if self.script.adapter {
            self.module();
        } else {
            self.draft.node("full", "adapter.full");
        }
        self.put_plain(&format!("nodes.{node}.model"), json!("model"));
        let trained: Vec<&str> = self.scope.trained.iter().map(|(name, _)| *name).collect();
        let text = format!("nodes.{node}.text");
        if !trained.is_empty() {
            let names = Self::names(&trained);
            self.put_plain(&text, names);
        }
        self.what_learns(&text);
        if self.script.adapter {
            match self.is_module("oft") && self.draft.type_of("lora") == Some("adapter.oft") {
                true => self.rotation(),
                false => self.rank(),
            }
            self.network_args();
            self.start();
            self.kept_in_f32();
        } else {
            self.full_precision();
        }
    }

    /// Options that choose between denoiser and text encoders.
    fn what_learns(&mut self, text: &str) {
        let frozen = self.scope.rate <= 0.0;
        let only_text = self.flag("network_train_text_encoder_only");
        if self.flag("network_train_unet_only") {
            self.tell("network_train_unet_only", Kind::Mapped, Some(text), "no text encoder is named");
        }
        if only_text {
            let note = "not available yet: an adapter without the denoiser";
            self.tell("network_train_text_encoder_only", Kind::Refused, None, note);
        }
        if frozen && !only_text {
            let name = if self.has("unet_lr") { "unet_lr" } else { "learning_rate" };
            self.tell(name, Kind::Refused, None, "not available yet: training text encoders without the denoiser");
        }
        for name in ["train_text_encoder", "train_t5xxl"] {
            if !self.has(name) {
                continue;
            }
            match (self.scope.refused, self.scope.trained.is_empty()) {
                (Some(why), _) => self.tell(name, Kind::Refused, None, why),
                (None, true) => {
                    let note = "the encoders' rates are 0, or `--train_text_encoder` is missing";
                    self.tell(name, Kind::Ignored, None, note);
                }
                (None, false) => self.tell(name, Kind::Mapped, Some(text), ""),
            }
        }
        if let Some(steps) = self.int("stop_text_encoder_training") {
            if steps < 0 {
                self.tell("stop_text_encoder_training", Kind::Mapped, Some(text), "no text encoder is named");
            } else {
                let note = "sd-scripts crashes when the step is reached";
                self.write("stop_text_encoder_training", "nodes.full.text_until", json!({ "steps": steps }), note);
            }
        }
    }

    /// Whether modules and ranks are those of a file.
    pub(super) fn ranks_of_file(&self) -> bool {
        self.draft.get("nodes.lora.rank") == Some(&json!("from_file"))
    }

    fn rank(&mut self) {
        let path = "nodes.lora.rank";
        let file = self.has("network_weights");
        if self.flag("dim_from_weights") && file {
            self.write("dim_from_weights", path, json!("from_file"), "");
        } else if self.has("dim_from_weights") {
            self.tell("dim_from_weights", Kind::Ignored, None, "without effect without `--network_weights`");
        }
        let rank = self.int("network_dim").filter(|n| *n > 0).unwrap_or(4);
        if self.ranks_of_file() {
            if self.has("network_dim") {
                self.tell("network_dim", Kind::Ignored, None, "`--dim_from_weights` counts");
            }
            if self.has("network_dropout") {
                self.tell("network_dropout", Kind::Ignored, None, "sd-scripts drops it with `--dim_from_weights`");
            }
        } else if self.has("network_dim") {
            self.write("network_dim", path, json!(rank), "");
        } else if self.draft.put(path, json!(rank)).is_ok() {
            self.draft.comment(path, "default of sd-scripts");
            self.tell_value("network_dim", "4", Kind::Defaulted, Some(path), "default inside the modules");
        }
        let alpha = self.effective("network_alpha");
        if file {
            let note = "the file's α is kept, in the scale too; sd-scripts trains with another scale than it saves";
            if self.has("network_alpha") {
                self.tell("network_alpha", Kind::Changed, Some("nodes.lora.weights"), note);
            }
        } else if off(&alpha) {
            self.tell("network_alpha", Kind::Mapped, None, "α is the rank, as here without `alpha`");
        } else {
            self.write("network_alpha", "nodes.lora.alpha", alpha, "");
        }
        if self.is_module("dylora") && self.has("network_dropout") {
            self.tell("network_dropout", Kind::Ignored, None, "`networks.dylora` ignores it");
        }
    }

    /// OFT: the number of blocks is the rank option, its constraint the α option.
    fn rotation(&mut self) {
        let blocks = self.int("network_dim").filter(|n| *n > 0).unwrap_or(4);
        if self.has("network_dim") {
            self.write("network_dim", "nodes.lora.blocks", json!(blocks), "the number of diagonal blocks");
        } else {
            self.put_plain("nodes.lora.blocks", json!(blocks));
        }
        if self.has("network_alpha") {
            let value = self.effective("network_alpha");
            self.write("network_alpha", "nodes.lora.constraint", value, "the longest rotation");
        } else {
            let note =
                "without it sd-scripts constrains by 1, far from the 0.001 that OFT is meant for; the latter is taken";
            self.note("--network_alpha (not given)", "1", Kind::Changed, Some("nodes.lora.constraint"), note);
        }
    }

    /// Weights to start from.
    fn start(&mut self) {
        if let Some(file) = self.text("network_weights").map(str::to_owned) {
            self.write("network_weights", "nodes.lora.weights", json!(file), "");
        }
        let Some(files) = self.value("base_weights").and_then(Json::as_array).cloned() else {
            if self.has("base_weights_multiplier") {
                self.tell("base_weights_multiplier", Kind::Ignored, None, "without effect without `--base_weights`");
            }
            return;
        };
        let factors = self.value("base_weights_multiplier").and_then(Json::as_array).cloned().unwrap_or_default();
        let merge: Vec<Json> = files
            .iter()
            .enumerate()
            .map(|(i, file)| json!({ "path": file, "multiplier": factors.get(i).cloned().unwrap_or(json!(1)) }))
            .collect();
        let path = "nodes.lora.base_weights";
        let put = self.draft.put(path, json!(merge));
        for name in ["base_weights", "base_weights_multiplier"] {
            match &put {
                Ok(()) if self.has(name) => self.tell(name, Kind::Mapped, Some(path), ""),
                Err(miss) if self.has(name) => self.missing(name, miss),
                _ => {}
            }
        }
    }

    /// The adapter's own weights.
    fn kept_in_f32(&mut self) {
        for name in ["full_bf16", "full_fp16"] {
            if self.has(name) {
                let note = "the adapter's weights are kept in f32, which costs little and is more exact";
                self.tell(name, Kind::Changed, None, note);
            }
        }
    }

    /// Type of the weights that learn.
    fn full_precision(&mut self) {
        let path = "nodes.full.storage";
        for (name, kind) in [("full_bf16", "bf16"), ("full_fp16", "f16")] {
            if self.flag(name) {
                self.write(name, path, json!(kind), "");
            }
        }
        let halved = matches!(self.family, Family::Flux | Family::Lumina2 | Family::LuminaNext);
        let told = self.flag("full_bf16") || self.flag("full_fp16");
        let Some(half) = self.half.filter(|_| halved && !told) else { return };
        match self.draft.put(path, json!(half)) {
            Ok(()) => self.draft.comment(path, "as sd-scripts; f32 is more exact"),
            Err(_) => {
                let note = "the weights that learn are kept in f32; sd-scripts keeps them in the run's precision here";
                self.note("precision of the weights", half, Kind::Changed, None, note);
            }
        }
    }
}
