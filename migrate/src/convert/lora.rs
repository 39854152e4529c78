//! The adapter's rank, weights and text encoders, or full training.

use serde_json::{Value as Json, json};

use super::{Job, off, optimizers};
use crate::python;
use crate::report::Kind;
use crate::script::Family;

/// Largest rank of an adapter here.
const LARGEST_RANK: i64 = 4096;
/// Blocks of SDXL's U-Net.
const SDXL_BLOCKS: usize = 23;

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
            if self.is_module("oft") && self.draft.type_of("lora") == Some("adapter.oft") {
                self.rotation();
            } else if !self.without_rank() {
                self.rank();
            }
            self.network_args();
            self.dylora_unit();
            self.noise_of_weights();
            self.start();
            self.limits();
            self.kept_in_f32();
        } else {
            self.block_lr();
            self.full_precision();
        }
    }

    /// SDXL's rates by block.
    fn block_lr(&mut self) {
        if self.scope.rate <= 0.0 {
            return;
        }
        let Some(text) = self.text("block_lr").map(str::to_owned) else { return };
        let rates: Option<Vec<f64>> = text.split(',').map(|item| item.trim().parse().ok()).collect();
        match rates.filter(|list| list.len() == SDXL_BLOCKS && list.iter().all(|rate| rate.is_finite() && *rate >= 0.0))
        {
            Some(list) => {
                let list: Vec<Json> = list.into_iter().map(python::number).collect();
                let note = "blocks with a rate of 0 stay as they are";
                self.write("block_lr", "nodes.full.block_learning_rates", json!(list), note);
            }
            None => self.tell("block_lr", Kind::Refused, None, "sd-scripts wants 23 rates, one for each block"),
        }
    }

    /// Noise of half a strength is none.
    fn noise_of_weights(&mut self) {
        let given = ["sigma", "beta"].map(|name| self.draft.get(&format!("nodes.lora.perturbation.{name}")).is_some());
        if given[0] == given[1] {
            return;
        }
        self.draft.remove(&["lora", "perturbation"].map(str::to_owned));
        let name = if given[0] { "ggpo_sigma" } else { "ggpo_beta" };
        let option = format!("--network_args {name}");
        for entry in self.report.iter_mut().filter(|entry| entry.option == option) {
            (entry.kind, entry.target) = (Kind::Ignored, None);
            entry.note = "sd-scripts makes no noise unless both numbers are given".into();
        }
    }

    /// Options that choose between denoiser and text encoders.
    fn what_learns(&mut self, text: &str) {
        let frozen = self.scope.rate <= 0.0;
        let only_text = self.flag("network_train_text_encoder_only");
        if self.flag("network_train_unet_only") {
            self.tell("network_train_unet_only", Kind::Mapped, Some(text), "no text encoder is named");
        }
        if only_text || frozen {
            self.only_text(only_text);
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
        let name = "stop_text_encoder_training";
        match self.int(name) {
            Some(0) => self.tell(
                name,
                Kind::Changed,
                Some(text),
                "no text encoder is named; sd-scripts crashes in the first step",
            ),
            Some(steps) if steps < 0 => self.tell(name, Kind::Mapped, Some(text), "no text encoder is named"),
            _ => {}
        }
    }

    /// Adapters of the text encoders alone: those of the denoiser are left out.
    fn only_text(&mut self, asked: bool) {
        let rate = if self.has("unet_lr") { "unet_lr" } else { "learning_rate" };
        let name = if asked { "network_train_text_encoder_only" } else { rate };
        let path = "nodes.lora.include";
        let none = self.scope.trained.is_empty();
        let put = self.draft.takes(path, &json!(["^lora_te"]));
        match (none, put) {
            (true, _) => {
                // A rate of 0 keeps the denoiser from learning all the same.
                self.scope.rate = 0.0;
                self.tell(name, Kind::Refused, None, "then nothing is left to learn: no text encoder does");
            }
            (false, Err(miss)) if self.script.adapter => {
                self.scope.rate = 0.0;
                self.tell(name, Kind::Refused, None, &miss.to_string());
            }
            (false, Err(_)) => self.blocks_at_zero(name),
            (false, Ok(())) if asked => {
                self.write(name, path, json!(["^lora_te"]), "only layers of text encoders get an adapter");
                self.draft.comment(path, "layers of text encoders only");
            }
            (false, Ok(())) => {
                let note = "a rate of 0: the denoiser gets no adapter; sd-scripts makes one and saves it unchanged";
                self.change(name, path, json!(["^lora_te"]), note);
                self.draft.comment(path, "layers of text encoders only, as the denoiser's rate is 0");
            }
        }
    }

    /// Whole text encoders alone: every weight of SDXL's U-Net is in one of its blocks, and those with a rate of 0 are
    /// not even computed. Others get their rate of 0 with the optimizer's rates.
    fn blocks_at_zero(&mut self, name: &'static str) {
        let path = "nodes.full.block_learning_rates";
        if self.family != Family::Sdxl {
            return;
        }
        if self.has("block_lr") {
            self.tell("block_lr", Kind::Ignored, None, "`--learning_rate` is 0, so the U-Net does not learn");
        }
        self.write(name, path, json!(vec![0; SDXL_BLOCKS]), "no block of the U-Net learns, so it stays as it is");
        self.draft.comment(path, "only the text encoders learn");
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
        if self.draft.type_of("lora") == Some("adapter.lokr") && self.whole_factors(rank) {
            return;
        }
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

    /// LoKr with both factors whole has neither rank nor α. A rank that no layer has asks for it, too.
    fn whole_factors(&mut self, rank: i64) -> bool {
        let path = "nodes.lora.full_matrix";
        let asked = self.network_arg("full_matrix").is_some_and(super::network_args::yes);
        let huge = rank > LARGEST_RANK && !self.network_arg("decompose_both").is_some_and(super::network_args::yes);
        if !(asked || huge) || self.draft.put(path, json!(true)).is_err() {
            return false;
        }
        if self.has("network_dim") {
            let note = match asked {
                true => "both factors are whole, so there is no rank",
                false => "no layer is so large: both factors are whole, so there is no rank",
            };
            self.tell("network_dim", Kind::Mapped, Some(path), note);
        }
        if self.has("network_alpha") {
            self.tell("network_alpha", Kind::Ignored, None, "both factors are whole, so the scale is 1");
        }
        true
    }

    /// OFT: the number of blocks is the rank option, its constraint the α option.
    fn rotation(&mut self) {
        let blocks = self.int("network_dim").filter(|n| *n > 0).unwrap_or(4);
        if self.has("network_dim") {
            self.write("network_dim", "nodes.lora.blocks", json!(blocks), "the number of diagonal blocks");
        } else {
            self.put_plain("nodes.lora.blocks", json!(blocks));
        }
        if let Some(value) = self.float("network_alpha") {
            let path = "nodes.lora.constraint";
            if value > 1.0 {
                let note = "no rotation is as long, so that nothing is held back; OFT is meant for about 0.001";
                self.change("network_alpha", path, json!(1), note);
            } else if value > 0.0 {
                self.write("network_alpha", path, python::number(value), "the longest rotation");
            } else {
                let note = "it would hold every rotation at none; 0.001, which OFT is meant for, is taken";
                self.tell("network_alpha", Kind::Changed, Some(path), note);
            }
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
        if files.is_empty() {
            for name in ["base_weights", "base_weights_multiplier"] {
                if self.has(name) {
                    self.tell(name, Kind::Ignored, None, "it names no file");
                }
            }
            return;
        }
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

    /// Longest ΔW: not of LoRA-FA, and not with optimizers that would undo it.
    fn limits(&mut self) {
        if self.float("scale_weight_norms").is_none_or(|limit| limit <= 0.0) {
            return;
        }
        let fa = self.draft.get("nodes.lora.frozen_down").is_some();
        let optimizer = optimizers::find(&self.optimizer_name()).filter(|o| self.draft.product().has_type(o.node));
        let note = match optimizer {
            _ if fa => "not with LoRA-FA: its down factors stay as they are, so the norm cannot be shared between both",
            Some(o) if ["optimizer.dadapt_sgd", "optimizer.dadapt_adagrad"].contains(&o.node) => {
                "not with this optimizer, which computes the weights of each step from the first ones: in sd-scripts it undoes the limit in its next step"
            }
            Some(o) if o.no_schedule => {
                "not with a schedule-free optimizer, which averages weights beside those that are scaled: in sd-scripts the limit holds for neither"
            }
            _ => return,
        };
        self.tell("scale_weight_norms", Kind::Refused, None, note);
    }

    /// The adapter's own weights.
    fn kept_in_f32(&mut self) {
        for name in ["full_bf16", "full_fp16"] {
            if self.has(name) {
                let note = "the adapter's weights and their gradients are kept in f32: they are few, so that halves save little, and updates smaller than a step of theirs would be lost";
                self.tell(name, Kind::Changed, None, note);
            }
        }
    }

    /// Type of the weights that learn.
    fn full_precision(&mut self) {
        let path = "nodes.full.storage";
        for (name, kind) in [("full_bf16", "bf16"), ("full_fp16", "f16")] {
            if !self.flag(name) {
                continue;
            }
            if name == "full_fp16" {
                let note = "weights that learn are not kept in f16, in which gradients vanish without a scaled loss; `storage: bf16` takes as little memory";
                self.tell(name, Kind::Refused, None, note);
                continue;
            }
            if !self.draft.product().has_field("adapter.full", "rounding") {
                self.write(name, path, json!(kind), "");
                continue;
            }
            let note = "updates are rounded up or down at random, so that small ones are not lost; sd-scripts rounds to the nearest (`rounding: nearest`)";
            // The update fused with the way back rounds so in sd-scripts too.
            let fused = self.flag("fused_backward_pass");
            match self.draft.put(path, json!(kind)) {
                Ok(()) if fused => {
                    self.tell(name, Kind::Mapped, Some(path), "updates are rounded up or down at random")
                }
                Ok(()) => self.tell(name, Kind::Changed, Some(path), note),
                Err(miss) => self.missing(name, &miss),
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
