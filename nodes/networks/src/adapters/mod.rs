//! Adapters: the tensors of each kind, their first values, their names in files.
//!
//! A [`Target`] is a layer with the kind of adapter it gets. Everything else follows from it: its [`Piece`]s (the
//! tensors in memory), its module (what the forward pass does with them, see `wrap`) and its file entries
//! ([`file`]). Names and initial values are those of kohya's trainer for LoRA, LoRA-FA, DyLoRA and OFT, and of LyCORIS
//! for the other kinds.

pub mod butterfly;
pub mod file;
pub mod kron;
mod make;
pub mod merge;
mod module;
pub mod noise;
pub mod norms;
mod pieces;
pub mod rotate;
pub mod tucker;

pub use make::{Base, create, meta};
use pipe_ops::rng::{self, Purpose};
use serde::{Deserialize, Serialize};

/// A kind of adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Kind {
    /// LoRA.
    Lora {
        /// LoRA-FA (Zhang et al. 2023): the down factor stays as it starts.
        frozen_down: bool,
        /// Rows of the parts that get a pair of factors each; empty: one pair for all.
        parts: Vec<usize>,
    },
    /// DyLoRA.
    Nested {
        /// Ranks trained together; divides the rank.
        unit: usize,
        /// sd-scripts' algorithm.
        compat: bool,
    },
    /// DoRA.
    Decomposed,
    /// LoHa.
    Hadamard {
        /// Larger kernels are of a core of their own (Tucker).
        tucker: bool,
    },
    /// LoKr.
    Kronecker {
        /// Size of the small factor; nothing: as square as divisors allow.
        factor: Option<usize>,
        /// The small factor is a product as well where the rank makes that smaller.
        both: bool,
        /// Both factors are whole matrices.
        full: bool,
        /// Larger kernels of the large factor are of a core of their own (Tucker).
        tucker: bool,
    },
    /// What is added to a layer's weight, and to its bias if it has one (LyCORIS' `full`).
    Difference {
        /// Whether the layer has a bias.
        bias: bool,
    },
    /// What is added to a norm's weight and bias (LyCORIS' `norm`).
    Norm {
        /// Whether it has a bias.
        bias: bool,
    },
    /// OFT: the rank is the number of blocks, α the constraint.
    Rotation {
        /// Rows of the parts that turn by themselves; empty: all together.
        parts: Vec<usize>,
    },
    /// LyCORIS' Diag-OFT: the rank is the wanted size of a block, α the constraint, 0 for none.
    Diagonal {
        /// Rows get a length that learns.
        rescaled: bool,
    },
    /// BOFT: rotations one after another; rank and α as of Diag-OFT.
    Butterfly {
        /// Rows get a length that learns.
        rescaled: bool,
    },
    /// (IA)³: a factor for each input or output.
    Scale {
        /// For each input.
        on_input: bool,
    },
    /// GLoRA.
    General,
}

/// How fast the tensors of a module learn, beside the rate of their part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// What sets them apart from their part, as in `block4`; nothing: they belong to the part's own group.
    pub label: Option<String>,
    /// Multiplies the rate.
    pub factor: f64,
    /// A rate of its own, in place of the part's.
    pub absolute: Option<f64>,
    /// Multiplies the rate of up factors (LoRA+).
    pub plus: f64,
}

impl Default for Rate {
    fn default() -> Self {
        Rate { label: None, factor: 1.0, absolute: None, plus: 1.0 }
    }
}

/// A layer with its adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Component: `unet`, `text_encoder`.
    pub part: String,
    /// Dotted path inside the component.
    pub path: String,
    /// Name in files: `lora_unet_down_blocks_0_…`.
    pub name: String,
    /// Shape of the layer's weight, `[out, in]` or `[out, in, k, k]`.
    pub weight: Vec<usize>,
    /// Rank; of OFT the number of blocks.
    pub rank: usize,
    /// α; of OFT the constraint.
    pub alpha: f32,
    /// Kind of adapter.
    pub kind: Kind,
    /// How fast it learns.
    pub rate: Rate,
    /// Its change is multiplied by a number that learns and starts at 0 (LyCORIS' `use_scalar`). Files hold the product.
    #[serde(default)]
    pub scalar: bool,
}

/// First values of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Uniform in ±bound.
    Uniform(f32),
    /// Normal with this standard deviation.
    Normal(f32),
    /// Zeros.
    Zero,
    /// Ones.
    One,
    /// Norms of the base weight's rows.
    RowNorms,
}

/// A tensor of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Its key.
    pub key: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its first values.
    pub init: Init,
    /// Whether it learns.
    pub trains: bool,
    /// Whether it is an up factor, which LoRA+ trains faster.
    pub up: bool,
}

/// `1/√fan_in`: the bound of PyTorch's Kaiming-uniform with a = √5.
fn bound(fan_in: usize) -> f32 {
    1.0 / (fan_in as f32).sqrt()
}

impl Target {
    /// A plain LoRA.
    pub fn lora(part: &str, path: &str, name: &str, weight: &[usize], rank: usize, alpha: f32) -> Self {
        Target {
            part: part.into(),
            path: path.into(),
            name: name.into(),
            weight: weight.to_vec(),
            rank,
            alpha,
            kind: Kind::Lora { frozen_down: false, parts: Vec::new() },
            rate: Rate::default(),
            scalar: false,
        }
    }

    /// Endings of what is added to weight and bias.
    fn shift(&self) -> [&'static str; 2] {
        if matches!(self.kind, Kind::Norm { .. }) { ["w_norm", "b_norm"] } else { ["diff", "diff_b"] }
    }

    /// Whether its files have an α: what is added as it is has none, nor has a factor.
    pub fn has_alpha(&self) -> bool {
        !matches!(self.kind, Kind::Difference { .. } | Kind::Norm { .. } | Kind::Scale { .. })
    }

    /// Values that a row of the weight has.
    fn row(&self) -> usize {
        self.weight[1..].iter().product()
    }
    /// Product of the kernel's sides.
    fn kernel(&self) -> usize {
        self.weight.iter().skip(2).product()
    }
    /// Whether the layer has a core: its kernel is larger than one pixel.
    fn cored(&self, tucker: bool) -> bool {
        tucker && self.kernel() > 1
    }
    /// `[rank, rank, k, k]`.
    fn core_shape(&self) -> Vec<usize> {
        [self.rank, self.rank].into_iter().chain(self.weight.iter().skip(2).copied()).collect()
    }
    /// `[rank, in, ..]`.
    fn down_shape(&self, rank: usize) -> Vec<usize> {
        let mut shape = self.weight.clone();
        shape[0] = rank;
        shape
    }
    /// `[out, rank, 1 ..]`.
    fn up_shape(&self, out: usize, rank: usize) -> Vec<usize> {
        self.with_kernel_of_one(vec![out, rank])
    }
    fn key(&self, ending: &str) -> String {
        format!("{}.{ending}", self.name)
    }
    fn piece(&self, ending: &str, shape: &[usize], init: Init, up: bool) -> Piece {
        Piece { key: self.key(ending), shape: shape.to_vec(), init, trains: true, up }
    }
    /// A shape with a 1 for each side of the kernel behind it.
    fn with_kernel_of_one(&self, mut shape: Vec<usize>) -> Vec<usize> {
        shape.extend(self.weight.iter().skip(2).map(|_| 1));
        shape
    }
    /// Key of the number that its change is multiplied by.
    fn scalar_key(&self) -> Option<String> {
        self.scalar.then(|| self.key("scalar"))
    }
    /// Size and number of Diag-OFT's blocks.
    fn diagonal(&self) -> (usize, usize) {
        kron::split(self.weight[0], Some(self.rank))
    }

    /// Sizes of LoKr: `(l, k)` of the rows and `(m, n)` of the columns.
    fn kron(&self, factor: Option<usize>) -> ((usize, usize), (usize, usize)) {
        (kron::split(self.weight[0], factor), kron::split(self.weight[1], factor))
    }
    /// Whether LoKr's small and large factor are whole.
    fn whole(&self, factor: Option<usize>, both: bool, full: bool) -> (bool, bool) {
        let ((l, k), (m, n)) = self.kron(factor);
        // `rank < max/2` in whole numbers.
        let w1 = full || !both || 2 * self.rank >= l.max(m);
        let w2 = full || 2 * self.rank >= k.max(n);
        (w1, w2)
    }

    /// The α the file gets: LoKr of two whole matrices has none to speak of, so that it says scale 1; of parts that are
    /// written as one LoRA of `n·r` ranks it is `n·α`, so that readers find the same scale.
    pub fn file_alpha(&self) -> f32 {
        match &self.kind {
            Kind::Kronecker { factor, both, full, .. } if self.whole(*factor, *both, *full) == (true, true) => {
                self.rank as f32
            }
            Kind::Lora { parts, .. } if !parts.is_empty() => self.alpha * parts.len() as f32,
            _ => self.alpha,
        }
    }

    /// Values that learn, and those that do not.
    pub fn parameters(&self) -> (usize, usize) {
        let size = |p: &Piece| p.shape.iter().product::<usize>();
        let pieces = self.pieces();
        let sum = |trains: bool| pieces.iter().filter(|p| p.trains == trains).map(size).sum();
        (sum(true), sum(false))
    }
}

/// Which of DyLoRA's `n` slices learns in a pass. The published algorithm draws one for all layers, sd-scripts one for
/// each `layer`.
pub fn drawn_slice(seed: u64, pass: u64, n: usize, layer: Option<&str>) -> usize {
    let name = layer.map_or_else(|| "slice".to_owned(), |layer| format!("slice {layer}"));
    let mut rng = rng::named_stream(seed, Purpose::Dropout, pass, &name);
    ((rng::uniform(&mut rng, 1, 0.0, 1.0)[0] * n as f32) as usize).min(n.saturating_sub(1))
}
