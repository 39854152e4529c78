//! Linear algebra on host slices, in f64: products, orthonormal bases, singular values.
//!
//! What is large (products) goes through the `gemm` crate, what is small (a core of rank × rank) through nalgebra.

mod basis;
mod product;
mod svd;

pub use product::{Matrix, multiply, multiply_f32};
pub use svd::{Svd, leading, of_product};
