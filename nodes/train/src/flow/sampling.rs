//! Which σ are trained on.

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scheme::{Scheme, sigmoid};
use crate::Invalid;

/// How σ is drawn. With `q = sigmoid(scale·N(0,1))` and `shift(u) = h·u/(1+(h−1)u)`:
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Uniform in `[0, 1)`.
    Uniform,
    /// q.
    Sigmoid,
    /// `shift(q)`.
    #[default]
    Shift,
    /// `e^μ/(e^μ + 1/q − 1)`, μ from the number of image tokens.
    FluxShift,
    /// As `flux_shift`, with a uniform number in place of q.
    NextditShift,
    /// `shift(s)` of a table of 1000 whole timesteps, at a place drawn by the weighting scheme.
    Sigma,
    /// `shift(u)` of u drawn by the weighting scheme, rounded down to whole timesteps.
    Discrete,
}

/// Fields that choose σ. A field that the chosen sampling does not read is an error, never silence.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Timesteps {
    /// How σ is drawn. Default by model: `flux_shift` for FLUX, `discrete` for SD3, `nextdit_shift` for Lumina-Image-2.0,
    /// `sigmoid` for Lumina-Next.
    pub sampling: Sampling,
    /// Scale of the normal number in `sigmoid`, `shift` and `flux_shift`. Default 1.0.
    #[schemars(range(min = 0.000001, max = 100.0))]
    pub sigmoid_scale: Option<f64>,
    /// h of `shift`, `sigma` and `discrete`; above 1 there is more noise. Default by model.
    #[schemars(range(min = 0.001, max = 100.0))]
    pub shift: Option<f64>,
    /// Density of `sigma` and `discrete`, weight of the loss on x0. Default `uniform`.
    pub scheme: Scheme,
    /// Smallest timestep of `discrete`. Default 0.
    #[schemars(range(min = 0, max = 999))]
    pub min: Option<u64>,
    /// One past the largest timestep of `discrete`. Default 1000.
    #[schemars(range(min = 1, max = 1000))]
    pub max: Option<u64>,
}

/// A timestep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// σ of 0 to 1.
    pub sigma: f64,
    /// `1000σ`.
    pub timestep: f64,
}

/// `h·u/(1+(h−1)u)`.
pub fn shift(h: f64, u: f64) -> f64 {
    h * u / (1.0 + (h - 1.0) * u)
}

/// Image tokens of latents `[.., h, w]` in patches of 2×2.
pub fn tokens(h: usize, w: usize) -> usize {
    (h / 2) * (w / 2)
}

/// μ of FLUX: linear in the image tokens, 0.5 at 256 and 1.15 at 4096.
pub fn flux_mu(tokens: usize) -> f64 {
    0.5 + (tokens as f64 - 256.0) * (1.15 - 0.5) / (4096.0 - 256.0)
}

/// `e^μ/(e^μ + 1/u − 1)`; 0 at 0.
pub fn exponential_shift(mu: f64, u: f64) -> f64 {
    if u <= 0.0 {
        return 0.0;
    }
    mu.exp() / (mu.exp() + (1.0 / u - 1.0))
}

impl Sampling {
    fn takes_scale(self) -> bool {
        matches!(self, Sampling::Sigmoid | Sampling::Shift | Sampling::FluxShift)
    }

    fn takes_shift(self) -> bool {
        matches!(self, Sampling::Shift | Sampling::Sigma | Sampling::Discrete)
    }

    fn takes_scheme(self) -> bool {
        matches!(self, Sampling::Sigma | Sampling::Discrete)
    }
}

impl Timesteps {
    fn name(&self) -> String {
        match self.sampling {
            Sampling::Uniform => "uniform",
            Sampling::Sigmoid => "sigmoid",
            Sampling::Shift => "shift",
            Sampling::FluxShift => "flux_shift",
            Sampling::NextditShift => "nextdit_shift",
            Sampling::Sigma => "sigma",
            Sampling::Discrete => "discrete",
        }
        .to_string()
    }

    /// What is out of range or has no effect with this sampling; `weighs` says whether the loss reads the scheme's weight.
    pub fn check(&self, weighs: bool) -> Result<(), Invalid> {
        let idle = |field: &str| Invalid::new(field, format!("has no effect with `sampling: {}`", self.name()));
        if let Some(scale) = self.sigmoid_scale {
            crate::within("sigmoid_scale", scale, 1e-6, 100.0)?;
            if !self.sampling.takes_scale() {
                return Err(idle("sigmoid_scale").help("it belongs to `sigmoid`, `shift` and `flux_shift`"));
            }
        }
        if let Some(h) = self.shift {
            crate::within("shift", h, 1e-3, 100.0)?;
            if !self.sampling.takes_shift() {
                return Err(idle("shift").help("it belongs to `shift`, `sigma` and `discrete`"));
            }
        }
        self.scheme.check().map_err(|e| e.within("scheme"))?;
        if self.scheme.is_density() && !self.sampling.takes_scheme() {
            return Err(idle("scheme").help("densities belong to `sigma` and `discrete`"));
        }
        if self.scheme.is_weight() && !weighs {
            return Err(Invalid::new("scheme", "weighs only the loss on x0")
                .help("set `model_prediction: sigma_scaled`, or leave the scheme out"));
        }
        if (self.min.is_some() || self.max.is_some()) && self.sampling != Sampling::Discrete {
            let field = if self.min.is_some() { "min" } else { "max" };
            return Err(idle(field).help("it belongs to `discrete`"));
        }
        if self.min.unwrap_or(0) >= self.max.unwrap_or(1000) {
            return Err(Invalid::new("min", "is not below `max`"));
        }
        Ok(())
    }

    /// σ from its draw; `default_shift` is the model's h, `tokens` the image tokens ([`tokens`]).
    ///
    /// The draw is standard normal for `sigmoid`, `shift` and `flux_shift`, what [`Scheme::density`] takes for `sigma` and
    /// `discrete`, and uniform of `[0, 1)` for the others ([`Timesteps::random`] makes it).
    pub fn at(&self, draw: f64, default_shift: f64, tokens: usize) -> Drawn {
        let h = self.shift.unwrap_or(default_shift);
        let q = || sigmoid(self.sigmoid_scale.unwrap_or(1.0) * draw);
        let sigma = match self.sampling {
            Sampling::Uniform => draw,
            Sampling::Sigmoid => q(),
            Sampling::Shift => shift(h, q()),
            Sampling::FluxShift => exponential_shift(flux_mu(tokens), q()),
            Sampling::NextditShift => exponential_shift(flux_mu(tokens), draw.max(1e-7)),
            Sampling::Sigma => {
                let i = (1000.0 * self.scheme.density(draw)).clamp(0.0, 999.0).floor();
                shift(h, 1.0 - i / 1000.0)
            }
            Sampling::Discrete => {
                let (min, max) = (self.min.unwrap_or(0) as f64, self.max.unwrap_or(1000) as f64);
                let u = shift(h, self.scheme.density(draw).clamp(0.0, 1.0));
                let t = (u * (max - min) + min).floor().min(max - 1.0);
                // Timestep 0 has no noise at all: nothing to learn, and an infinite weight in some schemes.
                t.max(1.0) / 1000.0
            }
        };
        Drawn { sigma, timestep: 1000.0 * sigma }
    }

    /// The draw that [`Timesteps::at`] takes.
    pub fn random(&self, rng: &mut impl Rng) -> f64 {
        match self.sampling {
            Sampling::Sigmoid | Sampling::Shift | Sampling::FluxShift => rng.sample(StandardNormal),
            Sampling::Sigma | Sampling::Discrete => self.scheme.draw(rng),
            Sampling::Uniform | Sampling::NextditShift => rng.random(),
        }
    }

    /// The descending table that `sigma` draws from: `shift(1), shift(0.999), … shift(0.001)`.
    pub fn table(&self, default_shift: f64) -> Vec<f64> {
        let h = self.shift.unwrap_or(default_shift);
        (0..1000).map(|i| shift(h, 1.0 - i as f64 / 1000.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn values_of_the_specification() {
        assert!((flux_mu(1024) - 0.63).abs() < 1e-12);
        assert!((flux_mu(1024).exp() - 1.8776).abs() < 1e-4);
        assert!((flux_mu(4096).exp() - 3.1582).abs() < 1e-4);
        assert_eq!(tokens(129, 64), 64 * 32);
    }

    #[test]
    fn every_sampling_stays_inside() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(2);
        for sampling in [
            Sampling::Uniform,
            Sampling::Sigmoid,
            Sampling::Shift,
            Sampling::FluxShift,
            Sampling::NextditShift,
            Sampling::Sigma,
            Sampling::Discrete,
        ] {
            for scheme in [Scheme::Uniform, Scheme::Mode { scale: 1.29 }, Scheme::LogitNormal { mean: 0.0, std: 3.0 }] {
                let steps = Timesteps { sampling, scheme, ..Default::default() };
                let mean = (0..2000)
                    .map(|_| {
                        let drawn = steps.at(steps.random(&mut rng), 3.0, 1024);
                        assert!((0.0..=1.0).contains(&drawn.sigma), "{sampling:?} {drawn:?}");
                        drawn.sigma
                    })
                    .sum::<f64>()
                    / 2000.0;
                assert!((0.4..0.8).contains(&mean), "{sampling:?} {mean}");
            }
        }
    }

    #[test]
    fn options_without_effect_are_refused() {
        let field = |t: Timesteps| t.check(false).unwrap_err().field;
        let with = |sampling| Timesteps { sampling, ..Default::default() };
        assert_eq!(field(Timesteps { shift: Some(3.0), ..with(Sampling::FluxShift) }), "shift");
        assert_eq!(field(Timesteps { sigmoid_scale: Some(1.0), ..with(Sampling::Uniform) }), "sigmoid_scale");
        assert_eq!(field(Timesteps { scheme: Scheme::Mode { scale: 1.29 }, ..with(Sampling::Shift) }), "scheme");
        assert_eq!(field(Timesteps { scheme: Scheme::Cosmap, ..with(Sampling::Sigma) }), "scheme");
        assert_eq!(field(Timesteps { min: Some(10), ..with(Sampling::Sigma) }), "min");
        assert!(Timesteps { scheme: Scheme::Cosmap, ..with(Sampling::Sigma) }.check(true).is_ok());
    }

    #[test]
    fn whole_timesteps_never_reach_zero() {
        // One sample in a thousand is drawn there by the reference, and with `sigma_sqrt` its loss is NaN.
        let steps = Timesteps { sampling: Sampling::Discrete, scheme: Scheme::SigmaSqrt, ..Default::default() };
        let drawn = steps.at(0.0, 1.0, 0);
        assert_eq!(drawn.timestep, 1.0);
        assert!(steps.scheme.weight(drawn.sigma).is_finite() && steps.scheme.weight(0.0).is_finite());
    }
}
