//! `optimizer.sgd`: stochastic gradient descent.

use pipe_core::node::About;
use pipe_train::optim::{OptimizerConfig, Sgd};
use serde_json::Value as Json;

use super::node::{Algorithm, changed, on_host};

impl Algorithm for Sgd {
    const ABOUT: About = About {
        type_name: "optimizer.sgd",
        summary: "SGD with momentum, by default in the form of Nesterov.",
        details: on_host!(
            "Polyak 1964 and Sutskever et al. 2013, in the order PyTorch applies it. The momentum is f32; without "
            "one there is no state."
        ),
        example: "sgd:\n  type: optimizer.sgd\n  loss: loss\n  learning_rate: 1e-3",
    };

    const CLASS: &'static str = "torch.optim.sgd.SGD";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::Sgd(self.clone())
    }

    /// PyTorch's own default is no momentum.
    fn arguments(&self) -> Vec<(String, Json)> {
        let momentum = self.momentum > 0.0;
        let mut list = vec![("momentum".to_string(), self.momentum.into())];
        list.push(("nesterov".into(), self.nesterov.unwrap_or(momentum).into()));
        list.extend(changed(self).into_iter().filter(|(name, _)| name == "weight_decay"));
        list
    }
}
