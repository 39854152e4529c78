//! Encoders: images to latents, captions to embeddings.

mod clip;
pub mod clip_g;
pub mod clip_h;
pub mod clip_l;
mod common;
pub mod gemma;
pub mod t5xxl;
pub mod vae;
