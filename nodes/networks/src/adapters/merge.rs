//! Adapters merged into weights: `W += m·s·ΔW`.

use std::collections::HashMap;

use pipe_ops::{Cx, Tensor, Var, op};

use super::norms::added;
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
}

impl Change {
    /// ΔW of `scale = 1`, `[out, in·k·k]`.
    fn delta(&self, cx: &Cx, out: usize) -> Tensor {
        let matrix = |v: &[f32], rows: usize| {
            Var::constant(cx.device.tensor(v.to_vec(), &[rows, v.len() / rows.max(1)], pipe_ops::DType::F32))
        };
        match self {
            Change::LowRank { rank, down, up } => op::matmul(cx, &matrix(up, out), &matrix(down, *rank)).value,
            Change::Hadamard { rank, factors: [w1a, w1b, w2a, w2b] } => {
                let product = |a: &[f32], b: &[f32]| op::matmul(cx, &matrix(a, out), &matrix(b, *rank));
                op::mul(cx, &product(w1a, w1b), &product(w2a, w2b)).value
            }
        }
    }

    /// Values that ΔW has for a weight of `out` rows; `None` when the factors do not fit each other.
    pub fn values(&self, out: usize) -> Option<usize> {
        let product = |up: &[f32], down: &[f32], rank: usize| {
            (rank > 0 && up.len() == out * rank && down.len().is_multiple_of(rank)).then(|| out * (down.len() / rank))
        };
        match self {
            Change::LowRank { rank, down, up } => product(up, down, *rank),
            Change::Hadamard { rank, factors: [w1a, w1b, w2a, w2b] } => {
                product(w1a, w1b, *rank).filter(|n| product(w2a, w2b, *rank) == Some(*n))
            }
        }
    }
}

/// A copy of the weights with the changes of `layers` (by path; each with its scale, multiplier included) added in f32.
/// Tensors that do not change are shared.
///
/// # Errors
/// A layer that the weights lack or whose change has another size, by name.
pub fn merged(cx: &Cx, weights: &Weights, layers: &HashMap<String, (Change, f32)>) -> Result<Weights, String> {
    let mut out = weights.clone();
    for (path, (change, scale)) in layers {
        let name = format!("{path}.weight");
        let Some(w) = weights.get(&name) else { return Err(format!("there is no `{name}`")) };
        if change.values(w.dim(0)) != Some(w.len()) {
            return Err(format!("the factors for `{name}` do not fit its shape {:?}", w.shape()));
        }
        let delta = op::scale_tensor(cx, &change.delta(cx, w.dim(0)), *scale);
        out.insert(name, added(cx, w, delta));
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
        let out = merged(&cx, &weights, &layers).unwrap();
        assert_eq!(out.get("a.weight").unwrap().to_vec(), [2.0, 12.0, 4.5, 19.0]);
        assert_eq!(out.get("a.weight").unwrap().shape(), [2, 2, 1, 1]);
        assert_eq!(out.get("b.weight").unwrap().to_vec(), [1.0; 4]);
        assert_eq!(weights.get("a.weight").unwrap().to_vec(), [1.0, 2.0, 3.0, 4.0]);
        let hadamard =
            Change::Hadamard { rank: 1, factors: [vec![1.0, 2.0], vec![1.0, 1.0], vec![3.0, 4.0], vec![1.0, 2.0]] };
        let out = merged(&cx, &weights, &HashMap::from([("b".to_owned(), (hadamard, 1.0))])).unwrap();
        assert_eq!(out.get("b.weight").unwrap().to_vec(), [4.0, 7.0, 9.0, 17.0]);
        assert!(merged(&cx, &weights, &HashMap::from([("c".to_owned(), (change.clone(), 1.0))])).is_err());
        let wrong = Change::LowRank { rank: 1, down: vec![1.0], up: vec![2.0, 3.0] };
        assert!(merged(&cx, &weights, &HashMap::from([("b".to_owned(), (wrong, 1.0))])).is_err());
    }
}
