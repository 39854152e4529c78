//! Encoders: images to latents, captions to embeddings.

pub mod clip_l;
pub mod vae;
