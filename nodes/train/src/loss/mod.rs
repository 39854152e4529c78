//! Element losses with gradients, and their reduction to a sample's number.
//!
//! With `e = prediction − target`, a sample's loss is `w · mean(mask · ℓ(e))` over all its elements; the mean is not
//! renormalised by the mask's area. All sums are f64.

mod huber;
mod mask;

use multiversion::multiversion;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use huber::{Huber, HuberSchedule};
pub use mask::area_resize;

use crate::Invalid;
use crate::par::GRAIN;

/// Loss of an element `e = prediction − target`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Squared error `e²`.
    #[default]
    L2,
    /// Absolute error `|e|`.
    L1,
    /// `2c(√(e²+c²) − c)`: squared below c, absolute times 2c above.
    Huber,
    /// `2(√(e²+c²) − c)`: squared over c below c, absolute times 2 above.
    SmoothL1,
}

impl LossType {
    /// Name that other trainers use.
    pub fn name(self) -> &'static str {
        match self {
            LossType::L2 => "l2",
            LossType::L1 => "l1",
            LossType::Huber => "huber",
            LossType::SmoothL1 => "smooth_l1",
        }
    }

    /// Whether the loss depends on c.
    pub fn has_c(self) -> bool {
        matches!(self, LossType::Huber | LossType::SmoothL1)
    }

    /// ℓ(e) and dℓ/de.
    #[inline(always)]
    fn value_and_slope(self, e: f32, c: f32) -> (f32, f32) {
        match self {
            LossType::L2 => (e * e, 2.0 * e),
            LossType::L1 => (e.abs(), if e == 0.0 { 0.0 } else { 1.0f32.copysign(e) }),
            LossType::Huber => {
                let root = (e * e + c * c).sqrt();
                (2.0 * c * (root - c), 2.0 * c * e / root)
            }
            LossType::SmoothL1 => {
                let root = (e * e + c * c).sqrt();
                (2.0 * (root - c), 2.0 * e / root)
            }
        }
    }
}

/// `ℓ(prediction − target)` and its derivative, element by element; `c` is ignored by `l2` and `l1`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn elements(kind: LossType, c: f32, prediction: &[f32], target: &[f32], value: &mut [f32], slope: &mut [f32]) {
    let n = prediction.len();
    let (target, value, slope) = (&target[..n], &mut value[..n], &mut slope[..n]);
    for i in 0..n {
        (value[i], slope[i]) = kind.value_and_slope(prediction[i] - target[i], c);
    }
}

/// What a sample's loss is made of besides prediction and target.
#[derive(Clone, Copy, Debug)]
pub struct Reduce<'a> {
    /// Loss of an element.
    pub kind: LossType,
    /// c of Huber losses, from [`Huber::c`].
    pub c: f32,
    /// `[H, W]`, repeated over the channels of `[C, H, W]`.
    pub mask: Option<&'a [f32]>,
    /// Multiplies every element's loss: a flow model's weight of σ.
    pub element_weight: f32,
}

/// Mean loss of one sample and, into `gradient`, `scale` times its derivative by the prediction.
///
/// `scale` is what stands between the sample's mean and the number that is minimised: prior weight, SNR weight,
/// one over batch size and passes. Errors if the lengths differ or the mask does not divide them.
pub fn sample(
    reduce: &Reduce,
    prediction: &[f32],
    target: &[f32],
    scale: f32,
    gradient: Option<&mut [f32]>,
) -> Result<f64, Invalid> {
    let n = prediction.len();
    if target.len() != n || gradient.as_ref().is_some_and(|g| g.len() != n) {
        let reason = format!("{} elements, the prediction has {n}", target.len());
        return Err(Invalid::new("target", reason));
    }
    if let Some(mask) = reduce.mask
        && (mask.is_empty() || !n.is_multiple_of(mask.len()))
    {
        return Err(Invalid::new("mask", format!("{} elements do not repeat over {n}", mask.len())));
    }
    if n == 0 {
        return Ok(0.0);
    }
    let part = |start: usize, p: &[f32], t: &[f32], gradient: Option<&mut [f32]>| {
        let (mut value, mut slope) = (vec![0.0; p.len()], vec![0.0; p.len()]);
        elements(reduce.kind, reduce.c, p, t, &mut value, &mut slope);
        let weight = |i: usize| reduce.element_weight * reduce.mask.map_or(1.0, |m| m[(start + i) % m.len()]);
        if let Some(gradient) = gradient {
            let scale = scale / n as f32;
            for (i, (g, s)) in gradient.iter_mut().zip(&slope).enumerate() {
                *g = scale * weight(i) * s;
            }
        }
        value.iter().enumerate().map(|(i, &v)| (weight(i) * v) as f64).sum::<f64>()
    };
    let inputs = prediction.par_chunks(GRAIN).zip(target.par_chunks(GRAIN)).enumerate();
    let parts: Vec<f64> = match gradient {
        Some(gradient) => {
            inputs.zip(gradient.par_chunks_mut(GRAIN)).map(|((k, (p, t)), g)| part(k * GRAIN, p, t, Some(g))).collect()
        }
        None => inputs.map(|(k, (p, t))| part(k * GRAIN, p, t, None)).collect(),
    };
    Ok(parts.iter().sum::<f64>() / n as f64)
}

/// `Σ wᵢℓᵢ / B`: what is minimised, of the samples' losses and weights. 0 of nothing.
pub fn batch_mean(losses: &[f64], weights: &[f64]) -> f64 {
    losses.iter().zip(weights).map(|(l, w)| l * w).sum::<f64>() / losses.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_derivatives() {
        for kind in [LossType::L2, LossType::L1, LossType::Huber, LossType::SmoothL1] {
            for e in [-2.0f32, -0.3, 0.05, 1.7] {
                let h = 1e-3;
                let (up, down) = (kind.value_and_slope(e + h, 0.2).0, kind.value_and_slope(e - h, 0.2).0);
                let slope = kind.value_and_slope(e, 0.2).1;
                assert!(((up - down) / (2.0 * h) - slope).abs() < 2e-3, "{kind:?} {e}");
            }
        }
        assert_eq!(LossType::L1.value_and_slope(0.0, 0.0), (0.0, 0.0));
    }

    #[test]
    fn masks_repeat_over_channels_and_are_not_renormalised() {
        let reduce = Reduce { kind: LossType::L2, c: 0.0, mask: Some(&[1.0, 0.0, 0.5]), element_weight: 2.0 };
        let mut gradient = [9.0; 6];
        let loss = sample(&reduce, &[1.0, 1.0, 2.0, 3.0, 1.0, 0.0], &[0.0; 6], 3.0, Some(&mut gradient)).unwrap();
        assert!((loss - 2.0 * (1.0 + 0.5 * 4.0 + 9.0) / 6.0).abs() < 1e-12);
        assert_eq!(gradient, [2.0, 0.0, 2.0, 6.0, 0.0, 0.0]);
        assert!(sample(&reduce, &[1.0; 4], &[0.0; 4], 1.0, None).is_err());
        assert!(sample(&reduce, &[1.0; 6], &[0.0; 5], 1.0, None).is_err());
    }

    #[test]
    fn weights_belong_to_their_samples() {
        // The reference's SD3 fine-tune gives mean(w)·mean(ℓ) = 6 here.
        assert_eq!(batch_mean(&[1.0, 3.0], &[5.0, 1.0]), 4.0);
    }
}
