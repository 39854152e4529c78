//! Optimizer updates on host slices.

use multiversion::multiversion;

/// Constants of one AdamW step (Loshchilov and Hutter 2019), in the order PyTorch applies them.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate η.
    pub lr: f32,
    /// β₁.
    pub beta1: f32,
    /// β₂.
    pub beta2: f32,
    /// ε.
    pub eps: f32,
    /// Decoupled weight decay λ.
    pub weight_decay: f32,
    /// 1 − β₁ᵏ.
    pub correction1: f32,
    /// √(1 − β₂ᵏ).
    pub correction2_sqrt: f32,
    /// Multiplies gradients first (clipping, accumulation).
    pub grad_scale: f32,
}

/// `θ ← θ(1−ηλ)`, `m ← β₁m+(1−β₁)g`, `v ← β₂v+(1−β₂)g²`, `θ ← θ − η/(1−β₁ᵏ)·m/(√v/√(1−β₂ᵏ)+ε)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn adamw(p: &AdamW, theta: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
    let n = theta.len();
    let (m, v, g) = (&mut m[..n], &mut v[..n], &g[..n]);
    let decay = 1.0 - p.lr * p.weight_decay;
    let step = p.lr / p.correction1;
    for i in 0..n {
        let g = g[i] * p.grad_scale;
        m[i] += (g - m[i]) * (1.0 - p.beta1);
        v[i] = v[i] * p.beta2 + g * g * (1.0 - p.beta2);
        theta[i] = theta[i] * decay - step * m[i] / (v[i].sqrt() / p.correction2_sqrt + p.eps);
    }
}

/// Σ g², in f64 over blocks, so that the norm of millions of values keeps its digits.
pub fn sum_squares(g: &[f32]) -> f64 {
    use rayon::prelude::*;
    let parts: Vec<f64> = g.par_chunks(super::GRAIN).map(|c| super::act::dot(c, c) as f64).collect();
    parts.iter().sum()
}
