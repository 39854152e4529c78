//! A small reverse-mode tape over [`Tensor`]s, and the context every operation gets.
//!
//! Each operation records one closure with what its gradient needs; nothing is recorded for
//! values that no trainable tensor reaches. One tape spans one segment of a network (see the
//! networks crate), lives for one backward pass and is linear in its length. Why not burn's own
//! autodiff: `docs/decisions/0002-own-tape.md`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::stored::Stored;
use crate::tensor::{DType, Device, Meter, Tensor};

type Backward = Box<dyn FnOnce(&Cx, Tensor, &[bool]) -> Vec<Option<Tensor>>>;

struct Entry {
    parents: Vec<Option<usize>>,
    backward: Option<Backward>,
    leaf: Option<String>,
}

/// Records operations. Cloning shares the record.
#[derive(Clone, Default)]
pub struct Tape(Rc<RefCell<Vec<Entry>>>);

/// A tensor, and its place on the tape when a gradient flows through it.
#[derive(Clone, Debug)]
pub struct Var {
    /// The tensor.
    pub value: Tensor,
    id: Option<usize>,
    /// What it was made of for this use, where it is a frozen weight at rest.
    stored: Option<Stored>,
}

/// A tensor kept for a gradient: a weight at rest is made anew when its turn comes.
pub(crate) enum Kept {
    Tensor(Tensor),
    Stored(Stored),
}

impl Kept {
    pub fn tensor(&self, cx: &Cx) -> Tensor {
        match self {
            Kept::Tensor(tensor) => tensor.clone(),
            Kept::Stored(stored) => stored.tensor(&cx.device, cx.compute),
        }
    }
}

impl Var {
    /// A value without gradient.
    pub fn constant(value: Tensor) -> Self {
        Var { value, id: None, stored: None }
    }
    /// A frozen weight at rest, made a tensor of the compute type for this use. Linear layers and convolutions keep it
    /// for their gradients as it rests.
    pub fn stored(cx: &Cx, stored: Stored) -> Self {
        Var { value: stored.tensor(&cx.device, cx.compute), id: None, stored: Some(stored) }
    }
    /// The same weight in another shape, still at rest where it rested.
    pub(crate) fn reshaped(self, from: &Var) -> Self {
        let stored = from.stored.as_ref().map(|stored| stored.reshape(self.shape()));
        Var { stored, ..self }
    }
    /// What a gradient keeps of it.
    pub(crate) fn kept(&self) -> Kept {
        match &self.stored {
            Some(stored) => Kept::Stored(stored.clone()),
            None => Kept::Tensor(self.value.clone()),
        }
    }
    /// Whether a gradient flows through it.
    pub fn tracked(&self) -> bool {
        self.id.is_some()
    }
    /// Sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }
    /// Size of axis `i`.
    pub fn dim(&self, i: usize) -> usize {
        self.value.dim(i)
    }
}

impl From<Tensor> for Var {
    fn from(value: Tensor) -> Self {
        Var::constant(value)
    }
}

impl Tape {
    /// An empty tape.
    pub fn new() -> Self {
        Self::default()
    }
    fn push(&self, entry: Entry) -> usize {
        let mut entries = self.0.borrow_mut();
        entries.push(entry);
        entries.len() - 1
    }
    /// An input whose gradient is asked for by its place.
    pub fn input(&self, value: Tensor) -> Var {
        let id = self.push(Entry { parents: Vec::new(), backward: None, leaf: None });
        Var { value, id: Some(id), stored: None }
    }
    /// A trainable tensor; its gradient is collected under `name`.
    pub fn leaf(&self, name: &str, value: Tensor) -> Var {
        let id = self.push(Entry { parents: Vec::new(), backward: None, leaf: Some(name.to_string()) });
        Var { value, id: Some(id), stored: None }
    }

    /// Walks back from `seeds` (outputs with their gradients). Gives the gradients of `inputs`,
    /// and adds those of leaves to `leaves`. Empties the tape.
    pub fn backward(
        &self,
        cx: &Cx,
        seeds: Vec<(Var, Tensor)>,
        inputs: &[Var],
        leaves: &mut HashMap<String, Tensor>,
    ) -> Vec<Option<Tensor>> {
        let mut entries = std::mem::take(&mut *self.0.borrow_mut());
        let cx = cx.without_tape();
        let mut grads: Vec<Option<Tensor>> = (0..entries.len()).map(|_| None).collect();
        for (var, grad) in seeds {
            if let Some(id) = var.id {
                accumulate(&cx, &mut grads[id], grad);
            }
        }
        let wanted: Vec<Option<usize>> = inputs.iter().map(|v| v.id).collect();
        let mut results: Vec<Option<Tensor>> = vec![None; inputs.len()];
        while let Some(entry) = entries.pop() {
            let id = entries.len();
            let grad = grads.pop().flatten();
            let Some(grad) = grad else { continue };
            if let Some(name) = entry.leaf {
                match leaves.remove(&name) {
                    Some(old) => leaves.insert(name, crate::op::add_tensors(&cx, old, grad)),
                    None => leaves.insert(name, grad),
                };
            } else if let Some(backward) = entry.backward {
                let need: Vec<bool> = entry.parents.iter().map(Option::is_some).collect();
                let parts = backward(&cx, grad, &need);
                debug_assert_eq!(parts.len(), entry.parents.len(), "one gradient a parent");
                for (parent, part) in entry.parents.iter().zip(parts) {
                    if let (Some(parent), Some(part)) = (parent, part) {
                        accumulate(&cx, &mut grads[*parent], part);
                    }
                }
            } else {
                for (result, want) in results.iter_mut().zip(&wanted) {
                    if *want == Some(id) {
                        *result = Some(grad.clone());
                    }
                }
            }
        }
        results
    }
}

fn accumulate(cx: &Cx, slot: &mut Option<Tensor>, grad: Tensor) {
    *slot = Some(match slot.take() {
        Some(old) => crate::op::add_tensors(cx, old, grad),
        None => grad,
    });
}

/// Context of every operation: device, compute type and, while a gradient will be asked for, the tape.
#[derive(Clone)]
pub struct Cx {
    /// Where new tensors live.
    pub device: Device,
    /// Type of matrix products and convolutions.
    pub compute: DType,
    /// The tape, in forward passes that will be walked back.
    pub tape: Option<Tape>,
}

impl Cx {
    /// A context without tape.
    pub fn new(device: Device, compute: DType) -> Self {
        Cx { device, compute, tape: None }
    }
    /// The CPU in f32.
    pub fn cpu() -> Self {
        Cx::new(Device::Cpu, DType::F32)
    }
    /// The same context, recording on `tape`.
    pub fn with_tape(&self, tape: &Tape) -> Self {
        Cx { tape: Some(tape.clone()), ..self.clone() }
    }
    /// The same context, recording nothing.
    pub fn without_tape(&self) -> Self {
        Cx { tape: None, ..self.clone() }
    }
    /// The meter of a meta run.
    pub fn meter(&self) -> Option<&Arc<Meter>> {
        match &self.device {
            Device::Meta(meter) => Some(meter),
            _ => None,
        }
    }
    /// Counts work in a meta run.
    pub fn flops(&self, n: usize) {
        if let Some(meter) = self.meter() {
            meter.add_flops(n as u64);
        }
    }
    /// Records an operation. `backward(cx, gradient, need)` gives one gradient a parent (None where not needed).
    pub fn record(
        &self,
        value: Tensor,
        parents: &[&Var],
        backward: impl FnOnce(&Cx, Tensor, &[bool]) -> Vec<Option<Tensor>> + 'static,
    ) -> Var {
        match &self.tape {
            Some(tape) if parents.iter().any(|p| p.tracked()) => {
                let parents = parents.iter().map(|p| p.id).collect();
                let id = tape.push(Entry { parents, backward: Some(Box::new(backward)), leaf: None });
                Var { value, id: Some(id), stored: None }
            }
            _ => Var::constant(value),
        }
    }
}
