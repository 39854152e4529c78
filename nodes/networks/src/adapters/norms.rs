//! `scale_weight_norms` (Kohya): ΔW kept from growing beyond a norm.

use pipe_ops::op::{self, add_tensors, scale_tensor};
use pipe_ops::{Cx, Tensor, Var};

use super::{Kind, Target};
use crate::trainables::Trainables;

/// What was found and done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NormReport {
    /// Modules that were scaled.
    pub scaled: usize,
    /// Mean norm of all modules afterwards.
    pub mean: f64,
    /// Largest norm afterwards.
    pub largest: f64,
}

/// Scales down every module with `‖s·U·D‖_F > limit`: `n = max(‖Δ‖, limit/2)`, `ρ = min(n, limit)/n`, both factors times
/// `√ρ`. Modules without a plain pair of factors are left alone.
pub fn limit_norms(cx: &Cx, train: &mut Trainables, targets: &[Target], limit: f64) -> NormReport {
    let mut report = NormReport::default();
    let mut count = 0;
    for target in targets {
        let Kind::Lora { frozen_down: false, parts } = &target.kind else { continue };
        let pieces = target.pieces();
        let pairs: Vec<[&str; 2]> = pieces.chunks_exact(2).map(|p| [p[0].key.as_str(), p[1].key.as_str()]).collect();
        debug_assert_eq!(pairs.len(), parts.len().max(1), "one pair a part");
        // A number that the change is multiplied by stands behind the pairs.
        let scalar = target.scalar_key().and_then(|key| train.tensors.get(&key)).map_or(1.0, |s| s.to_vec()[0]);
        let scale = (target.alpha / target.rank as f32 * scalar.abs()) as f64;
        // Parts adapt different rows: their squares add up.
        let squares =
            pairs.iter().filter_map(|[down, up]| Some(square(cx, train.tensors.get(*down)?, train.tensors.get(*up)?)));
        let norm = scale * squares.sum::<f64>().max(0.0).sqrt();
        let n = norm.max(limit / 2.0);
        let ratio = n.min(limit) / n;
        count += 1;
        report.mean += norm * ratio;
        report.largest = report.largest.max(norm * ratio);
        // What stays as it is has its length already.
        if ratio == 1.0 || train.still.contains(&target.part) {
            continue;
        }
        report.scaled += 1;
        for key in pairs.iter().flatten() {
            if let Some(tensor) = train.tensors.get_mut(*key) {
                *tensor = scale_tensor(cx, tensor, ratio.sqrt() as f32);
            }
        }
    }
    report.mean /= count.max(1) as f64;
    report
}

/// `‖U·D‖²_F = Σ (UᵀU) ⊙ (D·Dᵀ)`: two `r × r` matrices instead of one of the weight's size.
fn square(cx: &Cx, down: &Tensor, up: &Tensor) -> f64 {
    let r = down.dim(0);
    let flat = |t: &Tensor| Var::constant(t.reshape(&[t.dim(0), t.len() / t.dim(0)]));
    let (d, u) = (flat(down), flat(up));
    let (dt, ut) = (op::permute(cx, &d, &[r, d.dim(1)], &[1, 0]), op::permute(cx, &u, &[u.dim(0), r], &[1, 0]));
    let (dd, uu) = (op::matmul(cx, &d, &dt), op::matmul(cx, &ut, &u));
    let products = dd.value.to_vec().into_iter().zip(uu.value.to_vec());
    products.map(|(a, b)| a as f64 * b as f64).sum()
}

/// Adds `m·ΔW` to a weight: `w` in its type, `delta` in f32.
pub(super) fn added(cx: &Cx, w: &Tensor, delta: Tensor) -> Tensor {
    add_tensors(cx, w.cast(pipe_ops::DType::F32), delta.reshape(w.shape())).cast(w.dtype())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use pipe_ops::Device;

    use super::*;
    use crate::adapters::create;
    use crate::trainables::Dropouts;

    /// Norms by the definition, module by module.
    fn norm(train: &Trainables, target: &Target) -> f64 {
        let (down, up) = (
            train.tensors[&format!("{}.lora_down.weight", target.name)].to_vec(),
            train.tensors[&format!("{}.lora_up.weight", target.name)].to_vec(),
        );
        let (out, r) = (target.weight[0], target.rank);
        let width = down.len() / r;
        let mut sum = 0.0;
        for o in 0..out {
            for i in 0..width {
                let x: f64 = (0..r).map(|k| up[o * r + k] as f64 * down[k * width + i] as f64).sum();
                sum += x * x;
            }
        }
        sum.sqrt() * (target.alpha / r as f32) as f64
    }

    #[test]
    fn only_the_long_ones_shrink() {
        let targets = [
            Target::lora("unet", "a", "lora_unet_a", &[6, 5], 2, 1.0),
            Target::lora("unet", "b", "lora_unet_b", &[6, 5, 3, 3], 2, 1.0),
        ];
        let cx = Cx::cpu();
        let mut train = create(&targets, Dropouts::default(), 3, &Device::Cpu, &HashMap::new(), &|_, _| None);
        for (i, target) in targets.iter().enumerate() {
            let up = train.tensors.get_mut(&format!("{}.lora_up.weight", target.name)).unwrap();
            up.update(|v| {
                v.iter_mut().enumerate().for_each(|(j, v)| *v = (1 + 9 * i) as f32 * (0.1 + j as f32 * 0.01))
            });
        }
        let before: Vec<f64> = targets.iter().map(|t| norm(&train, t)).collect();
        let limit = (before[0] * before[1]).sqrt();
        let report = limit_norms(&cx, &mut train, &targets, limit);
        let after: Vec<f64> = targets.iter().map(|t| norm(&train, t)).collect();
        assert_eq!(report.scaled, 1);
        assert!((after[0] / before[0] - 1.0).abs() < 1e-6 && (after[1] / limit - 1.0).abs() < 1e-5, "{after:?}");
        assert!((report.largest / limit - 1.0).abs() < 1e-5);
        assert!((report.mean / ((after[0] + after[1]) / 2.0) - 1.0).abs() < 1e-5);
    }
}
