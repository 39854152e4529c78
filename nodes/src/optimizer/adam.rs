//! `optimizer.adam`: Adam.

use pipe_core::node::About;
use pipe_train::optim::{Adam, OptimizerConfig};

use super::node::{Algorithm, on_host};

impl Algorithm for Adam {
    const ABOUT: About = About {
        type_name: "optimizer.adam",
        summary: "Adam: moments of the gradient, with weight decay through the gradient.",
        details: on_host!(
            "Kingma and Ba 2015, in the order PyTorch applies it; moments are f32. `optimizer.adamw` decays "
            "weights apart from the gradient, which is nearly always better."
        ),
        example: "adam:\n  type: optimizer.adam\n  loss: loss\n  learning_rate: 1e-4",
    };

    const CLASS: &'static str = "torch.optim.adam.Adam";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::Adam(self.clone())
    }
}
