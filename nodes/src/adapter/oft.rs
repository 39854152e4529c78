//! `adapter.oft`: orthogonal fine-tuning.

use pipe_core::node::About;
use pipe_data::lora_names::{LoraTarget, ModuleClass, Wanted};
use pipe_data::weights::{Component, Family};
use pipe_networks::Dropouts;
use pipe_networks::adapters::{Kind, Rate, Target};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::common::{Common, Recipe, adapter_node, dropout_args};
use super::file::AdapterFile;
use super::lora::parts_of;
use super::targeting::{Fault, layers};
use crate::common::family;
use crate::common::trainable::AdapterAbout;

/// Fields of `adapter.oft`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Diagonal blocks of each rotation; must divide the output of each layer. Default 4.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = 4096))]
    blocks: u64,
    /// Longest `‖Q‖` (Frobenius norm of the rotation's generator) for each output. Default 0.001.
    #[serde(default)]
    #[schemars(range(min = 1e-9, max = 1.0))]
    constraint: Option<f64>,
    /// Which layers turn. Default `attention`.
    #[serde(default)]
    layers: Layers,
    #[serde(flatten)]
    common: Common,
}

fn four() -> u64 {
    4
}

/// Which layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Layers {
    /// The attention layers.
    #[default]
    Attention,
    /// Every layer that a LoRA without further settings adapts.
    Linear,
    /// In a U-Net these and the residual blocks and samplers.
    All,
}

/// The node type.
pub struct Oft;

fn is_attention(layer: &LoraTarget) -> bool {
    use ModuleClass::*;
    // FLUX's single blocks join attention and feed-forward; the reference leaves them to `linear`.
    matches!(layer.class, SelfAttn | CrossAttn | ImgAttn | TxtAttn | ContextAttn | XAttn | Attn)
}

impl Recipe for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn resolve(&self, parts: &Parts, _start: Option<&AdapterFile>) -> (Vec<Target>, Vec<Fault>) {
        let mut faults = Vec::new();
        let component = parts.family.denoiser();
        if self.layers == Layers::All && component != Component::Unet {
            let message = format!("`all` is the same as `linear`: {} has no residual blocks", parts.family);
            faults.push(Fault::idle("layers", message, Some("say `linear`".into())));
        }
        if self.common.weights.is_some() && self.constraint.is_some() {
            let message = "`constraint` has no effect beside `weights`: the file's is kept".to_owned();
            faults.push(Fault::idle("constraint", message, Some("leave it out".into())));
        }
        let wanted = Wanted { conv: self.layers == Layers::All, embedders: false };
        let blocks = self.blocks as usize;
        let mut targets = Vec::new();
        for (layer, weight) in layers(parts, component, wanted) {
            if self.layers == Layers::Attention && !is_attention(&layer) {
                continue;
            }
            let rows = parts_of(parts.family, &layer);
            let sizes = if rows.is_empty() { vec![layer.outputs] } else { rows.clone() };
            if let Some(size) = sizes.iter().find(|n| !n.is_multiple_of(blocks)) {
                let message = format!("the {size} outputs of `{}` cannot be split into {blocks} blocks", layer.path);
                faults.push(Fault::wrong("blocks", message, None));
                return (Vec::new(), faults);
            }
            targets.push(Target {
                part: family::part(component).into(),
                name: layer.name.replacen("lora_", "oft_", 1),
                path: layer.path,
                weight,
                rank: blocks,
                alpha: self.constraint.unwrap_or(1e-3) as f32,
                kind: Kind::Rotation { parts: rows },
                rate: Rate::default(),
                scalar: false,
            });
        }
        (targets, faults)
    }

    fn dropouts(&self) -> Dropouts {
        Dropouts { module: self.common.module_dropout as f32, neuron: 0.0, rank: 0.0 }
    }

    fn about(&self, parts: &Parts, targets: &[Target]) -> AdapterAbout {
        let module = if parts.family == Family::Flux { "networks.oft_flux" } else { "networks.oft" };
        let alpha = targets.first().map_or(1e-3, |t| t.alpha as f64);
        let mut about = AdapterAbout { module: Some(module), rank: self.blocks, alpha, ..AdapterAbout::default() };
        for (name, set) in
            [("enable_all_linear", self.layers != Layers::Attention), ("enable_conv", self.layers == Layers::All)]
        {
            if set {
                about.args.insert(name.into(), "True".into());
            }
        }
        dropout_args(&mut about, self.dropouts());
        about
    }
}

adapter_node!(
    Oft,
    text: false,
    About {
        type_name: "adapter.oft",
        summary: "OFT: the outputs of each layer are turned by a learnt block-diagonal rotation.",
        details: "Qiu et al. 2023, in kohya's form and files: `W' = Rᵀ·W`, `R = (I + Q)(I − Q)⁻¹` by blocks of rows, `Q = S − Sᵀ` \
                  shortened to the norm `constraint` · outputs. S starts at zero. In FLUX and SD3 the parts of joined layers turn by \
                  themselves. Text encoders cannot be adapted.",
        example: "oft:\n  type: adapter.oft\n  model: unet\n  blocks: 4",
    }
);
