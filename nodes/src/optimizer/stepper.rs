//! The training loop's body: one optimizer step, and what it needs to continue after a stop.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use pipe_core::run::{Driver, Position, Progress, RunError, StepReport, StopFlag};
use pipe_ops::optim::{square_and_clip, sum_squares};
use pipe_ops::{Cx, DType, Tensor};
use pipe_train::optim::{Data, OptimizerConfig, Report, View};
use pipe_train::schedule::Schedule;

use super::damage;
use super::fused::{self, Fused};
use super::groups::{self, Group};
use super::host::{Scale, Updater};
use super::numbers::{Norm, Numbers, Unread, clip};
use super::rates::{Rates, is_text, texts};
use super::scaler::LossScale;
use super::state;
use crate::common::gradients::Gradients;
use crate::loss::{At, LossProgram, Losses};

/// Name of the step, in a saved state, from which the text encoders stay as they are.
const TEXT_UNTIL: &str = "text_until";

/// Name of the step, in a saved state, from which captions have all their tags.
const TAGS_UNTIL: &str = "tags_until";

/// Name of the loss's scale in a saved state.
const LOSS_SCALE: &str = "loss_scale";

/// How a run steps.
pub struct Recipe {
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// Rates before the schedule.
    pub rates: Rates,
    /// Rates over time.
    pub schedule: Schedule,
    /// Steps after which the text encoders stay as they are.
    pub text_until: Option<u64>,
    /// Where what is worth knowing is told.
    pub progress: Arc<dyn Progress>,
    /// Largest gradient norm.
    pub max_grad_norm: Option<f64>,
    /// Seed of the draws.
    pub seed: u64,
    /// Forward passes of a step.
    pub accumulate: u64,
    /// Losses and norms may stay on the device for some steps.
    pub defer: bool,
    /// Each tensor is updated on the way back, as soon as its gradient is complete.
    pub fused: bool,
    /// The scale of the loss at the start, in f16.
    pub scaler: Option<LossScale>,
}

/// What the forward passes of a step gave.
struct Passes {
    losses: Vec<Losses>,
    samples: u64,
    names: Vec<String>,
}

/// Drives a run.
pub struct Stepper {
    loss: Arc<dyn LossProgram>,
    recipe: Recipe,
    groups: Vec<Group>,
    updater: Box<dyn Updater>,
    position: Position,
    numbers: Numbers,
    /// Steps whose numbers are still on the device.
    unread: Vec<Unread>,
    /// What the loss is multiplied by, in f16.
    scaler: Option<LossScale>,
    /// Weights that learn, while averages are shown in their place.
    hidden: Vec<(String, Tensor)>,
}

impl Stepper {
    /// A driver at step 0.
    pub fn new(loss: Arc<dyn LossProgram>, recipe: Recipe, updater: Box<dyn Updater>, position: Position) -> Self {
        let trainable = loss.trainable();
        let shapes = trainable.read().tensors.iter().map(|(k, t)| (k.clone(), t.shape().to_vec())).collect::<Vec<_>>();
        let groups = groups::of(trainable.main_group(), shapes, &recipe.rates);
        let (numbers, unread, hidden) = Default::default();
        let scaler = recipe.scaler;
        Stepper { loss, recipe, groups, updater, position, numbers, unread, scaler, hidden }
    }

    /// Forward and backward over the batches of the step; the last step of an epoch may have fewer.
    fn passes(&self, stop: &StopFlag, gradients: &mut dyn Gradients) -> Result<Passes, RunError> {
        passes(&*self.loss, &self.recipe, (self.position, self.loss_scale()), stop, gradients)
    }

    /// What the loss is multiplied by in the step that comes.
    fn loss_scale(&self) -> f64 {
        self.scaler.map_or(1.0, |scaler| scaler.now())
    }

    /// Whether the text encoders stay as they are in the step that comes.
    fn texts_are_still(&self) -> bool {
        self.recipe.text_until.is_some_and(|until| self.position.step >= until)
    }

    /// Tells the networks what learns in the step that comes: a function of the step, so that a continued run does the
    /// same.
    fn hold_still(&self) {
        let texts = if self.texts_are_still() { texts() } else { BTreeSet::new() };
        let trainable = self.loss.trainable();
        if trainable.read().still != texts {
            trainable.write().still = texts;
        }
    }

    /// Rates of the groups in the step that comes.
    fn rates(&self) -> Vec<f64> {
        let factor = self.recipe.schedule.factor(self.position.step, self.position.total_steps);
        let still = self.texts_are_still();
        let of = |group: &Group| if still && is_text(&group.part) { 0.0 } else { group.rate.unwrap_or(1.0) * factor };
        self.groups.iter().map(of).collect()
    }

    /// L2 norm of the gradients of all groups that learn, and what clips them; both stay on the device where the step
    /// need not be read.
    fn norm(&self, leaves: &HashMap<String, Tensor>) -> (Norm, Scale) {
        let cx = self.f32();
        let learning = self.groups.iter().filter(|group| group.rate != Some(0.0)).flat_map(|group| &group.tensors);
        let tensors: Vec<&Tensor> = learning.filter_map(|(key, _)| leaves.get(key)).collect();
        if self.recipe.defer
            && self.updater.stays_on_device()
            && let Some((square, factor)) = square_and_clip(&cx, &tensors, self.recipe.max_grad_norm)
        {
            let scale = factor.map_or(Scale::Number(1.0), |factor| Scale::Device(Box::new(factor)));
            return (Norm::Device(Box::new(square)), scale);
        }
        let by = self.loss_scale();
        let square = sum_squares(&cx, &tensors) / (by * by);
        let scale = self.recipe.max_grad_norm.map_or(1.0, |max| clip(square.sqrt(), max));
        (Norm::Known(vec![square]), Scale::Number((scale / by) as f32))
    }

    /// All gradients, then the update.
    fn whole(&mut self, stop: &StopFlag, rates: &[f64], read: bool) -> Result<Report, RunError> {
        // next batch → noise and timestep → forward → loss → backward → accumulate
        let mut leaves = HashMap::new();
        let Passes { losses, samples, names } = self.passes(stop, &mut leaves)?;
        // clip
        let (mut norm, scale) = self.norm(&leaves);
        let overflow = self.scaler.is_some() && norm.squares().iter().any(|square| !square.is_finite());
        if overflow {
            norm = Norm::Known(Vec::new());
        }
        self.unread.push(Unread::new(self.position.step + 1, losses, norm, samples, names));
        if read {
            self.read()?;
        }
        if let Some(scaler) = &mut self.scaler {
            if overflow {
                scaler.overflowed()?;
                return Ok(Report { rates: rates.to_vec(), distance: None });
            }
            scaler.held();
        }
        self.loss.trainable().perturb(&leaves, || scale.read());
        // schedule and optimizer
        let mut train = self.loss.trainable().write();
        self.updater.step(&self.groups, rates, &scale, &mut train.tensors, leaves)
    }

    /// next batch → noise and timestep → forward → loss → backward, in which each tensor is clipped and updated.
    fn fused(&mut self, stop: &StopFlag, rates: &[f64]) -> Result<Report, RunError> {
        let step = self.position.step + 1;
        let recipe = &self.recipe;
        let setting = fused::Setting { step, rates, max_norm: recipe.max_grad_norm, defer: recipe.defer };
        let mut fused = Fused::new(self.loss.clone(), &self.groups, setting, self.updater.as_mut());
        let Passes { losses, samples, names } = passes(&*self.loss, recipe, (self.position, 1.0), stop, &mut fused)
            .map_err(|error| if step == 1 { damage::blame(error, self.loss.trainable()) } else { error })?;
        let (report, norm) = fused.finish();
        self.unread.push(Unread::new(step, losses, norm, samples, names));
        Ok(report)
    }

    fn f32(&self) -> Cx {
        Cx::new(self.loss.engine().device.clone(), DType::F32)
    }

    /// Reads the numbers of all steps that are on the device. Fails at the first that is not finite.
    fn read(&mut self) -> Result<(), RunError> {
        for unread in &mut self.unread {
            let (loss, norm) = unread.read();
            if !loss.is_finite() || !norm.is_finite() {
                let error = not_finite(unread.step, loss, norm, &unread.names);
                return Err(if unread.step == 1 { damage::blame(error, self.loss.trainable()) } else { error });
            }
        }
        Ok(())
    }

    /// Scales down what is longer than the adapter allows, and tells of it.
    fn limits(&self) -> Vec<(String, f64)> {
        let Some(norms) = self.loss.trainable().limit_norms(&self.f32()) else { return Vec::new() };
        let values =
            [("norms_scaled", norms.scaled as f64), ("norm_average", norms.mean), ("norm_largest", norms.largest)];
        values.map(|(name, value)| (name.to_string(), value)).into()
    }
}

impl Driver for Stepper {
    fn position(&self) -> Position {
        self.position
    }

    fn step(&mut self, stop: &StopFlag, read: bool) -> Result<Vec<StepReport>, RunError> {
        self.hold_still();
        let rates = self.rates();
        let read = read || !self.recipe.defer;
        let scaler = self.scaler.map(|scaler| scaler.now());
        let report = if self.recipe.fused { self.fused(stop, &rates)? } else { self.whole(stop, &rates, read)? };
        self.position.step += 1;
        let mut limits = self.limits();
        if let (Some(by), Some(unread)) = (scaler, self.unread.last()) {
            limits.push(("loss_scale".into(), by));
            limits.extend(unread.norm.squares().is_empty().then(|| ("skipped".to_string(), 1.0)));
        }
        if let Some(unread) = self.unread.last_mut() {
            (unread.rates, unread.limits) = (groups::report(&self.groups, &rates, &report), limits);
        }
        if read { self.settle() } else { Ok(Vec::new()) }
    }

    fn settle(&mut self) -> Result<Vec<StepReport>, RunError> {
        self.read()?;
        let (numbers, max, position) = (&mut self.numbers, self.recipe.max_grad_norm, self.position);
        Ok(self.unread.drain(..).map(|unread| numbers.report(unread, max, position)).collect())
    }

    fn save_state(&mut self, dir: &Path) -> Result<(), RunError> {
        let train = self.loss.trainable().read();
        let weights = train.tensors.iter().map(|(key, tensor)| (format!("{}{key}", state::PARAMETER), tensor));
        let weights =
            weights.chain(train.frozen.iter().map(|(key, tensor)| (format!("{}{key}", state::FROZEN), tensor)));
        let mut values = BTreeMap::from([
            ("step".to_string(), self.position.step.to_string()),
            ("optimizer".to_string(), self.recipe.optimizer.name().to_string()),
        ]);
        values.extend(self.scaler.map(|scaler| (LOSS_SCALE.to_string(), scaler.saved())));
        values.extend(self.recipe.text_until.map(|until| (TEXT_UNTIL.to_string(), until.to_string())));
        values.extend(self.loss.source().tags_until().map(|until| (TAGS_UNTIL.to_string(), until.to_string())));
        let losses = self.numbers.bytes();
        let mut pieces = self.updater.pieces();
        pieces.push(state::Piece::View(View { name: state::LOSSES.into(), data: Data::U8(&losses) }));
        state::save(dir, &weights.collect::<Vec<_>>(), pieces, values)
    }

    fn load_state(&mut self, dir: &Path) -> Result<(), RunError> {
        let saved = state::State::open(dir)?;
        let step = saved.number("step").ok_or_else(|| RunError::new("P0303", "the saved state names no step"))?;
        // States without a name are of the time when there was only one optimizer.
        let (name, own) = (saved.value("optimizer").unwrap_or("AdamW"), self.recipe.optimizer.name());
        if name != own {
            let message = format!("the saved state is of {name}, the run's optimizer is {own}");
            return Err(RunError::new("P0909", message).help("go on with the old optimizer, or start a new run"));
        }
        let device = self.loss.engine().device.clone();
        let mut train = self.loss.trainable().write();
        for (key, tensor) in train.tensors.iter_mut() {
            let found = saved.tensor(&format!("{}{key}", state::PARAMETER), tensor.shape(), &device)?;
            *tensor = found.cast(tensor.dtype());
        }
        for (key, tensor) in train.frozen.iter_mut() {
            *tensor = saved.tensor(&format!("{}{key}", state::FROZEN), tensor.shape(), &device)?;
        }
        self.updater.load(&saved, &self.groups)?;
        self.numbers.load(&saved.bytes(state::LOSSES)?);
        self.position.step = step;
        self.scaler = self.scaler.map(|own| saved.value(LOSS_SCALE).and_then(LossScale::read).unwrap_or(own));
        if let (Some(before), Some(until)) = (saved.number(TEXT_UNTIL), self.recipe.text_until)
            && (before..until).contains(&step)
        {
            self.recipe.progress.warn(&format!(
                "the text encoders, which stayed as they were from step {before} on, learn again until step {until}: with the length of \
                 the run `stop_text_encoder_training` has changed; give it in `steps` to keep it"
            ));
        }
        if let (Some(before), Some(until)) = (saved.number(TAGS_UNTIL), self.loss.source().tags_until())
            && before < until
            && step < until
        {
            self.recipe.progress.warn(&format!(
                "captions have all their tags at step {until} and not at step {before}: with the length of the run the `ratio` of \
                 `token_warmup` has changed, and tags that were in use are taken out again; give it in `steps` to keep it"
            ));
        }
        Ok(())
    }

    fn state_bytes(&self) -> u64 {
        let train = self.loss.trainable().read();
        let frozen = train.frozen.values().map(|tensor| tensor.len() as u64).sum();
        state::bytes(&self.groups, &self.recipe.optimizer, self.position)
            + state::frozen_bytes(frozen, train.frozen.len() as u64)
    }

    fn show(&mut self) {
        if !self.updater.averages() {
            return;
        }
        let device = self.loss.engine().device.clone();
        let mut train = self.loss.trainable().write();
        for (key, tensor) in train.tensors.iter_mut() {
            if let Some(average) = self.updater.averaged(key, &tensor.to_vec()) {
                let average = device.tensor(average, tensor.shape(), DType::F32);
                self.hidden.push((key.clone(), std::mem::replace(tensor, average)));
            }
        }
    }

    fn hide(&mut self) {
        if !self.hidden.is_empty() {
            self.loss.trainable().write().tensors.extend(self.hidden.drain(..));
        }
    }

    fn describe(&self) -> Vec<(String, String)> {
        let engine = self.loss.engine();
        vec![
            ("trainable values".into(), self.loss.trainable().read().parameters().to_string()),
            ("optimizer".into(), self.recipe.optimizer.name().into()),
            ("device".into(), engine.kind.name().into()),
            ("compute type".into(), format!("{:?}", engine.compute).to_lowercase()),
        ]
    }
}

/// Forward and backward over the batches of the step at a position.
fn passes(
    loss: &dyn LossProgram,
    recipe: &Recipe,
    (position, loss_scale): (Position, f64),
    stop: &StopFlag,
    gradients: &mut dyn Gradients,
) -> Result<Passes, RunError> {
    let Position { step, steps_per_epoch, .. } = position;
    let (epoch, within) = (step / steps_per_epoch, step % steps_per_epoch);
    let (source, accumulate, seed) = (loss.source(), recipe.accumulate, recipe.seed);
    let first = within * accumulate;
    let last = (first + accumulate).min(source.per_epoch());
    let scale = loss_scale as f32 / (last - first).max(1) as f32;
    let (mut losses, mut samples, mut names) = (Vec::new(), 0, Vec::new());
    for index in first..last {
        if stop.is_set() {
            return Err(RunError::interrupted());
        }
        let batch = source.batch(epoch, index)?;
        let pass = step * accumulate + (index - first);
        let at = At { seed, step, first_sample: samples, pass, scale, timesteps: None };
        let done = loss.pass(&batch, &at, Some(&mut *gradients));
        losses.push(done.map_err(|error| if error.code == "P0901" { of_batch(error, &batch.names) } else { error })?);
        samples += batch.len() as u64;
        names.extend(batch.names);
    }
    Ok(Passes { losses, samples, names })
}

fn not_finite(step: u64, loss: f64, norm: f64, names: &[String]) -> RunError {
    let error = RunError::new("P0901", format!("step {step}: loss {loss}, gradient norm {norm}"));
    of_batch(error.help(format!("nothing of this step was saved and the last good files are kept; {LOWER}")), names)
}

/// What helps against numbers that are not finite.
pub(super) const LOWER: &str = "lower `learning_rate`, add a warm-up, or look at these images";

/// Names the images of a batch.
fn of_batch(mut error: RunError, names: &[String]) -> RunError {
    let shown = names.iter().take(4).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    error.message = format!("{}; the batch was {shown}", error.message);
    error.logged(format!("the images of this batch: {}", names.join(", ")))
}
