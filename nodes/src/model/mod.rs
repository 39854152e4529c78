//! Models: the denoising networks.

pub mod sd1;
