//! `optimizer.adamw`: AdamW, with gradient clipping and a learning-rate schedule.

use pipe_core::node::About;
use pipe_train::optim::{AdamW, OptimizerConfig};

use super::node::Algorithm;

impl Algorithm for AdamW {
    const ABOUT: About = About {
        type_name: "optimizer.adamw",
        summary: "AdamW with global-norm clipping and a learning-rate schedule; drives the run.",
        details: "Loshchilov and Hutter 2019, in the order PyTorch applies it; moments are f32. Gradients of \
                  `train.accumulate` forward passes are averaged; the last step of an epoch averages over the passes \
                  it has. On a GPU weights and moments stay there.",
        example: "adamw:\n  type: optimizer.adamw\n  loss: loss\n  learning_rate: 1e-4\n  schedule:\n    type: cosine\n    warmup:\n      ratio: 0.05",
    };

    const CLASS: &'static str = "torch.optim.adamw.AdamW";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::AdamW(self.clone())
    }

    fn adamw(&self) -> Option<&AdamW> {
        Some(self)
    }
}
