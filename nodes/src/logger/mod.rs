//! Loggers: what a run writes down of itself. All write the rows of [`rows`].

mod config;
pub mod csv;
mod events;
pub mod metrics;
mod pictures;
mod rows;
pub mod tensorboard;
pub mod validation;
pub mod wandb;

fn one() -> u64 {
    1
}

fn yes() -> bool {
    true
}
