//! What several node types share: values on edges, the engine, weights that load on demand.

pub mod autoencoder;
pub mod batch;
pub mod denoise;
pub mod denoiser;
pub mod engine;
pub mod errors;
pub mod facts;
pub mod family;
pub mod gradients;
pub mod latents_fit;
pub mod lazy;
pub mod lengths;
pub mod storage;
pub mod text;
pub mod texts_fit;
pub mod trainable;
pub mod weights_source;
pub mod write;

/// Implements [`pipe_core::node::Value`] for a type that has nothing to unload.
macro_rules! plain_value {
    ($ty:ty) => {
        impl pipe_core::node::Value for $ty {
            fn as_any(&self) -> &dyn std::any::Any {
                self
            }
        }
    };
}
pub(crate) use plain_value;
