//! Randomness as a function: a stream is named by (seed, purpose, step, sample), never stored.
//!
//! ChaCha8 keyed by a hash of the name. Noise is made on the host in f32, so a run draws the same
//! numbers on every device, and a continued run needs only its step number.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use rayon::prelude::*;

/// What a stream is for; distinct purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Training noise ε.
    Noise,
    /// Timesteps.
    Timestep,
    /// Noise offset ξ and its strength.
    NoiseOffset,
    /// Sampling of VAE latents.
    VaeSample,
    /// Order of batches.
    Order,
    /// Caption processing.
    Caption,
    /// Augmentation.
    Augment,
    /// Adapter initialisation.
    Init,
    /// Module, rank and neuron dropout.
    Dropout,
    /// Initial noise of previews.
    Preview,
    /// Held-out measurement.
    Validation,
    /// Input perturbation.
    InputNoise,
}

/// The stream of (seed, purpose, step, sample).
pub fn stream(seed: u64, purpose: Purpose, step: u64, sample: u64) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"pipe rng 1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&(purpose as u64).to_le_bytes());
    hasher.update(&step.to_le_bytes());
    hasher.update(&sample.to_le_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// A stream further named by text, such as a module's path.
pub fn named_stream(seed: u64, purpose: Purpose, step: u64, name: &str) -> ChaCha8Rng {
    let hash = blake3::hash(name.as_bytes());
    let mut first = [0u8; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    stream(seed, purpose, step, u64::from_le_bytes(first))
}

/// `n` standard normal numbers.
pub fn normal(rng: &mut impl Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.sample::<f32, _>(StandardNormal)).collect()
}

/// A matrix `[rows.len(), width]` of normal numbers, of which row `i` has the standard deviation `rows[i]`. Blocks of rows
/// are drawn at the same time, each from a stream of its own under the name (seed, purpose, step, text).
pub fn normal_rows(name: (u64, Purpose, u64, &str), rows: &[f32], width: usize) -> Vec<f32> {
    const BLOCK: usize = 16;
    let (seed, purpose, step, text) = name;
    let mut values = vec![0.0; rows.len() * width];
    values.par_chunks_mut((BLOCK * width).max(1)).zip(rows.par_chunks(BLOCK)).enumerate().for_each(
        |(i, (block, rows))| {
            let mut rng = named_stream(seed, purpose, step, &format!("{text} {i}"));
            for (row, deviation) in block.chunks_mut(width.max(1)).zip(rows) {
                row.fill_with(|| deviation * rng.sample::<f32, _>(StandardNormal));
            }
        },
    );
    values
}

/// `n` uniform numbers in `[low, high)`.
pub fn uniform(rng: &mut impl Rng, n: usize, low: f32, high: f32) -> Vec<f32> {
    (0..n).map(|_| low + (high - low) * rng.random::<f32>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_functions_of_their_name() {
        let a = normal(&mut stream(1, Purpose::Noise, 5, 0), 8);
        assert_eq!(a, normal(&mut stream(1, Purpose::Noise, 5, 0), 8));
        assert_ne!(a, normal(&mut stream(1, Purpose::Noise, 6, 0), 8));
        assert_ne!(a, normal(&mut stream(1, Purpose::Timestep, 5, 0), 8));
        assert_ne!(a, normal(&mut stream(2, Purpose::Noise, 5, 0), 8));
    }

    #[test]
    fn rows_have_their_deviation() {
        let rows: Vec<f32> = (0..40).map(|i| i as f32).collect();
        let name = (1, Purpose::Dropout, 7, "layer");
        let x = normal_rows(name, &rows, 2000);
        assert_eq!(x, normal_rows(name, &rows, 2000));
        assert_ne!(x, normal_rows((1, Purpose::Dropout, 8, "layer"), &rows, 2000));
        for (row, wanted) in x.chunks(2000).zip(rows) {
            let found = (row.iter().map(|x| x * x).sum::<f32>() / 2000.0).sqrt();
            assert!((found - wanted).abs() <= 0.1 * wanted, "{found}, not {wanted}");
        }
        assert_ne!(x[2000] / 1.0, x[17 * 2000] / 17.0, "blocks differ");
    }

    #[test]
    fn normal_has_unit_variance() {
        let x = normal(&mut stream(3, Purpose::Noise, 0, 0), 100_000);
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        let var = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
        assert!(mean.abs() < 0.02 && (var - 1.0).abs() < 0.02);
    }
}
