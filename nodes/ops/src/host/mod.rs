//! Fused f32 kernels for the CPU, on plain slices.
//!
//! Burn's `flex` device holds the memory; these kernels replace its composed operations where a
//! fused one is several times faster. Each has a composed twin in [`crate::op`] that the tests
//! compare it with. Loops are multiversioned (AVX-512, AVX2, baseline) at run time.

pub mod act;
pub mod attention;
pub mod conv;
pub mod gemm;
pub mod math;
pub mod narrow;
pub mod norm;
pub mod optim;
pub mod rms;

use rayon::prelude::*;

/// Elements a worker takes at once in elementwise loops.
pub const GRAIN: usize = 16 * 1024;

/// A buffer to be filled: zeroed memory from the allocator.
pub fn buffer(len: usize) -> Vec<f32> {
    vec![0.0; len]
}

/// `f(out, a)` over chunks in parallel.
pub fn map1(a: &[f32], f: impl Fn(&mut [f32], &[f32]) + Sync) -> Vec<f32> {
    let mut out = buffer(a.len());
    out.par_chunks_mut(GRAIN).zip(a.par_chunks(GRAIN)).for_each(|(o, a)| f(o, a));
    out
}

/// `f(out, a, b)` over chunks in parallel.
pub fn map2(a: &[f32], b: &[f32], f: impl Fn(&mut [f32], &[f32], &[f32]) + Sync) -> Vec<f32> {
    let mut out = buffer(a.len());
    out.par_chunks_mut(GRAIN).zip(a.par_chunks(GRAIN)).zip(b.par_chunks(GRAIN)).for_each(|((o, a), b)| f(o, a, b));
    out
}
