//! What the tests of this crate share: documents by the dozen.
#![allow(dead_code)]

pub mod cases;
pub mod exotic;
pub mod generate;
pub mod mutate;
