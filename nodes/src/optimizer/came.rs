//! `optimizer.came`: the little state of Adafactor, with confidence in the momentum.

use pipe_core::node::About;
use pipe_train::optim::{Came, OptimizerConfig};

use super::node::{Algorithm, on_host};

impl Algorithm for Came {
    const ABOUT: About = About {
        type_name: "optimizer.came",
        summary: "CAME: factored second moments like Adafactor, weighed by confidence in the momentum.",
        details: on_host!("Luo et al. 2023. Second moments are kept by row and column; the momentum is f32."),
        example: "came:\n  type: optimizer.came\n  loss: loss\n  learning_rate: 2e-4",
    };

    const CLASS: &'static str = "came_pytorch.CAME.CAME";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::Came(self.clone())
    }
}
