//! `adapter.diag_oft`: orthogonal fine-tuning as LyCORIS has it.

use pipe_core::node::About;
use pipe_data::lora_names::Wanted;
use pipe_data::weights::Component;
use pipe_networks::Dropouts;
use pipe_networks::adapters::{Kind, Rate, Target};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::common::{Common, Recipe, adapter_node, dropout_args};
use super::diff::Layers;
use super::file::AdapterFile;
use super::targeting::{Fault, layers};
use crate::common::family;
use crate::common::trainable::AdapterAbout;

/// Fields of `adapter.diag_oft`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Wanted size of a block. Where it divides a layer's outputs, the smaller of it and the quotient is the size; else the
    /// largest divisor up to it and to the outputs' root. Default 4.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = 4096))]
    block_size: u64,
    #[serde(flatten)]
    turns: Turns,
    #[serde(flatten)]
    common: Common,
}

fn four() -> u64 {
    4
}

/// Fields of both kinds of rotations.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub struct Turns {
    /// Longest `‖Q‖` (Frobenius norm of the rotation's generator) for each output. Default: any.
    #[serde(default)]
    #[schemars(range(min = 1e-9, max = 1.0))]
    constraint: Option<f64>,
    /// Each output gets a factor that learns. Default false.
    #[serde(default)]
    pub rescaled: bool,
    /// Which layers turn. Default `linear`.
    #[serde(default)]
    layers: Layers,
}

impl Turns {
    /// Layers wanted besides the usual ones.
    pub fn wanted(&self) -> Wanted {
        Wanted { conv: self.layers == Layers::All, embedders: false }
    }

    /// The layers, each of the kind that `kind` says of its outputs.
    pub fn targets(
        &self,
        parts: &Parts,
        common: &Common,
        block_size: u64,
        kind: impl Fn(&str, usize) -> Result<Kind, Fault>,
    ) -> (Vec<Target>, Vec<Fault>) {
        let mut faults = Vec::new();
        let unet = parts.family.denoiser() == Component::Unet;
        if self.layers == Layers::All && !unet {
            let message = format!("`all` is the same as `linear`: {} has no residual blocks", parts.family);
            faults.push(Fault::idle("layers", message, Some("say `linear`".into())));
        }
        if common.weights.is_some() && self.constraint.is_some() {
            let message = "`constraint` has no effect beside `weights`: the file's is kept".to_owned();
            faults.push(Fault::idle("constraint", message, Some("leave it out".into())));
        }
        let mut targets = Vec::new();
        for (component, _) in parts.components() {
            for (layer, weight) in layers(parts, component, self.wanted()) {
                let kind = match kind(&layer.path, layer.outputs) {
                    Ok(kind) => kind,
                    Err(fault) => {
                        faults.push(fault);
                        return (Vec::new(), faults);
                    }
                };
                targets.push(Target {
                    part: family::part(component).into(),
                    path: layer.path,
                    name: layer.name,
                    weight,
                    rank: block_size as usize,
                    alpha: self.constraint.unwrap_or(0.0) as f32,
                    kind,
                    rate: Rate::default(),
                    scalar: false,
                });
            }
        }
        (targets, faults)
    }

    /// What is said of it in metadata.
    pub fn about(&self, algo: &str, block_size: u64) -> AdapterAbout {
        let module = Some("lycoris.kohya");
        let mut about = AdapterAbout { module, rank: block_size, alpha: 1.0, ..AdapterAbout::default() };
        about.args.insert("algo".into(), algo.into());
        if let Some(constraint) = self.constraint {
            about.args.insert("constraint".into(), constraint.to_string());
        }
        if self.rescaled {
            about.args.insert("rescaled".into(), "True".into());
        }
        about
    }
}

/// The node type.
pub struct DiagOft;

impl Recipe for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn resolve(&self, parts: &Parts, _start: Option<&AdapterFile>) -> (Vec<Target>, Vec<Fault>) {
        let rescaled = self.turns.rescaled;
        self.turns.targets(parts, &self.common, self.block_size, |_, _| Ok(Kind::Diagonal { rescaled }))
    }

    fn dropouts(&self) -> Dropouts {
        Dropouts { module: self.common.module_dropout as f32, neuron: 0.0, rank: 0.0 }
    }

    fn about(&self, _parts: &Parts, _targets: &[Target]) -> AdapterAbout {
        let mut about = self.turns.about("diag-oft", self.block_size);
        dropout_args(&mut about, self.dropouts());
        about
    }
}

adapter_node!(
    DiagOft,
    text: true,
    About {
        type_name: "adapter.diag_oft",
        summary: "Diag-OFT: the outputs of each layer are turned by a learnt block-diagonal rotation, in LyCORIS' form.",
        details: "Qiu et al. 2023, in LyCORIS' form and files: `W' = Rᵀ·W`, `R = (I + Q)(I − Q)⁻¹` by blocks of `block_size` rows, `Q = S − \
                  Sᵀ` no longer than `constraint` · outputs; with `rescaled` each row has a factor besides. S starts at zero. Where \
                  `adapter.oft` sets the number of blocks this sets their size; LyCORIS takes the smaller of two divisors for it.",
        example: "oft:\n  type: adapter.diag_oft\n  model: unet\n  block_size: 8",
    }
);
