//! Matrices and their products.

use gemm::Parallelism;

/// A row-major matrix of f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Values, row by row.
    pub data: Vec<f64>,
}

impl Matrix {
    /// A matrix of these values.
    ///
    /// # Panics
    /// When their number is not `rows · cols`.
    pub fn new(rows: usize, cols: usize, data: Vec<f64>) -> Matrix {
        assert_eq!(data.len(), rows * cols, "a {rows}×{cols} matrix");
        Matrix { rows, cols, data }
    }

    /// The same from f32.
    pub fn of_f32(rows: usize, cols: usize, data: &[f32]) -> Matrix {
        Matrix::new(rows, cols, data.iter().map(|x| f64::from(*x)).collect())
    }

    /// Zeros.
    pub fn zeros(rows: usize, cols: usize) -> Matrix {
        Matrix { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// Rows and columns exchanged.
    pub fn transposed(&self) -> Matrix {
        let mut out = Matrix::zeros(self.cols, self.rows);
        for r in 0..self.rows {
            for c in 0..self.cols {
                out.data[c * self.rows + r] = self.data[r * self.cols + c];
            }
        }
        out
    }

    /// Sum of squares.
    pub fn square(&self) -> f64 {
        self.data.iter().map(|x| x * x).sum()
    }

    /// The values as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        self.data.iter().map(|x| *x as f32).collect()
    }
}

/// `a · b`, either of them transposed on the way.
pub fn multiply(a: &Matrix, a_turned: bool, b: &Matrix, b_turned: bool) -> Matrix {
    let strides = |m: &Matrix, turned: bool| match turned {
        false => (m.rows, m.cols, m.cols, 1),
        true => (m.cols, m.rows, 1, m.cols),
    };
    let (m, k, a_row, a_col) = strides(a, a_turned);
    let (k2, n, b_row, b_col) = strides(b, b_turned);
    assert_eq!(k, k2, "inner sizes differ");
    let mut out = Matrix::zeros(m, n);
    product((m, n, k), &mut out.data, (&a.data, a_row, a_col), (&b.data, b_row, b_col));
    out
}

/// `a [m, k] · b [k, n]` in f32, row-major.
pub fn multiply_f32(m: usize, n: usize, k: usize, a: &[f32], b: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; m * n];
    product((m, n, k), &mut out, (a, k, 1), (b, n, 1));
    out
}

/// A view with its steps from row to row and from column to column.
type View<'a, T> = (&'a [T], usize, usize);

#[allow(unsafe_code)]
fn product<T: Copy + Default + One + 'static>(
    (m, n, k): (usize, usize, usize),
    out: &mut [T],
    (a, a_row, a_col): View<T>,
    (b, b_row, b_col): View<T>,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!((m - 1) * n + n <= out.len(), "result outside its data");
    assert!((m - 1) * a_row + (k - 1) * a_col < a.len(), "left matrix outside its data");
    assert!((k - 1) * b_row + (n - 1) * b_col < b.len(), "right matrix outside its data");
    let parallel = if m as u64 * n as u64 * k as u64 > 200_000 { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: all three views were checked to lie inside their slices, and `out` is borrowed mutably.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            a_col as isize,
            a_row as isize,
            b.as_ptr(),
            b_col as isize,
            b_row as isize,
            T::default(),
            T::ONE,
            false,
            false,
            false,
            parallel,
        );
    }
}

/// Types with a 1.
trait One {
    const ONE: Self;
}

impl One for f32 {
    const ONE: f32 = 1.0;
}

impl One for f64 {
    const ONE: f64 = 1.0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_turned_ones() {
        let a = Matrix::new(2, 3, vec![1., 2., 3., 4., 5., 6.]);
        let b = Matrix::new(3, 2, vec![1., 0., 2., 1., 0., 3.]);
        let wanted = Matrix::new(2, 2, vec![5., 11., 14., 23.]);
        assert_eq!(multiply(&a, false, &b, false), wanted);
        assert_eq!(multiply(&a.transposed(), true, &b.transposed(), true), wanted);
        let single = multiply_f32(2, 2, 3, &a.to_f32(), &b.to_f32());
        assert_eq!(single, wanted.to_f32());
        assert_eq!(multiply(&Matrix::zeros(2, 0), false, &Matrix::zeros(0, 2), false), Matrix::zeros(2, 2));
        assert_eq!(a.square(), 91.0);
    }
}
