//! Tensors, differentiable operations and randomness: what networks are written with.
//!
//! - [`Tensor`], [`Device`], [`DType`]: any rank, any device, or shapes only for planning.
//! - [`Stored`]: frozen weights in a type and a place of their own until they are used.
//! - [`Offloaded`]: activations that wait in the host's memory.
//! - [`op`]: the operations, each with a composed body and, on the CPU, a fused one.
//! - [`Tape`], [`Var`], [`Cx`]: reverse-mode gradients for one segment of a network.
//! - [`rng`]: counter-based randomness.
//! - [`backend`]: which devices this build and machine have.
//!
//! It knows nothing of models, documents or files.

pub mod backend;
pub mod host;
mod offload;
pub mod op;
pub mod optim;
pub mod rng;
mod speed;
mod stored;
mod tape;
mod tensor;

pub use offload::Offloaded;
pub use speed::matmul_speed;
pub use stored::{Home, Storage, Stored};
pub use tape::{Cx, Tape, Var};
pub use tensor::{DType, Device, Host, Meter, Tensor};
