//! Training noise of epsilon and v models: offset, several resolutions, input perturbation.
//!
//! Order in a step: ε ~ N(0,1), offset, several resolutions, then the timestep; input perturbation last. Every function works on
//! one sample `[C, H, W]`.

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Invalid;

/// `n` standard normal numbers.
pub fn normal(rng: &mut impl Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.sample::<f32, _>(StandardNormal)).collect()
}

/// An offset of a whole channel's noise, so that very bright and dark images are learned (Guttenberg 2023).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct NoiseOffset {
    /// Strength o: `ε ← ε + o·ξ`, ξ ~ N(0,1) for each sample and channel. 0.0357 is usual.
    #[schemars(range(min = 0.000001, max = 10.0))]
    pub strength: f64,
    /// Multiplies the strength by a uniform number, drawn for each batch. Default false.
    #[serde(default)]
    pub random_strength: bool,
    /// Adds this times the magnitude of the channel's mean latent to the strength; the sum is at least 0. Default: off.
    #[serde(default)]
    #[schemars(range(min = -100.0, max = 100.0))]
    pub adaptive: Option<f64>,
}

impl NoiseOffset {
    /// Out of range.
    pub fn check(&self) -> Result<(), Invalid> {
        crate::within("strength", self.strength, 1e-6, 10.0)?;
        self.adaptive.map_or(Ok(()), |a| crate::within("adaptive", a, -100.0, 100.0))
    }

    /// The strength of a batch, given its draw `u` of `[0, 1)`.
    pub fn strength(&self, u: f64) -> f64 {
        if self.random_strength { self.strength * u } else { self.strength }
    }

    /// Adds `o·ξ` to each channel of `noise`; `strength` is the batch's, `xi` one number a channel, `x0` the latents.
    pub fn apply(&self, strength: f64, xi: &[f32], x0: &[f32], noise: &mut [f32]) {
        let span = noise.len() / xi.len().max(1);
        for ((noise, x0), xi) in noise.chunks_mut(span.max(1)).zip(x0.chunks(span.max(1))).zip(xi) {
            let strength = match self.adaptive {
                None => strength as f32,
                Some(a) => {
                    let mean = x0.iter().map(|&x| x as f64).sum::<f64>() / span as f64;
                    (strength + a * mean.abs()).max(0.0) as f32
                }
            };
            noise.iter_mut().for_each(|n| *n += strength * xi);
        }
    }

    /// As [`NoiseOffset::apply`], with ξ from `rng`.
    pub fn draw(&self, strength: f64, channels: usize, x0: &[f32], noise: &mut [f32], rng: &mut impl Rng) {
        let xi = normal(rng, channels);
        self.apply(strength, &xi, x0, noise);
    }
}

/// Noise of several resolutions, summed ("pyramid noise", Whitaker 2023).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct Multires {
    /// Levels at most; 6 to 10 are usual. The first is the full resolution.
    #[schemars(range(min = 1, max = 32))]
    pub iterations: usize,
    /// Weight of a level relative to the one before. Default 0.3.
    #[serde(default = "discount")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub discount: f64,
}

fn discount() -> f64 {
    0.3
}

/// Noise `[C, height, width]` of one level.
#[derive(Clone, Debug, PartialEq)]
pub struct PyramidLevel {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `[C, height, width]`.
    pub values: Vec<f32>,
}

impl Multires {
    /// Out of range.
    pub fn check(&self) -> Result<(), Invalid> {
        crate::within("iterations", self.iterations as f64, 1.0, 32.0)?;
        crate::within("discount", self.discount, 0.0, 1.0)?;
        // The first level is as large as the noise: added to it and divided by the deviation it is plain noise again.
        if self.iterations == 1 || self.discount == 0.0 {
            let field = if self.iterations == 1 { "iterations" } else { "discount" };
            let reason = "has no effect: of the levels only the first counts, which is plain noise";
            return Err(Invalid::new(field, reason).help("use 6 iterations and a discount of 0.3, or leave it out"));
        }
        Ok(())
    }

    /// Sizes of the levels for noise `[.., h, w]`: level i is `⌊side/rᵢⁱ⌋`, at least 1; the first with a side of 1 is the last.
    /// `ratios` are the draws r of `[2, 4)`, one a level.
    pub fn sizes(&self, (h, w): (usize, usize), ratios: &[f64]) -> Vec<(usize, usize)> {
        let mut sizes = Vec::new();
        for (i, r) in ratios.iter().enumerate().take(self.iterations) {
            let side = |n: usize| ((n as f64 / r.powi(i as i32)) as usize).max(1);
            sizes.push((side(h), side(w)));
            if side(h) == 1 || side(w) == 1 {
                break;
            }
        }
        sizes
    }

    /// Adds the levels to `noise` `[C, h, w]`, enlarged and discounted. Divide the result by its standard deviation
    /// ([`Multires::normalise`]): the reference by that of the whole batch, whose samples then depend on each other.
    pub fn add(&self, (h, w): (usize, usize), levels: &[PyramidLevel], noise: &mut [f32]) {
        for (i, level) in levels.iter().enumerate() {
            let weight = self.discount.powi(i as i32) as f32;
            let planes = level.values.chunks(level.height * level.width);
            for (plane, out) in planes.zip(noise.chunks_mut((h * w).max(1))) {
                add_enlarged(plane, (level.height, level.width), weight, (h, w), out);
            }
        }
    }

    /// Divides by the standard deviation (with n − 1), so that the variance is 1 again.
    pub fn normalise(noise: &mut [f32]) {
        let n = noise.len() as f64;
        let mean = noise.iter().map(|&x| x as f64).sum::<f64>() / n.max(1.0);
        let variance = noise.iter().map(|&x| (x as f64 - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        if variance > 0.0 {
            let std = variance.sqrt() as f32;
            noise.iter_mut().for_each(|x| *x /= std);
        }
    }

    /// All of it, with ratios and levels from `rng`, normalised over the sample.
    pub fn draw(&self, [c, h, w]: [usize; 3], noise: &mut [f32], rng: &mut impl Rng) {
        let ratios: Vec<f64> = (0..self.iterations).map(|_| 2.0 + 2.0 * rng.random::<f64>()).collect();
        let sizes = self.sizes((h, w), &ratios);
        let levels: Vec<PyramidLevel> = sizes
            .into_iter()
            .map(|(height, width)| PyramidLevel { height, width, values: normal(rng, c * height * width) })
            .collect();
        self.add((h, w), &levels, noise);
        Self::normalise(noise);
    }
}

/// Positions and weights of linear interpolation from `n` to `out` points, pixel centres at halves.
fn taps(n: usize, out: usize) -> Vec<(usize, usize, f32)> {
    let scale = n as f32 / out as f32;
    (0..out)
        .map(|i| {
            let at = ((i as f32 + 0.5) * scale - 0.5).max(0.0);
            let low = (at as usize).min(n - 1);
            (low, (low + 1).min(n - 1), at - low as f32)
        })
        .collect()
}

/// `out += weight · bilinear(plane)`.
fn add_enlarged(plane: &[f32], (ph, pw): (usize, usize), weight: f32, (h, w): (usize, usize), out: &mut [f32]) {
    let (rows, columns) = (taps(ph, h), taps(pw, w));
    for (row, &(top, bottom, v)) in out.chunks_mut(w.max(1)).zip(&rows) {
        let (top, bottom) = (&plane[top * pw..][..pw], &plane[bottom * pw..][..pw]);
        for (out, &(left, right, u)) in row.iter_mut().zip(&columns) {
            let above = top[left] * (1.0 - u) + top[right] * u;
            let below = bottom[left] * (1.0 - u) + bottom[right] * u;
            *out += weight * (above * (1.0 - v) + below * v);
        }
    }
}

/// Input perturbation (Ning et al. 2023): the noisy latents use `ε + γξ`, the target keeps ε.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct IpNoise {
    /// γ; 0.1 is usual.
    #[schemars(range(min = 0.000001, max = 10.0))]
    pub gamma: f64,
    /// Multiplies γ by a uniform number, drawn for each batch. Default false.
    #[serde(default)]
    pub random_strength: bool,
}

impl IpNoise {
    /// Out of range.
    pub fn check(&self) -> Result<(), Invalid> {
        crate::within("gamma", self.gamma, 1e-6, 10.0)
    }

    /// γ of a batch, given its draw `u` of `[0, 1)`.
    pub fn strength(&self, u: f64) -> f64 {
        if self.random_strength { self.gamma * u } else { self.gamma }
    }

    /// `ε + γξ`, the noise of the noisy latents; `gamma` is the batch's.
    pub fn perturbed(gamma: f64, noise: &[f32], xi: &[f32]) -> Vec<f32> {
        noise.iter().zip(xi).map(|(n, xi)| n + gamma as f32 * xi).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn pyramid_noise_has_unit_variance_and_low_frequencies() {
        let multires = Multires { iterations: 8, discount: 0.8 };
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut noise = normal(&mut rng, 4 * 32 * 24);
        let means = |x: &[f32]| x.chunks(32 * 24).map(|c| c.iter().sum::<f32>().abs()).sum::<f32>();
        let before = means(&noise);
        multires.draw([4, 32, 24], &mut noise, &mut rng);
        let variance = noise.iter().map(|x| x * x).sum::<f32>() / noise.len() as f32;
        assert!((variance - 1.0).abs() < 0.5 && means(&noise) > before);
    }

    #[test]
    fn levels_end_at_one_pixel() {
        let multires = Multires { iterations: 10, discount: 0.3 };
        assert_eq!(multires.sizes((32, 8), &[2.5; 10]), vec![(32, 8), (12, 3), (5, 1)]);
        assert_eq!(multires.sizes((1, 1), &[3.0; 10]), vec![(1, 1)]);
    }

    #[test]
    fn adaptive_offsets_never_turn_negative() {
        let offset = NoiseOffset { strength: 0.1, random_strength: true, adaptive: Some(-1.0) };
        let mut noise = [0.0; 4];
        offset.apply(offset.strength(0.5), &[1.0, 1.0], &[1.0, 1.0, 0.02, -0.0], &mut noise);
        assert_eq!(noise[..2], [0.0, 0.0]);
        assert!((noise[2] - 0.04).abs() < 1e-7);
    }
}
