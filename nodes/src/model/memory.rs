//! What all models let choose about memory.

use pipe_core::node::{CheckCx, Facts};
use pipe_core::run::RunError;
use pipe_networks::pass::Policy;
use pipe_networks::{Keeping, Network};
use pipe_ops::Device;
use pipe_ops::backend::{self, Kind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::engine::Engine;
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
    /// As `blocks`, and what is kept of each block lies in the host's memory until it is needed. On GPUs.
    Offload,
}

impl Checkpointing {
    /// What a pass keeps.
    pub fn policy(self) -> Policy {
        match self {
            Checkpointing::None => Policy::Keep,
            Checkpointing::Blocks => Policy::Recompute,
            Checkpointing::Offload => Policy::Offload,
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

/// The same of transformers.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct BlockMemory {
    #[serde(flatten)]
    pub memory: Memory,
    /// So many blocks' frozen weights rest in the host's memory and are copied to the device when their block runs,
    /// forward and backward: less memory, more time. Of FLUX.1 half the number is double blocks, and the other half twice
    /// as many single ones. On GPUs. Default: none.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    pub swap_blocks: Option<u64>,
}

impl From<Memory> for BlockMemory {
    fn from(memory: Memory) -> Self {
        BlockMemory { memory, swap_blocks: None }
    }
}

impl BlockMemory {
    /// Blocks whose weights rest in the host's memory.
    fn away(&self, network: &Network) -> Vec<String> {
        self.swap_blocks.map(|n| network.swapped(n as usize)).unwrap_or_default()
    }

    /// How the weights are kept.
    pub fn keeping(&self, network: &Network) -> Keeping {
        Keeping { away: self.away(network), ..storage::keeping(self.memory.storage) }
    }

    /// Reports what has no effect, and tells what does.
    pub fn check(&self, cx: &mut CheckCx, network: &Network, facts: Facts) -> Facts {
        storage::check(cx, self.memory.storage);
        let most = network.most_swapped();
        if let Some(n) = self.swap_blocks.filter(|n| *n > most as u64) {
            let message = match most {
                0 => "the model has too few blocks to swap any".into(),
                _ => format!("`swap_blocks` is {n}; at most {most} of this model's blocks can be swapped"),
            };
            cx.error("P0403", "swap_blocks", message, None);
        }
        let offload = self.memory.checkpointing == Checkpointing::Offload;
        let gpu = crate::planned_kind(cx.settings) != Kind::Cpu;
        if self.swap_blocks.is_some() && !gpu {
            let help = "leave it out; `storage` keeps weights in fewer bits";
            needs_gpu(cx, "swap_blocks", "`swap_blocks` has no effect on the CPU, whose memory is the host's", help);
        }
        if offload && !gpu {
            let message = "`checkpointing: offload` has no effect on the CPU, whose memory is the host's";
            needs_gpu(cx, "checkpointing", message, "use `checkpointing: blocks`");
        }
        let mut facts = facts;
        if let Some(storage) = self.memory.storage {
            facts = facts.with("storage", serde_json::to_value(storage).unwrap_or_default());
        }
        if let Some(n) = self.swap_blocks {
            facts = facts.with("swap_blocks", n);
        }
        // Without a GPU the numbers are those of a run without.
        let (away, checkpointing) = match (gpu, self.memory.checkpointing) {
            (true, own) => (self.away(network), own),
            (false, Checkpointing::Offload) => (Vec::new(), Checkpointing::Blocks),
            (false, own) => (Vec::new(), own),
        };
        if !away.is_empty() {
            facts = facts.with("away", away);
        }
        facts.with("checkpointing", serde_json::to_value(checkpointing).unwrap_or_default())
    }

    /// Refuses what the device of a run cannot do.
    pub fn refuse(&self, engine: &Engine) -> Result<(), RunError> {
        storage::refuse(engine, self.memory.storage)?;
        let offload = self.memory.checkpointing == Checkpointing::Offload;
        for (field, set) in [("swap_blocks", self.swap_blocks.is_some()), ("checkpointing", offload)] {
            if set && matches!(engine.device, Device::Cpu) {
                let message = format!("`{field}` needs a GPU, and this run is on the CPU");
                return Err(RunError::new("P0904", message).at(field));
            }
        }
        Ok(())
    }
}

/// An error where the document says CPU or is to be run here, a warning where it is planned for another machine.
fn needs_gpu(cx: &mut CheckCx, field: &str, message: &str, help: &str) {
    let chosen = matches!(backend::parse(&cx.settings.train.device), Some((Some(_), _)));
    if cx.any_device && !chosen {
        let message = format!("{message}: this build has no other device, so it can be planned here, not run");
        cx.warn("P0904", field, message, Some(help.into()));
    } else {
        cx.error("P0402", field, message, Some(help.into()));
    }
}
