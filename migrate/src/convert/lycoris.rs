//! Algorithms of LyCORIS that have no rank, and arguments that only some of its algorithms read.

use serde_json::{Value as Json, json};

use super::Job;
use super::network_args::{Arg, yes};
use crate::report::Kind;

const LAYERS: &str = "nodes.lora.layers";
const BLOCK: &str = "nodes.lora.block_size";
/// Node types whose scale or strength can be set so.
const SCALED: [&str; 5] = ["adapter.lora", "adapter.loha", "adapter.lokr", "adapter.dora", "adapter.glora"];

impl Job<'_> {
    /// Node types without ranks: sizes of blocks, or nothing. Gives whether the adapter is one.
    pub(super) fn without_rank(&mut self) -> bool {
        let node = self.draft.type_of("lora").unwrap_or_default().to_owned();
        let blocks = match node.as_str() {
            "adapter.diag_oft" | "adapter.boft" => true,
            "adapter.diff" | "adapter.ia3" => false,
            _ => return false,
        };
        // LyCORIS adapts all layers, convolutions too, unless a preset says otherwise.
        let of_preset = node == "adapter.ia3" && self.network_arg("preset") == Some("ia3");
        let layers = match (self.family.flow(), node.as_str()) {
            (false, "adapter.ia3") if !self.preset().convolutions() => Some("linear"),
            (false, _) if !self.preset().convolutions() => None,
            (false, _) => Some("all"),
            (true, "adapter.ia3") => Some("linear"),
            (true, _) => None,
        };
        if let Some(layers) = layers.filter(|_| !of_preset) {
            self.put_plain(LAYERS, json!(layers));
            self.draft.comment(LAYERS, "as LyCORIS");
        }
        let rank = self.int("network_dim").filter(|n| *n > 0);
        match (blocks, rank) {
            (true, Some(rank)) => {
                self.write("network_dim", BLOCK, json!(rank), "the wanted size of blocks");
            }
            (true, None) if node == "adapter.boft" => {
                let note = "LyCORIS' 4 splits the layers of hardly any model; blocks of up to 16 do";
                self.note("--network_dim (not given)", "4", Kind::Changed, Some(BLOCK), note);
            }
            (true, None) => self.put_plain(BLOCK, json!(4)),
            (false, Some(_)) => self.tell("network_dim", Kind::Ignored, None, "this algorithm has no rank"),
            (false, None) => {}
        }
        if self.has("network_alpha") {
            let note =
                if blocks { "this algorithm reads `constraint` in its place" } else { "this algorithm has no α" };
            self.tell("network_alpha", Kind::Ignored, None, note);
        }
        true
    }

    /// The rank of convolutions for such a node type. Gives whether the adapter is one.
    pub(super) fn conv_without_rank(&mut self, dim: Option<&Arg>, alpha: Option<&Arg>) -> bool {
        let node = self.draft.type_of("lora").unwrap_or_default();
        let blocks = ["adapter.diag_oft", "adapter.boft"].contains(&node);
        if !blocks && !["adapter.diff", "adapter.ia3"].contains(&node) {
            return false;
        }
        let same = dim.is_some_and(|dim| self.draft.get(BLOCK) == Some(&dim.value));
        if let Some(dim) = dim {
            match (blocks, same) {
                (true, true) => self.tell_arg(dim, Kind::Mapped, Some(BLOCK), "the same for all layers"),
                (true, false) => {
                    let note = "not available: blocks of another size for convolutions; they get those of all layers";
                    self.tell_arg(dim, Kind::Refused, None, note);
                }
                (false, _) => self.tell_arg(dim, Kind::Ignored, None, "this algorithm has no rank"),
            }
        }
        if let Some(alpha) = alpha {
            self.tell_arg(alpha, Kind::Ignored, None, "this algorithm has no α");
        }
        true
    }

    /// Arguments that some algorithms read, or that mean the same as a default. Gives whether it is done with.
    pub(super) fn lycoris_arg(&mut self, arg: &Arg) -> bool {
        let node = self.draft.type_of("lora").unwrap_or_default().to_owned();
        let set = yes(&arg.text);
        let file = self.has("network_weights");
        let (kind, target, note): (Kind, Option<&str>, &str) = match arg.opt.name {
            "rs_lora" | "use_scalar" if set && !SCALED.contains(&node.as_str()) => {
                (Kind::Ignored, None, "this algorithm does not read it")
            }
            "rs_lora" if set && self.draft.get("nodes.lora.full_matrix").is_some() => {
                (Kind::Ignored, None, "both factors are whole, so the scale is 1")
            }
            "rs_lora" | "constraint" if file && (set || arg.opt.name == "constraint") => {
                (Kind::Changed, Some("nodes.lora.weights"), "the file's α is kept, which says it")
            }
            "train_norm" if set && self.family.flow() => {
                let note = "LyCORIS has no names for the norms of this model; it trains U-Nets' alone";
                (Kind::Refused, None, note)
            }
            "train_norm" if set && self.ranks_of_file() => {
                (Kind::Mapped, Some("nodes.lora.rank"), "the norms of the file learn")
            }
            "rank_dropout" if node == "adapter.diag_oft" => {
                (Kind::Refused, None, "not available: leaving out parts of the rotations")
            }
            "rank_dropout"
                if ["adapter.boft", "adapter.glora", "adapter.diff", "adapter.ia3"].contains(&node.as_str()) =>
            {
                (Kind::Ignored, None, "this algorithm does not read it")
            }
            "block_size" if node == "adapter.dylora" => {
                self.put_arg(arg, "nodes.lora.unit", arg.value.clone());
                return true;
            }
            "block_size" => (Kind::Ignored, None, "only `algo=dylora` reads it"),
            "preset" if arg.text == "ia3" && node == "adapter.ia3" => (Kind::Mapped, Some(LAYERS), "the default"),
            "wd_on_output" if set => (Kind::Mapped, None, "the default"),
            "unbalanced_factorization" if !set => (Kind::Mapped, None, "off, so left out"),
            _ => return false,
        };
        self.tell_arg(arg, kind, target, note);
        true
    }

    /// DyLoRA of LyCORIS has slices of four ranks where nothing else is said.
    pub(super) fn dylora_unit(&mut self) {
        let dylora = self.draft.type_of("lora") == Some("adapter.dylora") && self.is_module("lycoris");
        if dylora && self.draft.get("nodes.lora.unit").is_none() {
            self.put_plain("nodes.lora.unit", Json::from(4));
            self.draft.comment("nodes.lora.unit", "as LyCORIS");
        }
    }
}
