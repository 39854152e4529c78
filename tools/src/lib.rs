//! What `pipe` does to weight files without training: merge adapters, extract, convert and resize them.
//!
//! Everything is done on the host, one tensor at a time: a model is never in memory as a whole, and every file is written
//! under a temporary name and renamed when it is complete. Names and layouts are [`pipe_data`]'s, full sizes
//! [`pipe_networks`]'s, Diffusers configurations [`pipe_nodes`]'s; what is here knows no command line and no document.

pub mod adapter;
pub mod convert;
pub mod dylora;
mod edits;
mod error;
pub mod extract;
mod full;
pub mod join;
mod layout;
pub mod linear;
pub mod merge;
mod metadata;
mod model;
mod output;
pub mod resize;
mod write;

pub use edits::Edits;
pub use error::{Result, ToolError};
pub use model::Model;
pub use output::{Content, Format, Output, check_types};
pub use write::{How, write};
