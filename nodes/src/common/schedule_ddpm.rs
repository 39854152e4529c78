//! The DDPM noise schedule of Stable Diffusion 1.x, 2.x and SDXL (Ho et al. 2020; "scaled linear").

/// Training timesteps.
pub const T: usize = 1000;

/// `ᾱ_t` for t = 0..999: β is linear in its square root from √0.00085 to √0.012.
pub fn alphas_cumprod() -> Vec<f32> {
    let (low, high) = (0.00085f64.sqrt(), 0.012f64.sqrt());
    let mut product = 1.0f64;
    (0..T)
        .map(|i| {
            let beta = low + (high - low) * i as f64 / (T - 1) as f64;
            product *= 1.0 - beta * beta;
            product as f32
        })
        .collect()
}

/// Signal-to-noise ratio `ᾱ/(1−ᾱ)`.
pub fn snr(alpha: f32) -> f32 {
    alpha / (1.0 - alpha)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let a = alphas_cumprod();
        for (t, v) in [(0, 0.999_15), (499, 0.277_669_46), (500, 0.276_332_5), (999, 0.004_660_096)] {
            assert!((a[t] - v).abs() < 2e-6, "ᾱ_{t} = {}", a[t]);
        }
        assert!((snr(a[0]) / 1175.44 - 1.0).abs() < 1e-3);
        assert!((snr(a[999]) / 0.004_682 - 1.0).abs() < 1e-3);
    }
}
