//! The tensors that learn: adapter factors, or a network's own weights.

use std::collections::HashMap;

use pipe_ops::Tensor;

/// Dropouts of an adapter module (training only), in the order they act.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dropouts {
    /// Probability of leaving the whole module out of a forward pass.
    pub module: f32,
    /// Inverted dropout on the rank-space activations.
    pub neuron: f32,
    /// Probability of leaving out one rank of one sample, rescaled by `1/(1−p)`.
    pub rank: f32,
}

/// A low-rank adapter on one linear or convolution: `y = W·x + scale·up(down(x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Key of the down factor in [`Trainables::tensors`]; `[r, in]` or `[r, in, k, k]`.
    pub down: String,
    /// Key of the up factor; `[out, r]` or `[out, r, 1, 1]`.
    pub up: String,
    /// `α/r`.
    pub scale: f32,
    /// Dropouts.
    pub dropouts: Dropouts,
}

/// All tensors that learn, f32, and the adapters made of them.
#[derive(Clone, Debug, Default)]
pub struct Trainables {
    /// Masters by key. A network's own weight has the key `part.name`.
    pub tensors: HashMap<String, Tensor>,
    /// Adapters by `part.path`.
    pub adapters: HashMap<String, Adapter>,
    /// Seed of dropout streams.
    pub seed: u64,
}

impl Trainables {
    /// Key of weight `name` of part `part`.
    pub fn key(part: &str, name: &str) -> String {
        format!("{part}.{name}")
    }
    /// Number of trainable values.
    pub fn parameters(&self) -> u64 {
        self.tensors.values().map(|t| t.len() as u64).sum()
    }
    /// Whether a key that starts with `prefix.` (or is `prefix`) learns.
    pub fn touches(&self, part: &str, prefix: &str) -> bool {
        let full = Trainables::key(part, prefix);
        let under = |key: &str| key.strip_prefix(&full).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.adapters.keys().any(|k| under(k)) || self.tensors.keys().any(|k| under(k))
    }
}
