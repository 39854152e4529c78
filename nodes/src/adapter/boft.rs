//! `adapter.boft`: butterfly orthogonal fine-tuning.

use pipe_core::node::About;
use pipe_networks::Dropouts;
use pipe_networks::adapters::{Kind, Target, butterfly};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::common::{Common, Recipe, adapter_node, dropout_args};
use super::diag_oft::Turns;
use super::file::AdapterFile;
use super::targeting::{Fault, layers};
use crate::common::trainable::AdapterAbout;

/// Fields of `adapter.boft`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Most outputs of a block: the blocks have the largest even size up to it of which a power of two fills the layer. Default 16.
    #[serde(default = "sixteen")]
    #[schemars(range(min = 2, max = 4096))]
    block_size: u64,
    #[serde(flatten)]
    turns: Turns,
    #[serde(flatten)]
    common: Common,
}

fn sixteen() -> u64 {
    16
}

/// The node type.
pub struct Boft;

/// The smallest size of blocks that splits so many outputs.
fn smallest(outputs: usize) -> Option<usize> {
    (2..=outputs).step_by(2).find(|size| butterfly::split(outputs, *size).is_some())
}

impl Recipe for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn resolve(&self, parts: &Parts, _start: Option<&AdapterFile>) -> (Vec<Target>, Vec<Fault>) {
        let kind = |path: &str, outputs: usize| {
            if butterfly::split(outputs, self.block_size as usize).is_some() {
                return Ok(Kind::Butterfly { rescaled: self.turns.rescaled });
            }
            let message = format!(
                "no power of two of blocks of at most {} fills the {outputs} outputs of `{path}`",
                self.block_size
            );
            let all = parts.components().into_iter().flat_map(|(c, _)| layers(parts, c, self.turns.wanted()));
            let enough = all.map(|(layer, _)| smallest(layer.outputs)).try_fold(0, |most, n| Some(n?.max(most)));
            let help = enough.map(|size| format!("`block_size: {size}` fits every layer of this model"));
            Err(Fault::wrong("block_size", message, help))
        };
        self.turns.targets(parts, &self.common, self.block_size, kind)
    }

    fn dropouts(&self) -> Dropouts {
        Dropouts { module: self.common.module_dropout as f32, neuron: 0.0, rank: 0.0 }
    }

    fn about(&self, _parts: &Parts, _targets: &[Target]) -> AdapterAbout {
        let mut about = self.turns.about("boft", self.block_size);
        dropout_args(&mut about, self.dropouts());
        about
    }
}

adapter_node!(
    Boft,
    text: true,
    About {
        type_name: "adapter.boft",
        summary: "BOFT: the outputs of each layer are turned by several block-diagonal rotations one after another.",
        details: "Liu et al. 2023 (butterfly factors), in LyCORIS' form and files: `W' = R_m·…·R_1·W`, each `R = (I + Q)(I − Q)⁻¹` by blocks on \
                  rows that stand ever farther apart, so that few values mix all outputs. Generators start at zero; `constraint` is the \
                  longest of all of them together. Merged at another strength than 1, weights go in a straight line.",
        example: "boft:\n  type: adapter.boft\n  model: unet\n  block_size: 16",
    }
);
