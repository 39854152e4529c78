//! AdamW and Lion with 8-bit state, as bitsandbytes' CUDA kernels: dequantise, update in f32, requantise.
//!
//! Tensors of fewer than 4096 elements keep f32 state. The decay follows the step (bitsandbytes' CPU code decays before it). Where
//! a gradient is not finite the state becomes 0 and the weight is left alone.

use multiversion::multiversion;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lion::{self, sign};
use super::quant::{BLOCK, Codebook, SIGNED, UNSIGNED};
use super::rule::{Rule, Tensorwise, Update, check_common, count};
use super::state::{Buffer, Spec, floats};
use crate::par::{self, GRAIN};
use crate::{Invalid, within};

/// Fewest elements of a tensor whose state is stored in 8 bits.
pub const SMALLEST: usize = 4096;

/// AdamW with 8-bit moments.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct AdamW8bit {
    /// Learning rate η. Default 1e-4.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub learning_rate: f64,
    /// Decay rates β₁ and β₂ of the moments. Default `[0.9, 0.999]`.
    #[schemars(inner(range(min = 0.0, max = 0.999999)))]
    pub betas: [f64; 2],
    /// ε added to the root of the second moment. Default 1e-8.
    #[schemars(range(min = 1e-30, max = 1.0))]
    pub eps: f64,
    /// Decoupled weight decay λ: `θ ← θ(1−ηλ)`. Default 0.01.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
}

impl Default for AdamW8bit {
    fn default() -> Self {
        AdamW8bit { learning_rate: 1e-4, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 }
    }
}

/// Lion with an 8-bit momentum.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Lion8bit {
    /// Learning rate η. Default 1e-5.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub learning_rate: f64,
    /// β₁ of the update and β₂ of the momentum. Default `[0.9, 0.99]`.
    #[schemars(inner(range(min = 0.0, max = 0.999999)))]
    pub betas: [f64; 2],
    /// Weight decay λ: `θ ← θ(1−ηλ)`. Default 0.0.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
}

impl Default for Lion8bit {
    fn default() -> Self {
        Lion8bit { learning_rate: 1e-5, betas: [0.9, 0.99], weight_decay: 0.0 }
    }
}

/// Constants of an AdamW step.
struct Step {
    scale: f32,
    beta1: f32,
    gain1: f32,
    beta2: f32,
    gain2: f32,
    size: f32,
    eps: f32,
    keep: f32,
}

impl Step {
    fn new(c: &AdamW8bit, u: &Update) -> Self {
        let ([beta1, beta2], k) = (c.betas, u.k as f64);
        let root = (1.0 - beta2.powf(k)).sqrt();
        Step {
            scale: u.scale,
            beta1: beta1 as f32,
            gain1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            gain2: (1.0 - beta2) as f32,
            size: (u.rate * root / (1.0 - beta1.powf(k))) as f32,
            eps: (c.eps * root) as f32,
            keep: (1.0 - u.rate * c.weight_decay) as f32,
        }
    }
}

/// `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`, `θ ← (θ − η√(1−β₂ᵏ)/(1−β₁ᵏ) · m/(√v + ε√(1−β₂ᵏ)))(1−ηλ)`.
#[inline(always)]
fn adam(s: &Step, theta: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
    let n = theta.len();
    let (m, v, g) = (&mut m[..n], &mut v[..n], &g[..n]);
    for i in 0..n {
        let g = g[i] * s.scale;
        let fine = g.is_finite();
        m[i] = if fine { m[i] * s.beta1 + s.gain1 * g } else { 0.0 };
        v[i] = if fine { v[i] * s.beta2 + s.gain2 * g * g } else { 0.0 };
        let moved = (theta[i] - s.size * (m[i] / (v[i].sqrt() + s.eps))) * s.keep;
        theta[i] = if fine { moved } else { theta[i] };
    }
}

/// On f32 state.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn adam_small(s: &Step, theta: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
    adam(s, theta, m, v, g);
}

/// Codes and absmax of a run of blocks.
type Packed<'a> = (&'a mut [u8], &'a mut [f32]);

/// On whole blocks.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn adam_blocks(s: &Step, books: (&Codebook, &Codebook), theta: &mut [f32], first: Packed, second: Packed, g: &[f32]) {
    let (mut m, mut v) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
    let blocks = theta.chunks_mut(BLOCK).zip(g.chunks(BLOCK));
    let first = first.0.chunks_mut(BLOCK).zip(first.1);
    let second = second.0.chunks_mut(BLOCK).zip(second.1);
    for (((theta, g), (codes1, absmax1)), (codes2, absmax2)) in blocks.zip(first).zip(second) {
        let n = theta.len();
        books.0.dequantise(codes1, *absmax1, &mut m[..n]);
        books.1.dequantise(codes2, *absmax2, &mut v[..n]);
        adam(s, theta, &mut m[..n], &mut v[..n], g);
        *absmax1 = books.0.quantise(&m[..n], codes1, true);
        *absmax2 = books.1.quantise(&v[..n], codes2, false);
    }
}

/// Lion on whole blocks.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn lion_blocks(s: &lion::Step, book: &Codebook, theta: &mut [f32], packed: Packed, g: &[f32]) {
    let mut m = [0.0f32; BLOCK];
    let packed = packed.0.chunks_mut(BLOCK).zip(packed.1);
    for ((theta, g), (codes, absmax)) in theta.chunks_mut(BLOCK).zip(g.chunks(BLOCK)).zip(packed) {
        let n = theta.len();
        book.dequantise(codes, *absmax, &mut m[..n]);
        for ((theta, m), g) in theta.iter_mut().zip(&mut m[..n]).zip(g) {
            let g = g * s.scale;
            if !g.is_finite() {
                *m = 0.0;
                continue;
            }
            *theta = *theta * s.keep - s.rate * sign(s.beta1 * *m + s.gain1 * g);
            *m = *m * s.beta2 + s.gain2 * g;
        }
        *absmax = book.quantise(&m[..n], codes, true);
    }
}

/// Buffers of a state: f32, or codes and absmax.
fn specs(names: &[(&'static str, &'static str)], shape: &[usize]) -> Vec<Spec> {
    let n = count(shape);
    let wide = names.iter().map(|(name, _)| Spec::zeros(name, n));
    let packed =
        |(name, absmax): &(&'static str, &'static str)| [Spec::codes(name, n), Spec::zeros(absmax, n.div_ceil(BLOCK))];
    if n < SMALLEST { wide.collect() } else { names.iter().flat_map(packed).collect() }
}

const FIRST: (&str, &str) = ("m", "m_absmax");
const SECOND: (&str, &str) = ("v", "v_absmax");
const BLOCKS: usize = GRAIN / BLOCK;

impl Rule for AdamW8bit {
    fn name(&self) -> &'static str {
        "AdamW8bit"
    }
    fn check(&self) -> Result<(), Invalid> {
        check_common(Some(self.learning_rate), &self.betas, self.eps, self.weight_decay)
    }
    fn learning_rate(&self) -> Option<f64> {
        Some(self.learning_rate)
    }
    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        specs(&[FIRST, SECOND], shape)
    }
}

impl Tensorwise for AdamW8bit {
    fn update(&self, u: &Update, theta: &mut [f32], g: &[f32], buffers: &mut [Buffer]) -> f64 {
        let step = Step::new(self, u);
        if let [Buffer::U8(m), Buffer::F32(m_max), Buffer::U8(v), Buffer::F32(v_max)] = buffers {
            let books: (&Codebook, &Codebook) = (&SIGNED, &UNSIGNED);
            let weights = theta.par_chunks_mut(GRAIN).zip(g.par_chunks(GRAIN));
            let first = m.par_chunks_mut(GRAIN).zip(m_max.par_chunks_mut(BLOCKS));
            let second = v.par_chunks_mut(GRAIN).zip(v_max.par_chunks_mut(BLOCKS));
            let parts = weights.zip(first).zip(second);
            parts.for_each(|(((theta, g), first), second)| adam_blocks(&step, books, theta, first, second, g));
        } else {
            let [m, v] = floats(buffers);
            par::each4(theta, m, v, g, |theta, m, v, g| {
                adam_small(&step, theta, m, v, g);
                0.0
            });
        }
        u.rate
    }
}

impl Rule for Lion8bit {
    fn name(&self) -> &'static str {
        "Lion8bit"
    }
    fn check(&self) -> Result<(), Invalid> {
        check_common(Some(self.learning_rate), &self.betas, 1.0, self.weight_decay)?;
        within("learning_rate", self.learning_rate, 0.0, 10.0)
    }
    fn learning_rate(&self) -> Option<f64> {
        Some(self.learning_rate)
    }
    fn buffers(&self, shape: &[usize]) -> Vec<Spec> {
        specs(&[FIRST], shape)
    }
}

impl Tensorwise for Lion8bit {
    fn update(&self, u: &Update, theta: &mut [f32], g: &[f32], buffers: &mut [Buffer]) -> f64 {
        let step = lion::Step::new(u, self.betas, self.weight_decay);
        if let [Buffer::U8(m), Buffer::F32(m_max)] = buffers {
            let book: &Codebook = &SIGNED;
            let weights = theta.par_chunks_mut(GRAIN).zip(g.par_chunks(GRAIN));
            let packed = m.par_chunks_mut(GRAIN).zip(m_max.par_chunks_mut(BLOCKS));
            weights.zip(packed).for_each(|((theta, g), packed)| lion_blocks(&step, book, theta, packed, g));
        } else {
            let [m] = floats(buffers);
            lion::run(&step, theta, g, m);
        }
        u.rate
    }
}
