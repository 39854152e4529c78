//! Cores of Tucker-decomposed convolutions as plain factors.

/// `down' [r, in, k] = Σ_q core[r, q, k]·down[q, in]`: a core `[r, q, k]` with the factor `down [q, in]` as one down factor.
pub fn down(core: &[f32], down: &[f32], [rank, inner]: [usize; 2], inputs: usize, kernel: usize) -> Vec<f32> {
    let mut out = vec![0.0; rank * inputs * kernel];
    for r in 0..rank {
        for q in 0..inner {
            for (i, d) in down[q * inputs..(q + 1) * inputs].iter().enumerate() {
                for y in 0..kernel {
                    out[(r * inputs + i) * kernel + y] += core[(r * inner + q) * kernel + y] * d;
                }
            }
        }
    }
    out
}

/// `a [r, out]` as the up factor `[out, r]`.
pub fn up(a: &[f32], rank: usize, out: usize) -> Vec<f32> {
    (0..out * rank).map(|x| a[x % rank * out + x / rank]).collect()
}
