//! Updates on the way back: each tensor is clipped, updated and its gradient freed as soon as no segment adds to it, so
//! that the gradients of a whole model are never in memory at once (Lv et al. 2023, LOMO; PyTorch's
//! "optimizer step in backward").
//!
//! A loss that is not finite is found before the way back, where nothing is changed. So is a gradient before its own
//! tensor's update; the tensors behind it have taken their step then, and the run ends with files of earlier steps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pipe_core::run::RunError;
use pipe_ops::optim::{joined, square_and_clip, sum_squares};
use pipe_ops::{Cx, DType, Tensor};
use pipe_train::optim::Report;

use super::groups::Group;
use super::host::{Scale, Updater};
use super::numbers::{Norm, clip};
use super::stepper::LOWER;
use crate::common::gradients::Gradients;
use crate::loss::LossProgram;

/// Of one step.
pub struct Setting<'a> {
    /// The step, from 1.
    pub step: u64,
    /// Rates of the groups.
    pub rates: &'a [f64],
    /// Largest norm of a tensor's gradient.
    pub max_norm: Option<f64>,
    /// Norms may stay on the device.
    pub defer: bool,
}

/// Place of a tensor: its group, and which of the group's tensors it is.
type Place = (usize, usize);

/// Square of a gradient's norm.
enum Square {
    Known(f64),
    Device(Box<Tensor>),
}

/// Takes the gradients of a step, and updates.
pub struct Fused<'a> {
    loss: Arc<dyn LossProgram>,
    cx: Cx,
    groups: &'a [Group],
    setting: Setting<'a>,
    updater: &'a mut dyn Updater,
    places: HashMap<&'a str, Place>,
    leaves: HashMap<String, Tensor>,
    /// Squares of the tensors that are updated.
    squares: BTreeMap<Place, Square>,
    /// Rates that they were updated with.
    used: BTreeMap<Place, f64>,
}

impl<'a> Fused<'a> {
    /// Before a step.
    pub fn new(
        loss: Arc<dyn LossProgram>,
        groups: &'a [Group],
        setting: Setting<'a>,
        updater: &'a mut dyn Updater,
    ) -> Self {
        let cx = Cx::new(loss.engine().device.clone(), DType::F32);
        let of_group = |(g, group): (usize, &'a Group)| {
            let tensors = group.tensors.iter().enumerate();
            tensors.map(move |(t, (key, _))| (key.as_str(), (g, t)))
        };
        let places = groups.iter().enumerate().flat_map(of_group).collect();
        let (leaves, squares, used) = Default::default();
        Fused { loss, cx, groups, setting, updater, places, leaves, squares, used }
    }

    /// After the way back: what the updates tell, and the norms.
    pub fn finish(self) -> (Report, Norm) {
        let Setting { rates, .. } = self.setting;
        let rate =
            |(g, rate): (usize, &f64)| self.used.range((g, 0)..(g + 1, 0)).next().map_or(*rate, |(_, used)| *used);
        let report = Report { rates: rates.iter().enumerate().map(rate).collect(), distance: None };
        // As of the gradients of all: without what stays as it is.
        let learns = |(g, _): &Place| self.groups[*g].rate != Some(0.0);
        let squares = self.squares.into_iter().filter(|(place, _)| learns(place)).map(|(_, square)| square);
        let (mut known, mut device) = (Vec::new(), Vec::new());
        for square in squares {
            match square {
                Square::Known(square) => known.push(square),
                Square::Device(square) => device.push(*square),
            }
        }
        let norm = joined(&device).map_or(Norm::Known(known), |all| Norm::Device(Box::new(all)));
        (report, norm)
    }

    /// Square of a gradient's norm, and what clips it.
    fn clip(&self, key: &str, gradient: &Tensor) -> Result<(Square, Scale), RunError> {
        let Setting { step, max_norm, defer, .. } = self.setting;
        if defer
            && self.updater.stays_on_device()
            && let Some((square, factor)) = square_and_clip(&self.cx, &[gradient], max_norm)
        {
            let scale = factor.map_or(Scale::Number(1.0), |factor| Scale::Device(Box::new(factor)));
            return Ok((Square::Device(Box::new(square)), scale));
        }
        let square = sum_squares(&self.cx, &[gradient]);
        if !square.is_finite() {
            let (done, all) = (self.used.len(), self.places.len());
            let message = format!("step {step}: the gradient norm of `{key}` is {}", square.sqrt());
            let help = format!(
                "of {all} tensors {done} had taken their step already, in memory alone: nothing of this step was saved and \
                 the last good files are kept; {LOWER}"
            );
            return Err(RunError::new("P0901", message).help(help));
        }
        let scale = max_norm.map_or(1.0, |max| clip(square.sqrt(), max));
        Ok((Square::Known(square), Scale::Number(scale as f32)))
    }

    /// Updates a tensor.
    fn update(&mut self, (g, t): Place, gradient: Tensor) -> Result<(), RunError> {
        let group = &self.groups[g];
        let (key, shape) = &group.tensors[t];
        let (square, scale) = self.clip(key, &gradient)?;
        let alone = Group {
            name: group.name.clone(),
            part: group.part.clone(),
            rate: group.rate,
            tensors: vec![(key.clone(), shape.clone())],
        };
        let gradients = HashMap::from([(key.clone(), gradient)]);
        let mut train = self.loss.trainable().write();
        let report = self.updater.step(&[alone], &self.setting.rates[g..=g], &scale, &mut train.tensors, gradients)?;
        self.used.insert((g, t), report.rates[0]);
        self.squares.insert((g, t), square);
        Ok(())
    }
}

impl Gradients for Fused<'_> {
    fn leaves(&mut self) -> &mut HashMap<String, Tensor> {
        &mut self.leaves
    }

    fn begin(&mut self, losses: &Tensor, output: &Tensor) -> Result<(), RunError> {
        if self.setting.defer {
            return Ok(());
        }
        let losses = losses.to_vec();
        let loss = losses.iter().map(|&loss| loss as f64).sum::<f64>() / losses.len().max(1) as f64;
        let norm = sum_squares(&self.cx, &[output]).sqrt();
        if loss.is_finite() && norm.is_finite() {
            return Ok(());
        }
        let message = format!("step {}: loss {loss}, norm of the output's gradient {norm}", self.setting.step);
        let help = format!("nothing was changed in this step and the last good files are kept; {LOWER}");
        Err(RunError::new("P0901", message).help(help))
    }

    fn segment(&mut self, awaits: &dyn Fn(&str) -> bool) -> Result<(), RunError> {
        let place = |key: &String| self.places.get(key.as_str()).copied().filter(|_| !awaits(key));
        let mut complete: Vec<(Place, String)> =
            self.leaves.keys().filter_map(|key| Some((place(key)?, key.clone()))).collect();
        complete.sort_unstable();
        for (place, key) in complete {
            let Some(gradient) = self.leaves.remove(&key) else { continue };
            debug_assert!(!self.used.contains_key(&place), "`{key}` has a second gradient");
            self.update(place, gradient)?;
        }
        Ok(())
    }
}
