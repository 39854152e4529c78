//! Weight files: reading, naming, recognising and writing them.
//!
//! Owns the safetensors format (own header checks, memory-mapped data), torch checkpoints (read without running anything
//! of them), the layouts public checkpoints come in and the names their weights have there. Knows nothing of tensors in a device's memory: values leave as `Vec<f32>` or bytes.
//!
//! ```no_run
//! use pipe_data::weights::{Component, component};
//! let unet = component("sd15.safetensors", Component::Unet)?;
//! let kernel: Vec<f32> = unet.f32("conv_in.weight")?;
//! # Ok::<(), pipe_data::weights::FileError>(())
//! ```

pub mod atomic;
mod ckpt;
pub mod component;
pub mod convert;
pub mod detect;
mod diffusers;
mod dtype;
mod error;
mod file;
#[doc(hidden)]
pub mod fuzz;
pub mod hash;
mod header;
mod json;
pub mod keymap;
pub mod lora_names;
pub mod metadata;
mod pickle;
mod recipe;
mod scale;
mod set;
pub mod shapes;
mod sniff;
mod writer;

pub use atomic::write_atomic;
pub use ckpt::{CkptWriter, Progress, write_ckpt};
pub use component::{Component, ComponentWeights, Family, Layout, component};
pub use convert::{f32_to_bf16, f32_to_bytes, f32_to_f16};
pub use detect::{Architecture, Detected, LoraKind, detect, detect_set};
pub use diffusers::ModelIndex;
pub use dtype::DType;
pub use error::{Damage, FileError, shown};
pub use file::WeightFile;
pub use header::{Header, MAX_HEADER, TensorInfo};
pub use recipe::{Recipe, Source};
pub use set::{WeightSet, shard_of};
pub use writer::{SafetensorsWriter, Sink, Stream, TensorData, TensorOut, write_safetensors};
