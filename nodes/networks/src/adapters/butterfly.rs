//! How LyCORIS splits a dimension for butterfly rotations (BOFT, Liu et al. 2023).

/// Size and number of the blocks of `dimension` rows: an even size of at most `limit`, as large as may be, whose number is
/// a power of two. Nothing where there is none.
pub fn split(dimension: usize, limit: usize) -> Option<(usize, usize)> {
    let fits = |size: &usize| dimension.is_multiple_of(*size) && (dimension / size).is_power_of_two();
    let size = (2..=limit.min(dimension)).step_by(2).filter(fits).last()?;
    Some((size, dimension / size))
}

/// Rotations one after another, for so many blocks: the ones in `blocks − 1` in binary digits, and one.
pub fn stages(blocks: usize) -> usize {
    blocks.saturating_sub(1).count_ones() as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As lycoris-lora's `power2factorization` and `ButterflyOFTModule` have it.
    #[test]
    fn as_lycoris_splits() {
        for (dimension, limit, wanted) in [
            (320, 4, None),
            (320, 10, Some((10, 32))),
            (320, 16, Some((10, 32))),
            (320, 64, Some((40, 8))),
            (768, 4, None),
            (768, 8, Some((6, 128))),
            (24, 2, None),
            (24, 6, Some((6, 4))),
            (24, 100, Some((24, 1))),
            (7, 7, None),
        ] {
            assert_eq!(split(dimension, limit), wanted, "{dimension} by {limit}");
        }
        assert_eq!([1, 4, 8, 32].map(stages), [1, 3, 4, 6]);
    }
}
