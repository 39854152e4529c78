//! Optimizer steps over tensors: fused on the host, composed elsewhere.

use crate::host::optim as kernel;
pub use crate::host::optim::AdamW;
use crate::{Cx, DType, Device, Tensor};

/// One AdamW step for `theta` (f32) with state `m`, `v`. On a burn device `factor [1]` multiplies the gradient as well.
pub fn adamw(
    cx: &Cx,
    p: &AdamW,
    theta: &mut Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    g: &Tensor,
    factor: Option<&Tensor>,
) {
    cx.flops(14 * theta.len());
    match cx.device {
        Device::Meta(_) => {}
        Device::Cpu => {
            let Some(g) = g.as_host() else { return };
            m.update(|m| {
                v.update(|v| {
                    theta.update(|theta| {
                        use rayon::prelude::*;
                        let n = crate::host::GRAIN;
                        theta
                            .par_chunks_mut(n)
                            .zip(m.par_chunks_mut(n))
                            .zip(v.par_chunks_mut(n))
                            .zip(g.par_chunks(n))
                            .for_each(|(((theta, m), v), g)| kernel::adamw(p, theta, m, v, g));
                    });
                });
            });
        }
        Device::Burn(_) => {
            let shape = theta.shape().to_vec();
            let g = g.cast(DType::F32).flatten_burn() * p.grad_scale;
            let g = match factor {
                Some(factor) => g * factor.flatten_burn(),
                None => g,
            };
            let m1 = m.flatten_burn() * p.beta1 + g.clone() * (1.0 - p.beta1);
            let v1 = v.flatten_burn() * p.beta2 + g.clone() * g * (1.0 - p.beta2);
            let step = m1.clone() * (p.lr / p.correction1) / (v1.clone().sqrt() / p.correction2_sqrt + p.eps);
            let t = theta.flatten_burn() * (1.0 - p.lr * p.weight_decay) - step;
            *theta = Tensor::from_burn(t).reshape(&shape);
            *m = Tensor::from_burn(m1).reshape(&shape);
            *v = Tensor::from_burn(v1).reshape(&shape);
        }
    }
}

/// Σ over all tensors of Σ g² as `[1]`, and the factor `min(1, max/(√Σ + 1e-6))` as `[1]` that makes the gradient no
/// longer than `max`: both stay on a burn device and nothing waits for it. Nothing elsewhere, or without tensors.
pub fn square_and_clip(cx: &Cx, grads: &[&Tensor], max: Option<f64>) -> Option<(Tensor, Option<Tensor>)> {
    let Device::Burn(_) = cx.device else { return None };
    let squares = grads.iter().map(|g| {
        let g = g.cast(DType::F32).flatten_burn();
        (g.clone() * g).sum()
    });
    let squares: Vec<burn::Tensor<1>> = squares.collect();
    if squares.is_empty() {
        return None;
    }
    let square = burn::Tensor::cat(squares, 0).sum();
    let factor = max.map(|max| {
        let factor = (square.clone().sqrt() + 1e-6).recip() * max;
        Tensor::from_burn(factor.clamp_max(1.0))
    });
    Some((Tensor::from_burn(square), factor))
}

/// Numbers `[1]` of a burn device as one list `[n]`; nothing without any.
pub fn joined(numbers: &[Tensor]) -> Option<Tensor> {
    let parts: Vec<burn::Tensor<1>> = numbers.iter().map(Tensor::flatten_burn).collect();
    (!parts.is_empty()).then(|| Tensor::from_burn(burn::Tensor::cat(parts, 0)))
}

/// Σ over all tensors of Σ g².
pub fn sum_squares(cx: &Cx, grads: &[&Tensor]) -> f64 {
    match cx.device {
        Device::Meta(_) => 0.0,
        Device::Cpu => grads.iter().filter_map(|g| g.as_host()).map(|g| kernel::sum_squares(&g)).sum(),
        Device::Burn(_) => {
            // One number a tensor, joined on the device, read once.
            let parts: Vec<burn::Tensor<1>> = grads
                .iter()
                .map(|g| {
                    let g = g.cast(DType::F32).flatten_burn();
                    (g.clone() * g).sum()
                })
                .collect();
            if parts.is_empty() {
                return 0.0;
            }
            Tensor::from_burn(burn::Tensor::cat(parts, 0)).to_vec().iter().map(|&x| x as f64).sum()
        }
    }
}
