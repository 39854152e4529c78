//! Writing f32 results into bf16 weights.
//!
//! An update is often smaller than half the distance of neighbouring bf16 numbers, and rounding to
//! nearest then loses all of it. Stochastic rounding goes up with the probability that makes the
//! mean exact (Gupta et al. 2015). Its random bits are a function of seed, update, tensor and element, so a
//! continued run rounds as the uninterrupted one.

use half::bf16;
use rayon::prelude::*;

use crate::par::{GRAIN, mix};

/// How f32 becomes bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, ties to even.
    Nearest,
    /// Up or down at random, right in the mean.
    Stochastic {
        /// Seed of the run.
        seed: u64,
    },
}

/// Adds 16 random bits below the kept mantissa and truncates. Numbers that are not finite stay so.
pub fn stochastic(x: f32, random: u16) -> bf16 {
    if !x.is_finite() {
        return bf16::from_f32(x);
    }
    bf16::from_bits((x.to_bits().wrapping_add(random as u32) >> 16) as u16)
}

/// The 16 bits of element `i` in a stream.
fn bits(stream: u64, i: u64) -> u16 {
    (mix(stream.wrapping_add(i / 4)) >> (16 * (i % 4))) as u16
}

/// Stream of an update of a tensor.
fn stream(seed: u64, update: u64, name: &str) -> u64 {
    let name = name.bytes().fold(0, |h, b| mix(h ^ b as u64));
    mix(mix(mix(seed) ^ update) ^ name)
}

/// Rounds `from` into `to`; `update` and `name` choose the random bits.
pub fn write(rounding: Rounding, update: u64, name: &str, from: &[f32], to: &mut [bf16]) {
    let chunks = to.par_chunks_mut(GRAIN).zip(from.par_chunks(GRAIN)).enumerate();
    match rounding {
        Rounding::Nearest => chunks.for_each(|(_, (to, from))| {
            for (to, &x) in to.iter_mut().zip(from) {
                *to = bf16::from_f32(x);
            }
        }),
        Rounding::Stochastic { seed } => {
            let stream = stream(seed, update, name);
            chunks.for_each(|(c, (to, from))| {
                for (i, (to, &x)) in to.iter_mut().zip(from).enumerate() {
                    *to = stochastic(x, bits(stream, (c * GRAIN + i) as u64));
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_in_the_mean() {
        // A quarter of the way between 1 and the next bf16 number, 1 + 2⁻⁷.
        let x = 1.0 + 0.25 / 128.0;
        let mut out = vec![bf16::ZERO; 100_000];
        write(Rounding::Stochastic { seed: 7 }, 3, "w", &vec![x; out.len()], &mut out);
        let up = out.iter().filter(|v| v.to_f32() > 1.0).count();
        assert!(out.iter().all(|v| [1.0, 1.0 + 1.0 / 128.0].contains(&v.to_f32())));
        assert!((up as f64 / out.len() as f64 - 0.25).abs() < 0.01, "{up}");
        write(Rounding::Nearest, 3, "w", &vec![x; out.len()], &mut out);
        assert!(out.iter().all(|v| v.to_f32() == 1.0));
    }

    #[test]
    fn every_update_and_tensor_has_its_own_bits() {
        let from: Vec<f32> = (0..500).map(|i| 0.3 + i as f32 * 1e-3).collect();
        let round = |seed, update, name: &str| {
            let mut out = vec![bf16::ZERO; from.len()];
            write(Rounding::Stochastic { seed }, update, name, &from, &mut out);
            out
        };
        assert_eq!(round(1, 2, "a"), round(1, 2, "a"));
        assert_ne!(round(1, 2, "a"), round(1, 3, "a"));
        assert_ne!(round(1, 2, "a"), round(1, 2, "b"));
        assert_ne!(round(1, 2, "a"), round(2, 2, "a"));
    }

    #[test]
    fn signs_edges_and_what_is_not_finite() {
        assert_eq!(stochastic(-1.0, 0xFFFF).to_f32(), -1.0);
        assert_eq!(stochastic(0.0, 0xFFFF).to_f32(), 0.0);
        assert!(stochastic(f32::NAN, 0xFFFF).is_nan());
        assert_eq!(stochastic(f32::NEG_INFINITY, 1), bf16::NEG_INFINITY);
        // Exactly representable numbers never move, whatever the bits.
        assert_eq!(stochastic(1.5, 0xFFFF).to_f32(), 1.5);
    }
}
