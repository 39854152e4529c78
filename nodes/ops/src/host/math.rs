//! Scalar functions written so that the compiler turns loops over them into vector code.

/// eˣ to about 1 ulp·2, by range reduction to |r| ≤ ln2/2 and a degree-6 polynomial; 0 below −87.3.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2E: f32 = std::f32::consts::LOG2_E;
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    const MAGIC: f32 = 12_582_912.0; // 1.5·2²³: adding it rounds to the nearest whole number
    let x = x.clamp(-87.3, 88.7);
    let n = x * LOG2E + MAGIC;
    let bits = n.to_bits() << 23;
    let n = n - MAGIC;
    let r = x - n * LN2_HI - n * LN2_LO;
    let p = 1.987_569_1e-4f32;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5e-1;
    let p = p * r * r + r + 1.0;
    f32::from_bits(bits.wrapping_add(p.to_bits()))
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Error function by Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let y = ((((1.061_405_4 * t - 1.453_152_1) * t + 1.421_413_8) * t - 0.284_496_72) * t + 0.254_829_6) * t;
    (1.0 - y * exp(-a * a)).copysign(x)
}

/// Gaussian cumulative distribution Φ(x).
#[inline(always)]
pub fn phi(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// tanh through one exponential.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_close_everywhere() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let (ours, exact) = (super::exp(x), (x as f64).exp());
            assert!(((ours as f64 - exact) / exact).abs() < 4e-7, "exp({x}) = {ours}, not {exact}");
            x += 0.013;
        }
        assert!(super::exp(-1000.0) < 1.3e-38);
    }

    #[test]
    fn erf_known_values() {
        for (x, y) in [(0.0, 0.0), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (-2.0, -0.995_322_3), (4.0, 1.0)] {
            assert!((super::erf(x) - y).abs() < 3e-7, "erf({x})");
        }
    }
}
