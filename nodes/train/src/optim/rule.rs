//! What every optimizer's formula has in common.

use std::borrow::Cow;

use super::state::{Buffer, Cell, Spec, Table};
use super::{Context, Group, Report, Slot, Values};
use crate::{Invalid, rounding};

/// Settings and needs of an optimizer.
pub(crate) trait Rule: Send + Sync {
    /// Name that other trainers use.
    fn name(&self) -> &'static str;
    /// What is wrong with the settings.
    fn check(&self) -> Result<(), Invalid>;
    /// The rate in the settings; `None` where the optimizer sets its own.
    fn learning_rate(&self) -> Option<f64>;
    /// State of a tensor.
    fn buffers(&self, shape: &[usize]) -> Vec<Spec>;
    /// How it may be used.
    fn traits(&self) -> Traits {
        Traits::default()
    }
}

/// How an optimizer may be used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traits {
    /// It measures over all tensors, so that they cannot be stepped one by one.
    pub whole: bool,
    /// All groups that learn have the same rate; why.
    pub one_rate: Option<&'static str>,
    /// The rate must not be scheduled; why.
    pub own_schedule: Option<&'static str>,
    /// Saved weights are averages, with this β.
    pub averages: Option<f64>,
}

/// A step over all groups.
pub(crate) trait Algorithm: Rule {
    fn step(&self, table: &mut Table, cx: &Context, groups: &mut [Group<'_>]) -> Report;
}

/// What holds for the update of one tensor.
pub(crate) struct Update<'a> {
    /// η.
    pub rate: f64,
    /// Number of this update, from 1.
    pub k: u64,
    /// Multiplies the gradient.
    pub scale: f32,
    /// Shape of the tensor.
    pub shape: &'a [usize],
}

/// An optimizer whose tensors do not know of each other.
pub(crate) trait Tensorwise: Rule {
    /// Updates the weights and the state; gives the rate that was used.
    fn update(&self, u: &Update, theta: &mut [f32], g: &[f32], buffers: &mut [Buffer]) -> f64;
}

impl<T: Tensorwise> Algorithm for T {
    fn step(&self, table: &mut Table, cx: &Context, groups: &mut [Group<'_>]) -> Report {
        let mut rates = Vec::with_capacity(groups.len());
        for group in groups {
            let (mut first, rate) = (None, group.rate);
            for slot in &mut group.slots {
                let Some(g) = slot.gradient else { continue };
                let cell = table.cell(self, slot);
                cell.updates += 1;
                let u = Update { rate, k: cell.updates, scale: cx.gradient_scale, shape: slot.shape };
                let buffers = &mut cell.buffers;
                let used = with_weights(slot, cx, u.k, |theta| self.update(&u, theta, g, buffers));
                first.get_or_insert(used);
            }
            rates.push(first.unwrap_or(rate));
        }
        Report { rates, distance: None }
    }
}

/// Runs `f` on the weights as f32; writes bf16 ones back with the rounding of update `k`.
pub(crate) fn with_weights<R>(slot: &mut Slot, cx: &Context, k: u64, f: impl FnOnce(&mut [f32]) -> R) -> R {
    match &mut slot.values {
        Values::F32(theta) => f(theta),
        Values::Bf16(stored) => {
            let mut theta: Vec<f32> = stored.iter().map(|x| x.to_f32()).collect();
            let result = f(&mut theta);
            rounding::write(cx.rounding, k, slot.name, &theta, stored);
            result
        }
    }
}

/// The weights as f32.
pub(crate) fn weights<'a>(slot: &'a Slot) -> Cow<'a, [f32]> {
    match &slot.values {
        Values::F32(theta) => Cow::Borrowed(&**theta),
        Values::Bf16(stored) => stored.iter().map(|x| x.to_f32()).collect(),
    }
}

/// `g·scale + λθ`: the gradient after clipping and coupled weight decay.
pub(crate) fn gradient<'a>(g: &'a [f32], scale: f32, decay: f64, theta: &[f32]) -> Cow<'a, [f32]> {
    match (scale == 1.0, decay == 0.0) {
        (true, true) => Cow::Borrowed(g),
        (false, true) => g.iter().map(|g| g * scale).collect(),
        (_, false) => g.iter().zip(theta).map(|(g, theta)| g * scale + decay as f32 * theta).collect(),
    }
}

/// `f` on every tensor that has a gradient and is in a group with a rate.
pub(crate) fn learning(
    rule: &(impl Rule + ?Sized),
    table: &mut Table,
    groups: &mut [Group<'_>],
    f: impl FnMut(&mut Cell, &mut Slot, &[f32]),
) {
    visit(rule, table, groups, |g| g.rate > 0.0, f);
}

/// `f` on every tensor that has a gradient and is in a group that is wanted.
pub(crate) fn visit(
    rule: &(impl Rule + ?Sized),
    table: &mut Table,
    groups: &mut [Group<'_>],
    wanted: impl Fn(&Group<'_>) -> bool,
    mut f: impl FnMut(&mut Cell, &mut Slot, &[f32]),
) {
    for group in groups.iter_mut().filter(|g| wanted(g)) {
        for slot in &mut group.slots {
            let Some(g) = slot.gradient else { continue };
            f(table.cell(rule, slot), slot, g);
        }
    }
}

/// The rate of all groups that learn, 0 without one.
pub(crate) fn common_rate(groups: &[Group]) -> f64 {
    groups.iter().fold(0.0, |rate, g| rate.max(g.rate))
}

/// Ranges that several optimizers share.
pub(crate) fn check_common(rate: Option<f64>, betas: &[f64], eps: f64, decay: f64) -> Result<(), Invalid> {
    if let Some(rate) = rate {
        crate::within("learning_rate", rate, 0.0, 10.0)?;
    }
    for (i, &beta) in betas.iter().enumerate() {
        crate::within(&format!("betas[{i}]"), beta, 0.0, 0.999_999)?;
    }
    crate::within("eps", eps, 1e-30, 1.0)?;
    crate::within("weight_decay", decay, 0.0, 10.0)
}

/// Elements of a shape.
pub(crate) fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}
