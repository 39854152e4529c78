//! `optimizer.dadapt_sgd`: SGD with D-Adaptation.

use pipe_core::node::About;
use pipe_train::optim::{DAdaptSgd, OptimizerConfig};

use super::node::{Algorithm, on_host};

impl Algorithm for DAdaptSgd {
    const ABOUT: About = About {
        type_name: "optimizer.dadapt_sgd",
        summary: "SGD that estimates its own learning rate by D-Adaptation.",
        details: on_host!(
            "Defazio and Mishchenko 2023, as dadaptation 3.2 has it. The learning rate is a factor of the "
            "estimate and best left at 1. All groups share the one estimate: a rate of its own for a text "
            "encoder, or for some factors of an adapter, is refused. Metrics have the estimate `d` and `d*lr`."
        ),
        example: "dadapt:\n  type: optimizer.dadapt_sgd\n  loss: loss\n  momentum: 0.9",
    };

    const CLASS: &'static str = "dadaptation.dadapt_sgd.DAdaptSGD";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::DAdaptSgd(self.clone())
    }
}
