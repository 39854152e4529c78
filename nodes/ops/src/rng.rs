//! Randomness as a function: a stream is named by (seed, purpose, step, sample), never stored.
//!
//! ChaCha8 keyed by a hash of the name. Noise is made on the host in f32, so a run draws the same
//! numbers on every device, and a continued run needs only its step number.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

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
    fn normal_has_unit_variance() {
        let x = normal(&mut stream(3, Purpose::Noise, 0, 0), 100_000);
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        let var = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
        assert!(mean.abs() < 0.02 && (var - 1.0).abs() < 0.02);
    }
}
