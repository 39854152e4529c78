//! A layer of plain factors in memory: `ΔW = s·U·D`.

use pipe_networks::adapters::tucker;

use super::file::{AdapterFile, Layer, Tensor};
use crate::error::{Result, ToolError};
use crate::linear::Matrix;

/// A pair of factors.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Rank.
    pub rank: usize,
    /// Shape of the weight that they make: `[out, in]` or `[out, in, h, w]`.
    pub weight: Vec<usize>,
    /// `[rank, in·h·w]`.
    pub down: Vec<f32>,
    /// `[out, rank]`.
    pub up: Vec<f32>,
    /// α: the scale is α/rank.
    pub alpha: f32,
    /// DoRA's magnitudes.
    pub magnitude: Option<Vec<f32>>,
    /// Whether they are of the weight's inputs, not of its rows.
    pub on_inputs: bool,
}

impl Pair {
    /// Reads a layer.
    ///
    /// # Errors
    /// P0302 when it is no pair of factors, P0305 when the factors do not fit each other.
    pub fn read(file: &AdapterFile, name: &str, layer: &Layer) -> Result<Pair> {
        if !layer.is(&[Tensor::Down, Tensor::Up], &[Tensor::Mid, Tensor::Magnitude]) {
            let message = format!("`{name}` is no pair of low-rank factors, which this needs");
            let help = "merge the file into its base, then `pipe extract` a LoRA of the difference";
            return Err(ToolError::new("P0302", message).at(file.path()).help(help));
        }
        let shape = |tensor| file.shape(layer, tensor).unwrap_or_default().to_vec();
        let (down, up, mid) = (shape(Tensor::Down), shape(Tensor::Up), shape(Tensor::Mid));
        let wrong = || {
            let message = format!("the factors of `{name}` do not fit each other: {down:?} and {up:?}");
            ToolError::new("P0305", message).at(file.path())
        };
        let (Some(&out), Some(&rank)) = (up.first(), up.get(1)) else { return Err(wrong()) };
        let rest = |s: &[usize]| s.iter().skip(2).product::<usize>();
        if down.len() < 2
            || out == 0
            || rank == 0
            || down.contains(&0)
            || mid.contains(&0)
            || rest(&up) != 1
            || down.len() == 3
            || down.len() > 4
        {
            return Err(wrong());
        }
        let mut values = file.values(layer, Tensor::Down)?;
        let mut weight = vec![out];
        weight.extend(&down[1..]);
        if layer.has(Tensor::Mid) {
            if mid.len() != 4 || mid[0] != rank || mid[1] != down[0] || rest(&down) != 1 {
                return Err(wrong());
            }
            let core = file.values(layer, Tensor::Mid)?;
            values = tucker::down(&core, &values, [rank, down[0]], down[1], mid[2] * mid[3]);
            weight = vec![out, down[1], mid[2], mid[3]];
        } else if down[0] != rank {
            return Err(wrong());
        }
        let alpha = file.alpha(name, layer, rank)?.unwrap_or(rank as f32);
        let magnitude = layer.has(Tensor::Magnitude).then(|| file.values(layer, Tensor::Magnitude)).transpose()?;
        let on_inputs = layer.has(Tensor::Magnitude) && !file.by_rows(layer, out);
        let count = if on_inputs { weight[1] } else { out };
        if let Some(found) = magnitude.as_ref().map(Vec::len).filter(|found| *found != count) {
            let message = format!("`{name}` has {found} magnitudes (DoRA) for a weight of {weight:?}");
            return Err(ToolError::new("P0305", message).at(file.path()));
        }
        Ok(Pair { rank, weight, down: values, up: file.values(layer, Tensor::Up)?, alpha, magnitude, on_inputs })
    }

    /// Values of a row of the weight.
    pub fn row(&self) -> usize {
        self.weight[1..].iter().product()
    }
    /// Whether the kernel is larger than 1×1.
    pub fn is_conv(&self) -> bool {
        self.weight.iter().skip(2).any(|side| *side > 1)
    }
    /// The rank that is nearest to the wanted one: none is above the smaller side of the weight.
    pub fn possible(&self, wanted: usize) -> usize {
        wanted.min(self.weight[0]).min(self.row())
    }
    /// α/rank.
    pub fn scale(&self) -> f64 {
        f64::from(self.alpha) / self.rank as f64
    }
    /// The factors as matrices, up and down.
    pub fn matrices(&self) -> (Matrix, Matrix) {
        let (out, row) = (self.weight[0], self.row());
        (Matrix::of_f32(out, self.rank, &self.up), Matrix::of_f32(self.rank, row, &self.down))
    }
    /// Shape of the down factor in a file.
    pub fn down_shape(&self) -> Vec<usize> {
        let mut shape = self.weight.clone();
        shape[0] = self.rank;
        shape
    }
    /// Shape of the up factor in a file.
    pub fn up_shape(&self) -> Vec<usize> {
        let mut shape = vec![self.weight[0], self.rank];
        shape.extend(self.weight.iter().skip(2).map(|_| 1));
        shape
    }

    /// Shape of the magnitudes in a file: one for each row, or for each input.
    pub fn magnitude_shape(&self) -> Vec<usize> {
        let kept = usize::from(self.on_inputs);
        self.weight.iter().enumerate().map(|(axis, size)| if axis == kept { *size } else { 1 }).collect()
    }

    /// The factors that change these rows alone.
    pub fn rows(&self, start: usize, end: usize) -> Pair {
        let mut weight = self.weight.clone();
        weight[0] = end - start;
        let of_rows = |m: &Vec<f32>| if self.on_inputs { m.clone() } else { m[start..end].to_vec() };
        let magnitude = self.magnitude.as_ref().map(of_rows);
        Pair { weight, up: self.up[start * self.rank..end * self.rank].to_vec(), magnitude, ..self.clone() }
    }

    /// With the halves of the rows exchanged.
    pub fn swapped(mut self) -> Pair {
        let half = self.up.len() / 2;
        self.up.rotate_left(half);
        if let Some(magnitude) = self.magnitude.as_mut().filter(|_| !self.on_inputs) {
            let half = magnitude.len() / 2;
            magnitude.rotate_left(half);
        }
        self
    }

    /// With the scale in the up factor, so that α = rank.
    pub fn folded(mut self) -> Pair {
        let scale = self.scale();
        if scale != 1.0 {
            self.up.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
        }
        Pair { alpha: self.rank as f32, ..self }
    }

    /// The sum of pairs, each multiplied by its strength: `Σ mᵢ·sᵢ·Uᵢ·Dᵢ` exactly, their ranks behind each other. One
    /// alone at strength 1 stays as it is.
    ///
    /// # Errors
    /// The number of the first pair that is for a weight of another size than those before it. Magnitudes are no part
    /// of a sum: that there are none is for the caller to see to.
    pub fn stacked(pairs: &[(Pair, f64)]) -> Result<Pair, usize> {
        let Some((first, _)) = pairs.first() else { return Err(0) };
        if let [(only, 1.0)] = pairs {
            return Ok(only.clone());
        }
        let rank: usize = pairs.iter().map(|(pair, _)| pair.rank).sum();
        let out = first.weight[0];
        let (mut up, mut down) = (vec![0.0; out * rank], Vec::with_capacity(rank * first.row()));
        let mut weight = first.weight.clone();
        let mut column = 0;
        for (number, (pair, ratio)) in pairs.iter().enumerate() {
            if pair.weight[0] != out || pair.row() != first.row() {
                return Err(number);
            }
            // A 1×1 convolution in one, a matrix in the other.
            if pair.weight.len() > weight.len() {
                weight = pair.weight.clone();
            }
            let scale = pair.scale() * ratio;
            for i in 0..out {
                for r in 0..pair.rank {
                    up[i * rank + column + r] = (f64::from(pair.up[i * pair.rank + r]) * scale) as f32;
                }
            }
            down.extend(&pair.down);
            column += pair.rank;
        }
        Ok(Pair { rank, weight, down, up, alpha: rank as f32, magnitude: None, on_inputs: false })
    }

    /// One pair for rows that others change each for themselves, of `weight`: each `(first row, pair)`. Down factors
    /// that are the same are kept once; the others stand behind each other, with a block-diagonal up factor. Magnitudes of
    /// rows stay those of theirs; nothing when not all rows have them that some do.
    pub fn joined(weight: Vec<usize>, parts: &[(usize, Pair)]) -> Option<Pair> {
        let (_, first) = parts.first()?;
        let same = parts.iter().all(|(_, p)| p.down == first.down && p.scale() == first.scale());
        let rank = if same { first.rank } else { parts.iter().map(|(_, p)| p.rank).sum() };
        let mut up = vec![0.0; weight[0] * rank];
        let mut down = if same { first.down.clone() } else { Vec::new() };
        let mut column = 0;
        // Different scales cannot be one α: they go into the factors.
        let one_scale = parts.iter().all(|(_, p)| p.scale() == first.scale());
        for (start, part) in parts {
            let part = if one_scale { part.clone() } else { part.clone().folded() };
            for i in 0..part.weight[0] {
                up[(start + i) * rank + column..][..part.rank]
                    .copy_from_slice(&part.up[i * part.rank..(i + 1) * part.rank]);
            }
            if !same {
                down.extend(&part.down);
                column += part.rank;
            }
        }
        let mut magnitude = None;
        if parts.iter().any(|(_, part)| part.magnitude.is_some()) {
            let mut all: Vec<Option<f32>> = vec![None; weight[0]];
            for (start, part) in parts {
                let own = part.magnitude.as_ref().filter(|_| !part.on_inputs)?;
                all.get_mut(*start..start + own.len())?.iter_mut().zip(own).for_each(|(to, x)| *to = Some(*x));
            }
            magnitude = Some(all.into_iter().collect::<Option<Vec<f32>>>()?);
        }
        let alpha = if one_scale { (first.scale() * rank as f64) as f32 } else { rank as f32 };
        Some(Pair { rank, weight, down, up, alpha, magnitude, on_inputs: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::multiply_f32;

    fn pair(out: usize, rank: usize, row: usize, alpha: f32, seed: f32) -> Pair {
        let values = |n: usize| (0..n).map(|i| ((i as f32 + seed) * 0.7).sin()).collect();
        let (weight, down, up) = (vec![out, row], values(rank * row), values(out * rank));
        Pair { rank, weight, down, up, alpha, magnitude: None, on_inputs: false }
    }

    fn delta(p: &Pair) -> Vec<f32> {
        let product = multiply_f32(p.weight[0], p.row(), p.rank, &p.up, &p.down);
        product.into_iter().map(|x| x * p.scale() as f32).collect()
    }

    fn close(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-5), "{a:?} {b:?}");
    }

    #[test]
    fn split_and_joined_again() {
        let whole = pair(6, 2, 5, 1.0, 0.3);
        let parts: Vec<(usize, Pair)> = [(0, 2), (2, 4), (4, 6)].map(|(a, b)| (a, whole.rows(a, b))).to_vec();
        assert_eq!(Pair::joined(vec![6, 5], &parts).unwrap(), whole);
        let magnitude = Some((0..6).map(|i| i as f32).collect());
        let lengths = Pair { magnitude, ..whole.clone() };
        let parts: Vec<(usize, Pair)> = [(0, 2), (2, 6)].map(|(a, b)| (a, lengths.rows(a, b))).to_vec();
        assert_eq!(Pair::joined(vec![6, 5], &parts).unwrap(), lengths);
        assert_eq!(Pair::joined(vec![6, 5], &parts[..1]), None);
        for alphas in [[4.0, 4.0], [4.0, 1.0]] {
            let parts = [(0, pair(2, 2, 5, alphas[0], 0.1)), (4, pair(2, 2, 5, alphas[1], 0.9))];
            let joined = Pair::joined(vec![6, 5], &parts).unwrap();
            assert_eq!(joined.rank, 4);
            let sum = delta(&joined);
            close(&sum[..10], &delta(&parts[0].1));
            close(&sum[10..20], &[0.0; 10]);
            close(&sum[20..], &delta(&parts[1].1));
        }
        let both = [(whole.clone(), 1.0), (pair(6, 3, 5, 1.5, 0.5), -0.5)];
        let sum: Vec<f32> = delta(&both[0].0).iter().zip(delta(&both[1].0)).map(|(a, b)| a - 0.5 * b).collect();
        close(&delta(&Pair::stacked(&both).unwrap()), &sum);
        assert_eq!(Pair::stacked(&both[..1]).unwrap(), whole);
        assert_eq!(Pair::stacked(&[both[0].clone(), (pair(4, 2, 5, 1.0, 0.1), 1.0)]), Err(1));
        assert_eq!(Pair::stacked(&[]), Err(0));
        let folded = whole.clone().folded();
        assert_eq!(folded.alpha, 2.0);
        close(&delta(&folded), &delta(&whole));
        let swapped = delta(&whole.clone().swapped());
        close(&swapped[..15], &delta(&whole)[15..]);
    }
}
