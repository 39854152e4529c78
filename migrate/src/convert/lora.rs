//! The adapter: LoRA and what else `--network_module` names, or full training.

use serde_json::{Value as Json, json};

use super::Job;
use crate::report::Kind;
use crate::script::Family;

/// Modules of the reference and the node types that stand for them.
pub(crate) const MODULES: &[(&str, &str, &str)] = &[
    ("networks.lora", "adapter.lora", ""),
    ("networks.lora_flux", "adapter.lora", ""),
    ("networks.lora_sd3", "adapter.lora", ""),
    ("networks.lora_lumina", "adapter.lora", ""),
    (
        "networks.dylora",
        "adapter.dylora",
        "the published algorithm, which cuts the ranks off; sd-scripts lets the higher ones act",
    ),
    ("networks.lora_fa", "adapter.lora_fa", ""),
    ("networks.oft", "adapter.oft", ""),
    ("networks.oft_flux", "adapter.oft", ""),
    ("lycoris.kohya", "adapter.<algo>", ""),
];

/// `algo` of LyCORIS and the node types that stand for them.
pub(crate) const ALGORITHMS: &[(&str, &str)] = &[
    ("lora", "adapter.lora"),
    ("locon", "adapter.lora"),
    ("loha", "adapter.loha"),
    ("lokr", "adapter.lokr"),
    ("ia3", "adapter.ia3"),
    ("dylora", "adapter.dylora"),
    ("full", "adapter.full"),
    ("diag-oft", "adapter.oft"),
    ("boft", "adapter.boft"),
    ("glora", "adapter.glora"),
];

/// Every module the reference has, and the algorithms of LyCORIS.
pub(crate) fn modules() -> impl Iterator<Item = String> {
    let own = MODULES.iter().map(|(module, ..)| (*module).to_owned());
    own.chain(ALGORITHMS.iter().map(|(algo, _)| format!("lycoris.kohya algo={algo}")))
}

impl Job<'_> {
    pub fn adapter(&mut self) {
        let node = if self.script.adapter { "lora" } else { "full" };
        let node_type = if self.script.adapter { self.module() } else { "adapter.full" };
        self.draft.node(node, node_type);
        self.put_plain(&format!("nodes.{node}.model"), json!("model"));
        let trained: Vec<&str> = self.scope.trained.iter().map(|(name, _)| *name).collect();
        let text = format!("nodes.{node}.text");
        if !trained.is_empty() {
            let names = Self::names(&trained);
            self.put_plain(&text, names);
        }
        self.what_learns(&text);
        if self.script.adapter {
            self.rank();
            self.network_args();
            self.start();
        } else {
            self.full_precision();
        }
    }

    /// The node type of `--network_module`.
    fn module(&mut self) -> &'static str {
        let name = self.text("network_module").unwrap_or("networks.lora").to_owned();
        let known = MODULES.iter().find(|(module, ..)| *module == name);
        let wanted = match known {
            Some(("lycoris.kohya", ..)) => {
                let algo = self.network_arg("algo").unwrap_or("lora").to_lowercase();
                ALGORITHMS.iter().find(|(known, _)| *known == algo).map(|(_, node)| *node)
            }
            Some((_, node, _)) => Some(*node),
            None => None,
        };
        let path = "nodes.lora.type";
        match wanted {
            Some(node) if self.draft.product().has_type(node) => {
                let note = known.map_or("", |(.., note)| note);
                let kind = match (self.has("network_module"), note.is_empty()) {
                    (true, true) => Kind::Mapped,
                    (true, false) => Kind::Changed,
                    (false, _) => Kind::Defaulted,
                };
                self.tell("network_module", kind, Some(path), note);
                node
            }
            Some(node) => {
                let note = format!("not available yet: `{node}`; `adapter.lora` stands in its place");
                self.tell("network_module", Kind::Refused, Some(path), &note);
                "adapter.lora"
            }
            None => {
                let note = "a module written in Python cannot run here; `adapter.lora` stands in its place";
                self.tell("network_module", Kind::Refused, Some(path), note);
                "adapter.lora"
            }
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
            self.tell(
                "network_train_text_encoder_only",
                Kind::Refused,
                None,
                "not available yet: an adapter without the denoiser",
            );
        }
        if frozen && !only_text {
            let name = if self.has("unet_lr") { "unet_lr" } else { "learning_rate" };
            self.tell(name, Kind::Refused, None, "not available yet: training text encoders without the denoiser");
        }
        if let Some(why) = self.scope.refused {
            for name in ["cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk"] {
                if self.has(name) {
                    self.tell(name, Kind::Changed, Some("nodes.cached.text"), why);
                }
            }
        }
        for name in ["train_text_encoder", "train_t5xxl"] {
            if self.has(name) {
                match (self.scope.refused, self.scope.trained.is_empty()) {
                    (Some(why), _) => self.tell(name, Kind::Refused, None, why),
                    (None, true) => self.tell(
                        name,
                        Kind::Ignored,
                        None,
                        "the encoders' rates are 0, or `--train_text_encoder` is missing",
                    ),
                    (None, false) => self.tell(name, Kind::Mapped, Some(text), ""),
                }
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

    fn rank(&mut self) {
        let from_file = self.has("network_weights");
        let rank = self.int("network_dim").filter(|n| *n > 0).unwrap_or(4);
        if self.has("network_dim") {
            self.write("network_dim", "nodes.lora.rank", json!(rank), "");
        } else if self.draft.put("nodes.lora.rank", json!(rank)).is_ok() {
            self.draft.comment("nodes.lora.rank", "default of sd-scripts");
            let note = "default inside the modules";
            self.tell_value("network_dim", "4", Kind::Defaulted, Some("nodes.lora.rank"), note);
        }
        let alpha = self.effective("network_alpha");
        let zero = alpha.as_f64().is_none_or(|a| a <= 0.0);
        if from_file {
            let note = "the file's α is kept, in the scale too; sd-scripts trains with another scale than it saves";
            if self.has("network_alpha") {
                self.tell("network_alpha", Kind::Changed, Some("nodes.lora.weights"), note);
            }
        } else if zero {
            self.tell("network_alpha", Kind::Mapped, None, "α is the rank, as here without `alpha`");
        } else {
            self.write("network_alpha", "nodes.lora.alpha", alpha, "");
        }
    }

    /// Weights to start from.
    fn start(&mut self) {
        if let Some(file) = self.text("network_weights").map(str::to_owned) {
            self.write("network_weights", "nodes.lora.weights", json!(file), "");
            if self.flag("dim_from_weights") {
                self.write("dim_from_weights", "nodes.lora.rank_from_weights", json!(true), "");
            }
        } else if self.has("dim_from_weights") {
            self.tell("dim_from_weights", Kind::Ignored, None, "without effect without `--network_weights`");
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
            .map(|(i, file)| json!({ "weights": file, "multiplier": factors.get(i).cloned().unwrap_or(json!(1)) }))
            .collect();
        let path = "nodes.model.merge";
        match self.draft.put(path, json!(merge)) {
            Ok(()) => {
                self.tell("base_weights", Kind::Mapped, Some(path), "");
                self.tell("base_weights_multiplier", Kind::Mapped, Some(path), "");
            }
            Err(miss) => {
                self.missing("base_weights", &miss);
                if self.has("base_weights_multiplier") {
                    self.missing("base_weights_multiplier", &miss);
                }
            }
        }
    }

    /// Type of the weights that learn.
    fn full_precision(&mut self) {
        let path = "nodes.full.weights";
        for (name, kind) in [("full_bf16", "bf16"), ("full_fp16", "f16")] {
            if self.flag(name) {
                self.write(name, path, json!(kind), "");
            }
        }
        let halved = matches!(self.family, Family::Flux | Family::Lumina2 | Family::LuminaNext);
        let half = self.draft.get("train.precision").is_some_and(|p| p != "f32");
        let told = self.flag("full_bf16") || self.flag("full_fp16");
        if halved && half && !told {
            let precision = self.draft.get("train.precision").cloned().unwrap_or_default();
            let note = "the trained weights are kept in f32; sd-scripts keeps them in the precision of the run here";
            match self.draft.put(path, precision) {
                Ok(()) => self.draft.comment(path, "as sd-scripts; f32 is more exact"),
                Err(_) => self.note("weights (not given)", "", Kind::Changed, None, note),
            }
        }
    }
}
