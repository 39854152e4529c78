//! Learning-rate schedules: a multiplier λ(t) of a group's rate, t = optimizer steps done.
//!
//! The first update uses λ(0), so a warm-up begins with a step of rate 0. Past the end of the run the
//! last value stays (the reference's cosine climbs again).

mod length;
mod shape;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Invalid;
pub use length::Length;
pub use shape::Ramp;

/// The learning rate over time.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Schedule {
    /// The same rate throughout, after the warm-up.
    Constant {
        /// Linear rise from 0 at the start. Default: none.
        #[serde(default)]
        warmup: Option<Length>,
    },
    /// A straight line from the rate to 0 at the end of the run.
    Linear {
        /// Linear rise from 0 at the start. Default: none.
        #[serde(default)]
        warmup: Option<Length>,
    },
    /// Half a cosine from the rate to 0 at the end of the run.
    Cosine {
        /// Linear rise from 0 at the start. Default: none.
        #[serde(default)]
        warmup: Option<Length>,
    },
    /// Half cosines from the rate to 0, each beginning at the full rate (Loshchilov and Hutter 2017).
    CosineWithRestarts {
        /// Linear rise from 0 at the start. Default: none.
        #[serde(default)]
        warmup: Option<Length>,
        /// Number of half cosines; there is one restart less. Default 1.
        #[serde(default = "one")]
        #[schemars(range(min = 1, max = 10000))]
        cycles: u64,
    },
    /// A power of the part of the run that is left.
    Polynomial {
        /// Linear rise from 0 at the start. Default: none.
        #[serde(default)]
        warmup: Option<Length>,
        /// The power; 1 is a straight line. Default 1.0.
        #[serde(default = "unit")]
        #[schemars(range(min = 0.001, max = 100.0))]
        power: f64,
        /// Rate at the end as a part of the rate. Default 0.0.
        #[serde(default)]
        #[schemars(range(min = 0.0, max = 1.0))]
        end_ratio: f64,
    },
    /// One over the root of the steps done, for runs without a planned end (Zhai et al. 2022).
    InverseSqrt {
        /// Linear rise from 0 at the start. Default: none.
        #[serde(default)]
        warmup: Option<Length>,
        /// Steps after the warm-up until the rate has fallen by √2. Default: the warm-up, or 10000 without one.
        #[serde(default)]
        #[schemars(range(min = 1))]
        timescale: Option<u64>,
    },
    /// Half a cosine from the rate to a smallest one.
    CosineWithMinLr {
        /// Linear rise from 0 at the start. Default: none.
        #[serde(default)]
        warmup: Option<Length>,
        /// Smallest rate as a part of the rate.
        #[schemars(range(min = 0.0, max = 1.0))]
        min_ratio: f64,
        /// Number of half cosines: 1 goes down, 2 down and up. Default 1.
        #[serde(default = "one")]
        #[schemars(range(min = 1, max = 10000))]
        cycles: u64,
    },
    /// Rise, full rate, fall (Hu et al. 2024, "WSD").
    WarmupStableDecay {
        /// Rise at the start. Default: none.
        #[serde(default)]
        warmup: Option<Length>,
        /// Fall at the end.
        decay: Length,
        /// Smallest rate as a part of the rate, before the rise and after the fall. Default 0.0.
        #[serde(default)]
        #[schemars(range(min = 0.0, max = 1.0))]
        min_ratio: f64,
        /// Form of the rise. Default `linear`.
        #[serde(default)]
        warmup_type: Ramp,
        /// Form of the fall. Default `cosine`.
        #[serde(default = "Ramp::cosine")]
        decay_type: Ramp,
        /// Half cosines of a fall of type `cosine`. Default 1.
        #[serde(default = "one")]
        #[schemars(range(min = 1, max = 10000))]
        cycles: u64,
    },
    /// A table of factors.
    PiecewiseConstant {
        /// Factors and the steps before which they hold, in order.
        #[schemars(length(min = 1))]
        pieces: Vec<Piece>,
        /// Factor after the last piece.
        #[schemars(range(min = 0.0))]
        rest: f64,
    },
}

/// A factor that holds until a step of the run.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct Piece {
    /// Multiplies the rate.
    #[schemars(range(min = 0.0))]
    pub factor: f64,
    /// First step at which it no longer holds, counted from the start of the run.
    pub until: Length,
}

fn one() -> u64 {
    1
}
fn unit() -> f64 {
    1.0
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule::Constant { warmup: None }
    }
}

impl Schedule {
    fn warmup_length(&self) -> Option<&Length> {
        match self {
            Schedule::Constant { warmup }
            | Schedule::Linear { warmup }
            | Schedule::Cosine { warmup }
            | Schedule::CosineWithRestarts { warmup, .. }
            | Schedule::Polynomial { warmup, .. }
            | Schedule::InverseSqrt { warmup, .. }
            | Schedule::CosineWithMinLr { warmup, .. }
            | Schedule::WarmupStableDecay { warmup, .. } => warmup.as_ref(),
            Schedule::PiecewiseConstant { .. } => None,
        }
    }

    /// Steps of warm-up in a run of `total`.
    pub fn warmup(&self, total: u64) -> u64 {
        self.warmup_length().map_or(0, |w| w.of(total))
    }

    /// λ(t) in a run of `total` steps, `t` = updates done before.
    pub fn factor(&self, t: u64, total: u64) -> f64 {
        let w = self.warmup(total);
        if t < w {
            let rise = t as f64 / w as f64;
            return match self {
                Schedule::WarmupStableDecay { warmup_type, min_ratio, .. } => lift(warmup_type.rise(rise), *min_ratio),
                _ => rise,
            };
        }
        // Part of the run after the warm-up that is done, 1 at the end and after it.
        let p = ((t - w) as f64 / total.saturating_sub(w).max(1) as f64).min(1.0);
        match self {
            Schedule::Constant { .. } => 1.0,
            Schedule::Linear { .. } => 1.0 - p,
            Schedule::Cosine { .. } => shape::half_cosine(p),
            Schedule::CosineWithRestarts { .. } if p >= 1.0 => 0.0,
            Schedule::CosineWithRestarts { cycles, .. } => shape::half_cosine((*cycles as f64 * p) % 1.0),
            Schedule::Polynomial { power, end_ratio, .. } => lift((1.0 - p).powf(*power), *end_ratio),
            Schedule::InverseSqrt { timescale, .. } => {
                let scale = timescale.unwrap_or(if w > 0 { w } else { 10_000 }).max(1) as f64;
                1.0 / (((t - w) as f64 + scale) / scale).sqrt()
            }
            Schedule::CosineWithMinLr { min_ratio, cycles, .. } => {
                lift(shape::half_cosine(*cycles as f64 * p), *min_ratio)
            }
            Schedule::WarmupStableDecay { decay, min_ratio, decay_type, cycles, .. } => {
                let decay = decay.of(total);
                let begin = total.saturating_sub(decay).max(w);
                if t < begin {
                    1.0
                } else if t >= total {
                    *min_ratio
                } else {
                    lift(decay_type.fall((t - begin) as f64 / decay.max(1) as f64, *cycles), *min_ratio)
                }
            }
            Schedule::PiecewiseConstant { pieces, rest } => {
                pieces.iter().find(|piece| t < piece.until.of(total)).map_or(*rest, |piece| piece.factor)
            }
        }
    }

    /// λ at each of the `total` steps of a run.
    pub fn factors(&self, total: u64) -> Vec<f64> {
        (0..total).map(|t| self.factor(t, total)).collect()
    }

    /// Name that other trainers use.
    pub fn name(&self, total: u64) -> &'static str {
        match self {
            Schedule::Constant { .. } if self.warmup(total) > 0 => "constant_with_warmup",
            Schedule::Constant { .. } => "constant",
            Schedule::Linear { .. } => "linear",
            Schedule::Cosine { .. } => "cosine",
            Schedule::CosineWithRestarts { .. } => "cosine_with_restarts",
            Schedule::Polynomial { .. } => "polynomial",
            Schedule::InverseSqrt { .. } => "inverse_sqrt",
            Schedule::CosineWithMinLr { .. } => "cosine_with_min_lr",
            Schedule::WarmupStableDecay { .. } => "warmup_stable_decay",
            Schedule::PiecewiseConstant { .. } => "piecewise_constant",
        }
    }

    /// Cycles, and the steps that they share in a run of `total`.
    fn cycles(&self, total: u64) -> Option<(u64, u64)> {
        match self {
            Schedule::CosineWithRestarts { cycles, .. } | Schedule::CosineWithMinLr { cycles, .. } => {
                Some((*cycles, total.saturating_sub(self.warmup(total))))
            }
            Schedule::WarmupStableDecay { cycles, decay, .. } => Some((*cycles, decay.of(total))),
            _ => None,
        }
    }

    /// Whether the rate never changes.
    pub fn is_constant(&self) -> bool {
        matches!(self, Schedule::Constant { warmup: None })
    }

    /// What has no effect in a run of `total` steps, as it is too short for it.
    pub fn advice(&self, total: u64) -> Option<Invalid> {
        let decay = match self {
            Schedule::WarmupStableDecay { decay, .. } => Some(decay),
            _ => None,
        };
        let lengths = [("warmup", self.warmup_length()), ("decay", decay)];
        lengths.into_iter().find_map(|(field, length)| Some(length?.none_of(total)?.within(field)))
    }

    /// What is wrong with it in a run of `total` steps.
    pub fn check(&self, total: u64) -> Result<(), Invalid> {
        if let Some(length) = self.warmup_length() {
            length.check().map_err(|e| e.within("warmup"))?;
        }
        let warmup = self.warmup(total);
        if warmup >= total && warmup > 0 {
            let reason = format!("the warm-up of {warmup} steps is not shorter than the run of {total}");
            return Err(Invalid::new("warmup", reason));
        }
        if let Some((cycles, steps)) = self.cycles(total)
            && cycles > 1
            && 2 * cycles > steps
        {
            let reason = format!("{cycles} cycles in {steps} steps: each takes two at least");
            return Err(Invalid::new("cycles", reason));
        }
        match self {
            Schedule::CosineWithRestarts { cycles: 0, .. }
            | Schedule::CosineWithMinLr { cycles: 0, .. }
            | Schedule::WarmupStableDecay { cycles: 0, .. } => {
                Err(Invalid::new("cycles", "there is at least one cycle"))
            }
            Schedule::Polynomial { power, end_ratio, .. } => {
                crate::within("power", *power, 0.001, 100.0)?;
                crate::within("end_ratio", *end_ratio, 0.0, 1.0)
            }
            Schedule::InverseSqrt { timescale: Some(0), .. } => {
                Err(Invalid::new("timescale", "a timescale is at least one step"))
            }
            Schedule::CosineWithMinLr { min_ratio, .. } => crate::within("min_ratio", *min_ratio, 0.0, 1.0),
            Schedule::WarmupStableDecay { warmup: None, warmup_type, .. } if *warmup_type != Ramp::default() => {
                Err(Invalid::new("warmup_type", "has an effect only with `warmup`").help("leave it out"))
            }
            Schedule::WarmupStableDecay { decay, min_ratio, decay_type, cycles, .. } => {
                decay.check().map_err(|e| e.within("decay"))?;
                crate::within("min_ratio", *min_ratio, 0.0, 1.0)?;
                let steps = decay.of(total);
                if warmup + steps > total {
                    let reason =
                        format!("a warm-up of {warmup} and a decay of {steps} steps exceed the run of {total}");
                    return Err(Invalid::new("decay", reason));
                }
                if *cycles != 1 && *decay_type != Ramp::Cosine {
                    return Err(Invalid::new("cycles", "has an effect only with `decay_type: cosine`"));
                }
                Ok(())
            }
            Schedule::PiecewiseConstant { pieces, rest } => {
                pieces_in_order(pieces, *rest, total)?;
                if (0..total.min(1))
                    .chain(pieces.iter().map(|piece| piece.until.of(total)))
                    .all(|t| self.factor(t, total) == 0.0)
                {
                    return Err(Invalid::new("pieces", "all factors are 0, so nothing would learn"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn pieces_in_order(pieces: &[Piece], rest: f64, total: u64) -> Result<(), Invalid> {
    let mut before = 0;
    for (i, piece) in pieces.iter().enumerate() {
        let field = format!("pieces[{i}]");
        piece.until.check().map_err(|e| e.within(&format!("{field}.until")))?;
        crate::within("factor", piece.factor, 0.0, f64::MAX).map_err(|e| e.within(&field))?;
        let until = piece.until.of(total);
        if until <= before {
            let reason = format!("ends at step {until}, not after the piece before it ({before})");
            return Err(Invalid::new(format!("{field}.until"), reason));
        }
        if until > total {
            let reason = format!("ends at step {until}, after the run of {total}, so what follows it has no effect");
            return Err(Invalid::new(format!("{field}.until"), reason).help("let it end with the run at the latest"));
        }
        before = until;
    }
    crate::within("rest", rest, 0.0, f64::MAX)
}

/// `x` between `low` and 1.
fn lift(x: f64, low: f64) -> f64 {
    x * (1.0 - low) + low
}

#[cfg(test)]
mod tests;
