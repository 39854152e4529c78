//! Orthogonal matrices from free parameters (Cayley; OFT, Qiu et al. 2023).

use rayon::prelude::*;

use super::{Place, meta, place};
use crate::host as kernels;
use crate::host::gemm::{Mat, matmul};
use crate::{Cx, DType, Var};

/// Keeps the ratio of norms finite, as the reference does.
const EPS: f64 = 1e-8;

/// The transposed rotations `Rᵀ [K, n, n]` of parameters `S [K, n, n]`.
///
/// `Q = S − Sᵀ`, shortened to the Frobenius norm `limit` over all blocks together, `R = (I+Q)(I−Q)⁻¹`. As `Q` is skew,
/// `Rᵀ = 2(I+Q)⁻¹ − I`, and the inverse always exists. Inverted on the host in f64 wherever the tensors live.
pub fn cayley_transposed(cx: &Cx, s: &Var, limit: f32) -> Var {
    let (k, n) = (s.dim(0), s.dim(1));
    assert_eq!(s.shape(), [k, n, n], "blocks must be square");
    cx.flops(2 * k * n * n * n);
    if let Place::Meta = place(cx, &s.value) {
        return cx.record(meta(&s.value, s.shape()), &[s], move |cx, gy, _| {
            cx.flops(4 * k * n * n * n);
            vec![Some(gy)]
        });
    }
    let skew = skew(&s.value.to_vec(), n);
    let norm = skew.iter().map(|q| (*q as f64).powi(2)).sum::<f64>().sqrt();
    let factor = ((norm.min(limit as f64) + EPS) / (norm + EPS)) as f32;
    let mut inverse = kernels::buffer(k * n * n);
    inverse.par_chunks_mut(n * n).zip(skew.par_chunks(n * n)).for_each(|(out, q)| invert(out, q, factor, n));
    let mut rotation: Vec<f32> = inverse.iter().map(|x| 2.0 * x).collect();
    rotation.chunks_mut(n * n).for_each(|block| (0..n).for_each(|i| block[i * n + i] -= 1.0));
    let y = cx.device.tensor(rotation, s.shape(), DType::F32);
    let shortened = norm > limit as f64;
    cx.record(y, &[s], move |cx, gy, _| {
        let gy = gy.to_vec();
        // ∂Rᵀ = −2·N·∂Q·N with N = (I+Q)⁻¹.
        let mut gq = kernels::buffer(k * n * n);
        for ((out, inv), g) in gq.chunks_mut(n * n).zip(inverse.chunks(n * n)).zip(gy.chunks(n * n)) {
            let left = matmul(Mat::new(inv, n, n).t(), Mat::new(g, n, n));
            let full = matmul(Mat::new(&left, n, n), Mat::new(inv, n, n).t());
            out.iter_mut().zip(full).for_each(|(o, x)| *o = -2.0 * factor * x);
        }
        if shortened {
            // Through the norm: f' = −f/(‖Q‖+ε), and gq is scaled by f already.
            let dot: f64 = gq.iter().zip(&skew).map(|(g, q)| (g * q) as f64).sum();
            let back = (dot / ((norm + EPS) * norm)) as f32;
            gq.iter_mut().zip(&skew).for_each(|(g, q)| *g -= back * q);
        }
        vec![Some(cx.device.tensor(self::skew(&gq, n), &[k, n, n], DType::F32))]
    })
}

/// `S − Sᵀ` of each block.
fn skew(s: &[f32], n: usize) -> Vec<f32> {
    let mut out = kernels::buffer(s.len());
    for (out, s) in out.chunks_mut(n * n).zip(s.chunks(n * n)) {
        for i in 0..n {
            for j in 0..n {
                out[i * n + j] = s[i * n + j] - s[j * n + i];
            }
        }
    }
    out
}

/// `(I + f·Q)⁻¹` by Gauss–Jordan elimination with pivots.
fn invert(out: &mut [f32], q: &[f32], f: f32, n: usize) {
    let width = 2 * n;
    let mut a = vec![0.0f64; n * width];
    for i in 0..n {
        for j in 0..n {
            a[i * width + j] = (f * q[i * n + j]) as f64;
        }
        a[i * width + i] += 1.0;
        a[i * width + n + i] = 1.0;
    }
    for c in 0..n {
        let pivot = (c..n).max_by(|x, y| a[x * width + c].abs().total_cmp(&a[y * width + c].abs())).unwrap_or(c);
        if pivot != c {
            for j in 0..width {
                a.swap(c * width + j, pivot * width + j);
            }
        }
        let d = a[c * width + c];
        let row: Vec<f64> = a[c * width..(c + 1) * width].iter().map(|x| x / d).collect();
        for (i, other) in a.chunks_mut(width).enumerate() {
            if i == c {
                other.copy_from_slice(&row);
            } else if other[c] != 0.0 {
                let times = other[c];
                other.iter_mut().zip(&row).for_each(|(x, r)| *x -= times * r);
            }
        }
    }
    for i in 0..n {
        for j in 0..n {
            out[i * n + j] = a[i * width + n + j] as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Tape, Tensor};

    #[test]
    fn rotations_are_orthogonal_and_bounded() {
        let (k, n) = (3, 4);
        let values: Vec<f32> = (0..k * n * n).map(|i| (i as f32 * 0.7).sin()).collect();
        let cx = Cx::new(Device::Cpu, DType::F32);
        let s = Var::constant(Tensor::host(values, &[k, n, n]));
        for limit in [1e6, 0.5] {
            let r = cayley_transposed(&cx, &s, limit).value.to_vec();
            let mut distance = 0.0;
            for block in r.chunks(n * n) {
                let unit = matmul(Mat::new(block, n, n), Mat::new(block, n, n).t());
                for (i, x) in unit.iter().enumerate() {
                    let wanted = if i % (n + 1) == 0 { 1.0 } else { 0.0 };
                    assert!((x - wanted).abs() < 1e-5, "{x}, not {wanted}");
                    distance += (block[i] - wanted).powi(2);
                }
            }
            // ‖Rᵀ − I‖ = 2‖Q(I+Q)⁻¹‖ ≤ 2‖Q‖.
            assert!(distance.sqrt() <= 2.0 * limit + 1e-4 && distance > 0.1);
        }
    }

    #[test]
    fn gradient_is_the_difference_quotient() {
        let (k, n) = (2, 3);
        let values: Vec<f32> = (0..k * n * n).map(|i| (i as f32 * 1.3).cos()).collect();
        let weights: Vec<f32> = (0..k * n * n).map(|i| (i as f32 * 0.9).sin()).collect();
        for limit in [1e6, 0.7] {
            let plain = Cx::new(Device::Cpu, DType::F32);
            let at = |v: &[f32]| -> f64 {
                let s = Var::constant(Tensor::host(v.to_vec(), &[k, n, n]));
                let y = cayley_transposed(&plain, &s, limit).value.to_vec();
                y.iter().zip(&weights).map(|(y, w)| (y * w) as f64).sum()
            };
            let tape = Tape::new();
            let s = tape.input(Tensor::host(values.clone(), &[k, n, n]));
            let y = cayley_transposed(&plain.with_tape(&tape), &s, limit);
            let seed = Tensor::host(weights.clone(), &[k, n, n]);
            let grads = tape.backward(&plain, vec![(y, seed)], &[s], &mut Default::default());
            let g = grads[0].as_ref().unwrap().to_vec();
            for i in 0..values.len() {
                let step = |d: f32| {
                    let mut v = values.clone();
                    v[i] += d;
                    at(&v)
                };
                let slope = (step(1e-2) - step(-1e-2)) / 2e-2;
                assert!((slope - g[i] as f64).abs() < 2e-3, "limit {limit}, {i}: {slope} and {}", g[i]);
            }
        }
    }
}
