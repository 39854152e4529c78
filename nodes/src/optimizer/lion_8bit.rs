//! `optimizer.lion_8bit`: Lion with a momentum in 8 bits.

use pipe_core::node::About;
use pipe_train::optim::{Lion8bit, OptimizerConfig};

use super::node::{Algorithm, on_host};

impl Algorithm for Lion8bit {
    const ABOUT: About = About {
        type_name: "optimizer.lion_8bit",
        summary: "Lion with an 8-bit momentum: an eighth of the state of AdamW.",
        details: on_host!(
            "As the CUDA kernels of bitsandbytes: blocks of 256 values with a largest value each, dynamic "
            "quantisation (Dettmers et al. 2022). Tensors of fewer than 4096 values, such as small LoRA factors, "
            "keep f32 state."
        ),
        example: "lion:\n  type: optimizer.lion_8bit\n  loss: loss\n  learning_rate: 1e-5",
    };

    const CLASS: &'static str = "bitsandbytes.optim.lion.Lion8bit";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::Lion8bit(self.clone())
    }
}
