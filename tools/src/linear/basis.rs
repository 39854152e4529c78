//! Orthonormal bases: modified Gram–Schmidt, twice (Giraud et al. 2005: twice is enough).

use rayon::prelude::*;

use super::Matrix;

/// What is left of a vector that depends on the others, beside what it was.
const NOTHING: f64 = 1e-12;

/// An orthonormal basis of the space of a matrix's rows, one vector a row. Rows that depend on those before them add
/// none.
pub fn of_rows(mut vectors: Matrix) -> Matrix {
    for _ in 0..2 {
        vectors = pass(vectors);
    }
    vectors
}

fn pass(mut vectors: Matrix) -> Matrix {
    let width = vectors.cols.max(1);
    let lengths: Vec<f64> = vectors.data.chunks(width).map(|v| dot(v, v).sqrt()).collect();
    let mut kept = 0;
    for i in 0..vectors.rows {
        let (head, rest) = vectors.data.split_at_mut((i + 1) * width);
        let current = &mut head[i * width..];
        let length = dot(current, current).sqrt();
        if length <= NOTHING * lengths[i] {
            continue;
        }
        current.iter_mut().for_each(|x| *x /= length);
        let current = &*current;
        rest.par_chunks_mut(width).for_each(|other| {
            let along = dot(current, other);
            other.iter_mut().zip(current).for_each(|(x, c)| *x -= along * c);
        });
        vectors.data.copy_within(i * width..(i + 1) * width, kept * width);
        kept += 1;
    }
    vectors.data.truncate(kept * width);
    Matrix { rows: kept, ..vectors }
}

/// Eight sums side by side, so that the compiler can use vector instructions.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::super::multiply;
    use super::*;

    #[test]
    fn orthonormal_and_without_dependent_rows() {
        let wave = |i: usize| ((i * i) as f64 * 0.37).sin();
        let mut data: Vec<f64> = (0..4 * 19).map(wave).collect();
        // The third row depends on the first two, the fourth is almost the first.
        for i in 0..19 {
            data[38 + i] = 2.0 * data[i] - 3.0 * data[19 + i];
            data[57 + i] = data[i] + 1e-7 * data[57 + i];
        }
        let basis = of_rows(Matrix::new(4, 19, data));
        assert_eq!(basis.rows, 3);
        let products = multiply(&basis, false, &basis, true);
        for (i, x) in products.data.iter().enumerate() {
            let wanted = if i % 4 == 0 { 1.0 } else { 0.0 };
            assert!((x - wanted).abs() < 1e-14, "{x}");
        }
        assert_eq!(of_rows(Matrix::zeros(3, 5)).rows, 0);
    }
}
