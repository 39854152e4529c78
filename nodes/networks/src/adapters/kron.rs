//! How LyCORIS splits a dimension for a Kronecker product.

/// `dimension = small · large`, `small ≤ large`, as near to each other as divisors allow, or, with a `factor` that
/// divides it, that factor and the rest; where it does not divide, `small` is at most the factor.
pub fn split(dimension: usize, factor: Option<usize>) -> (usize, usize) {
    if let Some(f) = factor.filter(|f| *f > 0 && dimension.is_multiple_of(*f)) {
        let rest = dimension / f;
        return (f.min(rest), f.max(rest));
    }
    let limit = factor.unwrap_or(dimension);
    let root = (1..=dimension).take_while(|m| m * m <= dimension).filter(|m| dimension.is_multiple_of(*m));
    let small = root.take_while(|m| *m <= limit).last().unwrap_or(1);
    (small, dimension / small)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table in LyCORIS' documentation.
    #[test]
    fn as_lycoris_documents() {
        let factors = [None, Some(2), Some(4), Some(8), Some(16)];
        for (dimension, expected) in [
            (127, [(1, 127), (1, 127), (1, 127), (1, 127), (1, 127)]),
            (128, [(8, 16), (2, 64), (4, 32), (8, 16), (8, 16)]),
            (250, [(10, 25), (2, 125), (2, 125), (5, 50), (10, 25)]),
            (360, [(18, 20), (2, 180), (4, 90), (8, 45), (15, 24)]),
            (512, [(16, 32), (2, 256), (4, 128), (8, 64), (16, 32)]),
            (1024, [(32, 32), (2, 512), (4, 256), (8, 128), (16, 64)]),
        ] {
            for (factor, pair) in factors.iter().zip(expected) {
                assert_eq!(split(dimension, *factor), pair, "{dimension} by {factor:?}");
            }
        }
    }
}
