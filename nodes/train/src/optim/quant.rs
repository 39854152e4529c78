//! Block-wise dynamic 8-bit numbers (Dettmers et al. 2022), as bitsandbytes has them.
//!
//! A block of 256 values is stored as codes of `value/absmax` and one f32, the block's largest magnitude. The maps hold 256 numbers
//! of [−1, 1] or [0, 1]: seven decades, the higher the finer, 0 and 1.

use std::sync::LazyLock;

/// Elements that share an absmax.
pub const BLOCK: usize = 256;

/// The numbers of the codes: for i of 0 to 6, the midpoints of `2ⁱ` (signed) or `2ⁱ⁺¹` parts of [0.1, 1] times `10ⁱ⁻⁶`.
fn map(signed: bool) -> [f32; 256] {
    const DECADES: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
    let mut numbers = vec![0.0, 1.0];
    for (i, decade) in DECADES.into_iter().enumerate() {
        let parts = 1usize << if signed { i } else { i + 1 };
        for edges in crate::linspace(0.1, 1.0, parts + 1).windows(2) {
            let number = (edges[0] + edges[1]) / 2.0 * decade;
            numbers.push(number);
            if signed {
                numbers.push(-number);
            }
        }
    }
    numbers.sort_by(f32::total_cmp);
    std::array::from_fn(|i| numbers[i])
}

/// A map and the points between its numbers.
pub(crate) struct Codebook {
    pub numbers: [f32; 256],
    between: [f32; 256],
    zero: u8,
}

impl Codebook {
    fn new(signed: bool) -> Self {
        let numbers = map(signed);
        let between =
            std::array::from_fn(|i| numbers.get(i + 1).map_or(f32::INFINITY, |next| (numbers[i] + next) / 2.0));
        Codebook { numbers, between, zero: if signed { 127 } else { 0 } }
    }

    /// The nearest code of `x`.
    #[inline(always)]
    fn code(&self, x: f32) -> u8 {
        let mut code = 0usize;
        for step in [128, 64, 32, 16, 8, 4, 2, 1] {
            if x > self.between[code + step - 1] {
                code += step;
            }
        }
        code as u8
    }

    /// Codes of a block and its absmax. With `keep_sign` a value too small for any code but 0 gets the smallest of its sign
    /// if negative, so that momentum does not lose its direction.
    #[inline(always)]
    pub fn quantise(&self, values: &[f32], codes: &mut [u8], keep_sign: bool) -> f32 {
        let absmax = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        if absmax == 0.0 {
            codes.fill(self.zero);
            return 0.0;
        }
        for (code, &value) in codes.iter_mut().zip(values) {
            *code = self.code(value / absmax);
            if keep_sign && self.numbers[*code as usize].is_sign_negative() != value.is_sign_negative() {
                *code = if value > 0.0 { *code + 1 } else { *code - 1 };
            }
        }
        absmax
    }

    /// Values of a block.
    #[inline(always)]
    pub fn dequantise(&self, codes: &[u8], absmax: f32, values: &mut [f32]) {
        values.iter_mut().zip(codes).for_each(|(v, &code)| *v = self.numbers[code as usize] * absmax);
    }
}

/// Codes of momenta.
pub(crate) static SIGNED: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(true));
/// Codes of second moments.
pub(crate) static UNSIGNED: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(false));

/// The 256 numbers of [−1, 1], in the order of their codes; 0 is code 127.
pub fn signed_map() -> [f32; 256] {
    SIGNED.numbers
}

/// The 256 numbers of [0, 1], in the order of their codes; 0 is code 0.
pub fn unsigned_map() -> [f32; 256] {
    UNSIGNED.numbers
}

fn codebook(signed: bool) -> &'static Codebook {
    if signed { &SIGNED } else { &UNSIGNED }
}

/// Codes and absmax of each block of `values`, to the nearest code.
pub fn quantise(signed: bool, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let mut codes = vec![0; values.len()];
    let blocks = values.chunks(BLOCK).zip(codes.chunks_mut(BLOCK));
    let absmax = blocks.map(|(values, codes)| codebook(signed).quantise(values, codes, false)).collect();
    (codes, absmax)
}

/// Values of codes and absmax.
pub fn dequantise(signed: bool, codes: &[u8], absmax: &[f32]) -> Vec<f32> {
    let mut values = vec![0.0; codes.len()];
    for ((values, codes), &absmax) in values.chunks_mut(BLOCK).zip(codes.chunks(BLOCK)).zip(absmax) {
        codebook(signed).dequantise(codes, absmax, values);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_specification() {
        let (signed, unsigned) = (signed_map(), unsigned_map());
        assert_eq!((signed[127], signed[255], unsigned[0], unsigned[255]), (0.0, 1.0, 0.0, 1.0));
        assert_eq!(signed[0], -0.992_968_75);
        assert!((signed[128] - 5.5e-7).abs() < 1e-13 && (unsigned[1] - 3.25e-7).abs() < 1e-13);
        assert!(signed.windows(2).all(|w| w[0] < w[1]) && unsigned.windows(2).all(|w| w[0] < w[1]));
    }

    #[test]
    fn every_number_keeps_its_code() {
        for signed in [true, false] {
            let book = codebook(signed);
            for (i, x) in book.numbers.into_iter().enumerate() {
                assert_eq!(book.code(x) as usize, i);
            }
        }
    }

    #[test]
    fn partial_and_empty_blocks() {
        let values: Vec<f32> = (0..300).map(|i| (i as f32 - 150.0) * 0.01).collect();
        let (codes, absmax) = quantise(true, &values);
        assert_eq!((codes.len(), absmax.len()), (300, 2));
        let back = dequantise(true, &codes, &absmax);
        assert!(values.iter().zip(back).all(|(a, b)| (a - b).abs() < 0.03));
        assert_eq!(quantise(true, &[0.0; 3]), (vec![127; 3], vec![0.0]));
        assert_eq!(quantise(false, &[]), (vec![], vec![]));
    }

    #[test]
    fn tiny_momentum_keeps_its_sign() {
        let mut codes = [0; 3];
        SIGNED.quantise(&[1.0, -1e-9, 1e-9], &mut codes, true);
        assert_eq!(codes, [255, 126, 127]);
        SIGNED.quantise(&[1.0, -1e-9, 1e-9], &mut codes, false);
        assert_eq!(codes, [255, 127, 127]);
    }
}
