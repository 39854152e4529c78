//! The training loop's body: one optimizer step, and what it needs to continue after a stop.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use pipe_core::run::{Driver, Position, RunError, StepReport, StopFlag};
use pipe_ops::optim::{self, AdamW};
use pipe_ops::{Cx, DType, Tensor};

use super::adamw::Hyper;
use super::state;
use crate::loss::{At, LossProgram, Losses};

/// First and second moment of a tensor, and its number of updates.
struct Moments {
    m: Tensor,
    v: Tensor,
    updates: u64,
}

/// What the forward and backward passes of a step gave.
struct Gradients {
    leaves: HashMap<String, Tensor>,
    losses: Vec<Losses>,
    samples: u64,
    names: Vec<String>,
}

/// Drives a run with AdamW.
pub struct Stepper {
    loss: Arc<dyn LossProgram>,
    hyper: Hyper,
    seed: u64,
    accumulate: u64,
    position: Position,
    moments: BTreeMap<String, Moments>,
}

impl Stepper {
    /// A driver at step 0.
    pub fn new(loss: Arc<dyn LossProgram>, hyper: Hyper, seed: u64, accumulate: u64, position: Position) -> Self {
        Stepper { loss, hyper, seed, accumulate, position, moments: BTreeMap::new() }
    }

    fn cx(&self) -> Cx {
        Cx::new(self.loss.engine().device.clone(), DType::F32)
    }

    /// Forward and backward over the batches of the step; the last step of an epoch may have fewer.
    fn gradients(&self, stop: &StopFlag) -> Result<Gradients, RunError> {
        let Position { step, steps_per_epoch, .. } = self.position;
        let (epoch, within) = (step / steps_per_epoch, step % steps_per_epoch);
        let source = self.loss.source();
        let first = within * self.accumulate;
        let last = (first + self.accumulate).min(source.per_epoch());
        let scale = 1.0 / (last - first).max(1) as f32;
        let (mut leaves, mut losses, mut samples, mut names) = (HashMap::new(), Vec::new(), 0, Vec::new());
        for index in first..last {
            if stop.is_set() {
                return Err(RunError::interrupted());
            }
            let batch = source.batch(epoch, index)?;
            let pass = step * self.accumulate + (index - first);
            let at = At { seed: self.seed, step, first_sample: samples, pass, scale, timesteps: None };
            losses.push(self.loss.pass(&batch, &at, Some(&mut leaves))?);
            samples += batch.len() as u64;
            names.extend(batch.names);
        }
        Ok(Gradients { leaves, losses, samples, names })
    }

    fn update(&mut self, leaves: &HashMap<String, Tensor>, lr_factor: f64, clip: f32) {
        let cx = self.cx();
        let trainable = self.loss.trainable().clone();
        let mut train = trainable.write();
        for (key, grad) in leaves {
            let Some(theta) = train.tensors.get_mut(key) else { continue };
            let state = self.moments.entry(key.clone()).or_insert_with(|| Moments {
                m: cx.device.zeros(theta.shape(), DType::F32),
                v: cx.device.zeros(theta.shape(), DType::F32),
                updates: 0,
            });
            state.updates += 1;
            let h = &self.hyper;
            let k = state.updates as i32;
            let params = AdamW {
                lr: (trainable.rate(key, h.rate(trainable.group(key))) * lr_factor) as f32,
                beta1: h.beta1 as f32,
                beta2: h.beta2 as f32,
                eps: h.eps as f32,
                weight_decay: h.weight_decay as f32,
                correction1: (1.0 - h.beta1.powi(k)) as f32,
                correction2_sqrt: (1.0 - h.beta2.powi(k)).sqrt() as f32,
                grad_scale: clip,
            };
            optim::adamw(&cx, &params, theta, &mut state.m, &mut state.v, grad);
        }
    }
}

impl Driver for Stepper {
    fn position(&self) -> Position {
        self.position
    }

    fn step(&mut self, stop: &StopFlag) -> Result<StepReport, RunError> {
        // next batch → noise and timestep → forward → loss → backward → accumulate
        let Gradients { leaves, losses, samples, names } = self.gradients(stop)?;
        let loss = losses.iter().map(Losses::mean).sum::<f64>() / losses.len().max(1) as f64;
        // clip
        let mut grads: Vec<(&String, &Tensor)> = leaves.iter().collect();
        grads.sort_by_key(|(key, _)| *key);
        let tensors: Vec<&Tensor> = grads.iter().map(|(_, g)| *g).collect();
        let norm = optim::sum_squares(&self.cx(), &tensors).sqrt();
        if !loss.is_finite() || !norm.is_finite() {
            return Err(not_finite(self.position.step, loss, norm, &names));
        }
        let clip = self.hyper.max_grad_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        // optimizer and schedule
        let factor = self.hyper.schedule.factor(self.position.step, self.position.total_steps);
        self.update(&leaves, factor, clip as f32);
        self.position.step += 1;
        let mut values = vec![("lr".to_string(), self.hyper.learning_rate * factor), ("grad_norm".to_string(), norm)];
        if let Some(rate) = self.hyper.text_encoder_learning_rate {
            values.insert(1, ("lr_text_encoder".to_string(), rate * factor));
        }
        if let Some(norms) = self.loss.trainable().limit_norms(&self.cx()) {
            values.push(("norms_scaled".to_string(), norms.scaled as f64));
            values.push(("norm_average".to_string(), norms.mean));
            values.push(("norm_largest".to_string(), norms.largest));
        }
        Ok(StepReport { loss, values, samples })
    }

    fn save_state(&mut self, dir: &Path) -> Result<(), RunError> {
        let train = self.loss.trainable().read();
        let mut tensors: Vec<(String, &Tensor)> =
            train.tensors.iter().map(|(k, t)| (format!("param.{k}"), t)).collect();
        let mut values = BTreeMap::from([("step".to_string(), self.position.step.to_string())]);
        for (key, state) in &self.moments {
            tensors.push((format!("m.{key}"), &state.m));
            tensors.push((format!("v.{key}"), &state.v));
            values.insert(format!("updates.{key}"), state.updates.to_string());
        }
        state::save(dir, &tensors, &values)
    }

    fn load_state(&mut self, dir: &Path) -> Result<(), RunError> {
        let saved = state::State::open(dir)?;
        let number = |name: &str| saved.value(name).and_then(|v| v.parse::<u64>().ok());
        let step = number("step").ok_or_else(|| RunError::new("P0303", "the saved state names no step"))?;
        let device = self.loss.engine().device.clone();
        let mut train = self.loss.trainable().write();
        for (key, tensor) in train.tensors.iter_mut() {
            let shape = tensor.shape().to_vec();
            *tensor = saved.tensor(&format!("param.{key}"), &shape, &device)?;
            if let Some(updates) = number(&format!("updates.{key}")) {
                let m = saved.tensor(&format!("m.{key}"), &shape, &device)?;
                let v = saved.tensor(&format!("v.{key}"), &shape, &device)?;
                self.moments.insert(key.clone(), Moments { m, v, updates });
            }
        }
        self.position.step = step;
        Ok(())
    }

    fn state_bytes(&self) -> u64 {
        let train = self.loss.trainable().read();
        state::bytes(train.parameters(), train.tensors.len() as u64)
    }

    fn describe(&self) -> Vec<(String, String)> {
        let engine = self.loss.engine();
        vec![
            ("trainable values".into(), self.loss.trainable().read().parameters().to_string()),
            ("device".into(), engine.kind.name().into()),
            ("compute type".into(), format!("{:?}", engine.compute).to_lowercase()),
        ]
    }
}

fn not_finite(step: u64, loss: f64, norm: f64, names: &[String]) -> RunError {
    let shown = names.iter().take(4).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    RunError::new("P0901", format!("step {}: loss {loss}, gradient norm {norm}; the batch was {shown}", step + 1))
        .logged(format!("the images of this batch: {}", names.join(", ")))
        .help("nothing of this step was applied and the last good files are kept; lower `learning_rate`, add a warm-up, or look at these images")
}
