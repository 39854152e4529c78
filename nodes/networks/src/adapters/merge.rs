//! Adapters merged into weights: `W += m·Δ`, with the strength `m` and what the adapter changes, `Δ = W' − W`.

use std::collections::{BTreeSet, HashMap};

use pipe_ops::{Cx, DType, Tensor, Var, op};

use super::norms::added;
use super::{butterfly, rotate};
use crate::weights::Weights;

/// An adapter of one layer, read from a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// LoRA: down `[r, in, ..]`, up `[out, r, ..]`.
    LowRank {
        /// Rank.
        rank: usize,
        /// Down factor.
        down: Vec<f32>,
        /// Up factor.
        up: Vec<f32>,
    },
    /// LoHa: `w1a [out, r]`, `w1b [r, in·k·k]`, `w2a`, `w2b`.
    Hadamard {
        /// Rank.
        rank: usize,
        /// The four factors.
        factors: [Vec<f32>; 4],
    },
    /// LoKr: the Kronecker product of the small and the large factor.
    Kronecker {
        /// Small factor, `[l, m]` with `l` rows.
        small: (usize, Vec<f32>),
        /// Large factor, `[k, n·k·k]` with `k` rows.
        large: (usize, Vec<f32>),
    },
    /// DoRA: `W' = magnitude·(W + scale·up·down)/‖W + scale·up·down‖` for each row, or for each input.
    Decomposed {
        /// Rank.
        rank: usize,
        /// Down factor.
        down: Vec<f32>,
        /// Up factor.
        up: Vec<f32>,
        /// Length of each row, or of all that an input is multiplied by.
        magnitude: Vec<f32>,
        /// By inputs.
        on_input: bool,
        /// α/r.
        scale: f32,
    },
    /// OFT and Diag-OFT: rows turned by blocks.
    Rotation {
        /// Generators of the rotations of consecutive rows: number of blocks, side of each, values `[k, n, n]`.
        parts: Vec<(usize, usize, Vec<f32>)>,
        /// Longest generator for each output.
        constraint: f32,
        /// What each row is multiplied by then; empty: nothing.
        lengths: Vec<f32>,
    },
    /// BOFT: rows turned by blocks, in several stages.
    Butterfly {
        /// Stages, blocks of each, side of each.
        sizes: [usize; 3],
        /// Their generators.
        generators: Vec<f32>,
        /// Longest norm of all generators for each output.
        constraint: f32,
        /// What each row is multiplied by then; empty: nothing.
        lengths: Vec<f32>,
    },
    /// (IA)³: `W' = W·(1 + factor)` by rows or columns.
    Scale {
        /// A value for each.
        factor: Vec<f32>,
        /// By columns.
        on_input: bool,
    },
    /// GLoRA: `Δ = W·a1·a2 + b1·b2`.
    General {
        /// Rank.
        rank: usize,
        /// `a1 [in, r]` and `a2 [r, in]`.
        a: [Vec<f32>; 2],
        /// `b1 [out, r]` and `b2 [r, in·k·k]`.
        b: [Vec<f32>; 2],
    },
    /// What is added to weight and bias; either may be empty.
    Whole {
        /// Of the weight's size.
        weight: Vec<f32>,
        /// Of the bias' size.
        bias: Vec<f32>,
    },
}

impl Change {
    /// Δ of a weight `[out, in·k·k]` in f32, of strength 1.
    fn delta(&self, cx: &Cx, w: &Tensor) -> Tensor {
        let out = w.dim(0);
        let matrix = |v: &[f32], rows: usize| {
            Var::constant(cx.device.tensor(v.to_vec(), &[rows, v.len() / rows.max(1)], DType::F32))
        };
        let low_rank = |up: &[f32], down: &[f32], rank: usize| op::matmul(cx, &matrix(up, out), &matrix(down, rank));
        let base = || Var::constant(w.cast(DType::F32).reshape(&[out, w.len() / out.max(1)]));
        let column = |lengths: &[f32]| (!lengths.is_empty()).then(|| matrix(lengths, out));
        let beyond = |new: Var| op::add_tensors(cx, new.value, op::scale_tensor(cx, &base().value, -1.0));
        match self {
            Change::LowRank { rank, down, up } => low_rank(up, down, *rank).value,
            Change::Hadamard { rank, factors: [w1a, w1b, w2a, w2b] } => {
                op::mul(cx, &low_rank(w1a, w1b, *rank), &low_rank(w2a, w2b, *rank)).value
            }
            Change::Kronecker { small: (l, small), large: (k, large) } => {
                let (m, n) = (small.len() / (*l).max(1), large.len() / (*k).max(1));
                let mut values = Vec::with_capacity(small.len() * large.len());
                for row in small.chunks(m.max(1)) {
                    for large in large.chunks(n.max(1)) {
                        values.extend(row.iter().flat_map(|a| large.iter().map(move |b| a * b)));
                    }
                }
                cx.device.tensor(values, &[out, m * n], DType::F32)
            }
            Change::Decomposed { rank, down, up, magnitude, scale, on_input } => {
                let moved = op::add(cx, &base(), &op::scale(cx, &low_rank(up, down, *rank), *scale));
                if *on_input {
                    let (inputs, kernel) = (w.dim(1), w.shape().iter().skip(2).product());
                    let moved = op::permute(cx, &moved, &[out, inputs, kernel], &[1, 0, 2]);
                    let moved = op::reshape(cx, &moved, &[inputs, out * kernel]);
                    let new = op::with_row_norms(cx, &moved, &matrix(magnitude, inputs));
                    let new = op::permute(cx, &new, &[inputs, out, kernel], &[1, 0, 2]);
                    return beyond(op::reshape(cx, &new, &[out, inputs * kernel]));
                }
                let magnitude = Var::constant(cx.device.tensor(magnitude.clone(), &[out, 1], DType::F32));
                beyond(op::with_row_norms(cx, &moved, &magnitude))
            }
            Change::Rotation { parts, constraint, lengths } => {
                let constant = |(k, n, values): &(usize, usize, Vec<f32>)| {
                    Var::constant(cx.device.tensor(values.clone(), &[*k, *n, *n], DType::F32))
                };
                let parts: Vec<Var> = parts.iter().map(constant).collect();
                beyond(rotate::blocks(cx, &base(), &parts, *constraint, column(lengths).as_ref()))
            }
            Change::Butterfly { sizes: [m, k, n], generators, constraint, lengths } => {
                let generators = cx.device.tensor(generators.clone(), &[*m, *k, *n, *n], DType::F32);
                let generators = Var::constant(generators);
                beyond(rotate::butterfly(cx, &base(), &generators, *constraint, column(lengths).as_ref()))
            }
            Change::Scale { factor, on_input } => {
                let kernel: usize = w.shape().iter().skip(2).product();
                let mut values = w.cast(DType::F32).to_vec();
                let width = (values.len() / out.max(1)).max(1);
                let place = |i: usize| if *on_input { i % width / kernel } else { i / width };
                values.iter_mut().enumerate().for_each(|(i, x)| *x *= factor[place(i)]);
                cx.device.tensor(values, &[out, width], DType::F32)
            }
            Change::General { rank, a: [a1, a2], b: [b1, b2] } => {
                let (inputs, kernel) = (w.dim(1), w.shape().iter().skip(2).product());
                // Inputs last, so that they can be multiplied.
                let base = op::permute(cx, &base(), &[out, inputs, kernel], &[0, 2, 1]);
                let base = op::reshape(cx, &base, &[out * kernel, inputs]);
                let moved = op::matmul(cx, &op::matmul(cx, &base, &matrix(a1, inputs)), &matrix(a2, *rank));
                let moved = op::permute(cx, &moved, &[out, kernel, inputs], &[0, 2, 1]);
                let moved = op::reshape(cx, &moved, &[out, inputs * kernel]);
                op::add_tensors(cx, moved.value, low_rank(b1, b2, *rank).value)
            }
            Change::Whole { weight, .. } => cx.device.tensor(weight.clone(), w.shape(), DType::F32),
        }
    }

    /// Whether the factors fit each other and a weight of this shape.
    pub fn fits(&self, shape: &[usize]) -> bool {
        let Some((&out, rest)) = shape.split_first() else { return false };
        let width: usize = rest.iter().product();
        let product =
            |up: &[f32], down: &[f32], rank: usize| rank > 0 && up.len() == out * rank && down.len() == rank * width;
        let of_rows = |values: &[f32]| values.is_empty() || values.len() == out;
        match self {
            Change::LowRank { rank, down, up } => product(up, down, *rank),
            Change::Hadamard { rank, factors: [w1a, w1b, w2a, w2b] } => {
                product(w1a, w1b, *rank) && product(w2a, w2b, *rank)
            }
            Change::Kronecker { small: (l, small), large: (k, large) } => {
                *l > 0
                    && *k > 0
                    && l * k == out
                    && (small.len() / l) * (large.len() / k) == width
                    && small.len().is_multiple_of(*l)
                    && large.len().is_multiple_of(*k)
            }
            Change::Decomposed { rank, down, up, magnitude, on_input, .. } => {
                let lengths = if *on_input { rest.first().copied().unwrap_or(0) } else { out };
                product(up, down, *rank) && magnitude.len() == lengths
            }
            Change::Rotation { parts, lengths, .. } => {
                parts.iter().all(|(k, n, values)| values.len() == k * n * n && *n > 0)
                    && parts.iter().map(|(k, n, _)| k * n).sum::<usize>() == out
                    && of_rows(lengths)
            }
            Change::Butterfly { sizes: [m, k, n], generators, lengths, .. } => {
                generators.len() == m * k * n * n
                    && k * n == out
                    && k.is_power_of_two()
                    && n.is_multiple_of(2)
                    && (1..=butterfly::stages(*k)).contains(m)
                    && of_rows(lengths)
            }
            Change::Scale { factor, on_input } => {
                factor.len() == if *on_input { rest.first().copied().unwrap_or(0) } else { out }
            }
            Change::General { rank, a: [a1, a2], b: [b1, b2] } => {
                let inputs = rest.first().copied().unwrap_or(0);
                product(b1, b2, *rank) && a1.len() == inputs * rank && a2.len() == inputs * rank
            }
            Change::Whole { weight, bias } => {
                (weight.is_empty() || weight.len() == out * width)
                    && of_rows(bias)
                    && !(weight.is_empty() && bias.is_empty())
            }
        }
    }
}

/// Changes of layers by path, each with its strength.
pub type Changes = HashMap<String, (Change, f32)>;

/// Values of a weight by name and shape, as its file has them.
pub type Exact<'a> = &'a dyn Fn(&str, &[usize]) -> Result<Vec<f32>, String>;

/// A copy of the weights with the changes of all `lists` added in f32, one after the other, each times its strength: of
/// a LoRA, LoHa, LoKr or GLoRA the multiplier times α/r, of the others the multiplier. Between 0 and 1 it goes in a
/// straight line from W to W'. Tensors that do not change are shared. A weight that rests in fewer bits is made anew
/// from its `exact` values (of a name and a shape) and rounded once.
///
/// # Errors
/// A layer that the weights lack or whose change has another size, by name; a change of a bias that is not there; what
/// `exact` fails with.
pub fn merged(cx: &Cx, weights: &Weights, lists: &[Changes], exact: Exact) -> Result<Weights, String> {
    let mut out = weights.clone();
    let paths: BTreeSet<&String> = lists.iter().flat_map(HashMap::keys).collect();
    for path in paths {
        let name = format!("{path}.weight");
        let mut w = match (weights.get(&name), weights.stored(&name)) {
            (Some(tensor), _) => tensor.clone(),
            (None, Some(stored)) => {
                let shape = stored.shape();
                cx.device.tensor(exact(&name, shape)?, shape, DType::F32)
            }
            (None, None) => return Err(format!("there is no `{name}`")),
        };
        for (change, strength) in lists.iter().filter_map(|layers| layers.get(path)) {
            if !change.fits(w.shape()) {
                return Err(format!("the factors for `{name}` do not fit its shape {:?}", w.shape()));
            }
            if let Change::Whole { weight, bias } = change {
                if !bias.is_empty() {
                    let name = format!("{path}.bias");
                    let Some(b) = out.get(&name) else { return Err(format!("there is no `{name}`")) };
                    let delta = cx.device.tensor(bias.clone(), b.shape(), DType::F32);
                    let sum = added(cx, b, op::scale_tensor(cx, &delta, *strength));
                    out.insert(name, sum);
                }
                if weight.is_empty() {
                    continue;
                }
            }
            let delta = op::scale_tensor(cx, &change.delta(cx, &w), *strength);
            w = added(cx, &w, delta);
        }
        match weights.stored(&name) {
            Some(stored) => out.keep(&name, stored.replaced(&cx.device, &w.to_vec())),
            None => out.insert(name, w),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_the_product() {
        let cx = Cx::cpu();
        let weights = Weights::from_map(HashMap::from([
            ("a.weight".to_owned(), Tensor::host(vec![1.0, 2.0, 3.0, 4.0], &[2, 2, 1, 1])),
            ("b.weight".to_owned(), Tensor::host(vec![1.0; 4], &[2, 2])),
        ]));
        let change = Change::LowRank { rank: 1, down: vec![1.0, 10.0], up: vec![2.0, 3.0] };
        let layers = HashMap::from([("a".to_owned(), (change.clone(), 0.5))]);
        let exact = |_: &str, _: &[usize]| Err("nothing rests".to_owned());
        let merged = |layers| merged(&cx, &weights, &[layers], &exact);
        let out = merged(layers).unwrap();
        assert_eq!(out.get("a.weight").unwrap().to_vec(), [2.0, 12.0, 4.5, 19.0]);
        assert_eq!(out.get("a.weight").unwrap().shape(), [2, 2, 1, 1]);
        assert_eq!(out.get("b.weight").unwrap().to_vec(), [1.0; 4]);
        assert_eq!(weights.get("a.weight").unwrap().to_vec(), [1.0, 2.0, 3.0, 4.0]);
        let hadamard =
            Change::Hadamard { rank: 1, factors: [vec![1.0, 2.0], vec![1.0, 1.0], vec![3.0, 4.0], vec![1.0, 2.0]] };
        let out = merged(HashMap::from([("b".to_owned(), (hadamard, 1.0))])).unwrap();
        assert_eq!(out.get("b.weight").unwrap().to_vec(), [4.0, 7.0, 9.0, 17.0]);
        // Magnitudes of rows and of inputs.
        let decomposed = |on_input| Change::Decomposed {
            rank: 1,
            down: vec![1.0, 2.0],
            up: vec![2.0, 3.0],
            magnitude: vec![5.0, 10.0],
            on_input,
            scale: 1.0,
        };
        // W + UD.
        let moved = [3.0f32, 5.0, 4.0, 7.0];
        for (on_input, pairs) in [(false, [[0, 1], [2, 3]]), (true, [[0, 2], [1, 3]])] {
            let out = merged(HashMap::from([("b".to_owned(), (decomposed(on_input), 1.0))])).unwrap();
            let out = out.get("b.weight").unwrap().to_vec();
            for (pair, length) in pairs.into_iter().zip([5.0, 10.0]) {
                let norm = pair.iter().map(|i| moved[*i].powi(2)).sum::<f32>().sqrt();
                assert!(pair.iter().all(|i| (out[*i] - moved[*i] * length / norm).abs() < 1e-4), "{out:?}");
            }
        }
        assert!(merged(HashMap::from([("c".to_owned(), (change.clone(), 1.0))])).is_err());
        let wrong = Change::LowRank { rank: 1, down: vec![1.0], up: vec![2.0, 3.0] };
        assert!(merged(HashMap::from([("b".to_owned(), (wrong, 1.0))])).is_err());
    }
}
