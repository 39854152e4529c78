//! The tensors that learn: adapter factors, or a network's own weights.

use std::collections::{BTreeSet, HashMap};

use pipe_ops::Tensor;
use serde::{Deserialize, Serialize};

use crate::adapters::noise::Noise;

/// Dropouts of an adapter module (training only), in the order they act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dropouts {
    /// Probability of leaving the whole module out of a forward pass.
    pub module: f32,
    /// Inverted dropout on the rank-space activations of [`Module::LowRank`].
    pub neuron: f32,
    /// [`Module::LowRank`]: probability of leaving out one rank of one sample, rescaled by `1/(1−p)`. LoHa, LoKr
    /// and DoRA: of leaving one row out of ΔW, not rescaled, as LyCORIS does.
    pub rank: f32,
}

/// A matrix as it is, or as the product of two.
#[derive(Clone, Debug, PartialEq)]
pub enum Factor {
    /// Key of the matrix.
    Whole(String),
    /// Keys of `a [m, r]` and `b [r, n]`.
    Product(String, String),
    /// Keys of `t [r, r, k, k]`, `a [r, m]` and `b [r, n]`: `Σ t[i, j, ..]·a[i, ·]·b[j, ·]` (Tucker).
    Core(String, String, String),
}

/// What an adapter adds to a linear layer or convolution with weight `W [out, in, ..]`. Texts are keys of
/// [`Trainables::tensors`] or [`Trainables::frozen`].
#[derive(Clone, Debug, PartialEq)]
pub enum Module {
    /// LoRA (Hu et al. 2022): `+ scale·up(down(x))` of down `[r, in, ..]` and up `[out, r, ..]`. Several pairs adapt
    /// rows behind each other.
    LowRank(Vec<(String, String)>),
    /// DyLoRA (Valipour et al. 2023): LoRA in slices of `unit` ranks, of which each pass trains one.
    Nested {
        /// Down slices `[unit, in, ..]`.
        down: Vec<String>,
        /// Up slices `[out, unit, ..]`.
        up: Vec<String>,
        /// sd-scripts' algorithm: nothing is cut off, and each module draws by itself.
        compat: bool,
    },
    /// DoRA (Liu et al. 2024): `W' = m·(W + ΔW)/‖W + ΔW‖` by rows, ΔW of a LoRA.
    Decomposed {
        /// `[r, in, ..]`.
        down: String,
        /// `[out, r, ..]`.
        up: String,
        /// `m [out, 1, ..]`.
        magnitude: String,
    },
    /// LoHa (Hyeon-Woo et al. 2022): `ΔW = scale·(w1a·w1b) ⊙ (w2a·w2b)`.
    Hadamard {
        /// `[out, r]` and `[r, in·k·k]`.
        w1: (String, String),
        /// The same for the second product.
        w2: (String, String),
        /// Cores `[r, r, k, k]` of both products, of factors `[r, out]` and `[r, in]` then (Tucker).
        cores: Option<(String, String)>,
    },
    /// LoKr (Yeh et al. 2024): `ΔW = scale·w1 ⊗ w2`.
    Kronecker {
        /// `[l, m]` with `out = l·k`, `in = m·n`.
        w1: Factor,
        /// `[k, n, ..]`.
        w2: Factor,
    },
    /// Weight and bias themselves, as what is added to them (LyCORIS' `full` and `norm`); of norms too.
    Shift {
        /// Of the weight's size.
        weight: String,
        /// Of the bias' size, where the layer has one.
        bias: Option<String>,
    },
    /// OFT (Qiu et al. 2023): `W' = Rᵀ·W` with block-diagonal rotations R.
    Rotation {
        /// For rows behind each other: key of the parameters `[K, n, n]`.
        blocks: Vec<String>,
        /// Longest `‖Q‖` for each output row.
        constraint: f32,
        /// Key of what each row is multiplied by then.
        rescale: Option<String>,
    },
    /// BOFT (Liu et al. 2023): `W' = R_m·…·R_1·W`; the i-th rotation mixes rows that stand `2^i·n/2` apart.
    Butterfly {
        /// Key of the parameters `[m, K, n, n]`.
        blocks: String,
        /// Longest `‖Q‖` of all together for each output row.
        constraint: f32,
        /// Key of what each row is multiplied by then.
        rescale: Option<String>,
    },
    /// (IA)³ (Liu et al. 2022): `W' = W·(1 + w)` by rows or columns.
    Scale {
        /// `w`, a value for each.
        weight: String,
        /// For each input.
        on_input: bool,
    },
    /// GLoRA (Chavan et al. 2023) in LyCORIS' form: `ΔW = scale·(W·a1·a2 + b1·b2)`.
    General {
        /// `[in, r, 1 ..]` and `[r, in, 1 ..]`.
        a: (String, String),
        /// `[out, r, 1 ..]` and `[r, in, ..]`.
        b: (String, String),
    },
}

/// An adapter on one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// What it does.
    pub module: Module,
    /// What its output is multiplied by, `α/r`.
    pub scale: f32,
    /// Key of a number `[1]` that its change is multiplied by as well.
    pub scalar: Option<String>,
    /// Dropouts.
    pub dropouts: Dropouts,
}

/// All tensors that learn, f32 unless they are kept in bf16, and the adapters made of them.
#[derive(Clone, Debug, Default)]
pub struct Trainables {
    /// Masters by key. A network's own weight has the key `part.name`.
    pub tensors: HashMap<String, Tensor>,
    /// Tensors of adapters that do not learn: LoRA-FA's down factors, the strength of GGPO's noise.
    pub frozen: HashMap<String, Tensor>,
    /// Adapters by `part.path`.
    pub adapters: HashMap<String, Adapter>,
    /// GGPO's noise on the weights of adapted layers.
    pub noise: Option<Noise>,
    /// Components that stay as they are for now: no gradient flows into them, and their dropouts rest.
    pub still: BTreeSet<String>,
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
    /// A factor, whether it learns or not.
    pub fn factor(&self, key: &str) -> Option<&Tensor> {
        self.tensors.get(key).or_else(|| self.frozen.get(key))
    }
    /// Whether a key that starts with `prefix.` (or is `prefix`) learns now.
    pub fn touches(&self, part: &str, prefix: &str) -> bool {
        let mut keys = self.adapters.keys().chain(self.tensors.keys());
        !self.still.contains(part) && keys.any(|key| under(part, prefix, key))
    }
}

/// Whether `key` is `part.prefix` or starts with `part.prefix.`.
pub(crate) fn under(part: &str, prefix: &str, key: &str) -> bool {
    let rest =
        key.strip_prefix(part).and_then(|rest| rest.strip_prefix('.')).and_then(|rest| rest.strip_prefix(prefix));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
