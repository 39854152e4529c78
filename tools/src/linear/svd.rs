//! Singular values and vectors of products of factors, and the leading ones of a matrix.

use nalgebra::DMatrix;

use super::basis::of_rows;
use super::{Matrix, multiply};

/// `A ≈ U · diag(s) · Vᵀ` with singular values in falling order.
#[derive(Clone, Debug)]
pub struct Svd {
    /// Left singular vectors, one a row: `[k, rows of A]`.
    pub left: Matrix,
    /// Singular values.
    pub values: Vec<f64>,
    /// Right singular vectors, one a row: `[k, columns of A]`.
    pub right: Matrix,
    /// `‖A‖²` (Frobenius), of which the values may be only the leading part.
    pub square: f64,
}

impl Svd {
    /// Without singular values.
    fn empty(rows: usize, cols: usize) -> Svd {
        Svd { left: Matrix::zeros(0, rows), values: Vec::new(), right: Matrix::zeros(0, cols), square: 0.0 }
    }

    /// Up factor `U·diag(s)` of `[rows, rank]` and down factor `Vᵀ` of `[rank, cols]`. Ranks beyond the values add
    /// nothing: they are zeros in the up factor and orthonormal to the others in the down factor, so that they can learn.
    pub fn factors(&self, rank: usize) -> (Vec<f32>, Vec<f32>) {
        let (rows, cols) = (self.left.cols, self.right.cols);
        let (mut up, mut down) = (vec![0.0; rows * rank], vec![0.0; rank * cols]);
        for (r, value) in self.values.iter().take(rank).enumerate() {
            for i in 0..rows {
                up[i * rank + r] = (self.left.data[r * rows + i] * value) as f32;
            }
            for (out, x) in down[r * cols..].iter_mut().zip(&self.right.data[r * cols..(r + 1) * cols]) {
                *out = *x as f32;
            }
        }
        let known = self.values.len();
        if rank > known && cols > 0 {
            let mut all = noise(rank, cols);
            all.data[..known * cols].copy_from_slice(&self.right.data[..known * cols]);
            let others = of_rows(all);
            for (out, x) in down[known * cols..].iter_mut().zip(others.data.iter().skip(known * cols)) {
                *out = *x as f32;
            }
        }
        (up, down)
    }

    /// Which part of the norm the first `rank` values keep, from 0 to 1; all of nothing is kept.
    pub fn kept(&self, rank: usize) -> f64 {
        if self.square == 0.0 {
            return 1.0;
        }
        let kept: f64 = self.values.iter().take(rank).map(|s| s * s).sum();
        (kept / self.square).clamp(0.0, 1.0).sqrt()
    }
}

/// The whole decomposition of `up [m, r] · down [r, n]`, exact: bases of both factors, then a core of rank × rank.
///
/// All values must be finite.
pub fn of_product(up: &Matrix, down: &Matrix) -> Svd {
    let (left, right) = (of_rows(up.transposed()), of_rows(down.clone()));
    // (L·up) · (down·Rᵀ) of [kl, kr].
    let core = multiply(&multiply(&left, false, up, false), false, &multiply(down, false, &right, true), false);
    of_core(core, &left, &right)
}

/// The leading `rank` singular values and vectors of a matrix.
///
/// Small ones are decomposed whole. Of the others a block that is wider than the rank is multiplied by `A·Aᵀ` until what
/// it catches of the norm no longer grows (subspace iteration; Halko, Martinsson and Tropp 2011). All values must be
/// finite.
pub fn leading(a: &Matrix, rank: usize) -> Svd {
    let small = a.rows.min(a.cols);
    if small == 0 || rank == 0 {
        return Svd { square: a.square(), ..Svd::empty(a.rows, a.cols) };
    }
    let width = rank + (rank / 4).max(12);
    let (left, right) = if small <= 96 || 2 * width >= small { whole(a) } else { iterated(a, rank, width) };
    let core = multiply(&multiply(&left, false, a, false), false, &right, true);
    let mut svd = of_core(core, &left, &right);
    let keep = rank.min(svd.values.len());
    svd.values.truncate(keep);
    svd.left.data.truncate(keep * svd.left.cols);
    svd.right.data.truncate(keep * svd.right.cols);
    (svd.left.rows, svd.right.rows) = (keep, keep);
    svd.square = a.square();
    svd
}

/// Bases of all columns and of all rows.
fn whole(a: &Matrix) -> (Matrix, Matrix) {
    if a.rows >= a.cols { (of_rows(a.transposed()), identity(a.cols)) } else { (identity(a.rows), of_rows(a.clone())) }
}

fn identity(n: usize) -> Matrix {
    let mut unit = Matrix::zeros(n, n);
    unit.data.iter_mut().step_by(n + 1).for_each(|x| *x = 1.0);
    unit
}

/// Bases of the spaces that hold the leading vectors.
fn iterated(a: &Matrix, rank: usize, width: usize) -> (Matrix, Matrix) {
    const ROUNDS: usize = 40;
    /// What a round must add, beside the whole.
    const GAIN: f64 = 1e-10;
    let total = a.square();
    let mut right = of_rows(noise(width, a.cols));
    let mut caught = 0.0;
    let mut left = Matrix::zeros(0, a.rows);
    for _ in 0..ROUNDS {
        // [width, rows] and back to [width, cols].
        left = of_rows(multiply(&right, false, a, true));
        let back = multiply(&left, false, a, false);
        let square = multiply(&back, false, &back, true);
        let mut values: Vec<f64> = DMatrix::from_row_slice(square.rows, square.cols, &square.data)
            .symmetric_eigenvalues()
            .iter()
            .copied()
            .collect();
        values.sort_by(|x, y| y.total_cmp(x));
        let now: f64 = values.iter().take(rank).sum();
        right = of_rows(back);
        if now - caught <= GAIN * total {
            break;
        }
        caught = now;
    }
    (left, right)
}

/// Numbers without pattern in ±1, the same every time.
fn noise(rows: usize, cols: usize) -> Matrix {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        // SplitMix64 (Steele, Lea and Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    Matrix::new(rows, cols, (0..rows * cols).map(|_| next()).collect())
}

/// The decomposition of `Lᵀ · core · R`, with orthonormal rows in `L` and `R`.
fn of_core(core: Matrix, left: &Matrix, right: &Matrix) -> Svd {
    if core.data.is_empty() {
        return Svd::empty(left.cols, right.cols);
    }
    let square = core.square();
    let svd = DMatrix::from_row_slice(core.rows, core.cols, &core.data).svd(true, true);
    let (Some(u), Some(v)) = (&svd.u, &svd.v_t) else { return Svd::empty(left.cols, right.cols) };
    let mut order: Vec<usize> = (0..svd.singular_values.len()).collect();
    order.sort_by(|x, y| svd.singular_values[*y].total_cmp(&svd.singular_values[*x]));
    let rows = |pick: &dyn Fn(usize, usize) -> f64, width: usize| {
        let data = order.iter().flat_map(|&k| (0..width).map(move |i| pick(k, i))).collect();
        Matrix::new(order.len(), width, data)
    };
    let (u_rows, v_rows) = (rows(&|k, i| u[(i, k)], core.rows), rows(&|k, i| v[(k, i)], core.cols));
    Svd {
        left: multiply(&u_rows, false, left, false),
        values: order.iter().map(|&k| svd.singular_values[k]).collect(),
        right: multiply(&v_rows, false, right, false),
        square,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(rows: usize, cols: usize, seed: f64) -> Matrix {
        Matrix::new(rows, cols, (0..rows * cols).map(|i| ((i * i) as f64 * seed + i as f64).sin()).collect())
    }

    fn rebuilt(svd: &Svd, rank: usize) -> Matrix {
        let (up, down) = svd.factors(rank);
        let (m, n) = (svd.left.cols, svd.right.cols);
        multiply(&Matrix::of_f32(m, rank, &up), false, &Matrix::of_f32(rank, n, &down), false)
    }

    fn distance(a: &Matrix, b: &Matrix) -> f64 {
        a.data.iter().zip(&b.data).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt()
    }

    #[test]
    fn a_product_is_decomposed_whole() {
        let (up, down) = (wave(30, 5, 0.31), wave(5, 22, 0.17));
        let a = multiply(&up, false, &down, false);
        let svd = of_product(&up, &down);
        assert_eq!(svd.values.len(), 5);
        assert!(svd.values.is_sorted_by(|x, y| x >= y));
        assert!(distance(&a, &rebuilt(&svd, 5)) < 1e-6 * a.square().sqrt());
        // The error of a lower rank is that of the values left out.
        for rank in 1..5 {
            let left_out: f64 = svd.values[rank..].iter().map(|s| s * s).sum();
            assert!((distance(&a, &rebuilt(&svd, rank)) - left_out.sqrt()).abs() < 1e-6 * a.square().sqrt());
            assert!((svd.kept(rank).powi(2) + left_out / a.square() - 1.0).abs() < 1e-12);
        }
        // Ranks beyond what is there add nothing, and can learn: their down factors stand on the others.
        assert!(distance(&a, &rebuilt(&svd, 8)) < 1e-6 * a.square().sqrt());
        let (more, down) = svd.factors(8);
        assert!(more.chunks(8).all(|row| row[5..].iter().all(|x| *x == 0.0)));
        let down = Matrix::of_f32(8, 22, &down);
        let gram = multiply(&down, false, &down, true);
        for (i, x) in gram.data.iter().enumerate() {
            assert!((x - f64::from(u8::from(i / 8 == i % 8))).abs() < 1e-5, "{i}: {x}");
        }
        let nothing = of_product(&Matrix::zeros(4, 2), &wave(2, 3, 0.2));
        assert_eq!((nothing.values.len(), nothing.kept(1), nothing.factors(1).0), (0, 1.0, vec![0.0; 4]));
    }

    #[test]
    fn iteration_and_whole_decomposition_agree() {
        // A spectrum that falls slowly, and one of low rank.
        let (m, n, rank) = (150, 210, 20);
        let (u, v) = (of_rows(wave(m, m, 0.7)), of_rows(wave(m, n, 0.3)));
        for falling in [0.97f64, 0.5] {
            let mut scaled = v.clone();
            for (k, row) in scaled.data.chunks_mut(n).enumerate() {
                row.iter_mut().for_each(|x| *x *= falling.powi(k as i32));
            }
            let a = multiply(&u, true, &scaled, false);
            let exact: Vec<f64> = (0..rank).map(|k| falling.powi(k as i32)).collect();
            for a in [a.clone(), a.transposed()] {
                let fast = leading(&a, rank);
                let best: f64 = exact.iter().map(|s| s * s).sum();
                let caught: f64 = fast.values.iter().map(|s| s * s).sum();
                assert!((best - caught).abs() < 1e-7 * fast.square, "{falling}: {best} {caught}");
                let error = distance(&a, &rebuilt(&fast, rank)).powi(2);
                assert!((error - (fast.square - best)).abs() < 1e-6 * fast.square, "{error}");
            }
        }
    }

    #[test]
    fn small_and_empty_ones() {
        let a = wave(7, 4, 0.4);
        let svd = leading(&a, 9);
        assert_eq!(svd.values.len(), 4);
        assert!(distance(&a, &rebuilt(&svd, 4)) < 1e-6);
        assert_eq!(leading(&Matrix::zeros(3, 3), 2).kept(2), 1.0);
        assert!(leading(&Matrix::zeros(0, 3), 2).values.is_empty());
    }
}
