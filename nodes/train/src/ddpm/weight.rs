//! Weights of a sample's loss by its signal-to-noise ratio.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Prediction;
use crate::Invalid;

/// Which schedule's signal-to-noise ratio weighs the loss under zero terminal SNR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SnrOf {
    /// The schedule that is trained on.
    #[default]
    Trained,
    /// The one before rescaling, as sd-scripts does.
    Original,
}

/// Weights by the signal-to-noise ratio S of a sample's timestep; several multiply, in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct SnrWeights {
    /// γ of min-SNR weighting (Hang et al. 2023): `min(S, γ)/S`, for v models `min(S, γ)/(S+1)`. Low-noise timesteps
    /// count less. 5 is usual. Default: off.
    #[schemars(range(min = 0.000001, max = 1000000.0))]
    pub min_snr_gamma: Option<f64>,
    /// Weighs v models by `S/(S+1)`, as the loss on the noise would be. Default false.
    pub scale_v_pred_loss_like_noise_pred: bool,
    /// Adds this much of the loss on v to an epsilon model: `1 + w·(S+1)/S`. Default: off.
    #[schemars(range(min = 0.000001, max = 1000.0))]
    pub v_pred_like_loss: Option<f64>,
    /// Debiased estimation (Yu et al. 2024): `1/√S`, for v models `1/(S+1)`. Default false.
    pub debiased_estimation_loss: bool,
    /// Schedule of S under zero terminal SNR. Default `trained`.
    pub snr_of: SnrOf,
}

/// S is capped here, as the reference does in all but min-SNR.
const LARGEST: f32 = 1000.0;
/// Keeps divisions finite; far below the smallest S of the plain schedule, 0.0047.
const SMALLEST: f32 = 1e-8;

impl SnrWeights {
    /// Whether every sample weighs the same.
    pub fn is_off(&self) -> bool {
        self.min_snr_gamma.is_none()
            && !self.scale_v_pred_loss_like_noise_pred
            && self.v_pred_like_loss.is_none()
            && !self.debiased_estimation_loss
    }

    /// What has no effect or no sense for a model of this kind.
    pub fn check(&self, prediction: Prediction, zero_terminal_snr: bool) -> Result<(), Invalid> {
        if let Some(gamma) = self.min_snr_gamma {
            crate::within("min_snr_gamma", gamma, 1e-6, 1e6)?;
        }
        if let Some(w) = self.v_pred_like_loss {
            crate::within("v_pred_like_loss", w, 1e-6, 1000.0)?;
        }
        if self.scale_v_pred_loss_like_noise_pred && prediction == Prediction::Epsilon {
            return Err(Invalid::new(
                "scale_v_pred_loss_like_noise_pred",
                "the model predicts ε; this scales the loss of v models",
            ));
        }
        if self.v_pred_like_loss.is_some() && prediction == Prediction::V {
            return Err(Invalid::new("v_pred_like_loss", "the model predicts v already; this is for epsilon models"));
        }
        if zero_terminal_snr && prediction == Prediction::Epsilon {
            return Err(Invalid::new("zero_terminal_snr", "an epsilon model learns nothing where there is no signal")
                .help("train a v model, or leave `zero_terminal_snr` out"));
        }
        if self.snr_of == SnrOf::Original && (!zero_terminal_snr || self.is_off()) {
            return Err(Invalid::new("snr_of", "has an effect only with `zero_terminal_snr` and a weight"));
        }
        Ok(())
    }

    /// The factor of a sample's loss at signal-to-noise ratio `snr`. Finite for every `snr ≥ 0`.
    pub fn factor(&self, snr: f32, prediction: Prediction) -> f32 {
        let v = prediction == Prediction::V;
        let (exact, s) = (snr.max(SMALLEST), snr.clamp(SMALLEST, LARGEST));
        let mut factor = 1.0;
        if let Some(gamma) = self.min_snr_gamma {
            factor *= exact.min(gamma as f32) / if v { exact + 1.0 } else { exact };
        }
        if self.scale_v_pred_loss_like_noise_pred {
            factor *= s / (s + 1.0);
        }
        if let Some(w) = self.v_pred_like_loss {
            factor *= 1.0 + w as f32 * ((s + 1.0) / s);
        }
        if self.debiased_estimation_loss {
            factor *= if v { 1.0 / (s + 1.0) } else { 1.0 / s.sqrt() };
        }
        factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn min_snr_damps_low_noise() {
        let w = SnrWeights { min_snr_gamma: Some(5.0), ..Default::default() };
        assert_eq!(w.factor(0.5, Prediction::Epsilon), 1.0);
        assert_eq!(w.factor(50.0, Prediction::Epsilon), 0.1);
        assert_eq!(w.factor(4.0, Prediction::V), 0.8);
    }

    #[test]
    fn pure_noise_gives_finite_weights() {
        let all = SnrWeights {
            min_snr_gamma: Some(5.0),
            scale_v_pred_loss_like_noise_pred: true,
            debiased_estimation_loss: true,
            ..Default::default()
        };
        for snr in [0.0, 1e-12, 1e9, f32::INFINITY] {
            assert!(all.factor(snr, Prediction::V).is_finite(), "{snr}");
        }
    }

    #[test]
    fn options_without_effect_are_refused() {
        let scale = SnrWeights { scale_v_pred_loss_like_noise_pred: true, ..Default::default() };
        assert!(scale.check(Prediction::V, false).is_ok());
        assert!(scale.check(Prediction::Epsilon, false).is_err());
        let like = SnrWeights { v_pred_like_loss: Some(0.5), ..Default::default() };
        assert!(like.check(Prediction::V, false).is_err());
        assert!(SnrWeights::default().check(Prediction::Epsilon, true).is_err());
        let original = SnrWeights { snr_of: SnrOf::Original, ..scale };
        assert!(original.check(Prediction::V, true).is_ok());
        assert!(original.check(Prediction::V, false).is_err());
    }
}
