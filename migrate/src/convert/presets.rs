//! Presets of LyCORIS: which layers get an adapter.
//!
//! Its algorithms adapt the transformers of a U-Net, the residual blocks and samplers, and the text encoders; a preset
//! leaves some of them out. Matrices and 1×1 convolutions count as one kind, 3×3 convolutions as another.

use serde_json::{Value as Json, json};

use super::Job;
use super::network_args::{Arg, yes};
use crate::report::Kind;
use crate::script::Family;

/// A preset by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Preset {
    /// Everything.
    Full,
    /// Everything but 3×3 convolutions.
    FullLin,
    /// Transformers and text encoders.
    AttnMlp,
    /// Attention alone, of text encoders too.
    AttnOnly,
    /// Everything but text encoders.
    UnetOnly,
    /// Transformers alone.
    UnetTransformer,
    /// Residual blocks and samplers alone.
    UnetConvBlock,
    /// That of (IA)³: keys, values and the last layers of feed-forwards.
    Ia3,
    /// A file, or a name that LyCORIS has not.
    Other,
}

use Preset::*;

impl Preset {
    fn named(name: &str) -> Preset {
        match name {
            "full" => Full,
            "full-lin" => FullLin,
            "attn-mlp" => AttnMlp,
            "attn-only" => AttnOnly,
            "unet-only" => UnetOnly,
            "unet-transformer-only" => UnetTransformer,
            "unet-convblock-only" => UnetConvBlock,
            "ia3" => Ia3,
            _ => Other,
        }
    }

    /// Whether text encoders get adapters.
    pub fn text(self) -> bool {
        !matches!(self, UnetOnly | UnetTransformer | UnetConvBlock)
    }

    /// Whether layers of residual blocks get adapters.
    pub fn convolutions(self) -> bool {
        matches!(self, Full | FullLin | UnetOnly | UnetConvBlock)
    }

    /// Whether 3×3 convolutions do. Where nobody knows it is what was asked for in `conv_dim`.
    pub fn large_convolutions(self) -> bool {
        matches!(self, Full | UnetOnly | UnetConvBlock | Other)
    }

    /// The field and the expression that leave its layers, where other fields do not.
    fn expression(self, family: Family) -> Option<(&'static str, &'static str)> {
        match (self, family) {
            (AttnOnly, Family::Flux) => Some(("include", "(img|txt)_attn_|_self_attn_")),
            (AttnOnly, _) => Some(("include", "_attn[12]_to_|_self_attn_")),
            (UnetConvBlock, _) => Some(("exclude", "_attentions_|_transformer_blocks_|_proj_(in|out)$")),
            _ => None,
        }
    }
}

impl Job<'_> {
    /// The preset that counts.
    pub(super) fn preset(&self) -> Preset {
        Preset::named(self.network_arg("preset").filter(|name| !name.is_empty()).unwrap_or("full"))
    }

    /// Ranks of residual blocks as LyCORIS has them where `conv_dim` says nothing: those of other layers.
    pub(super) fn conv_of_lycoris(&mut self, alpha: Option<&Arg>) {
        let preset = self.preset();
        let (rank_path, path) = ("nodes.lora.conv.rank", "nodes.lora.conv.alpha");
        let whole = self.draft.get("nodes.lora.full_matrix").is_some();
        let rank = self.draft.get("nodes.lora.rank").cloned().or(whole.then(|| json!(1)));
        let Some(rank) = rank.filter(|_| preset.convolutions()) else {
            if let Some(alpha) = alpha {
                self.tell_arg(alpha, Kind::Ignored, None, "the preset adapts no 3×3 convolution");
            }
            return;
        };
        self.put_plain(rank_path, rank);
        self.draft.comment(rank_path, "as LyCORIS");
        let none = self.network_arg("conv_dim").is_some_and(|dim| dim.trim() == "0");
        if none || !preset.large_convolutions() {
            let blocks = if self.family == Family::Sdxl { 23 } else { 25 };
            self.put_plain("nodes.lora.conv.blocks", json!(vec![false; blocks]));
            self.draft.comment("nodes.lora.conv.blocks", "no 3×3 convolution");
            return;
        }
        match alpha {
            Some(alpha) if whole => {
                self.tell_arg(alpha, Kind::Ignored, None, "both factors are whole, so the scale is 1");
            }
            Some(alpha) if self.has("network_weights") => {
                self.tell_arg(alpha, Kind::Changed, Some("nodes.lora.weights"), "the file's α is kept");
            }
            Some(alpha) if super::off(&alpha.value) => {
                self.tell_arg(alpha, Kind::Mapped, None, "α is the rank, as here");
            }
            Some(alpha) => {
                self.put_arg(alpha, path, alpha.value.clone());
            }
            None => {
                let alpha = self.draft.get("nodes.lora.alpha").cloned();
                alpha.into_iter().for_each(|alpha| self.put_plain(path, alpha));
            }
        }
    }

    /// Writes what a preset leaves out, and says where.
    pub(super) fn tell_preset(&mut self, arg: &Arg) {
        let preset = self.preset();
        let flow = self.family.flow();
        if preset == Full {
            self.tell_arg(arg, Kind::Mapped, None, "the default");
            return;
        }
        let node = self.draft.type_of("lora").unwrap_or_default().to_owned();
        let lists = self.draft.takes("nodes.lora.include", &json!(["a"])).is_ok();
        let refusal = match preset {
            _ if self.ranks_of_file() => {
                self.tell_arg(arg, Kind::Ignored, None, "the modules are those of the file");
                return;
            }
            Ia3 if node != "adapter.ia3" => Some("not available: the preset of (IA)³ for other algorithms"),
            Other => Some("not available: presets of one's own; `include`, `exclude` and `ranks` choose layers"),
            AttnOnly if flow && self.family != Family::Flux => {
                Some("LyCORIS knows no attention of this model by name, so that nothing of it would learn")
            }
            UnetConvBlock if flow => Some("this model has no residual blocks, so that nothing would learn"),
            FullLin if !flow && !lists => Some(
                "not available for this algorithm: residual blocks without their 3×3 convolutions, which get none of it",
            ),
            AttnOnly | UnetConvBlock if !lists => Some("not available for this algorithm, which has no `include`"),
            _ => None,
        };
        if let Some(note) = refusal {
            self.tell_arg(arg, Kind::Refused, None, note);
            return;
        }
        if let Some((field, expression)) = preset.expression(self.family) {
            let path = format!("nodes.lora.{field}");
            let mut all = self.draft.get(&path).and_then(Json::as_array).cloned().unwrap_or_default();
            if field == "include" && !all.is_empty() {
                // Layers of text encoders alone, of which the preset takes the attention.
                all = vec![json!("^lora_te.*_self_attn_")];
            } else {
                all.push(json!(expression));
            }
            self.put_arg(arg, &path, json!(all));
            return;
        }
        let (target, note) = match preset {
            FullLin if flow => ("nodes.lora", "this model has no convolutions, so these are all layers"),
            FullLin => ("nodes.lora.conv.blocks", "all layers but 3×3 convolutions"),
            AttnMlp => ("nodes.lora", "no layer of residual blocks and samplers"),
            UnetOnly => ("nodes.lora", "no text encoder is named"),
            _ => ("nodes.lora", "no text encoder is named, and no layer of residual blocks"),
        };
        self.tell_arg(arg, Kind::Mapped, Some(target), note);
    }

    /// `dropout=`, which LyCORIS' LoRA alone reads.
    pub(super) fn dropout_of_lycoris(&mut self, arg: &Arg) {
        let path = "nodes.lora.dropout";
        if super::off(&arg.value) {
            self.tell_arg(arg, Kind::Mapped, None, "off, so left out");
        } else if self.ranks_of_file() {
            self.tell_arg(arg, Kind::Ignored, None, "sd-scripts drops it with `--dim_from_weights`");
        } else if self.draft.takes(path, &arg.value).is_ok() {
            self.put_arg(arg, path, arg.value.clone());
        } else {
            self.tell_arg(arg, Kind::Ignored, None, "this algorithm does not read it");
        }
        if self.has("network_dropout") {
            self.tell("network_dropout", Kind::Ignored, None, "`dropout` of `--network_args` counts");
        }
    }

    /// `dora_wd`: DoRA is a node of its own, of LoRA alone.
    pub(super) fn weight_decomposition(&mut self, arg: &Arg) {
        if !self.is_module("lycoris") {
            self.tell_arg(arg, Kind::Ignored, None, "only `lycoris.kohya` reads it");
            return;
        }
        let node = self.draft.type_of("lora").unwrap_or_default();
        match node {
            _ if !yes(&arg.text) => self.tell_arg(arg, Kind::Mapped, None, "off, so left out"),
            "adapter.dora" => self.tell_arg(arg, Kind::Mapped, Some("nodes.lora.type"), ""),
            "adapter.loha" | "adapter.lokr" => {
                let note = "not available: DoRA of LoHa and LoKr; the weights' lengths do not learn apart";
                self.tell_arg(arg, Kind::Refused, None, note);
            }
            _ => self.tell_arg(arg, Kind::Ignored, None, "this algorithm does not read it"),
        }
    }
}
