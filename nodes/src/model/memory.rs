//! What all models let choose about memory.

use pipe_core::node::CheckCx;
use pipe_networks::pass::Policy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::storage::{self, StorageType};

/// Gradient checkpointing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Checkpointing {
    /// Every activation is kept: fastest.
    #[default]
    None,
    /// Each block is computed again in the backward pass: less memory, about a third more time.
    Blocks,
}

impl Checkpointing {
    /// What a pass keeps.
    pub fn policy(self) -> Policy {
        match self {
            Checkpointing::None => Policy::Keep,
            Checkpointing::Blocks => Policy::Recompute,
        }
    }
}

/// Fields of every model about memory.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct Memory {
    /// What is kept for the backward pass. Default `none`: everything.
    #[serde(default)]
    pub checkpointing: Checkpointing,
    /// Type that the frozen weights of linear layers and convolutions are kept in; each is cast to the type that is
    /// computed in when it is used. `f8_e4m3` rounds them (sd-scripts' `fp8_base`) and leaves out embeddings, norms,
    /// biases and the final layer. Adapters stay f32. Default: the type that is computed in.
    #[serde(default)]
    pub storage: Option<StorageType>,
}

impl Memory {
    /// Reports what has no effect.
    pub fn check(&self, cx: &mut CheckCx) {
        storage::check(cx, self.storage);
    }
}
