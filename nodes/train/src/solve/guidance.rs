//! Combining the outputs with and without the prompt.

/// Classifier-free guidance (Ho and Salimans 2022): `u + s·(c − u)` into `conditional`.
pub fn combine(scale: f32, unconditional: &[f32], conditional: &mut [f32]) {
    for (c, u) in conditional.iter_mut().zip(unconditional) {
        *c = u + scale * (*c - u);
    }
}

/// Guidance as Lumina-Image-2.0 samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LuminaGuidance {
    /// s of [`combine`].
    pub scale: f32,
    /// Guidance acts while the model's time `1 − σ` is below this; afterwards the conditional output stands alone. 0.25 in
    /// the reference.
    pub truncation: f64,
    /// Largest norm of the guided output relative to the conditional one; `None` for no limit. 1.0 in the reference.
    pub renorm: Option<f64>,
}

impl LuminaGuidance {
    /// Whether the unconditional output is needed at σ.
    pub fn acts(&self, sigma: f64) -> bool {
        1.0 - sigma < self.truncation
    }

    /// The guided output of one sample into `conditional`, for a σ where it [acts](LuminaGuidance::acts).
    pub fn apply(&self, unconditional: &[f32], conditional: &mut [f32]) {
        let norm = |x: &[f32]| crate::par::sum_squares(x).sqrt();
        let before = norm(conditional);
        combine(self.scale, unconditional, conditional);
        if let Some(limit) = self.renorm {
            let (now, most) = (norm(conditional), before * limit);
            if now > most && now > 0.0 {
                let factor = (most / now) as f32;
                conditional.iter_mut().for_each(|x| *x *= factor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renormalised_to_the_conditional_norm() {
        let g = LuminaGuidance { scale: 4.0, truncation: 0.25, renorm: Some(1.0) };
        let mut c = [3.0, 4.0];
        g.apply(&[0.0, 0.0], &mut c);
        assert!((c[0] - 3.0).abs() < 1e-6 && (c[1] - 4.0).abs() < 1e-6);
        let mut free = [3.0, 4.0];
        LuminaGuidance { renorm: None, ..g }.apply(&[0.0, 0.0], &mut free);
        assert_eq!(free, [12.0, 16.0]);
        // Outputs that did not grow keep their norm.
        let mut small = [3.0, 4.0];
        LuminaGuidance { scale: 0.5, ..g }.apply(&[0.0, 0.0], &mut small);
        assert_eq!(small, [1.5, 2.0]);
    }

    #[test]
    fn truncated_by_the_models_time() {
        let g = LuminaGuidance { scale: 4.0, truncation: 0.25, renorm: None };
        assert!(g.acts(1.0) && g.acts(0.76) && !g.acts(0.75) && !g.acts(0.1));
    }
}
