//! Second moments kept as one number a row and a column (Shazeer and Stern 2018).

use rayon::prelude::*;

use crate::par::GRAIN;

/// A tensor as `batch` matrices of its last two dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrices {
    pub batch: usize,
    pub rows: usize,
    pub columns: usize,
}

impl Matrices {
    /// `None` for tensors of fewer than two dimensions, which are not factored, and for empty ones.
    pub fn of(shape: &[usize]) -> Option<Self> {
        let [batch @ .., rows, columns] = shape else { return None };
        let found = Matrices { batch: batch.iter().product(), rows: *rows, columns: *columns };
        (found.batch * found.rows * found.columns > 0).then_some(found)
    }

    /// Numbers of the rows' state.
    pub fn row_count(&self) -> usize {
        self.batch * self.rows
    }

    /// Numbers of the columns' state.
    pub fn column_count(&self) -> usize {
        self.batch * self.columns
    }

    /// Rows (or whole matrices) that a worker takes at once.
    fn block(&self) -> usize {
        (GRAIN / self.columns).clamp(1, self.rows)
    }

    /// Means over the last and over the last but one dimension of what `fill(row, out)` writes for each row.
    pub fn means(&self, fill: impl Fn(usize, &mut [f32]) + Sync) -> (Vec<f32>, Vec<f32>) {
        let (n, block) = (self.columns, self.block());
        let per = self.rows.div_ceil(block);
        let parts: Vec<(Vec<f32>, Vec<f64>)> = (0..self.batch * per)
            .into_par_iter()
            .with_min_len((GRAIN / (block * n)).max(1))
            .map(|part| {
                let (matrix, first) = (part / per, part % per * block);
                let last = (first + block).min(self.rows);
                let (mut row, mut means, mut sums) = (vec![0.0; n], Vec::with_capacity(last - first), vec![0.0f64; n]);
                for r in first..last {
                    fill(matrix * self.rows + r, &mut row);
                    means.push((row.iter().map(|&x| x as f64).sum::<f64>() / n as f64) as f32);
                    sums.iter_mut().zip(&row).for_each(|(sum, &x)| *sum += x as f64);
                }
                (means, sums)
            })
            .collect();
        let mut columns = Vec::with_capacity(self.column_count());
        for matrix in parts.chunks(per) {
            let at = |c: usize| (matrix.iter().map(|(_, sums)| sums[c]).sum::<f64>() / self.rows as f64) as f32;
            columns.extend((0..n).map(at));
        }
        (parts.into_iter().flat_map(|(means, _)| means).collect(), columns)
    }

    /// `1/√(R/mean(R))` of each row and `1/√C` of each column: their products scale the gradient.
    pub fn factors(&self, rows: &[f32], columns: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let mut scaled = Vec::with_capacity(rows.len());
        for rows in rows.chunks(self.rows) {
            let mean = (rows.iter().map(|&x| x as f64).sum::<f64>() / rows.len() as f64) as f32;
            scaled.extend(rows.iter().map(|r| 1.0 / (r / mean).sqrt()));
        }
        (scaled, columns.iter().map(|c| 1.0 / c.sqrt()).collect())
    }

    /// Columns of the matrix of row `r` in a list of [`Matrices::column_count`].
    pub fn columns_of<'a>(&self, r: usize, columns: &'a [f32]) -> &'a [f32] {
        &columns[r / self.rows * self.columns..][..self.columns]
    }
}

/// `x ← βx + (1−β)y`.
pub fn average(x: &mut [f32], y: &[f32], beta: f64) {
    let (keep, gain) = (beta as f32, (1.0 - beta) as f32);
    x.iter_mut().zip(y).for_each(|(x, y)| *x = *x * keep + gain * y);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_of_large_and_of_many_matrices() {
        for (batch, rows, columns) in [(1, 700, 65), (5000, 3, 3), (2, 5, 40_000), (1, 1, 1)] {
            let m = Matrices { batch, rows, columns };
            let value = |r: usize, c: usize| ((r * 31 + c * 7) % 11) as f32;
            let (by_row, by_column) =
                m.means(|r, out| out.iter_mut().enumerate().for_each(|(c, out)| *out = value(r, c)));
            assert_eq!((by_row.len(), by_column.len()), (m.row_count(), m.column_count()));
            let r = m.row_count() - 1;
            let mean = (0..columns).map(|c| value(r, c)).sum::<f32>() / columns as f32;
            assert!((by_row[r] - mean).abs() < 1e-4);
            let first = (batch - 1) * rows;
            let mean = (first..first + rows).map(|r| value(r, columns - 1)).sum::<f32>() / rows as f32;
            assert!((by_column[m.column_count() - 1] - mean).abs() < 1e-4);
        }
    }

    #[test]
    fn vectors_are_not_factored() {
        assert_eq!(Matrices::of(&[7]), None);
        assert_eq!(Matrices::of(&[]), None);
        assert_eq!(Matrices::of(&[4, 3, 2, 2]), Some(Matrices { batch: 12, rows: 2, columns: 2 }));
    }
}
