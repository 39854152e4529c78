//! What nodes tell each other before a run, as typed values.

use pipe_core::node::{Facts, InputFacts};
use pipe_data::weights::Component;
use pipe_networks::clip::Take;
use pipe_networks::{Keeping, Network, TextKind, TextNetwork};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::family;
use super::storage::{self, StorageType};

/// A value carried by facts.
pub fn read<T: DeserializeOwned>(facts: &Facts, key: &str) -> Option<T> {
    serde_json::from_value(facts.get(key)?.clone()).ok()
}

/// The denoiser's sizes.
pub fn network_of(facts: &Facts) -> Option<Network> {
    read(facts, "network")
}

/// How the denoiser's frozen weights are kept.
pub fn keeping_of(facts: &Facts) -> Keeping {
    Keeping { away: read(facts, "away").unwrap_or_default(), ..storage::keeping(read(facts, "storage")) }
}

/// What is known of a text encoder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TextFacts {
    /// What it is.
    pub kind: TextKind,
    /// Width of its hidden states.
    pub width: u64,
    /// Width of its pooled vector, if it gives one.
    pub pooled: Option<u64>,
    /// Tokens of its hidden states.
    pub tokens: u64,
    /// Gives the states of SD 1.x and 2.x rather than those of families with several encoders.
    pub single: bool,
    /// The denoiser is told which tokens are padding.
    pub masks: bool,
    /// No file told for which family the states are read.
    pub assumed: bool,
    /// The family that the document gives the encoder itself.
    pub told: Option<String>,
    /// Type of the node that reads the captions.
    pub node: String,
    /// Emphasis in captions is read.
    pub weighted: bool,
    /// Captions get a system prompt before them.
    pub prompted: bool,
    /// Padding is hidden from attention inside the encoder.
    pub hides_padding: bool,
    /// Which of CLIP's states.
    pub take: Take,
    /// Type that its frozen weights are kept in.
    pub storage: Option<StorageType>,
    /// Sizes.
    pub network: TextNetwork,
}

impl TextFacts {
    /// The part of a model it is.
    pub fn component(&self) -> Component {
        family::text_component(self.kind)
    }
    /// How its frozen weights are kept.
    pub fn keeping(&self) -> Keeping {
        storage::keeping(self.storage)
    }
    /// Floats of its outputs for one caption.
    pub fn floats(&self) -> u64 {
        self.tokens * self.width + self.pooled.unwrap_or(0) + if self.masks { self.tokens } else { 0 }
    }
}

/// The encoder on an edge.
pub fn text_of(facts: &Facts) -> Option<TextFacts> {
    read(facts, "text")
}

/// All encoders of a port, in order.
pub fn texts_of_port(inputs: &InputFacts, port: &str) -> Vec<TextFacts> {
    inputs.many(port).iter().filter_map(|s| text_of(&s.facts)).collect()
}

/// Encoders whose outputs batches carry.
pub fn cached_texts(facts: &Facts) -> Vec<TextFacts> {
    read(facts, "texts").unwrap_or_default()
}

/// Encoders that learn with a model.
pub fn trained_texts(facts: &Facts) -> Vec<TextFacts> {
    read(facts, "trained_texts").unwrap_or_default()
}
