//! Updates on the CPU: any optimizer of [`pipe_train::optim`].

use std::collections::HashMap;

use half::bf16;
use pipe_core::run::RunError;
use pipe_ops::{DType, Device, Tensor};
use pipe_train::optim::{self, Context, Optimizer, OptimizerConfig, Report, Slot, TensorInfo, Values};
use pipe_train::rounding::Rounding;

use super::groups::Group;
use super::state::{Piece, State};

/// What multiplies the gradients of a step.
pub enum Scale {
    /// A number.
    Number(f32),
    /// A number that is still on the device, `[1]`.
    Device(Box<Tensor>),
}

impl Scale {
    /// The number. Waits for the device where it is there.
    pub fn read(&self) -> f32 {
        match self {
            Scale::Number(scale) => *scale,
            Scale::Device(scale) => scale.to_vec().first().copied().unwrap_or(1.0),
        }
    }
}

/// What a step does to the weights, and the state that it needs.
pub trait Updater: Send {
    /// Whether an update needs no number from the device, so that it can take a [`Scale::Device`].
    fn stays_on_device(&self) -> bool {
        false
    }
    /// One update of every tensor that has a gradient. `rates` are those of the groups, `scale` multiplies gradients.
    fn step(
        &mut self,
        groups: &[Group],
        rates: &[f64],
        scale: &Scale,
        tensors: &mut HashMap<String, Tensor>,
        gradients: HashMap<String, Tensor>,
    ) -> Result<Report, RunError>;
    /// Whether there are averaged weights.
    fn averages(&self) -> bool {
        false
    }
    /// The averaged weights of a tensor; nothing where they are those that learn.
    fn averaged(&self, _key: &str, _weights: &[f32]) -> Option<Vec<f32>> {
        None
    }
    /// The whole state.
    fn pieces(&self) -> Vec<Piece<'_>>;
    /// Replaces the state by a saved one.
    fn load(&mut self, saved: &State, groups: &[Group]) -> Result<(), RunError>;
}

/// An optimizer of the CPU. Tensors of the CPU are updated in place; those of other devices are read back and uploaded.
pub struct HostUpdater {
    optimizer: Box<dyn Optimizer>,
    device: Device,
    rounding: Rounding,
}

/// A tensor on its way through a step.
struct Moved {
    key: String,
    shape: Vec<usize>,
    values: Kept,
    gradient: Vec<f32>,
}

/// The weights of a tensor in the type they are kept in.
enum Kept {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Kept {
    fn of(tensor: Tensor) -> Self {
        match tensor.dtype() {
            DType::BF16 => Kept::Bf16(tensor.to_vec().into_iter().map(bf16::from_f32).collect()),
            _ => Kept::F32(tensor.into_vec()),
        }
    }
    fn tensor(self, device: &Device, shape: &[usize]) -> Tensor {
        match self {
            Kept::F32(values) => device.tensor(values, shape, DType::F32),
            Kept::Bf16(values) => device.tensor(values.into_iter().map(bf16::to_f32).collect(), shape, DType::BF16),
        }
    }
}

impl Moved {
    fn slot(&mut self) -> Slot<'_> {
        let values = match &mut self.values {
            Kept::F32(values) => Values::F32(values),
            Kept::Bf16(values) => Values::Bf16(values),
        };
        Slot { name: &self.key, shape: &self.shape, values, gradient: Some(&self.gradient) }
    }
}

impl HostUpdater {
    /// Without state yet; `rounding` is that of weights kept in bf16.
    pub fn new(config: &OptimizerConfig, device: Device, rounding: Rounding) -> Result<Self, RunError> {
        Ok(HostUpdater { optimizer: config.build().map_err(|e| failed(&e))?, device, rounding })
    }
}

fn failed(error: &optim::Error) -> RunError {
    match error {
        optim::Error::Invalid(invalid) => RunError::new("P0403", invalid.to_string()).at(&invalid.field),
        optim::Error::State(_) => {
            RunError::new("P0909", error.to_string()).help("the document changed since the state was saved")
        }
        _ => RunError::new("P0902", error.to_string()),
    }
}

impl Updater for HostUpdater {
    fn step(
        &mut self,
        groups: &[Group],
        rates: &[f64],
        scale: &Scale,
        tensors: &mut HashMap<String, Tensor>,
        mut gradients: HashMap<String, Tensor>,
    ) -> Result<Report, RunError> {
        // Values are moved out and back again: nothing is copied where nobody else holds them.
        let mut moved: Vec<Vec<Moved>> = Vec::with_capacity(groups.len());
        for group in groups {
            let mut take = |key: &String| {
                let (gradient, tensor) = (gradients.remove(key)?, tensors.get_mut(key)?);
                let shape = tensor.shape().to_vec();
                let values = Kept::of(std::mem::replace(tensor, Tensor::host(Vec::new(), &[0])));
                Some(Moved { key: key.clone(), shape, values, gradient: gradient.into_vec() })
            };
            moved.push(group.tensors.iter().filter_map(|(key, _)| take(key)).collect());
        }
        let mut list: Vec<optim::Group> = Vec::with_capacity(groups.len());
        for ((group, rate), moved) in groups.iter().zip(rates).zip(&mut moved) {
            list.push(optim::Group {
                name: &group.name,
                rate: *rate,
                slots: moved.iter_mut().map(Moved::slot).collect(),
            });
        }
        let cx = Context { gradient_scale: scale.read(), rounding: self.rounding };
        let report = self.optimizer.step(&cx, &mut list);
        drop(list);
        for Moved { key, shape, values, .. } in moved.into_iter().flatten() {
            tensors.insert(key, values.tensor(&self.device, &shape));
        }
        report.map_err(|e| failed(&e))
    }

    fn averages(&self) -> bool {
        self.optimizer.averages()
    }

    fn averaged(&self, key: &str, weights: &[f32]) -> Option<Vec<f32>> {
        self.optimizer.averaged(key, weights)
    }

    fn pieces(&self) -> Vec<Piece<'_>> {
        self.optimizer.views().into_iter().map(Piece::View).collect()
    }

    fn load(&mut self, saved: &State, groups: &[Group]) -> Result<(), RunError> {
        let info = |(key, shape): &(String, Vec<usize>)| TensorInfo { name: key.clone(), shape: shape.clone() };
        let tensors: Vec<TensorInfo> = groups.iter().flat_map(|g| &g.tensors).map(info).collect();
        self.optimizer.load(saved, &tensors).map_err(|e| failed(&e))
    }
}
