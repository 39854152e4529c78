//! `optimizer.dadapt_adam`: Adam with D-Adaptation.

use pipe_core::node::About;
use pipe_train::optim::{DAdaptAdam, OptimizerConfig};

use super::node::{Algorithm, on_host};

impl Algorithm for DAdaptAdam {
    const ABOUT: About = About {
        type_name: "optimizer.dadapt_adam",
        summary: "Adam that estimates its own learning rate by D-Adaptation.",
        details: on_host!(
            "Defazio and Mishchenko 2023, as dadaptation 3.2 has it. The learning rate is a factor of the "
            "estimate and best left at 1. All groups share the one estimate: a rate of its own for a text "
            "encoder, or for some factors of an adapter, is refused. Metrics have the estimate `d` and `d*lr`."
        ),
        example: "dadapt:\n  type: optimizer.dadapt_adam\n  loss: loss\n  decouple: true\n  weight_decay: 0.01",
    };

    const CLASS: &'static str = "dadaptation.dadapt_adam.DAdaptAdam";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::DAdaptAdam(self.clone())
    }
}
