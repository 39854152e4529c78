//! `adapter.ia3`: a factor for each input or output.

use pipe_core::node::About;
use pipe_data::lora_names::{LoraTarget, Wanted};
use pipe_data::weights::Component;
use pipe_networks::Dropouts;
use pipe_networks::adapters::{Kind, Rate, Target};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::common::{Common, Recipe, adapter_node, dropout_args};
use super::file::AdapterFile;
use super::targeting::{Fault, layers};
use crate::common::family;
use crate::common::trainable::AdapterAbout;

/// Fields of `adapter.ia3`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Which layers are scaled. Default `paper`.
    #[serde(default)]
    layers: Layers,
    #[serde(flatten)]
    common: Common,
}

/// Which layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Layers {
    /// U-Nets and CLIPs: the outputs of keys and values, and the inputs of the feed-forward's last layer (LyCORIS' preset `ia3`).
    #[default]
    Paper,
    /// The outputs of every layer that a LoRA without further settings adapts.
    Linear,
    /// In a U-Net these and those of the residual blocks and samplers.
    All,
}

/// The node type.
pub struct Ia3;

/// Whether the paper scales a layer, by its inputs then.
fn in_paper(layer: &LoraTarget) -> Option<bool> {
    let ends = |list: &[&str]| list.iter().any(|ending| layer.path.ends_with(ending));
    if ends(&[".to_k", ".to_v", ".k_proj", ".v_proj"]) {
        return Some(false);
    }
    ends(&[".ff.net.2", ".mlp.fc2"]).then_some(true)
}

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
        if self.layers == Layers::Paper && !unet {
            let message = format!("`paper` is a choice of layers of U-Nets and CLIPs, and {} is neither", parts.family);
            let help = "`layers: linear` scales the outputs of its layers".to_owned();
            faults.push(Fault::wrong("layers", message, Some(help)));
            return (Vec::new(), faults);
        }
        let wanted = Wanted { conv: self.layers == Layers::All, embedders: false };
        let mut targets = Vec::new();
        for (component, _) in parts.components() {
            for (layer, weight) in layers(parts, component, wanted) {
                let on_input = match self.layers {
                    Layers::Paper => in_paper(&layer),
                    _ => Some(false),
                };
                let Some(on_input) = on_input else { continue };
                targets.push(Target {
                    part: family::part(component).into(),
                    path: layer.path,
                    name: layer.name,
                    weight,
                    rank: 1,
                    alpha: 1.0,
                    kind: Kind::Scale { on_input },
                    rate: Rate::default(),
                    scalar: false,
                });
            }
        }
        (targets, faults)
    }

    fn dropouts(&self) -> Dropouts {
        Dropouts { module: self.common.module_dropout as f32, neuron: 0.0, rank: 0.0 }
    }

    fn about(&self, _parts: &Parts, _targets: &[Target]) -> AdapterAbout {
        let mut about = AdapterAbout { module: Some("lycoris.kohya"), rank: 1, alpha: 1.0, ..AdapterAbout::default() };
        about.args.insert("algo".into(), "ia3".into());
        if self.layers == Layers::Paper {
            about.args.insert("preset".into(), "ia3".into());
        }
        dropout_args(&mut about, self.dropouts());
        about
    }
}

adapter_node!(
    Ia3,
    text: true,
    About {
        type_name: "adapter.ia3",
        summary: "(IA)³: a learnt factor for each output, or input, of a layer. The smallest of all adapters.",
        details: "Liu et al. 2022, in LyCORIS' form and files: `y = (1 + w) ⊙ (W·x) + b`, or `y = W·((1 + w) ⊙ x) + b`. `w` starts at zero; \
                  it learns best with a rate of about 5e-3.",
        example: "ia3:\n  type: adapter.ia3\n  model: unet",
    }
);
