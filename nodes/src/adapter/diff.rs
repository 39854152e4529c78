//! `adapter.diff`: whole layers learn, and what they learnt is saved as a difference.

use pipe_core::node::About;
use pipe_data::lora_names::Wanted;
use pipe_data::weights::Component;
use pipe_networks::Dropouts;
use pipe_networks::adapters::{Kind, Rate, Target};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::common::{Common, Recipe, adapter_node, dropout_args};
use super::extras::{idle_norms, norm_targets};
use super::file::AdapterFile;
use super::targeting::{Fault, layers};
use crate::common::family;
use crate::common::trainable::AdapterAbout;

/// Fields of `adapter.diff`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Which layers learn. Default `linear`.
    #[serde(default)]
    layers: Layers,
    /// U-Nets: the norms beside these layers learn too (LyCORIS' `train_norm`). Default false.
    #[serde(default)]
    norms: bool,
    #[serde(flatten)]
    common: Common,
}

/// Which layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Layers {
    /// Every layer that a LoRA without further settings adapts.
    #[default]
    Linear,
    /// In a U-Net these and the residual blocks and samplers.
    All,
}

/// The node type.
pub struct Diff;

impl Recipe for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn resolve(&self, parts: &Parts, _start: Option<&AdapterFile>) -> (Vec<Target>, Vec<Fault>) {
        let mut faults = Vec::new();
        let unet = parts.family.denoiser() == Component::Unet;
        if self.layers == Layers::All && !unet {
            let message = format!("`all` is the same as `linear`: {} has no residual blocks", parts.family);
            faults.push(Fault::idle("layers", message, Some("say `linear`".into())));
        }
        if self.norms {
            faults.extend(idle_norms(parts));
        }
        let conv = self.layers == Layers::All;
        let target = |component: Component, path: String, name: String, weight: Vec<usize>, kind: Kind| Target {
            part: family::part(component).into(),
            path,
            name,
            weight,
            rank: 1,
            alpha: 1.0,
            kind,
            rate: Rate::default(),
            scalar: false,
        };
        let mut targets = Vec::new();
        for (component, shapes) in parts.components() {
            let bias = |path: &str| shapes.iter().any(|(name, _)| name.strip_suffix(".bias") == Some(path));
            for (layer, weight) in layers(parts, component, Wanted { conv, embedders: false }) {
                let kind = Kind::Difference { bias: bias(&layer.path) };
                targets.push(target(component, layer.path, layer.name, weight, kind));
            }
        }
        if self.norms {
            targets.extend(norm_targets(parts, conv));
        }
        (targets, faults)
    }

    fn dropouts(&self) -> Dropouts {
        Dropouts { module: self.common.module_dropout as f32, neuron: 0.0, rank: 0.0 }
    }

    fn about(&self, _parts: &Parts, _targets: &[Target]) -> AdapterAbout {
        let mut about = AdapterAbout { module: Some("lycoris.kohya"), rank: 1, alpha: 1.0, ..AdapterAbout::default() };
        about.args.insert("algo".into(), "full".into());
        if self.norms {
            about.args.insert("train_norm".into(), "True".into());
        }
        dropout_args(&mut about, self.dropouts());
        about
    }
}

adapter_node!(
    Diff,
    text: true,
    About {
        type_name: "adapter.diff",
        summary: "Whole layers learn, and what they learnt is saved as a difference (LyCORIS' `full`).",
        details: "`W' = W + ΔW` and `b' = b + Δb` with a ΔW of the weight's size that starts at zero, in LyCORIS' files: `diff`, `diff_b`, \
                  for norms `w_norm`, `b_norm`. As large as what it changes, but switched on and off like any adapter. Weight decay \
                  pulls towards the base model, where LyCORIS pulls the whole weight towards zero.",
        example: "diff:\n  type: adapter.diff\n  model: unet\n  norms: true",
    }
);
