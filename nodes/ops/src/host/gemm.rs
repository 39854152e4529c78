//! A safe face over the `gemm` crate: matrices as slices with strides.

use gemm::Parallelism;

/// A read-only matrix view `[rows, cols]` with element strides.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Row-major matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols, 1)
    }
    /// Matrix with strides; the last element must lie inside `data`.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Self {
        if rows > 0 && cols > 0 {
            assert!((rows - 1) * row_stride + (cols - 1) * col_stride < data.len(), "matrix view outside its data");
        }
        Mat { data, rows, cols, row_stride, col_stride }
    }
    /// The transpose, without moving data.
    pub fn t(self) -> Self {
        Mat { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// `out = keep·out + scale·a·b`, `out` with a row stride. `parallel` uses all cores.
#[allow(unsafe_code)]
pub fn gemm_into(out: &mut [f32], out_row_stride: usize, a: Mat, b: Mat, keep: f32, scale: f32, parallel: bool) {
    assert_eq!(a.cols, b.rows, "inner sizes differ");
    let (m, n, k) = (a.rows, b.cols, a.cols);
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * out_row_stride + n <= out.len(), "result outside its data");
    let work = m as u64 * n as u64 * k as u64;
    let parallelism = if parallel && work > 200_000 { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: all three views were checked to lie inside their slices, and `out` is borrowed mutably.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_row_stride as isize,
            keep != 0.0,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            keep,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `a·b` as a new row-major matrix.
pub fn matmul(a: Mat, b: Mat) -> Vec<f32> {
    let mut out = super::buffer(a.rows * b.cols);
    gemm_into(&mut out, b.cols, a, b, 0.0, 1.0, true);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_product_and_transpose() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let b = [1.0, 0.0, 2.0, 1.0, 0.0, 3.0];
        assert_eq!(matmul(Mat::new(&a, 2, 3), Mat::new(&b, 3, 2)), [5.0, 11.0, 14.0, 23.0]);
        assert_eq!(matmul(Mat::new(&a, 3, 2).t(), Mat::new(&b, 3, 2)), [7.0, 18.0, 10.0, 22.0]);
        let mut out = vec![1.0; 4];
        gemm_into(&mut out, 2, Mat::new(&a, 2, 3), Mat::new(&b, 3, 2), 1.0, 2.0, false);
        assert_eq!(out, [11.0, 23.0, 29.0, 47.0]);
    }
}
