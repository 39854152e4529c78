//! The tensors in memory of each kind of adapter, with their first values.

use super::{Init, Kind, Piece, Target, bound, butterfly};

impl Target {
    /// The tensors in memory.
    pub fn pieces(&self) -> Vec<Piece> {
        let (out, r, row) = (self.weight[0], self.rank, self.row());
        let down =
            |ending: &str, rank: usize| self.piece(ending, &self.down_shape(rank), Init::Uniform(bound(row)), false);
        // What starts at zero so that nothing changes, unless a number does that starts at zero itself.
        let idle = |otherwise: Init| if self.scalar { otherwise } else { Init::Zero };
        let up = |ending: &str, out: usize, rank: usize| {
            self.piece(ending, &self.up_shape(out, rank), idle(Init::Uniform(bound(rank))), true)
        };
        let mut list = match &self.kind {
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
                self.piece("hada_w2_a", &[r, out], idle(Init::Normal(0.1)), true),
                self.piece("hada_w2_b", &[r, self.weight[1]], Init::Normal(1.0), false),
            ],
            Kind::Hadamard { .. } => vec![
                self.piece("hada_w1_a", &[out, r], Init::Normal(0.1), true),
                self.piece("hada_w1_b", &[r, row], Init::Normal(1.0), false),
                self.piece("hada_w2_a", &[out, r], idle(Init::Normal(0.1)), true),
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
                    list.push(self.piece("lokr_w2", &shape, idle(Init::Uniform(bound(n * self.kernel()))), true));
                } else if self.cored(*tucker) {
                    let core = self.core_shape();
                    list.push(self.piece("lokr_t2", &core, Init::Uniform(bound(r * self.kernel())), false));
                    list.push(self.piece("lokr_w2_a", &[r, k], Init::Uniform(bound(k)), false));
                    list.push(self.piece("lokr_w2_b", &[r, n], idle(Init::Uniform(bound(n))), true));
                } else {
                    list.push(self.piece("lokr_w2_a", &[k, r], Init::Uniform(bound(r)), false));
                    let width = n * self.kernel();
                    list.push(self.piece("lokr_w2_b", &[r, width], idle(Init::Uniform(bound(width))), true));
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
            Kind::Diagonal { rescaled } => {
                let (n, k) = self.diagonal();
                self.rotations(&[k, n, n], *rescaled)
            }
            Kind::Butterfly { rescaled } => {
                let (n, k) = butterfly::split(out, r).unwrap_or((out, 1));
                self.rotations(&[butterfly::stages(k), k, n, n], *rescaled)
            }
            Kind::Scale { on_input } => {
                let n = if *on_input { self.weight[1] } else { out };
                let shape = if self.weight.len() > 2 { self.with_kernel_of_one(vec![1, n]) } else { vec![n] };
                vec![self.piece("weight", &shape, Init::Zero, false)]
            }
            Kind::General => {
                let of_one = |rows: usize, columns: usize| self.with_kernel_of_one(vec![rows, columns]);
                let (inputs, start) = (self.weight[1], Init::Uniform(bound(r)));
                vec![
                    self.piece("a1.weight", &of_one(inputs, r), start, true),
                    self.piece("a2.weight", &of_one(r, inputs), idle(Init::Uniform(bound(inputs))), false),
                    self.piece("b1.weight", &of_one(out, r), start, true),
                    self.piece("b2.weight", &self.down_shape(r), idle(Init::Uniform(bound(row))), false),
                ]
            }
        };
        if self.scalar {
            list.push(self.piece("scalar", &[1], Init::Zero, false));
        }
        list
    }

    /// The generators of rotations, and the lengths of rows.
    fn rotations(&self, blocks: &[usize], rescaled: bool) -> Vec<Piece> {
        let mut list = vec![self.piece("oft_blocks", blocks, Init::Zero, false)];
        if rescaled {
            let shape: Vec<usize> = [self.weight[0]].into_iter().chain(self.weight[1..].iter().map(|_| 1)).collect();
            list.push(self.piece("rescale", &shape, Init::One, false));
        }
        list
    }
}
