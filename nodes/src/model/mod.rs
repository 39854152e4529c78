//! Denoisers, one node type for each family.

mod common;
pub mod flux;
pub mod lumina2;
pub mod lumina_next;
pub mod memory;
pub mod sd1;
pub mod sd2;
pub mod sd3;
pub mod sdxl;
pub mod unet;
