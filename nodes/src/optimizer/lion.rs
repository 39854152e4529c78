//! `optimizer.lion`: the sign of a momentum.

use pipe_core::node::About;
use pipe_train::optim::{Lion, OptimizerConfig};

use super::node::{Algorithm, on_host};

impl Algorithm for Lion {
    const ABOUT: About = About {
        type_name: "optimizer.lion",
        summary: "Lion: steps by the sign of a momentum; half the state of AdamW.",
        details: on_host!(
            "Chen et al. 2023, as lion-pytorch has it. Every weight moves by the learning rate in every step, so "
            "rates are 3 to 10 times smaller than those of AdamW, and decays as much larger."
        ),
        example: "lion:\n  type: optimizer.lion\n  loss: loss\n  learning_rate: 1e-5\n  weight_decay: 0.1",
    };

    const CLASS: &'static str = "lion_pytorch.lion_pytorch.Lion";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::Lion(self.clone())
    }
}
