//! Masks of a batch as weights of its places.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::batch::Batch;

/// How masks count. Without it the loss of each element is multiplied by its mask and the mean taken over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct Mask {
    /// What a place outside of the mask still counts: the mask becomes `floor + (1 − floor)·mask`. Default: nothing.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 0.999999))]
    floor: Option<f64>,
    /// Divide by the mean of the mask, so that an image with a small mask counts as much as others. Default false.
    #[serde(default)]
    normalize: bool,
}

/// The weights of a batch's places `[B, h, w]`; normalisation multiplies the weights of its samples.
pub fn places(batch: &Batch, mask: Mask, weights: &mut [f32]) -> Option<Vec<f32>> {
    let given = batch.mask.as_ref()?;
    let floor = mask.floor.unwrap_or(0.0) as f32;
    let values: Vec<f32> = given.values.iter().map(|m| floor + (1.0 - floor) * m).collect();
    let span = values.len() / given.shape[0].max(1);
    let factor = |sample: &[f32]| {
        let mean = sample.iter().map(|&m| m as f64).sum::<f64>() / sample.len() as f64;
        // Nothing of an image with an empty mask counts, however it is divided.
        if mask.normalize && mean > 0.0 { (1.0 / mean) as f32 } else { 1.0 }
    };
    for (weight, sample) in weights.iter_mut().zip(values.chunks(span.max(1))) {
        *weight *= factor(sample);
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::batch::HostTensor;

    #[test]
    fn floors_and_means() {
        let mask = HostTensor { values: vec![1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], shape: vec![2, 2, 2] };
        let batch = Batch { mask: Some(mask), ..Default::default() };
        let with = |mask| {
            let mut weights = [1.0, 2.0];
            (places(&batch, mask, &mut weights).unwrap(), weights)
        };
        let (values, weights) = with(Mask::default());
        assert_eq!((&values[..2], weights), (&[1.0, 0.0][..], [1.0, 2.0]));
        let (values, weights) = with(Mask { floor: Some(0.2), normalize: true });
        assert_eq!(values[..2], [1.0, 0.2]);
        assert!((weights[0] - 1.0 / 0.4).abs() < 1e-6 && (weights[1] - 10.0).abs() < 1e-5);
        assert_eq!(with(Mask { floor: None, normalize: true }).1, [4.0, 2.0]);
        assert!(places(&Batch::default(), Mask::default(), &mut [1.0]).is_none());
    }
}
