//! Weights in fewer bits: little-endian bytes of f16, bf16 and e4m3 from and to f32.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use multiversion::multiversion;
use rayon::prelude::*;

use super::{GRAIN, buffer};

/// Bits of 2⁻⁶, the smallest normal number of e4m3.
const NORMAL: u32 = 0x3c80_0000;
/// What the exponents' biases (127 and 7) differ by, at the place of e4m3's exponent.
const REBIAS: u32 = 120 << 3;

/// `e4m3` values: 4 exponent bits with bias 7, 3 mantissa bits, no infinities.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn widen_e4m3(out: &mut [f32], codes: &[u8]) {
    for (x, code) in out.iter_mut().zip(codes) {
        let size = u32::from(*code & 0x7f);
        let normal = (size << 20).wrapping_add(REBIAS << 20);
        // Below the normal numbers a code counts 2⁻⁹; no f32 that is denormal is met, which some CPUs are slow with.
        let small = (size as f32 * 0.001_953_125).to_bits();
        let bits = if size >= 8 { normal } else { small };
        let bits = if size == 0x7f { f32::NAN.to_bits() } else { bits };
        *x = f32::from_bits(bits | u32::from(*code & 0x80) << 24);
    }
}

/// To the nearest, ties to even; what is larger than 448 becomes 448, as there is no infinity.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn narrow_e4m3(out: &mut [u8], values: &[f32]) {
    for (code, x) in out.iter_mut().zip(values) {
        let bits = x.to_bits();
        let size = bits & 0x7fff_ffff;
        let normal = ((size + 0x7_ffff + (size >> 20 & 1)) >> 20).wrapping_sub(REBIAS).min(0x7e);
        // Adding 2²³ leaves the number of 2⁻⁹ in the last bits, rounded.
        let small = (f32::from_bits(size.min(NORMAL)) * 512.0 + 8_388_608.0).to_bits() & 0xf;
        let found = if size >= NORMAL { normal } else { small };
        let found = if size > 0x7f80_0000 { 0x7f } else { found };
        *code = found as u8 | (bits >> 24 & 0x80) as u8;
    }
}

/// Values of e4m3 codes.
pub fn from_e4m3(codes: &[u8]) -> Vec<f32> {
    let mut out = buffer(codes.len());
    out.par_chunks_mut(GRAIN).zip(codes.par_chunks(GRAIN)).for_each(|(x, c)| widen_e4m3(x, c));
    out
}

/// e4m3 codes of values.
pub fn to_e4m3(values: &[f32]) -> Vec<u8> {
    let mut out = vec![0; values.len()];
    out.par_chunks_mut(GRAIN).zip(values.par_chunks(GRAIN)).for_each(|(c, x)| narrow_e4m3(c, x));
    out
}

/// Reads two bytes at a time through a buffer on the stack, which `widen` converts.
fn from_halves(bytes: &[u8], widen: impl Fn(&[u16], &mut [f32]) + Sync) -> Vec<f32> {
    const PIECE: usize = 4096;
    let mut out = buffer(bytes.len() / 2);
    out.par_chunks_mut(PIECE).zip(bytes.par_chunks(2 * PIECE)).for_each(|(x, b)| {
        let mut halves = [0u16; PIECE];
        let halves = &mut halves[..x.len()];
        for (h, b) in halves.iter_mut().zip(b.as_chunks::<2>().0) {
            *h = u16::from_le_bytes(*b);
        }
        widen(halves, x);
    });
    out
}

/// Values of bf16 bytes.
pub fn from_bf16(bytes: &[u8]) -> Vec<f32> {
    from_halves(bytes, |halves, out| {
        for (x, h) in out.iter_mut().zip(halves) {
            *x = f32::from_bits(u32::from(*h) << 16);
        }
    })
}

/// Values of f16 bytes.
pub fn from_f16(bytes: &[u8]) -> Vec<f32> {
    from_halves(bytes, |halves, out| halves.reinterpret_cast::<f16>().convert_to_f32_slice(out))
}

/// bf16 bytes of values, rounded to the nearest.
pub fn to_bf16(values: &[f32]) -> Vec<u8> {
    let mut out = vec![bf16::ZERO; values.len()];
    out.par_chunks_mut(GRAIN).zip(values.par_chunks(GRAIN)).for_each(|(o, x)| o.convert_from_f32_slice(x));
    bytemuck::cast_slice(&out).to_vec()
}

/// f16 bytes of values, rounded to the nearest; infinite beyond 65504.
pub fn to_f16(values: &[f32]) -> Vec<u8> {
    let mut out = vec![f16::ZERO; values.len()];
    out.par_chunks_mut(GRAIN).zip(values.par_chunks(GRAIN)).for_each(|(o, x)| o.convert_from_f32_slice(x));
    bytemuck::cast_slice(&out).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_its_own_value() {
        let codes: Vec<u8> = (0..=255).collect();
        let values = from_e4m3(&codes);
        assert_eq!(values[..4], [0.0, 0.001_953_125, 0.003_906_25, 0.005_859_375]);
        assert_eq!((values[8], values[0x38], values[0x7e], values[0xfe]), (0.015_625, 1.0, 448.0, -448.0));
        assert!(values[0x7f].is_nan() && values[0xff].is_nan());
        assert_eq!(to_e4m3(&values), codes);
    }

    #[test]
    fn rounds_to_even_and_saturates() {
        let cases = [(1.0625, 0x38), (1.1875, 0x3a), (449.0, 0x7e), (1e9, 0x7e), (-f32::INFINITY, 0xfe)];
        let small = [(0.0009, 0), (0.000_976_562_5, 0), (0.0010, 1), (-0.0, 0x80), (0.0152, 8), (1e-30, 0)];
        for (x, code) in cases.into_iter().chain(small) {
            assert_eq!(to_e4m3(&[x]), [code], "{x}");
        }
    }

    #[test]
    fn halves_go_round() {
        let values: Vec<f32> = (-2048..2048).map(|i| i as f32 / 64.0).collect();
        assert_eq!(from_f16(&to_f16(&values)), values);
        let near = |a: f32, b: f32| (a - b).abs() <= b.abs() / 256.0;
        assert!(from_bf16(&to_bf16(&values)).iter().zip(&values).all(|(a, b)| near(*a, *b)));
        assert_eq!(from_bf16(&to_bf16(&[1.0, -2.5])), [1.0, -2.5]);
    }
}
