//! Networks as lists of segments over named weights, adapters on them, and the segment tape.
//!
//! - [`Weights`]: one component's tensors under their checkpoint names.
//! - [`Net`]: what a network function is written with: `net.linear("to_q", &x)` finds the weight,
//!   the adapter on it, and whether it learns.
//! - [`Model`], [`Segment`]: a network as data; [`pass`] runs it forward and back, keeping or
//!   recomputing each segment.
//! - [`unet`], [`mmdit`], [`flux`], [`lumina2`], [`lumina_next`]: denoisers; [`clip`], [`t5`], [`gemma`]: text
//!   encoders; [`vae`]: the autoencoder.
//! - [`adapters`]: LoRA, DyLoRA, DoRA, LoHa, LoKr and OFT.
//!
//! It knows nothing of documents, images or files' layouts.

pub mod adapters;
pub mod clip;
mod condition;
pub mod embed;
pub mod flux;
pub mod gemma;
mod keeping;
pub mod lumina2;
pub mod lumina_next;
pub mod mmdit;
mod net;
mod network;
pub mod pass;
mod segment;
mod shapes;
pub mod t5;
mod text;
mod trainables;
pub mod unet;
pub mod vae;
mod weights;
mod wrap;

pub use condition::{Conditions, assemble};
pub use keeping::{Keeping, Resting};
pub use net::{Inputs, Net};
pub use network::{Network, TextNetwork};
pub use segment::{Builder, Model, Segment, Slot};
pub use shapes::{Shapes, SizesError, Stored};
pub use text::{TextInput, TextInputs, TextKind, TextOut};
pub use trainables::{Adapter, Dropouts, Factor, Module, Trainables};
pub use weights::{Weights, WeightsError};
