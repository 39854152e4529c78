//! Settings that suit each family of models.

use super::{Direction, ModelPrediction, Sampling, Scheme, Timesteps};

/// A family of flow models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// SD3 Medium, SD3.5 Medium and Large.
    Sd3,
    /// FLUX.1 dev and schnell.
    Flux,
    /// Lumina-Image-2.0.
    Lumina2,
    /// Lumina-Next-T2I and -SFT.
    LuminaNext,
}

/// Settings of a family.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowDefaults {
    /// Drawing of σ.
    pub timesteps: Timesteps,
    /// h where `timesteps.shift` is not given.
    pub shift: f64,
    /// What is compared.
    pub model_prediction: ModelPrediction,
    /// Embedded guidance that the model is given in training, where it takes one.
    pub guidance: Option<f64>,
}

impl Family {
    /// Sign of the predicted velocity.
    pub fn direction(self) -> Direction {
        match self {
            Family::Sd3 | Family::Flux => Direction::ToNoise,
            Family::Lumina2 | Family::LuminaNext => Direction::ToData,
        }
    }

    /// What the model is told of the time: SD3 reads `1000σ`, FLUX σ, Lumina `1 − σ`.
    pub fn model_time(self, sigma: f64) -> f64 {
        match self {
            Family::Sd3 => 1000.0 * sigma,
            Family::Flux => sigma,
            Family::Lumina2 | Family::LuminaNext => 1.0 - sigma,
        }
    }

    /// What trains well: the density the family was trained with, and the loss on the velocity.
    pub fn recommended(self) -> FlowDefaults {
        let (sampling, scheme, shift, guidance) = match self {
            Family::Sd3 => (Sampling::Discrete, Scheme::LogitNormal { mean: 0.0, std: 1.0 }, 3.0, None),
            Family::Flux => (Sampling::FluxShift, Scheme::Uniform, 3.0, Some(1.0)),
            Family::Lumina2 => (Sampling::NextditShift, Scheme::Uniform, 6.0, None),
            Family::LuminaNext => (Sampling::Sigmoid, Scheme::Uniform, 1.0, None),
        };
        let timesteps = Timesteps { sampling, scheme, ..Default::default() };
        FlowDefaults { timesteps, shift, model_prediction: ModelPrediction::Raw, guidance }
    }

    /// What sd-scripts does when nothing is said; `migrate` writes it out. It knows no Lumina-Next, which gets Lumina's.
    pub fn of_sd_scripts(self) -> FlowDefaults {
        let (sampling, shift, model_prediction, guidance) = match self {
            Family::Sd3 => (Sampling::Discrete, 1.0, ModelPrediction::SigmaScaled, None),
            Family::Flux => (Sampling::Sigma, 3.0, ModelPrediction::SigmaScaled, Some(3.5)),
            Family::Lumina2 | Family::LuminaNext => (Sampling::Shift, 6.0, ModelPrediction::Raw, None),
        };
        let timesteps = Timesteps { sampling, ..Default::default() };
        FlowDefaults { timesteps, shift, model_prediction, guidance }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_pass_their_own_checks() {
        for family in [Family::Sd3, Family::Flux, Family::Lumina2, Family::LuminaNext] {
            for d in [family.recommended(), family.of_sd_scripts()] {
                assert_eq!(d.timesteps.check(d.model_prediction.weighs()), Ok(()), "{family:?}");
            }
        }
    }
}
