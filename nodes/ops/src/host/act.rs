//! Activations and their derivatives.

use multiversion::multiversion;

use super::math::{exp, phi, sigmoid, tanh};

macro_rules! unary {
    ($(#[$doc:meta])* $forward:ident, $backward:ident, $f:expr, $df:expr) => {
        $(#[$doc])*
        #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
        pub fn $forward(out: &mut [f32], x: &[f32]) {
            let f = $f;
            for (o, &x) in out.iter_mut().zip(x) {
                *o = f(x);
            }
        }
        /// Gradient: `out = gy · f′(x)`.
        #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
        pub fn $backward(out: &mut [f32], x: &[f32], gy: &[f32]) {
            let df = $df;
            for ((o, &x), &g) in out.iter_mut().zip(x).zip(gy) {
                *o = g * df(x);
            }
        }
    };
}

/// Derivative of `x·σ(x)`.
#[inline(always)]
pub fn silu_grad(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}

/// Derivative of exact GELU: `Φ(x) + x·φ(x)`.
#[inline(always)]
pub fn gelu_grad(x: f32) -> f32 {
    const INV_SQRT_2PI: f32 = 0.398_942_3;
    phi(x) + x * INV_SQRT_2PI * exp(-0.5 * x * x)
}

unary!(
    /// `x·σ(x)`.
    silu, silu_backward, |x: f32| x * sigmoid(x), silu_grad
);
unary!(
    /// Exact GELU `x·Φ(x)`.
    gelu, gelu_backward, |x: f32| x * phi(x), gelu_grad
);
unary!(
    /// CLIP's `x·σ(1.702x)`.
    quick_gelu,
    quick_gelu_backward,
    |x: f32| x * sigmoid(1.702 * x),
    |x: f32| {
        let s = sigmoid(1.702 * x);
        s * (1.0 + 1.702 * x * (1.0 - s))
    }
);

/// √(2/π), of the tanh form of GELU.
const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// GELU in its tanh form.
#[inline(always)]
pub fn gelu_tanh_value(x: f32) -> f32 {
    0.5 * x * (1.0 + tanh(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}

/// Derivative of [`gelu_tanh_value`].
#[inline(always)]
pub fn gelu_tanh_grad(x: f32) -> f32 {
    let t = tanh(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x));
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * SQRT_2_OVER_PI * (1.0 + 0.134_145 * x * x)
}

unary!(
    /// GELU in its tanh form.
    gelu_tanh, gelu_tanh_backward, gelu_tanh_value, gelu_tanh_grad
);
unary!(
    /// Hyperbolic tangent.
    tanh_all,
    tanh_all_backward,
    tanh,
    |x: f32| {
        let t = tanh(x);
        1.0 - t * t
    }
);

/// GEGLU: rows of `x` are `a | g`, result `a·gelu(g)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn geglu(out: &mut [f32], x: &[f32], width: usize) {
    for (o, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(2 * width)) {
        let (a, g) = x.split_at(width);
        for ((o, &a), &g) in o.iter_mut().zip(a).zip(g) {
            *o = a * (g * phi(g));
        }
    }
}

/// Gradient of [`geglu`] for `x`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn geglu_backward(out: &mut [f32], x: &[f32], gy: &[f32], width: usize) {
    for ((o, x), gy) in out.chunks_exact_mut(2 * width).zip(x.chunks_exact(2 * width)).zip(gy.chunks_exact(width)) {
        let (a, g) = x.split_at(width);
        let (da, dg) = o.split_at_mut(width);
        for i in 0..width {
            da[i] = gy[i] * (g[i] * phi(g[i]));
            dg[i] = gy[i] * a[i] * gelu_grad(g[i]);
        }
    }
}

/// `out += x`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn add_assign(out: &mut [f32], x: &[f32]) {
    for (o, &x) in out.iter_mut().zip(x) {
        *o += x;
    }
}

/// `out = a + b`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn add(out: &mut [f32], a: &[f32], b: &[f32]) {
    for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *o = a + b;
    }
}

/// `out = s·a`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn scale(out: &mut [f32], a: &[f32], s: f32) {
    for (o, &a) in out.iter_mut().zip(a) {
        *o = s * a;
    }
}

/// `out += s·a`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn axpy(out: &mut [f32], a: &[f32], s: f32) {
    for (o, &a) in out.iter_mut().zip(a) {
        *o += s * a;
    }
}

/// `out = a·b` elementwise.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn mul(out: &mut [f32], a: &[f32], b: &[f32]) {
    for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *o = a * b;
    }
}

/// `out += a·b` elementwise.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn add_product(out: &mut [f32], a: &[f32], b: &[f32]) {
    for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *o += a * b;
    }
}

/// `out = x·(plus + a)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn scale_rows(out: &mut [f32], x: &[f32], a: &[f32], plus: f32) {
    for ((o, &x), &a) in out.iter_mut().zip(x).zip(a) {
        *o = x * (plus + a);
    }
}

/// `out = x·(plus + a) + b`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn affine(out: &mut [f32], x: &[f32], a: &[f32], b: &[f32], plus: f32) {
    for (((o, &x), &a), &b) in out.iter_mut().zip(x).zip(a).zip(b) {
        *o = x * (plus + a) + b;
    }
}

/// Rotates neighbouring pairs of a head by angles given as cosines and sines; `sign` −1 rotates back.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn rotate_adjacent(out: &mut [f32], x: &[f32], cos: &[f32], sin: &[f32], sign: f32) {
    for (((o, x), &c), &s) in out.chunks_exact_mut(2).zip(x.chunks_exact(2)).zip(cos).zip(sin) {
        let s = s * sign;
        o[0] = x[0] * c - x[1] * s;
        o[1] = x[0] * s + x[1] * c;
    }
}

/// Rotates pairs `k, k + D/2` of a head.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn rotate_halves(out: &mut [f32], x: &[f32], cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    let (o0, o1) = out.split_at_mut(half);
    let (x0, x1) = x.split_at(half);
    for i in 0..half {
        let s = sin[i] * sign;
        o0[i] = x0[i] * cos[i] - x1[i] * s;
        o1[i] = x0[i] * s + x1[i] * cos[i];
    }
}

/// Sum, in eight lanes.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn sum(a: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = a.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().sum();
    for c in chunks {
        for (l, &x) in lanes.iter_mut().zip(c) {
            *l += x;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Dot product, in sixteen lanes.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (ca, cb) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = ca.remainder().iter().zip(cb.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in ca.zip(cb) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f32>() + rest
}
