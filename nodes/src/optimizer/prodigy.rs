//! `optimizer.prodigy`: Adam that finds its own rate.

use pipe_core::node::About;
use pipe_train::optim::{OptimizerConfig, Prodigy};

use super::node::{Algorithm, on_host};

impl Algorithm for Prodigy {
    const ABOUT: About = About {
        type_name: "optimizer.prodigy",
        summary: "Prodigy: Adam that estimates its own learning rate.",
        details: on_host!(
            "Mishchenko and Defazio 2024, as prodigyopt has it. The learning rate is a factor of the estimate and "
            "best left at 1. All groups share the one estimate: a rate of its own for a text encoder, or for some "
            "factors of an adapter, is refused. With a schedule that falls to 0, `safeguard_warmup` keeps a warm- "
            "up out of the estimate; `slice_p: 11` saves most of the additional state. Metrics have the estimate "
            "`d` and `d*lr`."
        ),
        example: "prodigy:\n  type: optimizer.prodigy\n  loss: loss\n  use_bias_correction: true\n  weight_decay: 0.01",
    };

    const CLASS: &'static str = "prodigyopt.prodigy.Prodigy";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::Prodigy(self.clone())
    }
}
