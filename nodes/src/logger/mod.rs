//! Loggers: what a run writes down of itself. All write the rows of [`rows`].

mod config;
pub mod csv;
mod events;
mod feed;
pub mod metrics;
mod pictures;
mod rows;
pub mod tensorboard;
pub mod validation;
pub mod wandb;

use pipe_core::node::PlanCx;
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, PortType, Rate};

/// The port of what follows an optimizer.
fn inputs() -> Vec<Input> {
    vec![Input::one("update", &[PortType::Update], Rate::Event, "The optimizer to follow.")]
}

/// Plan of a file that grows by so many bytes every few steps.
fn plan(cx: &PlanCx, every: u64, bytes: u64) -> NodePlan {
    let steps = cx.inputs.one("update").and_then(|update| update.facts.u64("steps")).unwrap_or(0);
    NodePlan { disk: steps / every.max(1) * bytes, ..Default::default() }
}

fn one() -> u64 {
    1
}

fn yes() -> bool {
    true
}
