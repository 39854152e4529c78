//! Loops over slices in parallel, and sums whose value does not depend on the number of threads.

use multiversion::multiversion;
use rayon::prelude::*;

/// Elements a worker takes at once.
pub const GRAIN: usize = 16 * 1024;

/// Sums in the order of the chunks, each summed by one worker.
fn total(parts: Vec<f64>) -> f64 {
    parts.iter().sum()
}

/// `f` over chunks of one mutable slice and one that is read.
pub fn each2(a: &mut [f32], g: &[f32], f: impl Fn(&mut [f32], &[f32]) -> f64 + Sync) -> f64 {
    total(a.par_chunks_mut(GRAIN).zip(g.par_chunks(GRAIN)).map(|(a, g)| f(a, g)).collect())
}

/// `f` over chunks of two mutable slices and one that is read.
pub fn each3(a: &mut [f32], b: &mut [f32], g: &[f32], f: impl Fn(&mut [f32], &mut [f32], &[f32]) -> f64 + Sync) -> f64 {
    let chunks = a.par_chunks_mut(GRAIN).zip(b.par_chunks_mut(GRAIN)).zip(g.par_chunks(GRAIN));
    total(chunks.map(|((a, b), g)| f(a, b, g)).collect())
}

/// `f` over chunks of three mutable slices and one that is read.
pub fn each4(
    a: &mut [f32],
    b: &mut [f32],
    c: &mut [f32],
    g: &[f32],
    f: impl Fn(&mut [f32], &mut [f32], &mut [f32], &[f32]) -> f64 + Sync,
) -> f64 {
    let left = a.par_chunks_mut(GRAIN).zip(b.par_chunks_mut(GRAIN));
    let right = c.par_chunks_mut(GRAIN).zip(g.par_chunks(GRAIN));
    total(left.zip(right).map(|((a, b), (c, g))| f(a, b, c, g)).collect())
}

/// `f` over chunks of one mutable slice and two that are read.
pub fn apply(a: &mut [f32], b: &[f32], c: &[f32], f: impl Fn(&mut [f32], &[f32], &[f32]) + Sync + Send) {
    let chunks = a.par_chunks_mut(GRAIN).zip(b.par_chunks(GRAIN)).zip(c.par_chunks(GRAIN));
    chunks.for_each(|((a, b), c)| f(a, b, c));
}

/// Lanes of the partial sums: enough for the widest vectors, few enough to stay in registers.
const LANES: usize = 8;

/// `Σ f(a, b)` in f64.
#[inline(always)]
fn lanes2(a: &[f32], b: &[f32], f: impl Fn(f64, f64) -> f64) -> f64 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut sums = [0.0f64; LANES];
    let (left, right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = left.remainder().iter().zip(right.remainder()).map(|(&a, &b)| f(a as f64, b as f64)).sum();
    for (a, b) in left.zip(right) {
        for i in 0..LANES {
            sums[i] += f(a[i] as f64, b[i] as f64);
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// `⟨a, b⟩` in f64.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    lanes2(a, b, |a, b| a * b)
}

/// `Σ|a|` in f64.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn sum_abs(a: &[f32]) -> f64 {
    lanes2(a, a, |a, _| a.abs())
}

/// `Σa²` in f64, in parallel.
pub fn sum_squares(a: &[f32]) -> f64 {
    total(a.par_chunks(GRAIN).map(|c| dot(c, c)).collect())
}

/// Root mean square; 0 of nothing.
pub fn rms(a: &[f32]) -> f64 {
    (sum_squares(a) / a.len().max(1) as f64).sqrt()
}

/// A well-mixed function of 64 bits (Steele et al. 2014, "splitmix64").
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    #[test]
    fn sums_of_every_length() {
        for n in [0, 1, 7, 8, 9, 40_000] {
            let a: Vec<f32> = (0..n).map(|i| (i % 5) as f32 - 2.0).collect();
            let exact: f64 = a.iter().map(|&x| (x * x) as f64).sum();
            assert_eq!(super::sum_squares(&a), exact);
            assert_eq!(super::sum_abs(&a), a.iter().map(|x| x.abs() as f64).sum::<f64>());
        }
    }
}
