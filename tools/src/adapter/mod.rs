//! Adapter files: their layers, what each does to a weight, and which weight that is.

pub mod apply;
pub mod file;
mod multiply;
pub mod names;
pub mod out;
pub mod pair;
mod peft;
mod rotate;
pub mod tied;

pub use apply::Change;
pub use file::{AdapterFile, Layer, Tensor};
pub use names::{Names, Place};
pub use out::{Naming, Tensors};
pub use pair::Pair;
