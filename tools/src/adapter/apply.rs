//! What an adapter does to a weight: `W ← W + m·s·ΔW`, DoRA's and OFT's included.
//!
//! Formulas: LoRA (Hu et al. 2022), LoCon, LoHa and LoKr as LyCORIS has them (Yeh et al. 2024), DoRA (Liu et al. 2024);
//! rotations are in `rotate`, what multiplies a weight in `multiply`. `m` is the file's strength, `s = α/r`; of DoRA and
//! OFT, which are no sums, the weight goes that part of the way to what it is at strength 1.

use pipe_networks::adapters::tucker;

use super::file::{AdapterFile, Layer, Tensor};
use super::names::Place;
use crate::error::{Result, ToolError};
use crate::linear::multiply_f32;

/// A layer of a file that is to change a weight.
#[derive(Clone, Debug)]
pub struct Change<'a> {
    /// The file.
    pub file: &'a AdapterFile,
    /// The layer's name in it.
    pub name: &'a str,
    /// Its tensors.
    pub layer: &'a Layer,
    /// Where it belongs.
    pub place: Place,
    /// Its strength.
    pub ratio: f64,
}

use Tensor::*;

impl Change<'_> {
    /// What is wrong with the layer for a weight of this shape, `[out, in]` or `[out, in, h, w]` (of its rows alone where
    /// it is for some). Only headers are read.
    pub fn check(&self, shape: &[usize]) -> Result<(), String> {
        let (Some(&out), row) = (shape.first(), product(shape.get(1..).unwrap_or_default())) else {
            return Err("its weight is a single number".into());
        };
        let layer = self.layer;
        let size = |tensor: Tensor| self.file.shape(layer, tensor).map_or(0, product);
        let dims = |tensor: Tensor| self.file.shape(layer, tensor).unwrap_or_default();
        let fit = |fits: bool| match fits {
            true => Ok(()),
            false => Err(format!("its tensors do not fit a weight of {shape:?}")),
        };
        if layer.is(&[Down, Up], &[Mid, Magnitude]) {
            let rank = dims(Up).get(1).copied().unwrap_or(0);
            let factors = match layer.has(Mid) {
                true => {
                    let inner = dims(Down).first().copied().unwrap_or(0);
                    let (inputs, kernel) = inputs_and_kernel(shape);
                    inner > 0
                        && size(Down) == inner * inputs
                        && dims(Mid).get(..2) == Some(&[rank, inner])
                        && size(Mid) == times(&[rank, inner, kernel])
                }
                false => dims(Down).first() == Some(&rank) && size(Down) == times(&[rank, row]),
            };
            fit(rank > 0 && size(Up) == times(&[out, rank]) && factors)?;
            if layer.has(Magnitude) {
                let by_rows = self.file.by_rows(layer, out);
                if !by_rows {
                    self.whole("DoRA by inputs")?;
                }
                let columns = || dims(Magnitude).first() == Some(&1) && shape.len() > 1 && size(Magnitude) == shape[1];
                fit(if by_rows { size(Magnitude) == out } else { columns() })?;
            }
            return Ok(());
        }
        if layer.is(&[W1a, W1b, W2a, W2b], &[T1, T2]) {
            let pair = |a, b, t| {
                if layer.has(T1) || layer.has(T2) {
                    let (inputs, kernel) = inputs_and_kernel(shape);
                    let (Some(&[r1, o]), Some(&[r2, i])) = (as_pair(dims(a)), as_pair(dims(b))) else { return false };
                    return (o, i) == (out, inputs)
                        && dims(t).get(..2) == Some(&[r1, r2])
                        && size(t) == times(&[r1, r2, kernel]);
                }
                let rank = dims(b).first().copied().unwrap_or(0);
                rank > 0
                    && dims(a).get(1) == Some(&rank)
                    && size(a) == times(&[out, rank])
                    && size(b) == times(&[rank, row])
            };
            return fit(pair(W1a, W1b, T1) && pair(W2a, W2b, T2));
        }
        let small = layer.has(K1) != (layer.has(K1a) && layer.has(K1b));
        let large = layer.has(K2) != (layer.has(K2a) && layer.has(K2b));
        if small && large && layer.is(&[], &[K1, K1a, K1b, K2, K2a, K2b, Kt2]) {
            return fit(self.kron_sizes(shape).is_some());
        }
        if layer.is(&[], &[Diff, DiffBias]) {
            fit(!layer.has(Diff) || size(Diff) == times(&[out, row]))?;
            if layer.has(DiffBias) && (self.place.swapped || size(DiffBias) != out) {
                return Err(format!("its difference of a bias has {} values for one of {out}", size(DiffBias)));
            }
            return Ok(());
        }
        if let Some(found) = self.check_rotation(shape).or_else(|| self.check_product(shape)) {
            return found;
        }
        let ending = |name: &String| {
            let rest = name.strip_prefix(self.name).unwrap_or(name);
            format!("`{}`", rest.trim_start_matches(['.', '_']))
        };
        let list: Vec<String> = layer.0.values().map(ending).collect();
        Err(format!("it is of no known kind: it has {}", list.join(", ")))
    }

    /// What looks at all rows of a weight together.
    pub(super) fn whole(&self, kind: &str) -> Result<(), String> {
        match self.place.rows.is_some() || self.place.swapped {
            true => Err(format!("{kind} on some rows of a joined weight is not supported")),
            false => Ok(()),
        }
    }

    /// Changes the weight; `shape` is that of `weight`, which is all of it.
    pub fn apply(&self, weight: &mut [f32], shape: &[usize]) -> Result<()> {
        let wrong = |why: String| {
            ToolError::new("P0305", format!("`{}` cannot be merged: {why}", self.name)).at(self.file.path())
        };
        let row = product(&shape[1..]);
        let mut of_rows = shape.to_vec();
        if let Some(rows) = &self.place.rows {
            of_rows[0] = rows.len();
        }
        self.check(&of_rows).map_err(wrong)?;
        let new = match self.rotated(weight, row)? {
            Some(new) => Some(new),
            None => self.multiplied(weight, &of_rows)?,
        };
        if let Some(new) = new {
            let ratio = self.ratio as f32;
            weight.iter_mut().zip(&new).for_each(|(w, x)| *w += ratio * (x - *w));
            return Ok(());
        }
        let Some((mut delta, scale)) = self.delta(&of_rows)? else { return Ok(()) };
        if self.layer.has(Magnitude) {
            if self.place.swapped {
                let half = delta.len() / 2;
                delta.rotate_left(half);
            }
            let start = self.place.rows.as_ref().map_or(0, |rows| rows.start * row);
            let weight = &mut weight[start..start + delta.len()];
            // What it is at strength 1, in part: W + m·(W′ − W).
            let mut whole: Vec<f32> = weight.iter().zip(&delta).map(|(w, d)| w + scale as f32 * d).collect();
            self.magnify(&mut whole, &of_rows)?;
            let ratio = self.ratio as f32;
            weight.iter_mut().zip(&whole).for_each(|(w, x)| *w += ratio * (x - *w));
            return Ok(());
        }
        let scale = (scale * self.ratio) as f32;
        if self.place.swapped {
            let half = delta.len() / 2;
            delta.rotate_left(half);
        }
        let start = self.place.rows.as_ref().map_or(0, |rows| rows.start * row);
        weight[start..start + delta.len()].iter_mut().zip(&delta).for_each(|(w, d)| *w += scale * d);
        Ok(())
    }

    /// Changes the bias, where the layer has something for it.
    pub fn apply_bias(&self, bias: &mut [f32]) -> Result<()> {
        let delta = self.file.values(self.layer, DiffBias)?;
        if delta.is_empty() {
            return Ok(());
        }
        let rows = self.place.rows.clone().unwrap_or(0..bias.len());
        match bias.get_mut(rows) {
            Some(part) if !self.place.swapped && part.len() == delta.len() => {
                part.iter_mut().zip(&delta).for_each(|(b, d)| *b += self.ratio as f32 * d);
                Ok(())
            }
            _ => {
                let message = format!("the difference of the bias of `{}` does not fit", self.name);
                Err(ToolError::new("P0305", message).at(self.file.path()))
            }
        }
    }

    /// ΔW `[out, in·h·w]` of these rows and its scale; nothing when only a bias changes. The layer was checked.
    pub fn delta(&self, shape: &[usize]) -> Result<Option<(Vec<f32>, f64)>> {
        let (file, layer) = (self.file, self.layer);
        let get = |tensor| file.values(layer, tensor);
        let dims = |tensor: Tensor| file.shape(layer, tensor).unwrap_or_default();
        let (out, row) = (shape[0], product(&shape[1..]));
        let (inputs, kernel) = inputs_and_kernel(shape);
        let scale = |rank: usize| -> Result<f64> {
            Ok(file.alpha(self.name, layer, rank)?.map_or(1.0, |alpha| f64::from(alpha) / rank as f64))
        };
        if layer.has(Down) {
            let rank = dims(Up)[1];
            let (up, down) = (get(Up)?, get(Down)?);
            let down = match layer.has(Mid) {
                true => tucker::down(&get(Mid)?, &down, [rank, dims(Down)[0]], inputs, kernel),
                false => down,
            };
            return Ok(Some((multiply_f32(out, row, rank, &up, &down), scale(rank)?)));
        }
        if layer.has(W1a) {
            let rank = dims(W1b)[0];
            let one = |a, b, t| -> Result<Vec<f32>> {
                if layer.has(T1) {
                    return Ok(cored(&get(t)?, &get(a)?, &get(b)?, [dims(a)[0], out], [dims(b)[0], inputs], kernel));
                }
                Ok(multiply_f32(out, row, rank, &get(a)?, &get(b)?))
            };
            let (mut first, second) = (one(W1a, W1b, T1)?, one(W2a, W2b, T2)?);
            first.iter_mut().zip(&second).for_each(|(x, y)| *x *= y);
            return Ok(Some((first, scale(rank)?)));
        }
        if let Some([l, k, m, n]) = self.kron_sizes(shape).filter(|_| !layer.has(Diff)) {
            let product_of = |whole, a, b, rows: usize, cols: usize| -> Result<(Vec<f32>, Option<usize>)> {
                if layer.has(whole) {
                    return Ok((get(whole)?, None));
                }
                let rank = dims(b)[0];
                Ok((multiply_f32(rows, cols, rank, &get(a)?, &get(b)?), Some(rank)))
            };
            let (small, rank1) = product_of(K1, K1a, K1b, l, m)?;
            let (large, rank2) = if layer.has(Kt2) {
                let (a, b) = ([dims(K2a)[0], k], [dims(K2b)[0], n]);
                (cored(&get(Kt2)?, &get(K2a)?, &get(K2b)?, a, b, kernel), Some(b[0]))
            } else {
                product_of(K2, K2a, K2b, k, n * kernel)?
            };
            // LyCORIS: two whole factors have scale 1.
            let scale = rank2.or(rank1).map_or(Ok(1.0), scale)?;
            return Ok(Some((kron(&small, &large, [l, k, m, n], kernel), scale)));
        }
        Ok(if layer.has(Diff) { Some((get(Diff)?, 1.0)) } else { None })
    }

    /// Rows and columns of LoKr's factors: `(l·k) × (m·n)` is the weight.
    fn kron_sizes(&self, shape: &[usize]) -> Option<[usize; 4]> {
        let layer = self.layer;
        let dims = |tensor: Tensor| self.file.shape(layer, tensor).unwrap_or_default();
        let size = |tensor: Tensor| product(dims(tensor));
        let (inputs, kernel) = inputs_and_kernel(shape);
        let (l, m) = match layer.has(K1) {
            true => as_pair(dims(K1)).map(|p| (p[0], p[1]))?,
            false => {
                let (a, b) = (as_pair(dims(K1a))?, as_pair(dims(K1b))?);
                (a[1] == b[0]).then_some((a[0], b[1]))?
            }
        };
        let nonzero = l > 0 && m > 0 && shape[0].is_multiple_of(l) && inputs.is_multiple_of(m);
        let (k, n) = nonzero.then(|| (shape[0] / l, inputs / m))?;
        let fits = if layer.has(Kt2) {
            let (a, b) = (as_pair(dims(K2a))?, as_pair(dims(K2b))?);
            a[1] == k
                && b[1] == n
                && dims(Kt2).get(..2) == Some(&[a[0], b[0]])
                && size(Kt2) == times(&[a[0], b[0], kernel])
        } else if layer.has(K2) {
            size(K2) == times(&[k, n, kernel])
        } else {
            let rank = *dims(K2b).first()?;
            rank > 0 && dims(K2a) == [k, rank] && size(K2b) == times(&[rank, n, kernel])
        };
        fits.then_some([l, k, m, n])
    }

    /// Rows (or columns) get the stored lengths `d`: `w·d/(‖w‖ + ε)`.
    fn magnify(&self, weight: &mut [f32], shape: &[usize]) -> Result<()> {
        let mut magnitudes = self.file.values(self.layer, Magnitude)?;
        let (out, row) = (shape[0], product(&shape[1..]));
        let factor = |magnitude: f32, square: f64| magnitude / (square.sqrt() as f32 + f32::EPSILON);
        if self.file.by_rows(self.layer, out) {
            if self.place.swapped {
                let half = magnitudes.len() / 2;
                magnitudes.rotate_left(half);
            }
            for (values, magnitude) in weight.chunks_mut(row.max(1)).zip(&magnitudes) {
                let square = values.iter().map(|x| f64::from(*x).powi(2)).sum();
                let factor = factor(*magnitude, square);
                values.iter_mut().for_each(|x| *x *= factor);
            }
            return Ok(());
        }
        let (inputs, kernel) = inputs_and_kernel(shape);
        let mut squares = vec![0.0f64; inputs];
        let column = |i: usize| i / kernel % inputs;
        weight.iter().enumerate().for_each(|(i, x)| squares[column(i)] += f64::from(*x).powi(2));
        let factors: Vec<f32> = magnitudes.iter().zip(&squares).map(|(m, s)| factor(*m, *s)).collect();
        weight.iter_mut().enumerate().for_each(|(i, x)| *x *= factors[column(i)]);
        Ok(())
    }
}

/// A product that is never that of a tensor when it overflows.
pub(super) fn times(sizes: &[usize]) -> usize {
    sizes.iter().fold(1, |product, size| product.saturating_mul(*size))
}

pub(super) fn product(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// `[rows, columns]` of a matrix.
fn as_pair(dims: &[usize]) -> Option<&[usize; 2]> {
    <&[usize; 2]>::try_from(dims).ok()
}

/// Inputs of a weight, and the product of its kernel's sides.
pub(super) fn inputs_and_kernel(shape: &[usize]) -> (usize, usize) {
    (shape.get(1).copied().unwrap_or(1), product(shape.get(2..).unwrap_or_default()))
}

/// `out[p, q, k] = Σ t[i, j, k] · a[i, p] · b[j, q]`.
fn cored(t: &[f32], a: &[f32], b: &[f32], [ra, p]: [usize; 2], [rb, q]: [usize; 2], kernel: usize) -> Vec<f32> {
    let inner = tucker::down(t, b, [ra, rb], q, kernel);
    multiply_f32(p, q * kernel, ra, &tucker::up(a, ra, p), &inner)
}

/// `out[(a·k + b), (c·n + d), y] = small[a, c] · large[b, d, y]`.
fn kron(small: &[f32], large: &[f32], [l, k, m, n]: [usize; 4], kernel: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(small.len() * large.len());
    for a in 0..l {
        for b in 0..k {
            for c in 0..m {
                let s = small[a * m + c];
                out.extend(large[b * n * kernel..(b + 1) * n * kernel].iter().map(|x| s * x));
            }
        }
    }
    out
}
