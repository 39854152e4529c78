//! Adapters: the tensors of each kind, their first values, their names in files.
//!
//! A [`Target`] is a layer with the kind of adapter it gets. Everything else follows from it: its [`Piece`]s (the
//! tensors in memory), its [`Module`] (what the forward pass does with them, see `wrap`) and its file entries
//! ([`file`]). Names and initial values are those of kohya's trainer for LoRA, LoRA-FA, DyLoRA and OFT, and of LyCORIS
//! for LoHa, LoKr, DoRA and differences.

pub mod file;
pub mod kron;
mod make;
pub mod merge;
pub mod noise;
pub mod norms;

pub use make::{Base, create, meta};
use pipe_ops::rng::{self, Purpose};
use serde::{Deserialize, Serialize};

use crate::trainables::{Adapter, Dropouts, Factor, Module};

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
        }
    }

    /// Endings of what is added to weight and bias.
    fn shift(&self) -> [&'static str; 2] {
        if matches!(self.kind, Kind::Norm { .. }) { ["w_norm", "b_norm"] } else { ["diff", "diff_b"] }
    }

    /// Whether its files have an α: what is added as it is has none.
    pub fn has_alpha(&self) -> bool {
        !matches!(self.kind, Kind::Difference { .. } | Kind::Norm { .. })
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
        let mut shape = vec![out, rank];
        shape.extend(self.weight.iter().skip(2).map(|_| 1));
        shape
    }
    fn key(&self, ending: &str) -> String {
        format!("{}.{ending}", self.name)
    }
    fn piece(&self, ending: &str, shape: &[usize], init: Init, up: bool) -> Piece {
        Piece { key: self.key(ending), shape: shape.to_vec(), init, trains: true, up }
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

    /// The tensors in memory.
    pub fn pieces(&self) -> Vec<Piece> {
        let (out, r, row) = (self.weight[0], self.rank, self.row());
        let down =
            |ending: &str, rank: usize| self.piece(ending, &self.down_shape(rank), Init::Uniform(bound(row)), false);
        let up =
            |ending: &str, out: usize, rank: usize| self.piece(ending, &self.up_shape(out, rank), Init::Zero, true);
        match &self.kind {
            Kind::Lora { frozen_down, parts } => {
                let mut list = if parts.is_empty() {
                    vec![down("lora_down.weight", r), up("lora_up.weight", out, r)]
                } else {
                    let pair = |(i, rows): (usize, &usize)| {
                        [down(&format!("lora_down.{i}.weight"), r), up(&format!("lora_up.{i}.weight"), *rows, r)]
                    };
                    parts.iter().enumerate().flat_map(pair).collect()
                };
                if *frozen_down {
                    // Xavier: variance 2/(fan_in + fan_out) of the down factor.
                    let std = (2.0 / (row + r * self.kernel()) as f32).sqrt();
                    for piece in list.iter_mut().filter(|p| !p.up) {
                        (piece.trains, piece.init) = (false, Init::Normal(std));
                    }
                }
                list
            }
            Kind::Nested { unit, .. } => {
                let slice = |i: usize| [down(&format!("lora_A.{i}"), *unit), up(&format!("lora_B.{i}"), out, *unit)];
                (0..r / unit).flat_map(slice).collect()
            }
            Kind::Decomposed => {
                let magnitude = self.piece("dora_scale", &self.up_shape(out, 1), Init::RowNorms, false);
                vec![down("lora_down.weight", r), up("lora_up.weight", out, r), magnitude]
            }
            Kind::Hadamard { tucker } if self.cored(*tucker) => vec![
                self.piece("hada_t1", &self.core_shape(), Init::Normal(0.1), false),
                self.piece("hada_w1_a", &[r, out], Init::Normal(0.1), true),
                self.piece("hada_w1_b", &[r, self.weight[1]], Init::Normal(1.0), false),
                self.piece("hada_t2", &self.core_shape(), Init::Normal(0.1), false),
                self.piece("hada_w2_a", &[r, out], Init::Zero, true),
                self.piece("hada_w2_b", &[r, self.weight[1]], Init::Normal(1.0), false),
            ],
            Kind::Hadamard { .. } => vec![
                self.piece("hada_w1_a", &[out, r], Init::Normal(0.1), true),
                self.piece("hada_w1_b", &[r, row], Init::Normal(1.0), false),
                self.piece("hada_w2_a", &[out, r], Init::Zero, true),
                self.piece("hada_w2_b", &[r, row], Init::Normal(1.0), false),
            ],
            Kind::Kronecker { factor, both, full, tucker } => {
                let ((l, k), (m, n)) = self.kron(*factor);
                let (whole1, whole2) = self.whole(*factor, *both, *full);
                let mut list = if whole1 {
                    vec![self.piece("lokr_w1", &[l, m], Init::Uniform(bound(m)), false)]
                } else {
                    vec![
                        self.piece("lokr_w1_a", &[l, r], Init::Uniform(bound(r)), false),
                        self.piece("lokr_w1_b", &[r, m], Init::Uniform(bound(m)), false),
                    ]
                };
                if whole2 {
                    let shape: Vec<usize> = [k, n].into_iter().chain(self.weight.iter().skip(2).copied()).collect();
                    list.push(self.piece("lokr_w2", &shape, Init::Zero, true));
                } else if self.cored(*tucker) {
                    let core = self.core_shape();
                    list.push(self.piece("lokr_t2", &core, Init::Uniform(bound(r * self.kernel())), false));
                    list.push(self.piece("lokr_w2_a", &[r, k], Init::Uniform(bound(k)), false));
                    list.push(self.piece("lokr_w2_b", &[r, n], Init::Zero, true));
                } else {
                    list.push(self.piece("lokr_w2_a", &[k, r], Init::Uniform(bound(r)), false));
                    list.push(self.piece("lokr_w2_b", &[r, n * self.kernel()], Init::Zero, true));
                }
                list
            }
            Kind::Difference { bias } | Kind::Norm { bias } => {
                let [weight, own] = self.shift();
                let list = [Some((weight, &self.weight[..])), bias.then_some((own, &self.weight[..1]))];
                list.into_iter().flatten().map(|(key, shape)| self.piece(key, shape, Init::Zero, false)).collect()
            }
            Kind::Rotation { parts } => {
                let block = |ending: &str, rows: usize| {
                    let n = rows / r;
                    self.piece(ending, &[r, n, n], Init::Zero, false)
                };
                if parts.is_empty() {
                    vec![block("oft_blocks", out)]
                } else {
                    parts.iter().enumerate().map(|(i, rows)| block(&format!("oft_blocks.{i}"), *rows)).collect()
                }
            }
        }
    }

    /// What the forward pass does.
    pub fn adapter(&self, dropouts: Dropouts) -> Adapter {
        let mut scale = self.alpha / self.rank as f32;
        let key = |ending: &str| self.key(ending);
        let module = match &self.kind {
            Kind::Lora { parts, .. } if parts.is_empty() => {
                Module::LowRank(vec![(key("lora_down.weight"), key("lora_up.weight"))])
            }
            Kind::Lora { parts, .. } => {
                let pair = |i| (key(&format!("lora_down.{i}.weight")), key(&format!("lora_up.{i}.weight")));
                Module::LowRank((0..parts.len()).map(pair).collect())
            }
            Kind::Nested { unit, compat } => {
                let keys = |name: &str| (0..self.rank / unit).map(|i| key(&format!("{name}.{i}"))).collect();
                Module::Nested { down: keys("lora_A"), up: keys("lora_B"), compat: *compat }
            }
            Kind::Decomposed => Module::Decomposed {
                down: key("lora_down.weight"),
                up: key("lora_up.weight"),
                magnitude: key("dora_scale"),
            },
            Kind::Hadamard { tucker } => Module::Hadamard {
                w1: (key("hada_w1_a"), key("hada_w1_b")),
                w2: (key("hada_w2_a"), key("hada_w2_b")),
                cores: self.cored(*tucker).then(|| (key("hada_t1"), key("hada_t2"))),
            },
            Kind::Kronecker { factor, both, full, tucker } => {
                let (whole1, whole2) = self.whole(*factor, *both, *full);
                if whole1 && whole2 {
                    scale = 1.0;
                }
                let make = |whole: bool, name: &str| match whole {
                    true => Factor::Whole(key(name)),
                    false => Factor::Product(key(&format!("{name}_a")), key(&format!("{name}_b"))),
                };
                let large = match !whole2 && self.cored(*tucker) {
                    true => Factor::Core(key("lokr_t2"), key("lokr_w2_a"), key("lokr_w2_b")),
                    false => make(whole2, "lokr_w2"),
                };
                Module::Kronecker { w1: make(whole1, "lokr_w1"), w2: large }
            }
            Kind::Difference { bias } | Kind::Norm { bias } => {
                scale = 1.0;
                let [weight, own] = self.shift();
                Module::Shift { weight: key(weight), bias: bias.then(|| key(own)) }
            }
            Kind::Rotation { parts } => {
                scale = 1.0;
                let blocks = match parts.is_empty() {
                    true => vec![key("oft_blocks")],
                    false => (0..parts.len()).map(|i| key(&format!("oft_blocks.{i}"))).collect(),
                };
                Module::Rotation { blocks, constraint: self.alpha }
            }
        };
        Adapter { module, scale, dropouts }
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
