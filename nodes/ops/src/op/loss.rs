//! Per-element losses with their gradient, and the sampling step of a Gaussian autoencoder.

use super::{Place, host, meta, meta_like, place};
use crate::{Cx, DType, Tensor, Var};

/// Per-element loss of `e = prediction − target`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Elementwise {
    /// `e²`.
    L2,
    /// `|e|`.
    L1,
    /// `2c(√(e²+c²) − c)`.
    Huber,
    /// `2(√(e²+c²) − c)`.
    SmoothL1,
}

impl Elementwise {
    /// The factor before the root of the Huber kinds.
    fn factor(self, c: f32) -> f32 {
        if self == Elementwise::Huber { 2.0 * c } else { 2.0 }
    }
}

/// What the elements of a batch weigh in its loss.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weigh<'a> {
    /// `[B]`: of each sample, in the gradient alone.
    pub samples: &'a [f32],
    /// c of the Huber kinds `[B]`, else empty.
    pub c: &'a [f32],
    /// `[B, H·W]`, repeated over the channels of `[B, C, H, W]`: what the loss of each place is multiplied by, before the
    /// mean over all of them. Nothing: 1.
    pub places: Option<&'a [f32]>,
}

/// Mean loss of each sample and the gradient of `Σ_b weight_b·loss_b / B` for the prediction.
///
/// `prediction` and `target` are `[B, ..]`. The losses stay on the device: reading them is the only wait of a step.
pub fn loss_and_grad(
    cx: &Cx,
    kind: Elementwise,
    prediction: &Tensor,
    target: &Tensor,
    weigh: Weigh,
) -> (Tensor, Tensor) {
    let Weigh { samples: weights, c, places } = weigh;
    let b = prediction.dim(0);
    assert_eq!(prediction.shape(), target.shape(), "prediction and target differ in shape");
    assert_eq!(weights.len(), b, "one weight a sample");
    let huber = matches!(kind, Elementwise::Huber | Elementwise::SmoothL1);
    assert!(!huber || c.len() == b, "one c a sample");
    let n = prediction.len() / b;
    let area = places.map_or(1, |p| p.len() / b);
    assert!(places.is_none_or(|p| p.len() == area * b && area > 0 && n.is_multiple_of(area)), "a mask of another size");
    cx.flops(6 * prediction.len());
    match place(cx, prediction) {
        Place::Meta => (meta(prediction, &[b]), meta_like(prediction)),
        Place::Host => {
            let (p, t) = (host(prediction), host(target));
            let mut losses = vec![0.0f32; b];
            let mut grad = vec![0.0f32; p.len()];
            for (i, g) in grad.chunks_mut(n).enumerate() {
                let (p, t) = (&p[i * n..(i + 1) * n], &t[i * n..(i + 1) * n]);
                let w = weights[i] / (n * b) as f32;
                let c = c.get(i).copied().unwrap_or(0.0);
                let mask = places.map(|m| &m[i * area..(i + 1) * area]);
                let mut sum = 0.0f64;
                for (j, ((g, &p), &t)) in g.iter_mut().zip(p).zip(t).enumerate() {
                    let e = p - t;
                    let m = mask.map_or(1.0, |m| m[j % area]);
                    let w = w * m;
                    match kind {
                        Elementwise::L2 => {
                            sum += (m * e * e) as f64;
                            *g = 2.0 * e * w;
                        }
                        Elementwise::L1 => {
                            sum += (m * e.abs()) as f64;
                            *g = if e == 0.0 { 0.0 } else { w.copysign(e) };
                        }
                        Elementwise::Huber | Elementwise::SmoothL1 => {
                            let root = (e * e + c * c).sqrt();
                            sum += (m * kind.factor(c) * (root - c)) as f64;
                            *g = kind.factor(c) * e / root * w;
                        }
                    }
                }
                losses[i] = (sum / n as f64) as f32;
            }
            (Tensor::host(losses, &[b]), Tensor::host(grad, prediction.shape()))
        }
        Place::Burn => {
            let p = prediction.cast(DType::F32).reshape_burn([b, n]);
            let e = p - target.cast(DType::F32).reshape_burn([b, n]);
            let scaled: Vec<f32> = weights.iter().map(|w| w / (n * b) as f32).collect();
            let w = cx.device.tensor(scaled, &[b, 1], DType::F32).burn::<2>();
            let (loss, grad) = match kind {
                Elementwise::L2 => (e.clone() * e.clone(), e * 2.0 * w),
                Elementwise::L1 => (e.clone().abs(), e.sign() * w),
                Elementwise::Huber | Elementwise::SmoothL1 => {
                    let factors: Vec<f32> = c.iter().map(|&c| kind.factor(c)).collect();
                    let c = cx.device.tensor(c.to_vec(), &[b, 1], DType::F32).burn::<2>();
                    let f = cx.device.tensor(factors, &[b, 1], DType::F32).burn::<2>();
                    let root = (e.clone() * e.clone() + c.clone() * c.clone()).sqrt();
                    ((root.clone() - c) * f.clone(), e / root * f * w)
                }
            };
            let (loss, grad) = match places {
                Some(mask) => {
                    let mask = cx.device.tensor(mask.to_vec(), &[b, 1, area], DType::F32).burn::<3>();
                    let whole = |x: burn::Tensor<2>| (x.reshape([b, n / area, area]) * mask.clone()).reshape([b, n]);
                    (whole(loss), whole(grad))
                }
                None => (loss, grad),
            };
            let loss = loss.mean_dim(1);
            let grad = Tensor::from_burn(grad).cast(prediction.dtype()).reshape(prediction.shape());
            (Tensor::from_burn(loss.reshape([b])), grad)
        }
    }
}

/// `mean + exp(½·clamp(logvar, −30, 20))·ε` from `moments [B, 2Z, H, W]` (mean | logvar) and
/// `noise [B, Z, H, W]`, with the gradient of `kl_weight·KL(q‖N(0,1))/N` added on the way back
/// (N the number of image elements, so that the weight does not depend on the size). With
/// `noise = None` the mean is taken.
pub fn sample_gaussian(cx: &Cx, moments: &Var, noise: Option<&Tensor>, kl_weight: f32) -> Var {
    let (b, z2) = (moments.dim(0), moments.dim(1));
    let mut shape = moments.shape().to_vec();
    shape[1] = z2 / 2;
    let span = moments.value.len() / b / 2;
    cx.flops(12 * moments.value.len());
    let y = match place(cx, &moments.value) {
        Place::Meta => meta(&moments.value, &shape),
        Place::Host => {
            let m = host(&moments.value);
            let eps = noise.map(host);
            let mut out = vec![0.0; b * span];
            for (i, out) in out.chunks_mut(span).enumerate() {
                let (mean, logvar) = m[i * 2 * span..(i + 1) * 2 * span].split_at(span);
                for j in 0..span {
                    let e = eps.as_ref().map_or(0.0, |e| e[i * span + j]);
                    out[j] = mean[j] + (0.5 * logvar[j].clamp(-30.0, 20.0)).exp() * e;
                }
            }
            Tensor::host(out, &shape)
        }
        Place::Burn => {
            let m = moments.value.reshape_burn([b, 2 * span]);
            let mean = m.clone().narrow(1, 0, span);
            let y = match noise {
                Some(e) => {
                    let std = (m.narrow(1, span, span).clamp(-30.0, 20.0) * 0.5).exp();
                    mean + std * e.cast(moments.value.dtype()).reshape_burn([b, span])
                }
                None => mean,
            };
            Tensor::from_burn(y).reshape(&shape)
        }
    };
    let saved = moments.value.clone();
    let noise = noise.cloned();
    cx.record(y, &[moments], move |cx, gy, _| {
        // d KL/d mean = mean, d KL/d logvar = ½(exp(logvar) − 1), per element, over B.
        let kl = kl_weight / (b * span) as f32;
        let g = match place(cx, &gy) {
            Place::Meta => meta_like(&saved),
            Place::Host => {
                let (m, g) = (host(&saved), host(&gy));
                let eps = noise.as_ref().map(host);
                let mut out = vec![0.0; m.len()];
                for (i, out) in out.chunks_mut(2 * span).enumerate() {
                    let (mean, logvar) = m[i * 2 * span..(i + 1) * 2 * span].split_at(span);
                    let (gm, gl) = out.split_at_mut(span);
                    for j in 0..span {
                        let g = g[i * span + j];
                        let e = eps.as_ref().map_or(0.0, |e| e[i * span + j]);
                        let inside = (-30.0..=20.0).contains(&logvar[j]);
                        let std = (0.5 * logvar[j].clamp(-30.0, 20.0)).exp();
                        gm[j] = g + kl * mean[j];
                        gl[j] = if inside { g * e * 0.5 * std + kl * 0.5 * (std * std - 1.0) } else { 0.0 };
                    }
                }
                Tensor::host(out, saved.shape())
            }
            Place::Burn => {
                let m = saved.cast(DType::F32).reshape_burn([b, 2 * span]);
                let g = gy.cast(DType::F32).reshape_burn([b, span]);
                let mean = m.clone().narrow(1, 0, span);
                let std = (m.narrow(1, span, span).clamp(-30.0, 20.0) * 0.5).exp();
                let gm = g.clone() + mean * kl;
                let mut gl = (std.clone() * std.clone() - 1.0) * (0.5 * kl);
                if let Some(e) = &noise {
                    gl = gl + g * e.cast(DType::F32).reshape_burn([b, span]) * std * 0.5;
                }
                Tensor::from_burn(burn::Tensor::cat(vec![gm, gl], 1)).cast(saved.dtype()).reshape(saved.shape())
            }
        };
        vec![Some(g)]
    })
}
