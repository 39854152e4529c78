//! Samplers: pictures from prompts.

mod draw;
mod embed;
mod pictures;
pub mod preview;
mod prompts;
mod prompts_file;
mod shots;
