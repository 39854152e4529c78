//! `optimizer.dadapt_adan_ip`: Adan with D-Adaptation, whose estimate is by an inner product.

use pipe_core::node::About;
use pipe_train::optim::{DAdaptAdanIp, OptimizerConfig};

use super::node::{Algorithm, on_host};

impl Algorithm for DAdaptAdanIp {
    const ABOUT: About = About {
        type_name: "optimizer.dadapt_adan_ip",
        summary: "Adan with D-Adaptation, whose estimate is by an inner product.",
        details: on_host!(
            "Xie et al. 2022 with Defazio and Mishchenko 2023, experimental, as dadaptation 3.2 has it. Keeps five tensors of the "
            "weights' size. The learning rate is a factor of the estimate and best left at 1. All groups share the one "
            "estimate: a rate of its own for a text encoder, or for some factors of an adapter, is refused. Metrics have "
            "the estimate `d` and `d*lr`."
        ),
        example: "dadapt:\n  type: optimizer.dadapt_adan_ip\n  loss: loss\n  weight_decay: 0.01",
    };

    const CLASS: &'static str = "dadaptation.experimental.dadapt_adan_ip.DAdaptAdanIP";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::DAdaptAdanIp(self.clone())
    }
}
