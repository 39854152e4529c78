//! c of the Huber losses over the timesteps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Invalid;

/// How c depends on the timestep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HuberSchedule {
    /// `c · scale` throughout.
    Constant,
    /// `scale · c^(t/1000)`: 1 at t = 0, c at t = 1000.
    Exponential,
    /// `(1−c)/(1+σ)² + c` with `σ = √((1−ᾱ)/ᾱ)`. Epsilon and v models only.
    Snr,
}

impl HuberSchedule {
    /// Name that other trainers use.
    pub fn name(self) -> &'static str {
        match self {
            HuberSchedule::Constant => "constant",
            HuberSchedule::Exponential => "exponential",
            HuberSchedule::Snr => "snr",
        }
    }
}

/// c of `huber` and `smooth_l1`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Huber {
    /// How c depends on the timestep. Default `snr` for epsilon and v models, `constant` for flow models.
    pub schedule: Option<HuberSchedule>,
    /// Size of an error at which the loss turns from squared to absolute. Default 0.1.
    #[schemars(range(min = 0.000001, max = 1000.0))]
    pub c: f64,
    /// Multiplies c. Default 1.0.
    #[schemars(range(min = 0.000001, max = 1000.0))]
    pub scale: Option<f64>,
}

impl Default for Huber {
    fn default() -> Self {
        Huber { schedule: None, c: 0.1, scale: None }
    }
}

impl Huber {
    fn schedule(&self, flow: bool) -> HuberSchedule {
        self.schedule.unwrap_or(if flow { HuberSchedule::Constant } else { HuberSchedule::Snr })
    }

    /// What is wrong with it, for a flow model or one with a noise schedule.
    pub fn check(&self, flow: bool) -> Result<(), Invalid> {
        crate::within("c", self.c, 1e-6, 1000.0)?;
        if let Some(scale) = self.scale {
            crate::within("scale", scale, 1e-6, 1000.0)?;
        }
        match self.schedule(flow) {
            HuberSchedule::Snr if flow => {
                Err(Invalid::new("schedule", "`snr` needs a noise schedule, which a flow model has not")
                    .help("use `constant` or `exponential`"))
            }
            HuberSchedule::Snr if self.scale.is_some() => {
                Err(Invalid::new("scale", "has no effect with the schedule `snr`").help("leave it out"))
            }
            _ => Ok(()),
        }
    }

    /// c at timestep `t` of 0 to 1000, for a model with a noise schedule `Some(ᾱ_t)` or a flow model `None`.
    ///
    /// With ᾱ = 0 the `snr` schedule gives its limit, c.
    pub fn c(&self, t: f64, alpha: Option<f64>) -> f64 {
        let scale = self.scale.unwrap_or(1.0);
        match (self.schedule(alpha.is_none()), alpha) {
            (HuberSchedule::Exponential, _) => scale * (self.c.ln() * t / 1000.0).exp(),
            (HuberSchedule::Snr, Some(alpha)) if alpha > 0.0 => {
                let sigma = ((1.0 - alpha) / alpha).sqrt();
                (1.0 - self.c) / (1.0 + sigma).powi(2) + self.c
            }
            (HuberSchedule::Snr, Some(_)) => self.c,
            _ => scale * self.c,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_without_effect_are_refused() {
        let snr = Huber { schedule: Some(HuberSchedule::Snr), ..Huber::default() };
        assert_eq!(snr.check(true).unwrap_err().field, "schedule");
        let scaled = Huber { scale: Some(2.0), ..snr };
        assert_eq!(scaled.check(false).unwrap_err().field, "scale");
        // The reference's default schedule fails for flow models; ours is constant there.
        assert!(Huber::default().check(true).is_ok());
        assert_eq!(Huber::default().c(500.0, None), 0.1);
        assert_eq!(Huber::default().c(999.0, Some(0.0)), 0.1);
    }
}
