//! `optimizer.dadapt_adam_preprint`: Adam with D-Adaptation, as first published.

use pipe_core::node::About;
use pipe_train::optim::{DAdaptAdamPreprint, OptimizerConfig};

use super::node::{Algorithm, on_host};

impl Algorithm for DAdaptAdamPreprint {
    const ABOUT: About = About {
        type_name: "optimizer.dadapt_adam_preprint",
        summary: "Adam with D-Adaptation as first published; what sd-scripts calls `DAdaptation`.",
        details: on_host!(
            "Defazio and Mishchenko 2023, as dadaptation 3.2 has it. The learning rate is a factor of the "
            "estimate and best left at 1. All groups share the one estimate: a rate of its own for a text "
            "encoder, or for some factors of an adapter, is refused. Metrics have the estimate `d` and `d*lr`."
        ),
        example: "dadapt:\n  type: optimizer.dadapt_adam_preprint\n  loss: loss\n  decouple: true\n  weight_decay: 0.01",
    };

    const CLASS: &'static str = "dadaptation.experimental.dadapt_adam_preprint.DAdaptAdamPreprint";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::DAdaptAdamPreprint(self.clone())
    }
}
