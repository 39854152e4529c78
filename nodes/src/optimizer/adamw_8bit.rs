//! `optimizer.adamw_8bit`: AdamW with moments in 8 bits.

use pipe_core::node::About;
use pipe_train::optim::{AdamW8bit, OptimizerConfig};

use super::node::{Algorithm, on_host};

impl Algorithm for AdamW8bit {
    const ABOUT: About = About {
        type_name: "optimizer.adamw_8bit",
        summary: "AdamW with 8-bit moments: a quarter of the state.",
        details: on_host!(
            "As the CUDA kernels of bitsandbytes: blocks of 256 values with a largest value each, dynamic "
            "quantisation (Dettmers et al. 2022), decay after the step. Tensors of fewer than 4096 values, such "
            "as small LoRA factors, keep f32 state."
        ),
        example: "adamw:\n  type: optimizer.adamw_8bit\n  loss: loss\n  learning_rate: 1e-4",
    };

    const CLASS: &'static str = "bitsandbytes.optim.adamw.AdamW8bit";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::AdamW8bit(self.clone())
    }
}
