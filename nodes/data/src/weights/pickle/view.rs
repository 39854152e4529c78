//! Strided views: which are contiguous, how far they reach, and copying them into row-major order.

/// Number of elements; nothing when it cannot be counted.
pub(super) fn elements(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |n, &size| n.checked_mul(size))
}

/// Distance from the first element to the farthest, for a shape without zeros.
pub(super) fn reach(shape: &[u64], strides: &[u64]) -> Option<u64> {
    let mut reach = 0u64;
    for (&size, &stride) in shape.iter().zip(strides) {
        reach = reach.checked_add((size - 1).checked_mul(stride)?)?;
    }
    Some(reach)
}

/// Whether the elements lie one after another in row-major order; the stride of a single element says nothing.
pub(super) fn is_contiguous(shape: &[u64], strides: &[u64]) -> bool {
    let mut expected = 1u64;
    for (&size, &stride) in shape.iter().zip(strides).rev() {
        if size != 1 && stride != expected {
            return false;
        }
        expected = expected.saturating_mul(size);
    }
    true
}

/// Copies the view that begins at byte `start`, of elements of `size` bytes, into row-major order.
///
/// Shape and strides were checked against the file, see `state::resolve`.
pub(crate) fn gather(file: &[u8], start: usize, shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut out = Vec::with_capacity(count * size);
    let (Some((&columns, outer)), Some((&step, outer_strides))) = (shape.split_last(), strides.split_last()) else {
        out.extend_from_slice(&file[start..start + size]);
        return out;
    };
    if count == 0 {
        return out;
    }
    let mut index = vec![0; outer.len()];
    let mut first = start;
    loop {
        if step == 1 {
            out.extend_from_slice(&file[first..first + columns * size]);
        } else {
            for column in 0..columns {
                let at = first + column * step * size;
                out.extend_from_slice(&file[at..at + size]);
            }
        }
        // The next row: the last index that has one more goes on, those after it start again.
        let Some(axis) = (0..outer.len()).rev().find(|&axis| index[axis] + 1 < outer[axis]) else { return out };
        for axis in axis + 1..outer.len() {
            first -= index[axis] * outer_strides[axis] * size;
            index[axis] = 0;
        }
        index[axis] += 1;
        first += outer_strides[axis] * size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_copied_in_order() {
        let file: Vec<u8> = (0..24).collect();
        // A transpose, a step, a repeated row and an inner permutation of two-byte elements.
        assert_eq!(gather(&file, 2, &[2, 3], &[1, 2], 1), [2, 4, 6, 3, 5, 7]);
        assert_eq!(gather(&file, 0, &[3], &[4], 2), [0, 1, 8, 9, 16, 17]);
        assert_eq!(gather(&file, 5, &[2, 2], &[0, 1], 1), [5, 6, 5, 6]);
        assert_eq!(gather(&file, 0, &[2, 2, 2], &[1, 4, 2], 2), [0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15]);
        assert_eq!(gather(&file, 7, &[], &[], 2), [7, 8]);
        assert!(gather(&file, 0, &[2, 0], &[1, 1], 1).is_empty());
    }

    #[test]
    fn contiguity_and_reach() {
        assert!(is_contiguous(&[2, 3], &[3, 1]) && is_contiguous(&[2, 1, 3], &[3, 9, 1]) && is_contiguous(&[], &[]));
        assert!(!is_contiguous(&[2, 3], &[1, 2]) && !is_contiguous(&[2, 3], &[4, 1]));
        assert_eq!(reach(&[2, 3], &[1, 2]), Some(5));
        assert_eq!(reach(&[u64::MAX, 2], &[2, 1]), None);
        assert_eq!(elements(&[u64::MAX, 2]), None);
    }
}
