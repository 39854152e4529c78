//! D-Adaptation (Defazio and Mishchenko 2023): optimizers that estimate their own rate.
//!
//! d, the estimated distance to the solution, multiplies the rate. It starts at d₀ and only grows: `d ← max(d, min(d̂, d·growth))`,
//! used from the next step on. A step whose sums are still 0, as in a warm-up's first step, changes nothing else.

mod adagrad;
mod adam;
mod adan;
mod lion;
mod preprint;
mod sgd;

pub use adagrad::DAdaptAdaGrad;
pub use adam::DAdaptAdam;
pub use adan::{DAdaptAdan, DAdaptAdanIp};
pub use lion::DAdaptLion;
pub use preprint::DAdaptAdamPreprint;
pub use sgd::DAdaptSgd;

use super::prodigy::check_growth;
use super::rule::{Traits, check_common, common_rate};
use super::state::Table;
use super::{Group, Report};
use crate::{Invalid, within};

/// Why groups share a rate.
fn traits() -> Traits {
    Traits { whole: true, one_rate: Some("estimates one rate for all groups"), ..Traits::default() }
}

/// Ranges of the settings that all have.
fn check(rate: f64, betas: &[f64], eps: f64, decay: f64, d0: f64, growth: Option<f64>) -> Result<(), Invalid> {
    check_common(Some(rate), betas, eps, decay)?;
    within("learning_rate", rate, 1e-12, 10.0)?;
    within("d0", d0, 1e-30, 1.0)?;
    check_growth(growth)
}

/// Decoupled weight decay without any.
fn check_decouple(decouple: bool, decay: f64) -> Result<(), Invalid> {
    if decouple && decay == 0.0 {
        return Err(Invalid::new("decouple", "has an effect only with `weight_decay`").help("leave it out"));
    }
    Ok(())
}

/// d, η and what is kept of them.
struct Distance {
    d: f64,
    rate: f64,
    growth: f64,
}

impl Distance {
    fn new(table: &Table, groups: &[Group], d0: f64, growth: Option<f64>) -> Self {
        Distance { d: table.scalar("d", d0), rate: common_rate(groups), growth: growth.unwrap_or(f64::INFINITY) }
    }

    /// `d·η`.
    fn rate(&self) -> f64 {
        self.d * self.rate
    }

    /// `max(d, min(d̂, d·growth))`.
    fn grow(&mut self, table: &mut Table, estimate: f64) {
        if self.rate > 0.0 {
            self.d = self.d.max(estimate.min(self.d * self.growth));
        }
        table.set("d", self.d);
    }

    fn report(&self, groups: &[Group]) -> Report {
        Report { rates: groups.iter().map(|g| self.d * g.rate).collect(), distance: Some(self.d) }
    }
}

/// Counts the steps that changed something.
fn count_step(table: &mut Table) {
    let k = table.scalar("updates", 0.0);
    table.set("updates", k + 1.0);
}
