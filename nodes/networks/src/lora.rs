//! Low-rank adapters (Hu et al. 2022): which modules get one, and their initial factors.

use std::collections::HashMap;

use pipe_ops::rng::{self, Purpose};
use pipe_ops::{DType, Device};

use crate::trainables::{Adapter, Dropouts, Trainables};

/// A module that may carry an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Component: `unet`, `text_encoder`.
    pub part: String,
    /// Dotted path inside the component.
    pub path: String,
    /// Name in LoRA files: `lora_unet_down_blocks_0_…`.
    pub name: String,
    /// Shape of the module's weight, `[out, in]` or `[out, in, k, k]`.
    pub weight: Vec<usize>,
    /// Rank.
    pub rank: usize,
    /// α.
    pub alpha: f32,
}

impl Target {
    /// Shape of the down factor.
    pub fn down_shape(&self) -> Vec<usize> {
        let mut shape = self.weight.clone();
        shape[0] = self.rank;
        shape
    }
    /// Shape of the up factor.
    pub fn up_shape(&self) -> Vec<usize> {
        let mut shape = vec![self.weight[0], self.rank];
        shape.extend(self.weight.iter().skip(2).map(|_| 1));
        shape
    }
    /// Key of the down factor, as in LoRA files.
    pub fn down_key(&self) -> String {
        format!("{}.lora_down.weight", self.name)
    }
    /// Key of the up factor.
    pub fn up_key(&self) -> String {
        format!("{}.lora_up.weight", self.name)
    }
    /// Trainable values.
    pub fn parameters(&self) -> usize {
        self.down_shape().iter().product::<usize>() + self.up_shape().iter().product::<usize>()
    }
}

/// Builds the trainables of a LoRA: down uniform in `±1/√fan_in` (Kaiming uniform with a = √5), up zero,
/// or the factors of `initial` where it has them.
pub fn create(
    targets: &[Target],
    dropouts: Dropouts,
    seed: u64,
    device: &Device,
    initial: &HashMap<String, Vec<f32>>,
) -> Trainables {
    let mut train = Trainables { seed, ..Default::default() };
    for target in targets {
        let (down, up) = (target.down_key(), target.up_key());
        let (down_shape, up_shape) = (target.down_shape(), target.up_shape());
        let values = initial.get(&down).cloned().unwrap_or_else(|| {
            let fan_in: usize = target.weight[1..].iter().product();
            let bound = 1.0 / (fan_in as f32).sqrt();
            let mut rng = rng::named_stream(seed, Purpose::Init, 0, &down);
            rng::uniform(&mut rng, down_shape.iter().product(), -bound, bound)
        });
        train.tensors.insert(down.clone(), device.tensor(values, &down_shape, DType::F32));
        let values = initial.get(&up).cloned().unwrap_or_else(|| vec![0.0; up_shape.iter().product()]);
        train.tensors.insert(up.clone(), device.tensor(values, &up_shape, DType::F32));
        let scale = target.alpha / target.rank as f32;
        let key = Trainables::key(&target.part, &target.path);
        train.adapters.insert(key, Adapter { down, up, scale, dropouts });
    }
    train
}
