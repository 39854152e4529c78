//! Flow matching (Lipman et al. 2023; rectified flow, Liu et al. 2023): SD3, FLUX, Lumina.
//!
//! `x_σ = (1−σ)·x0 + σ·ε`, σ from 0 (data) to 1 (noise), `t = 1000σ`. A model predicts the velocity `ε − x0` (SD3, FLUX)
//! or its opposite (Lumina). [`Timesteps`] draws σ, [`Scheme`] weighs the loss over it,
//! [`ModelPrediction`] says what is compared with what.

mod family;
mod objective;
mod sampling;
mod scheme;

pub use family::{Family, FlowDefaults};
pub use objective::{Direction, ModelPrediction};
pub use sampling::{Drawn, Sampling, Timesteps, exponential_shift, flux_mu, shift, tokens};
pub use scheme::Scheme;
