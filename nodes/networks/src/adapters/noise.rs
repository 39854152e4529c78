//! GGPO, gradient-guided perturbation (sd-scripts, experimental): in training the layers with a LoRA get noise on their
//! weights, stronger where weights and gradients are large, so that what is learnt holds in a neighbourhood.
//!
//! With `V = U·D`, the step's gradients and `s = α/r`, each row `i` of a layer's weight gets normal noise of the standard
//! deviation `(σ·√(w₀² + ‖V_i‖²) + β·‖s·(U·∂D + ∂U·D)_i‖²) / √out`, where `w₀` is the mean length of the base weight's
//! rows. Nothing is differentiated through it, and before the first step there is none.

use std::collections::HashMap;

use pipe_ops::Tensor;

use super::{Kind, Target};
use crate::trainables::Trainables;

/// How strong the noise is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Noise {
    /// σ.
    pub sigma: f32,
    /// β.
    pub beta: f32,
    /// Mean length of the rows of the base weight, by `part.path`.
    pub base: HashMap<String, f32>,
}

/// Key of a layer's standard deviations, `[out]`, among the tensors that do not learn.
pub fn key(part: &str, path: &str) -> String {
    format!("{}.noise", Trainables::key(part, path))
}

/// Mean length of a matrix' rows.
pub fn mean_row(weight: &[f32], rows: usize) -> f32 {
    let width = (weight.len() / rows.max(1)).max(1);
    let norm = |row: &[f32]| row.iter().map(|x| (*x as f64).powi(2)).sum::<f64>().sqrt();
    (weight.chunks(width).map(norm).sum::<f64>() / rows.max(1) as f64) as f32
}

impl Noise {
    /// The standard deviations of a layer's rows. `value` and `gradient` give tensors by key; what has no gradient does
    /// not learn. Gradients are multiplied by `clip`.
    pub fn rows(
        &self,
        target: &Target,
        value: impl Fn(&str) -> Option<Vec<f32>>,
        gradient: impl Fn(&str) -> Option<Vec<f32>>,
        clip: f32,
    ) -> Option<Vec<f32>> {
        let (Kind::Lora { .. }, false) = (&target.kind, target.scalar) else { return None };
        let (r, out) = (target.rank, target.weight[0]);
        let scale = (target.alpha / r as f32) as f64;
        let base = *self.base.get(&Trainables::key(&target.part, &target.path))? as f64;
        let mut rows = Vec::with_capacity(out);
        for pair in target.pieces().chunks(2) {
            let [down, up] = pair else { return None };
            let (d, u) = (value(&down.key)?, value(&up.key)?);
            let zeros = |of: &[f32]| vec![0.0; of.len()];
            let (dd, du) =
                (gradient(&down.key).unwrap_or_else(|| zeros(&d)), gradient(&up.key).unwrap_or_else(|| zeros(&u)));
            // Rows of products are short sums over r × r matrices.
            let (a, b, c) = (products(&d, &d, r), products(&dd, &d, r), products(&dd, &dd, r));
            for (u, du) in u.chunks(r).zip(du.chunks(r)) {
                let length = (base.powi(2) + form(u, &a, u)).max(0.0).sqrt();
                let gradient = form(u, &c, u) + 2.0 * form(u, &b, du) + form(du, &a, du);
                let square = (scale * clip as f64).powi(2) * gradient.max(0.0);
                let deviation = (self.sigma as f64 * length + self.beta as f64 * square) / (out as f64).sqrt();
                rows.push(deviation as f32);
            }
        }
        Some(rows)
    }
}

/// `a·bᵀ` of matrices with `r` rows.
fn products(a: &[f32], b: &[f32], r: usize) -> Vec<f64> {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| *x as f64 * *y as f64).sum::<f64>();
    let (n, m) = (a.len() / r, b.len() / r);
    a.chunks(n.max(1)).flat_map(|x| b.chunks(m.max(1)).map(move |y| dot(x, y))).collect()
}

/// `x·m·yᵀ`.
fn form(x: &[f32], m: &[f64], y: &[f32]) -> f64 {
    let row = |row: &[f64]| row.iter().zip(y).map(|(m, y)| m * *y as f64).sum::<f64>();
    x.iter().zip(m.chunks(y.len().max(1))).map(|(x, m)| *x as f64 * row(m)).sum()
}

/// Sets the noise of the following passes from a step's weights and gradients; the latter are multiplied by `clip`.
pub fn update(train: &mut Trainables, targets: &[Target], gradients: &HashMap<String, Tensor>, clip: f32) {
    let Some(noise) = train.noise.take() else { return };
    for target in targets {
        let value = |key: &str| train.factor(key).map(Tensor::to_vec);
        let gradient = |key: &str| gradients.get(key).map(Tensor::to_vec);
        let rows = noise.rows(target, value, gradient, clip);
        if let Some(rows) = rows
            && let Some(tensor) = train.frozen.get_mut(&key(&target.part, &target.path))
        {
            let shape = [rows.len()];
            *tensor = Tensor::host(rows, &shape);
        }
    }
    train.noise = Some(noise);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition, with whole matrices.
    #[test]
    fn rows_are_those_of_the_definition() {
        for parts in [vec![], vec![2, 4]] {
            let (out, inputs, r) = (6, 5, 2);
            let mut target = Target::lora("transformer", "x", "lora_unet_x", &[out, inputs], r, 3.0);
            target.kind = Kind::Lora { frozen_down: false, parts: parts.clone() };
            let number = |key: &str, i: usize, by: f32| ((i * 7 + key.len() * 3) as f32 * by).sin();
            let sizes: HashMap<String, usize> =
                target.pieces().into_iter().map(|p| (p.key, p.shape.iter().product())).collect();
            let value = |key: &str| Some((0..sizes[key]).map(|i| number(key, i, 0.37)).collect::<Vec<f32>>());
            let gradient = |key: &str| Some((0..sizes[key]).map(|i| number(key, i, 0.91)).collect::<Vec<f32>>());
            let base = HashMap::from([("transformer.x".to_owned(), 1.5f32)]);
            let noise = Noise { sigma: 0.3, beta: 0.7, base };
            let found = noise.rows(&target, value, gradient, 0.5).unwrap();
            let mut expected = Vec::new();
            for pair in target.pieces().chunks(2) {
                let (d, u) = (value(&pair[0].key).unwrap(), value(&pair[1].key).unwrap());
                let (dd, du) = (gradient(&pair[0].key).unwrap(), gradient(&pair[1].key).unwrap());
                let product = |u: &[f32], d: &[f32], i: usize, j: usize| -> f64 {
                    (0..r).map(|k| u[i * r + k] as f64 * d[k * inputs + j] as f64).sum()
                };
                for i in 0..pair[1].shape[0] {
                    let v: f64 = (0..inputs).map(|j| product(&u, &d, i, j).powi(2)).sum();
                    let g: f64 = (0..inputs).map(|j| (product(&u, &dd, i, j) + product(&du, &d, i, j)).powi(2)).sum();
                    let g = g * (1.5f64 * 0.5).powi(2);
                    expected.push((0.3 * (1.5f64.powi(2) + v).sqrt() + 0.7 * g) / (out as f64).sqrt());
                }
            }
            assert_eq!(found.len(), out);
            for (a, b) in found.iter().zip(&expected) {
                assert!((*a as f64 / b - 1.0).abs() < 1e-5, "{found:?}, not {expected:?}");
            }
        }
    }

    #[test]
    fn mean_length_of_rows() {
        assert_eq!(mean_row(&[3.0, 4.0, 0.0, 1.0], 2), 3.0);
    }
}
