//! Samplers: pictures from prompts.

mod draw;
mod embed;
pub mod preview;
mod prompts;
mod shots;
