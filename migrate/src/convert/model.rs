//! Encoders, model, and the adapter of full training.

use serde_json::{Value as Json, json};

use super::Job;
use crate::report::Kind;
use crate::script::Family;

/// Beside a name that may be one on the Hugging Face hub.
const FETCH: &str = "put the path of the folder or file here; nothing is downloaded";

impl Job<'_> {
    /// Weights of the base model. Without the option the document says what belongs there.
    fn base(&self) -> String {
        let own = match self.family {
            Family::Sd1 => "sd15.safetensors",
            Family::Sd2 => "v2-1_768-ema-pruned.safetensors",
            Family::Sdxl => "sd_xl_base_1.0.safetensors",
            Family::Sd3 => "sd3_medium.safetensors",
            Family::Flux => "flux1-dev.safetensors",
            Family::Lumina2 => "lumina_2_model_bf16.safetensors",
            Family::LuminaNext => "lumina_next.safetensors",
        };
        self.text("pretrained_model_name_or_path").unwrap_or(own).to_owned()
    }

    /// Weights of a part with an option of its own, or those of the base model, or a name to fill in.
    fn part(&mut self, option: &'static str, node: &str, instead: Option<&str>) {
        let path = format!("nodes.{node}.weights");
        match (self.text(option).map(str::to_owned), instead) {
            (Some(own), _) => {
                self.write(option, &path, json!(own), "");
                if self.on_the_hub(&own) {
                    self.draft.comment(&path, FETCH);
                }
            }
            (None, None) => {
                let base = self.base();
                self.put_plain(&path, json!(base));
            }
            (None, Some(name)) => {
                self.put_plain(&path, json!(name));
                let note = "not given: write the path of the file here; `sd-scripts` needs it too";
                self.draft.comment(&path, "not given: put the path of the file here");
                self.tell(option, Kind::Defaulted, Some(&path), note);
            }
        }
    }

    /// Writes what belongs to the nodes themselves.
    pub fn put_plain(&mut self, path: &str, value: Json) {
        if let Err(miss) = self.draft.put(path, value) {
            self.note(path, "", Kind::Refused, None, &miss.to_string());
        }
    }

    pub fn encoders(&mut self) {
        self.draft.node("vae", "encoder.vae");
        match self.family {
            Family::Flux | Family::Lumina2 => self.part("ae", "vae", Some("ae.safetensors")),
            Family::LuminaNext => self.part("ae", "vae", Some("sdxl_vae.safetensors")),
            _ => self.part("vae", "vae", None),
        }
        self.latent_scale();
        for encoder in self.scope.encoders.clone() {
            self.encoder(encoder);
        }
        self.caption_reading();
    }

    /// A file with the autoencoder alone does not tell the scale of its latents; each family has its own.
    fn latent_scale(&mut self) {
        let alone = self.has("vae") || self.has("ae");
        let (scale, shift) = match self.family {
            Family::Sdxl if alone => (0.13025, None),
            Family::LuminaNext => (0.13025, None),
            Family::Sd3 if alone => (1.5305, Some(0.0609)),
            _ => return,
        };
        self.put_plain("nodes.vae.scaling_factor", json!(scale));
        if let Some(shift) = shift {
            self.put_plain("nodes.vae.shift_factor", json!(shift));
        }
    }

    fn encoder(&mut self, encoder: &'static str) {
        let (node_type, option, instead) = match (encoder, self.family) {
            ("clip", Family::Sd2) => ("encoder.clip_h", None, None),
            ("clip", _) => ("encoder.clip_l", None, None),
            ("clip_l", Family::Sdxl) => ("encoder.clip_l", None, None),
            ("clip_l", Family::Flux) => ("encoder.clip_l", Some("clip_l"), Some("clip_l.safetensors")),
            ("clip_l", _) => ("encoder.clip_l", Some("clip_l"), None),
            ("clip_g", Family::Sd3) => ("encoder.clip_g", Some("clip_g"), None),
            ("clip_g", _) => ("encoder.clip_g", None, None),
            ("t5", Family::Flux) => ("encoder.t5xxl", Some("t5xxl"), Some("t5xxl_fp16.safetensors")),
            ("t5", _) => ("encoder.t5xxl", Some("t5xxl"), None),
            _ if self.family == Family::LuminaNext => ("encoder.gemma", Some("gemma2"), Some("gemma-2b")),
            _ => ("encoder.gemma", Some("gemma2"), Some("gemma_2_2b_fp16.safetensors")),
        };
        self.draft.node(encoder, node_type);
        match option {
            Some(option) => self.part(option, encoder, instead),
            None => {
                let base = self.base();
                self.put_plain(&format!("nodes.{encoder}.weights"), json!(base));
            }
        }
        if encoder == "clip_l" && self.family == Family::Sd3 {
            self.put_plain("nodes.clip_l.family", json!("sd3"));
        }
        if encoder == "t5" && self.family == Family::Flux && !self.has("t5xxl_max_token_length") {
            let schnell = self.base().to_lowercase().contains("schnell");
            self.put_plain("nodes.t5.max_tokens", json!(if schnell { 256 } else { 512 }));
        }
    }

    /// How the CLIP encoders read captions.
    fn caption_reading(&mut self) {
        let clips: Vec<&str> = self.scope.encoders.iter().copied().filter(|e| e.starts_with("clip")).collect();
        if let Some(skip) = self.int("clip_skip") {
            match skip {
                0 => self.tell("clip_skip", Kind::Mapped, None, "the last layer, as without it"),
                _ => {
                    self.write("clip_skip", "nodes.clip.clip_skip", json!(skip), "");
                }
            }
        }
        if let Some(length) = self.text("max_token_length").and_then(crate::python::int) {
            for clip in &clips {
                self.write("max_token_length", &format!("nodes.{clip}.max_tokens"), json!(length), "");
            }
        }
        if self.flag("weighted_captions") {
            for clip in &clips {
                self.write("weighted_captions", &format!("nodes.{clip}.weighted_captions"), json!(true), "");
            }
        }
        if self.flag("apply_lg_attn_mask") {
            for clip in &clips {
                let note = "sd-scripts applies it only when the outputs are cached";
                self.change("apply_lg_attn_mask", &format!("nodes.{clip}.attention_mask"), json!(true), note);
            }
        }
    }

    pub fn model(&mut self) {
        let chroma = self.effective_text("model_type") == "chroma";
        self.draft.node("model", self.family.model());
        let base = self.base();
        let weights = "nodes.model.weights";
        if self.has("pretrained_model_name_or_path") {
            let note = match self.family {
                Family::LuminaNext => {
                    "its name says Lumina-Next, so it is loaded as that; sd-scripts knows Lumina-Image-2.0 only and fails on it"
                }
                _ => "",
            };
            self.put_plain(weights, json!(base));
            let (kind, note) = match (note, self.on_the_hub(&base)) {
                ("", true) => {
                    self.draft.comment(weights, FETCH);
                    let note = "no such folder is here; if it is a name on the Hugging Face hub: nothing is downloaded, fetch the model and write the path of its folder";
                    (Kind::Changed, note)
                }
                ("", false) => (Kind::Mapped, note),
                _ => (Kind::Changed, note),
            };
            self.tell("pretrained_model_name_or_path", kind, Some(weights), note);
        } else {
            self.put_plain(weights, json!(base));
            self.draft.comment(weights, "not given: put the path of the file here");
            let note = "write the path of the base model here; sd-scripts needs it too";
            self.tell("pretrained_model_name_or_path", Kind::Defaulted, Some(weights), note);
        }
        if chroma {
            match self.draft.product().has_type("model.chroma") {
                true => {
                    self.draft.node("model", "model.chroma");
                    self.put_plain(weights, json!(base));
                    self.tell("model_type", Kind::Mapped, Some("nodes.model.type"), "");
                }
                false => self.tell("model_type", Kind::Refused, None, "not available yet: `model.chroma`"),
            }
        } else if self.has("model_type") {
            self.tell("model_type", Kind::Mapped, Some("nodes.model.type"), "");
        }
        if self.flag("v2") {
            self.tell("v2", Kind::Mapped, Some("nodes.model.type"), "");
        }
        if self.flag("zero_terminal_snr") && !self.flag("v_parameterization") && !self.family.flow() {
            let note = "a model that predicts the noise learns nothing where there is no signal; it needs `--v_parameterization`";
            self.tell("zero_terminal_snr", Kind::Refused, None, note);
        }
        if self.flag("v_parameterization") {
            self.write("v_parameterization", "nodes.model.prediction", json!("v"), "");
        } else if self.family == Family::Sd2 {
            // A single file of SD 2.x does not say, so that the field is needed.
            self.put_plain("nodes.model.prediction", json!("epsilon"));
        }
        self.scaled_positions();
        self.memory();
    }

    /// SD3's computed positions: for the sizes of the dataset.
    fn scaled_positions(&mut self) {
        let name = "enable_scaled_pos_embed";
        if self.flag(name) {
            let sides = self.draft.resolutions();
            self.write(name, "nodes.model.scaled_positions", json!(sides), "for the resolutions of the dataset");
        }
    }

    /// Whether a model is named as on the hub, `owner/name`, and no folder has this name.
    fn on_the_hub(&self, name: &str) -> bool {
        let plain = |part: &str| !part.is_empty() && !part.starts_with(['.', '~']);
        let file = [".safetensors", ".ckpt", ".pt", ".pth", ".bin"].iter().any(|end| name.ends_with(end));
        let named = name.split('/').count() == 2 && name.split('/').all(plain) && !name.contains(['\\', ':']);
        named && !file && self.files.folders(name).is_err()
    }

    /// The value or the default, as text.
    pub fn effective_text(&self, name: &str) -> String {
        let known = crate::options::find(crate::options::Place::Command, name, self.script);
        match known.is_some_and(|opt| opt.scripts.has(self.script)) {
            true => self.effective(name).as_str().unwrap_or_default().to_owned(),
            false => String::new(),
        }
    }

    fn memory(&mut self) {
        let path = "nodes.model.checkpointing";
        if self.flag("cpu_offload_checkpointing") && self.family == Family::Flux {
            match self.script.adapter && !self.flag("gradient_checkpointing") {
                true => {
                    let note = "with `--gradient_checkpointing`, without which sd-scripts ignores it";
                    self.change("cpu_offload_checkpointing", path, json!("offload"), note);
                }
                false => {
                    self.write("cpu_offload_checkpointing", path, json!("offload"), "");
                }
            }
        }
        if self.flag("cpu_offload_checkpointing") && self.family == Family::Lumina2 && !self.script.adapter {
            let note = "sd-scripts takes it as `--gradient_checkpointing` here and offloads nothing";
            self.change("cpu_offload_checkpointing", path, json!("blocks"), note);
        }
        if self.flag("gradient_checkpointing") {
            match self.draft.get(path) {
                Some(_) => self.tell("gradient_checkpointing", Kind::Mapped, Some(path), ""),
                None => {
                    self.write("gradient_checkpointing", path, json!("blocks"), "");
                }
            }
        }
        self.storage();
        self.swap();
    }

    /// Frozen weights in 8 bits. sd-scripts casts the text encoders too where they stay on the device, which are those
    /// that an adapter trains.
    fn storage(&mut self) {
        for name in ["fp8_base_unet", "fp8_base"] {
            if !self.flag(name) || !self.script.adapter {
                continue;
            }
            let trained: Vec<&str> = self.scope.trained.iter().map(|(encoder, _)| *encoder).collect();
            let note = match (name, trained.is_empty()) {
                ("fp8_base", true) => "text encoders are freed before training and stay as they are",
                ("fp8_base", false) => "of the text encoders that learn as well",
                _ => "",
            };
            self.write(name, "nodes.model.storage", json!("f8_e4m3"), note);
            if name == "fp8_base" {
                for encoder in trained {
                    self.put_plain(&format!("nodes.{encoder}.storage"), json!("f8_e4m3"));
                }
            }
        }
    }

    fn swap(&mut self) {
        let path = "nodes.model.swap_blocks";
        let old = ["double_blocks_to_swap", "single_blocks_to_swap"];
        let names = ["blocks_to_swap", old[0], old[1]];
        for name in names {
            if self.int(name).is_some_and(|n| n <= 0) {
                self.tell(name, Kind::Mapped, None, "off, so left out");
            } else if self.has(name) && !self.script.adapter {
                let note = "not available for weights that learn, beside `fused_backward` neither: blocks are swapped that stay as they are; `storage: bf16` of `adapter.full`, an 8-bit optimizer and `checkpointing` take less memory";
                self.tell(name, Kind::Refused, None, note);
            }
        }
        if !self.script.adapter {
            return;
        }
        let on = |name: &str| self.int(name).filter(|n| *n > 0);
        let (all, double, single) = (on(names[0]), on(names[1]), on(names[2]));
        let split = self.flag("split_mode");
        if let Some(n) = all {
            self.write("blocks_to_swap", path, json!(n), "");
        } else if double.is_some() || single.is_some() {
            let n = double.unwrap_or(0) + single.unwrap_or(0) / 2;
            let note = "double blocks and half the single ones, as sd-scripts counts them";
            for name in old {
                if self.has(name) {
                    self.change(name, path, json!(n), note);
                }
            }
        } else if split {
            self.change("split_mode", path, json!(18), "18 blocks, as sd-scripts takes it");
        }
        for name in ["double_blocks_to_swap", "single_blocks_to_swap", "split_mode"] {
            if self.has(name) {
                self.tell(name, Kind::Ignored, None, "`--blocks_to_swap` counts");
            }
        }
    }
}
