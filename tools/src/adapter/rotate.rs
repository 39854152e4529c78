//! Rotations of a weight's rows: OFT (Qiu et al. 2023) in kohya's and LyCORIS' form, BOFT (Liu et al. 2023) in LyCORIS'.

use pipe_networks::adapters::butterfly;

use super::Change;
use super::apply::{product, times};
use super::file::Tensor::{Alpha, Blocks, Rescale};
use crate::error::Result;
use crate::linear::{Matrix, multiply};

impl Change<'_> {
    /// Number of the parts that turn by themselves, when it is a rotation.
    fn rotations(&self) -> Option<u8> {
        let blocks = self.layer.0.keys().filter(|t| matches!(t, Blocks(_))).count() as u8;
        let only = self.layer.0.keys().all(|t| matches!(t, Blocks(_) | Alpha | Rescale));
        (blocks > 0 && only && (0..blocks).all(|i| self.layer.has(Blocks(i)))).then_some(blocks)
    }

    /// What is wrong with a rotation for a weight of this shape; nothing where it is none.
    pub(super) fn check_rotation(&self, shape: &[usize]) -> Option<Result<(), String>> {
        let count = self.rotations()?;
        let dims = |part: u8| self.file.shape(self.layer, Blocks(part)).unwrap_or_default();
        let lengths = self.file.shape(self.layer, Rescale).map_or(shape[0], product) == shape[0];
        let mut rows = 0;
        let fits = (0..count).all(|part| {
            let (stages, size) = match *dims(part) {
                [k, n, n2] => (None, [k, n, n2]),
                [m, k, n, n2] => (Some(m), [k, n, n2]),
                _ => return false,
            };
            let [k, n, n2] = size;
            rows = times(&[k, n]).saturating_add(rows);
            let whole = stages.is_none_or(|m| {
                count == 1 && k.is_power_of_two() && n.is_multiple_of(2) && (1..=butterfly::stages(k)).contains(&m)
            });
            n == n2 && k > 0 && n > 0 && whole
        });
        let fits = fits && rows == shape[0] && lengths;
        let misfit = || Err(format!("its tensors do not fit a weight of {shape:?}"));
        Some(self.whole("OFT").and_then(|()| if fits { Ok(()) } else { misfit() }))
    }

    /// The turned weight at strength 1, if this is a rotation: `W' = Rᵀ·W` by blocks of rows with `R = (I + Q)(I − Q)⁻¹`,
    /// `Q = S − Sᵀ` shortened to the norm `α · rows`; of BOFT `W' = R_m·…·R_1·W`. Then rows get their lengths. The layer
    /// was checked; a row of the weight has `row` values.
    pub(super) fn rotated(&self, weight: &[f32], row: usize) -> Result<Option<Vec<f32>>> {
        let Some(count) = self.rotations() else { return Ok(None) };
        let mut out = weight.to_vec();
        let mut start = 0;
        for part in 0..count {
            let values = self.file.values(self.layer, Blocks(part))?;
            let dims = self.file.shape(self.layer, Blocks(part)).unwrap_or_default().to_vec();
            // Without a constraint, or with 0, the rotation is as stored.
            let constraint = self.file.alpha(self.name, self.layer, 1)?.filter(|c| *c != 0.0);
            let limit = |rows: usize| constraint.map_or(f64::INFINITY, |c| f64::from(c) * rows as f64);
            if let [m, k, n, _] = dims[..] {
                let turns = turns(&values, m * k, n, limit(k * n));
                for stage in 0..m {
                    out = mixed(&out, &turns[stage * k..(stage + 1) * k], n, (n / 2) << stage, row);
                }
                continue;
            }
            let (k, n) = (dims[0], dims[1]);
            for turn in turns(&values, k, n, limit(k * n)) {
                let block = &mut out[start * row..(start + n) * row];
                let turned = multiply(&turn, true, &Matrix::of_f32(n, row, block), false);
                block.iter_mut().zip(&turned.data).for_each(|(w, t)| *w = *t as f32);
                start += n;
            }
        }
        if self.layer.has(Rescale) {
            let lengths = self.file.values(self.layer, Rescale)?;
            for (row, length) in out.chunks_mut(row.max(1)).zip(&lengths) {
                row.iter_mut().for_each(|x| *x *= length);
            }
        }
        Ok(Some(out))
    }
}

/// `R = (I + Q)(I − Q)⁻¹ = 2(I − Q)⁻¹ − I` of each of `k` generators `[n, n]`, `Q = S − Sᵀ` no longer than `limit` together.
fn turns(values: &[f32], k: usize, n: usize, limit: f64) -> Vec<Matrix> {
    let skew =
        |b: usize, i: usize, j: usize| f64::from(values[(b * n + i) * n + j]) - f64::from(values[(b * n + j) * n + i]);
    let mut square = 0.0;
    for b in 0..k {
        (0..n).for_each(|i| (0..n).for_each(|j| square += skew(b, i, j).powi(2)));
    }
    let norm = f64::sqrt(square);
    // Keeps the ratio finite, as the reference does.
    let factor = if limit.is_finite() { (norm.min(limit) + 1e-8) / (norm + 1e-8) } else { 1.0 };
    let unit = |i: usize, j: usize| f64::from(u8::from(i == j));
    let turn = |b: usize| {
        let a = nalgebra::DMatrix::from_fn(n, n, |i, j| unit(i, j) - factor * skew(b, i, j));
        // Q is skew: I − Q always has an inverse.
        let inverse = a.try_inverse().unwrap_or_else(|| nalgebra::DMatrix::identity(n, n));
        Matrix::new(n, n, (0..n * n).map(|x| 2.0 * inverse[(x / n, x % n)] - unit(x / n, x % n)).collect())
    };
    (0..k).map(turn).collect()
}

/// One stage of BOFT: rows that stand `apart` apart are brought together, turned by blocks of `n`, and put back.
fn mixed(weight: &[f32], turns: &[Matrix], n: usize, apart: usize, row: usize) -> Vec<f32> {
    // Row `(c·2 + g)·apart + k` comes to `(c·apart + k)·2 + g`.
    let from = |place: usize| {
        let (c, k, g) = (place / (2 * apart), place / 2 % apart, place % 2);
        (2 * c + g) * apart + k
    };
    let mut out = vec![0.0; weight.len()];
    for (block, turn) in turns.iter().enumerate() {
        let rows: Vec<usize> = (block * n..(block + 1) * n).map(from).collect();
        let values: Vec<f32> = rows.iter().flat_map(|r| weight[r * row..(r + 1) * row].iter().copied()).collect();
        let turned = multiply(turn, false, &Matrix::of_f32(n, row, &values), false);
        for (r, values) in rows.iter().zip(turned.data.chunks(row.max(1))) {
            out[r * row..(r + 1) * row].iter_mut().zip(values).for_each(|(o, x)| *o = *x as f32);
        }
    }
    out
}
