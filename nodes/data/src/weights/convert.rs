//! Bulk conversion between stored bytes and numbers.
//!
//! Loops run over fixed-size pieces, so that the compiler and the `half` crate can use vector instructions; stored
//! bytes need no alignment.

use std::sync::OnceLock;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::dtype::DType;

#[cfg(target_endian = "big")]
compile_error!("stored tensors are little-endian, and so must be the machine");

/// Elements converted at a time through a buffer on the stack.
const PIECE: usize = 4096;

/// Reads little-endian `bytes` of a float type as `f32`; nothing for the other types.
pub fn to_f32(dtype: DType, bytes: &[u8]) -> Option<Vec<f32>> {
    let mut out = vec![0f32; bytes.len() / dtype.size()];
    match dtype {
        DType::F32 => {
            let whole = out.len() * 4;
            bytemuck::cast_slice_mut(&mut out).copy_from_slice(&bytes[..whole]);
        }
        DType::F64 => {
            for (x, b) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *x = f64::from_le_bytes(*b) as f32;
            }
        }
        DType::BF16 => {
            for (x, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *x = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            }
        }
        DType::F16 => {
            let mut buffer = [f16::ZERO; PIECE];
            for (xs, bs) in out.chunks_mut(PIECE).zip(bytes.chunks(2 * PIECE)) {
                let piece = &mut buffer[..xs.len()];
                for (h, b) in piece.iter_mut().zip(bs.as_chunks::<2>().0) {
                    *h = f16::from_le_bytes(*b);
                }
                piece.convert_to_f32_slice(xs);
            }
        }
        DType::F8E4M3 | DType::F8E5M2 => {
            let table = f8_table(dtype);
            for (x, b) in out.iter_mut().zip(bytes) {
                *x = table[usize::from(*b)];
            }
        }
        _ => return None,
    }
    Some(out)
}

/// Reads little-endian `bytes` of an integer or boolean type as `i64`; nothing for the other types.
pub fn to_i64(dtype: DType, bytes: &[u8]) -> Option<Vec<i64>> {
    Some(match dtype {
        DType::I64 => bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        DType::I32 => bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
        DType::I16 => bytes.as_chunks::<2>().0.iter().map(|b| i16::from_le_bytes(*b).into()).collect(),
        DType::I8 => bytes.iter().map(|&b| i64::from(b as i8)).collect(),
        DType::U8 | DType::Bool => bytes.iter().map(|&b| i64::from(b)).collect(),
        _ => return None,
    })
}

/// Casts to half precision, rounding to nearest even; beyond the range gives infinity.
pub fn f32_to_f16(values: &[f32]) -> Vec<f16> {
    let mut out = vec![f16::ZERO; values.len()];
    out.convert_from_f32_slice(values);
    out
}

/// Casts to bfloat16, rounding to nearest even.
pub fn f32_to_bf16(values: &[f32]) -> Vec<bf16> {
    let mut out = vec![bf16::ZERO; values.len()];
    out.convert_from_f32_slice(values);
    out
}

/// Little-endian bytes of `values` cast to a float type; nothing for the other types. What an 8-bit type cannot hold
/// becomes its largest value: it has no infinity to tell it, or none that a model survives.
pub fn f32_to_bytes(values: &[f32], dtype: DType) -> Option<Vec<u8>> {
    Some(match dtype {
        DType::F64 => values.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect(),
        DType::F32 => bytemuck::cast_slice(values).to_vec(),
        DType::F16 => bytemuck::cast_slice(&f32_to_f16(values)).to_vec(),
        DType::BF16 => bytemuck::cast_slice(&f32_to_bf16(values)).to_vec(),
        DType::F8E4M3 | DType::F8E5M2 => f32_to_f8(values, dtype),
        _ => return None,
    })
}

/// From which size on a cast to a type gives infinity; nothing for types that hold all of f32's values, and for 8-bit
/// types, whose largest number is taken then.
pub fn infinite_from(dtype: DType) -> Option<f32> {
    match dtype {
        DType::F16 => Some(65520.0),
        // Half a unit of the last of 8 digits below 2¹²⁸.
        DType::BF16 => Some(f32::from_bits(0x7f7f_8000)),
        _ => None,
    }
}

/// Casts to an 8-bit float type, rounding to nearest even.
fn f32_to_f8(values: &[f32], dtype: DType) -> Vec<u8> {
    let table = f8_table(dtype);
    // Patterns of finite values that are not negative rise with them.
    let (largest, nan) = if dtype == DType::F8E4M3 { (0x7e, 0x7f) } else { (0x7b, 0x7e) };
    let positive = &table[..=largest];
    let cast = |x: &f32| {
        let (sign, size) = (if x.is_sign_negative() { 0x80 } else { 0 }, x.abs());
        if x.is_nan() {
            return sign | nan;
        }
        let above = positive.partition_point(|v| *v < size);
        let pattern = match (above.checked_sub(1), positive.get(above)) {
            (_, None) => largest,
            (None, _) => 0,
            (Some(below), Some(high)) => {
                // Exact in f64: neighbours have few digits.
                let (low, high, size) = (f64::from(positive[below]), f64::from(*high), f64::from(size));
                let (down, up) = (size - low, high - size);
                if down < up || down == up && below % 2 == 0 { below } else { above }
            }
        };
        sign | pattern as u8
    };
    values.iter().map(cast).collect()
}

/// The value of each of the 256 bit patterns of an 8-bit float type.
fn f8_table(dtype: DType) -> &'static [f32; 256] {
    static E4M3: OnceLock<[f32; 256]> = OnceLock::new();
    static E5M2: OnceLock<[f32; 256]> = OnceLock::new();
    match dtype {
        DType::F8E4M3 => E4M3.get_or_init(|| std::array::from_fn(|i| f8_value(i as u8, 3, 7))),
        // Two mantissa bits and bias 15: the upper byte of a half.
        _ => E5M2.get_or_init(|| std::array::from_fn(|i| f16::from_bits((i as u16) << 8).to_f32())),
    }
}

/// An `e4m3fn` value: no infinities, one NaN pattern for each sign.
fn f8_value(bits: u8, mantissa_bits: u32, bias: i32) -> f32 {
    let sign = if bits & 0x80 == 0 { 1.0 } else { -1.0 };
    let magnitude = bits & 0x7f;
    if magnitude == 0x7f {
        return f32::NAN;
    }
    let exponent = i32::from(magnitude >> mantissa_bits);
    let fraction = f32::from(magnitude & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits) as f32;
    let value =
        if exponent == 0 { fraction * 2f32.powi(1 - bias) } else { (1.0 + fraction) * 2f32.powi(exponent - bias) };
    sign * value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bit_floats() {
        let e4m3 = to_f32(DType::F8E4M3, &[0x00, 0x80, 0x38, 0x7e, 0xfe, 0x01, 0x08, 0x7f]).unwrap();
        assert_eq!(e4m3[..7], [0.0, -0.0, 1.0, 448.0, -448.0, 0.001953125, 0.015625]);
        assert!(e4m3[7].is_nan());
        let e5m2 = to_f32(DType::F8E5M2, &[0x3c, 0x7b, 0xfb, 0x01, 0x7c, 0x7d]).unwrap();
        assert_eq!(e5m2[..5], [1.0, 57344.0, -57344.0, 2f32.powi(-16), f32::INFINITY]);
        assert!(e5m2[5].is_nan());
    }

    #[test]
    fn halves_round_to_nearest_even_and_back_for_every_pattern() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for dtype in [DType::F16, DType::BF16] {
            let floats = to_f32(dtype, &bytes).unwrap();
            let back = f32_to_bytes(&floats, dtype).unwrap();
            for (i, x) in floats.iter().enumerate() {
                assert!(x.is_nan() || back[2 * i..2 * i + 2] == bytes[2 * i..2 * i + 2], "{dtype} {i:#x}");
            }
        }
        // Half way between two neighbours: to the even one.
        assert_eq!(f32_to_f16(&[1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11)]).map_bits(), [0x3c00, 0x3c02]);
        assert_eq!(f32_to_bf16(&[1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8)]).map_bits(), [0x3f80, 0x3f82]);
        assert!(f32_to_bf16(&[f32::NAN])[0].is_nan());
    }

    #[test]
    fn eight_bits_round_to_nearest_even_and_back_for_every_pattern() {
        for dtype in [DType::F8E4M3, DType::F8E5M2] {
            let patterns: Vec<u8> = (0..=255).collect();
            let values = to_f32(dtype, &patterns).unwrap();
            let back = f32_to_bytes(&values, dtype).unwrap();
            for ((value, pattern), back) in values.iter().zip(&patterns).zip(&back) {
                assert!(!value.is_finite() || pattern == back, "{dtype} {pattern:#x} {back:#x}");
                assert!(!value.is_nan() || to_f32(dtype, &[*back]).unwrap()[0].is_nan());
            }
        }
        let e4m3 = |x: f32| f32_to_bytes(&[x], DType::F8E4M3).unwrap()[0];
        // Half way between 1 and 1.125, and between 1.125 and 1.25; beyond the range; below the smallest.
        assert_eq!([e4m3(1.0625), e4m3(1.1875), e4m3(1e9), e4m3(-f32::INFINITY)], [0x38, 0x3a, 0x7e, 0xfe]);
        assert_eq!([e4m3(0.0009), e4m3(0.0010), e4m3(-0.0)], [0, 1, 0x80]);
        assert_eq!(f32_to_bytes(&[70000.0, 57344.0], DType::F8E5M2).unwrap(), [0x7b, 0x7b]);
    }

    trait Bits {
        fn map_bits(&self) -> Vec<u16>;
    }
    impl Bits for Vec<f16> {
        fn map_bits(&self) -> Vec<u16> {
            self.iter().map(|x| x.to_bits()).collect()
        }
    }
    impl Bits for Vec<bf16> {
        fn map_bits(&self) -> Vec<u16> {
            self.iter().map(|x| x.to_bits()).collect()
        }
    }

    #[test]
    fn unaligned_bytes_and_integers() {
        let bytes = [9, 0, 0, 0x80, 0x3f, 0, 0, 0, 0x40];
        assert_eq!(to_f32(DType::F32, &bytes[1..]).unwrap(), [1.0, 2.0]);
        assert_eq!(to_i64(DType::I16, &[0xff, 0xff, 1, 0]).unwrap(), [-1, 1]);
        assert_eq!(to_i64(DType::Bool, &[0, 1]).unwrap(), [0, 1]);
        assert!(to_f32(DType::I64, &[0; 8]).is_none() && to_i64(DType::F16, &[0; 2]).is_none());
    }
}
