//! Timesteps and noise levels of a sampling run.

use super::Solver;
use crate::ddpm::{NoiseSchedule, T};

/// Which timesteps are visited (Lin et al. 2024, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Evenly from the last to the first.
    Linspace,
    /// Multiples of `⌊1000/n⌋`, plus an offset.
    Leading {
        /// Added to every timestep; Stable Diffusion's own configurations have 1, the reference's preview 0.
        offset: usize,
    },
    /// From the last downwards; the one that visits the terminal timestep, as zero terminal SNR needs.
    Trailing,
}

/// What a run visits: `timesteps` and, one longer and ending in 0, `sigmas` with `σ = √((1−ᾱ)/ᾱ)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Times given to the model.
    pub timesteps: Vec<f64>,
    /// Noise levels; the last is 0.
    pub sigmas: Vec<f64>,
    /// Standard deviation that Euler's unit noise is scaled to: the first σ, or `√(σ²+1)` with `Leading`, which begins where there
    /// is signal still.
    pub start: f64,
}

/// ᾱ where the schedule reaches 0: σ = 4096.
const SMALLEST_ALPHA: f64 = 1.0 / (1u32 << 24) as f64;

impl Plan {
    /// Of `steps` steps, kept within 1 to 1000.
    pub fn new(schedule: &NoiseSchedule, solver: Solver, spacing: Spacing, steps: usize) -> Plan {
        let n = steps.clamp(1, T);
        let last = (T - 1) as f64;
        let timesteps: Vec<f64> = match (spacing, solver) {
            // DPM++ leaves out the first timestep and visits whole ones.
            (Spacing::Linspace, Solver::Dpmpp2m) => {
                (0..n).map(|i| (last * (n - i) as f64 / n as f64).round_ties_even()).collect()
            }
            // DDIM visits whole timesteps too.
            (Spacing::Linspace, Solver::Ddim) => (0..n).map(|i| line(last, i, n).round_ties_even()).collect(),
            (Spacing::Linspace, _) => (0..n).map(|i| line(last, i, n) as f32 as f64).collect(),
            (Spacing::Leading { offset }, _) => {
                let parts = if solver == Solver::Dpmpp2m { n + 1 } else { n };
                let low = parts - n;
                (0..n).map(|i| ((n - 1 - i + low) * (T / parts) + offset).min(T - 1) as f64).collect()
            }
            (Spacing::Trailing, _) => {
                (0..n).map(|i| (T as f64 * (1.0 - i as f64 / n as f64)).round_ties_even() - 1.0).collect()
            }
        };
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| Self::sigma(schedule, t)).collect();
        let leading = matches!(spacing, Spacing::Leading { .. });
        let start = if leading { sigmas[0].hypot(1.0) } else { sigmas[0] };
        sigmas.push(0.0);
        Plan { timesteps, sigmas, start }
    }

    /// σ at a timestep, linear between whole ones.
    pub fn sigma(schedule: &NoiseSchedule, t: f64) -> f64 {
        let whole = |i: usize| {
            let alpha = (schedule.alpha(i) as f64).max(SMALLEST_ALPHA);
            ((1.0 - alpha) / alpha).sqrt()
        };
        let low = (t.max(0.0) as usize).min(T - 1);
        let part = (t - low as f64).clamp(0.0, 1.0);
        whole(low) + (whole((low + 1).min(T - 1)) - whole(low)) * part
    }
}

/// Point i of n from `last` to 0; a single point is the last.
fn line(last: f64, i: usize, n: usize) -> f64 {
    if n == 1 { last } else { last * (n - 1 - i) as f64 / (n - 1) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ddim_of_the_specification() {
        let plan = Plan::new(&NoiseSchedule::scaled_linear(), Solver::Ddim, Solver::Ddim.spacing(), 4);
        assert_eq!(plan.timesteps, [750.0, 500.0, 250.0, 0.0]);
    }

    #[test]
    fn every_plan_descends_and_stays_inside() {
        let schedule = NoiseSchedule::scaled_linear();
        for solver in [Solver::Ddim, Solver::Euler, Solver::Dpmpp2m] {
            for spacing in [Spacing::Linspace, Spacing::Leading { offset: 1 }, Spacing::Trailing] {
                for n in [1, 2, 7, 30, 500] {
                    let plan = Plan::new(&schedule, solver, spacing, n);
                    assert_eq!((plan.timesteps.len(), plan.sigmas.len()), (n, n + 1));
                    assert!(plan.timesteps.windows(2).all(|w| w[0] > w[1]), "{solver:?} {spacing:?} {n}");
                    assert!(plan.timesteps.iter().all(|t| (0.0..1000.0).contains(t)), "{solver:?} {spacing:?} {n}");
                }
            }
        }
    }
}
