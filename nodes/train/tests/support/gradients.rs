//! The weights and gradients of `tests/reference/make_optimizers.py`.

/// splitmix64 of (seed, k, i).
fn mixed(seed: u64, k: u64, i: u64) -> u64 {
    let start = seed.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(k.wrapping_mul(0x2545_F491_4F6C_DD1D));
    let x = i.wrapping_add(start).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Of [−1, 1).
pub fn uniform(seed: u64, k: u64, i: u64) -> f32 {
    ((mixed(seed, k, i) >> 40) as f32 - (1 << 23) as f32) / (1 << 23) as f32
}

const DRIFT: [f32; 10] = [1.0, 1.0, 1.0, 1.0, 0.5, -0.5, -1.0, -1.0, -0.5, 0.5];

/// First weights of the tensor of this name and place.
pub fn start(name: &str, seed: u64, n: usize) -> Vec<f32> {
    (0..n as u64).map(|i| if name == "zero" { 0.0 } else { uniform(8 * seed, 0, i) }).collect()
}

/// Gradient of step k.
pub fn gradient(seed: u64, k: u64, n: usize) -> Vec<f32> {
    let element = |i: u64| {
        let size = 0.5f32.powi((mixed(8 * seed + 1, 0, i) & 7) as i32);
        let drift = DRIFT[(k % 10) as usize] * uniform(8 * seed + 2, 0, i);
        size * (drift + 0.5 * uniform(8 * seed + 3, k, i))
    };
    (0..n as u64).map(|i| if i == 0 { 0.0 } else { element(i) }).collect()
}
