//! `optimizer.dadapt_adan`: Adan (Nesterov momentum by differences of gradients) with D-Adaptation.

use pipe_core::node::About;
use pipe_train::optim::{DAdaptAdan, OptimizerConfig};

use super::node::{Algorithm, on_host};

impl Algorithm for DAdaptAdan {
    const ABOUT: About = About {
        type_name: "optimizer.dadapt_adan",
        summary: "Adan (Nesterov momentum by differences of gradients) with D-Adaptation.",
        details: on_host!(
            "Xie et al. 2022 with Defazio and Mishchenko 2023, as dadaptation 3.2 has it. Keeps five tensors of the "
            "weights' size. The learning rate is a factor of the estimate and best left at 1. All groups share the one "
            "estimate: a rate of its own for a text encoder, or for some factors of an adapter, is refused. Metrics have "
            "the estimate `d` and `d*lr`."
        ),
        example: "dadapt:\n  type: optimizer.dadapt_adan\n  loss: loss\n  weight_decay: 0.01",
    };

    const CLASS: &'static str = "dadaptation.dadapt_adan.DAdaptAdan";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::DAdaptAdan(self.clone())
    }
}
