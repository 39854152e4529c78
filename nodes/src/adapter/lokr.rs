//! `adapter.lokr`: Kronecker products.

use pipe_core::node::About;
use pipe_data::lora_names::LoraTarget;
use pipe_data::weights::Component;
use pipe_networks::Dropouts;
use pipe_networks::adapters::{Kind, Target};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::common::{Common, Recipe, adapter_node, coreless, describe, dropout_args, idle};
use super::extras::Ranked;
use super::file::AdapterFile;
use super::targeting::{Fault, Plan, Targeting};
use crate::common::trainable::AdapterAbout;

/// Fields of `adapter.lokr`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    #[serde(flatten)]
    ranked: Ranked,
    /// Size of the small factor of each dimension, where it divides it. Default: as near to a square as divisors allow.
    #[serde(default)]
    #[schemars(range(min = 1, max = 4096))]
    factor: Option<u64>,
    /// The small factor is a product of two as well, where the rank makes that smaller. Default false.
    #[serde(default)]
    decompose_both: bool,
    /// Neither factor is a product; the scale is 1. Default false.
    #[serde(default)]
    full_matrix: bool,
    /// 3×3 convolutions: the large factor has a core of `rank × rank` kernels (LyCORIS' `use_tucker`), which takes fewer values. Default false.
    #[serde(default)]
    tucker: bool,
    #[serde(flatten)]
    targeting: Targeting,
    #[serde(flatten)]
    common: Common,
}

/// The node type.
pub struct Lokr;

impl Recipe for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn resolve(&self, parts: &Parts, _start: Option<&AdapterFile>) -> (Vec<Target>, Vec<Fault>) {
        let mut faults = idle(&self.targeting, &self.common, parts);
        let kind = |_: &LoraTarget, _: Component| Kind::Kronecker {
            factor: self.factor.map(|f| f as usize),
            both: self.decompose_both,
            full: self.full_matrix,
            tucker: self.tucker,
        };
        let plan = Plan {
            rank: self.ranked.rank(),
            given: self.ranked.rank.is_some() && !self.full_matrix,
            unit: 1,
            kind: &kind,
        };
        let (mut targets, more) = self.targeting.resolve(parts, &plan);
        faults.extend(more);
        faults.extend(coreless(self.tucker, &targets));
        if self.full_matrix && self.decompose_both {
            let message = "`decompose_both` has no effect beside `full_matrix`".to_owned();
            faults.push(Fault::idle("decompose_both", message, Some("leave one of them out".into())));
        }
        // Two whole factors have neither rank nor scale; `conv.rank` is needed to say that convolutions are adapted, and a
        // rank of `false` that layers are not.
        if self.full_matrix {
            let ranks = self.targeting.sizes().into_iter().filter(|(_, size)| size.get().is_some());
            let mut fields: Vec<String> = self.ranked.rank.iter().map(|_| "rank".to_owned()).collect();
            fields.extend(self.ranked.extras.rs_lora.then(|| "rs_lora".to_owned()));
            fields.extend(ranks.map(|(field, _)| field));
            fields.extend(self.targeting.alphas());
            fields.retain(|field| faults.iter().all(|fault| fault.field != *field));
            for field in fields {
                let message = format!("`{field}` has no effect beside `full_matrix`");
                faults.push(Fault::idle(&field, message, Some("leave one of them out".into())));
            }
        }
        faults.extend(self.whole(&targets, &faults));
        faults.extend(self.ranked.extras.apply(parts, (&self.targeting, &self.common), &mut targets));
        (targets, faults)
    }

    fn dropouts(&self) -> Dropouts {
        Dropouts { module: self.common.module_dropout as f32, neuron: 0.0, rank: self.ranked.rank_dropout as f32 }
    }

    fn about(&self, _parts: &Parts, targets: &[Target]) -> AdapterAbout {
        let mut about = describe(Some("lycoris.kohya"), self.ranked.rank(), &self.targeting, &self.common, targets);
        about.args.insert("algo".into(), "lokr".into());
        about.args.insert("factor".into(), self.factor.map_or("-1".into(), |f| f.to_string()));
        let flags =
            [("decompose_both", self.decompose_both), ("full_matrix", self.full_matrix), ("use_tucker", self.tucker)];
        for (name, set) in flags {
            if set {
                about.args.insert(name.into(), "True".into());
            }
        }
        self.ranked.extras.describe(&mut about);
        dropout_args(&mut about, self.dropouts());
        about
    }
}

impl Config {
    /// What is of products alone where no factor is one.
    fn whole(&self, targets: &[Target], faults: &[Fault]) -> Vec<Fault> {
        if targets.is_empty() || self.full_matrix {
            return Vec::new();
        }
        let any = |list: &[&str]| {
            let pieces = targets.iter().flat_map(Target::pieces);
            pieces.into_iter().any(|piece| list.iter().any(|ending| piece.key.ends_with(ending)))
        };
        let small = any(&[".lokr_w1_a"]);
        let mut list = Vec::new();
        if self.decompose_both && !small {
            list.push(("decompose_both".to_owned(), "the small factor of every layer is whole at this rank"));
        }
        if !small && !any(&[".lokr_w2_a"]) {
            let why = "both factors of every layer are whole at this rank, and their scale is 1";
            let fields =
                self.targeting.alphas().into_iter().chain(self.ranked.extras.rs_lora.then(|| "rs_lora".into()));
            list.extend(fields.map(|field| (field, why)));
        }
        list.retain(|(field, _)| faults.iter().all(|fault| fault.field != *field));
        let help = "leave it out, or take a lower `rank`";
        list.into_iter()
            .map(|(field, why)| Fault::idle(&field, format!("`{field}` has no effect: {why}"), Some(help.into())))
            .collect()
    }
}

adapter_node!(
    Lokr,
    text: true,
    About {
        type_name: "adapter.lokr",
        summary: "LoKr: the change of each layer is a Kronecker product of a small and a large factor.",
        details: "Yeh et al. 2024, in LyCORIS' form and files: `ΔW = (α/r)·w1 ⊗ w2`, where `w2` is a product of rank r unless that is no \
                  smaller than the whole matrix; with both factors whole the scale is 1. Acts on activations: ΔW is never built.",
        example: "lokr:\n  type: adapter.lokr\n  model: unet\n  rank: 16\n  alpha: 16\n  factor: 8",
    }
);
