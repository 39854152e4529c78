//! Samplers: pictures from prompts.

mod draw;
pub mod preview;
