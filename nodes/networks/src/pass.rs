//! The segment tape: forward over a model's segments, then back.
//!
//! Forward runs each segment on its own small tape, which is either *kept* for backward or thrown
//! away and made again from the segment's inputs (*recomputed*, gradient checkpointing). Segments
//! with nothing trainable in or before them record nothing and get no backward. Slots are freed
//! after their last reader.

use std::collections::HashMap;

use pipe_ops::{Cx, Offloaded, Stored, Tape, Tensor, Var, op};

use crate::net::{Inputs, Net};
use crate::segment::{Model, Slot};
use crate::trainables::{Trainables, under};
use crate::weights::Weights;

/// What backward starts from, for each segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Keep every activation: fastest.
    #[default]
    Keep,
    /// Keep only segments' inputs and compute the rest again.
    Recompute,
    /// The same, with the inputs in the host's memory until they are needed.
    Offload,
}

/// What a pass runs with.
pub struct Setting<'a> {
    /// The network.
    pub model: &'a Model,
    /// Weights of each component of [`Model::parts`].
    pub weights: Vec<&'a Weights>,
    /// What learns.
    pub train: Option<&'a Trainables>,
    /// Non-tensor inputs.
    pub inputs: &'a Inputs,
    /// Kept or recomputed.
    pub policy: Policy,
}

enum Record {
    Kept { tape: Tape, inputs: Vec<Var>, outputs: Vec<Var> },
    Inputs(Vec<Tensor>),
    Away(Vec<Offloaded>),
}

/// A finished forward pass.
pub struct Pass {
    outputs: HashMap<Slot, Tensor>,
    records: Vec<(usize, Record)>,
    tracked: Vec<bool>,
}

impl Setting<'_> {
    fn net<'b>(&'b self, cx: &'b Cx, part: usize, fetched: Option<&'b HashMap<String, Stored>>) -> Net<'b> {
        let (train, inputs) = (self.train, self.inputs);
        Net { cx, part: &self.model.parts[part], weights: self.weights[part], fetched, train, inputs }
    }

    /// Weights of segment `i` that rest in the host's memory, on the device.
    fn fetch(&self, cx: &Cx, i: usize) -> HashMap<String, Stored> {
        let segment = &self.model.segments[i];
        self.weights[segment.part].fetched(&segment.weights, &cx.device)
    }

    /// Whether segment `i` has trainable weights.
    fn learns(&self, i: usize) -> bool {
        let segment = &self.model.segments[i];
        let part = &self.model.parts[segment.part];
        self.train.is_some_and(|t| segment.weights.iter().any(|w| t.touches(part, w)))
    }

    /// Runs the segments that `wanted` slots need. `given` are slots filled from outside, each with
    /// whether its gradient will be asked for. With `record` false nothing is kept.
    pub fn forward(&self, cx: &Cx, given: Vec<(Slot, Tensor, bool)>, wanted: &[Slot], record: bool) -> Pass {
        let model = self.model;
        let mut slots: Vec<Option<Tensor>> = vec![None; model.slots];
        let mut tracked = vec![false; model.slots];
        for (slot, tensor, track) in given {
            slots[slot] = Some(tensor);
            tracked[slot] = track && record;
        }
        let mut needed = vec![false; model.segments.len()];
        let mut live: std::collections::HashSet<Slot> = wanted.iter().copied().collect();
        for (i, segment) in model.segments.iter().enumerate().rev() {
            if segment.outputs.iter().any(|o| live.contains(o)) && segment.outputs.iter().any(|&o| slots[o].is_none()) {
                needed[i] = true;
                live.extend(&segment.inputs);
            }
        }
        let mut readers = vec![0usize; model.slots];
        for (segment, _) in model.segments.iter().zip(&needed).filter(|(_, n)| **n) {
            for &slot in &segment.inputs {
                readers[slot] += 1;
            }
        }
        for &slot in wanted {
            readers[slot] += 1;
        }
        let (mut records, mut away) = (Vec::new(), HashMap::new());
        for (i, segment) in model.segments.iter().enumerate() {
            if !needed[i] {
                continue;
            }
            let inputs: Vec<Tensor> = segment
                .inputs
                .iter()
                .map(|&s| match &slots[s] {
                    Some(tensor) => tensor.clone(),
                    None => panic!("slot {s} of `{}` is empty", segment.name),
                })
                .collect();
            for &slot in &segment.inputs {
                readers[slot] -= 1;
                if readers[slot] == 0 {
                    slots[slot] = None;
                }
            }
            let follows = record && (self.learns(i) || segment.inputs.iter().any(|&s| tracked[s]));
            let outputs: Vec<Tensor> = if follows && self.policy == Policy::Keep {
                let tape = Tape::new();
                // The tape outlives the segment, so it must not hold what is copied to the device for it.
                let (vars, outputs) = self.run(cx, i, inputs, &tracked, &tape, None);
                let tensors = outputs.iter().map(|v| v.value.clone()).collect();
                records.push((i, Record::Kept { tape, inputs: vars, outputs }));
                tensors
            } else {
                let vars: Vec<Var> = inputs.iter().cloned().map(Var::constant).collect();
                let (plain, fetched) = (cx.without_tape(), self.fetch(cx, i));
                let outputs = (segment.forward)(&self.net(&plain, segment.part, Some(&fetched)), &vars);
                if follows {
                    records.push((i, self.record(cx, i, inputs, &mut away)));
                }
                outputs.into_iter().map(|v| v.value).collect()
            };
            for (&slot, tensor) in segment.outputs.iter().zip(outputs) {
                tracked[slot] = follows;
                if readers[slot] > 0 {
                    slots[slot] = Some(tensor);
                }
            }
        }
        let outputs = wanted.iter().filter_map(|&s| slots[s].clone().map(|t| (s, t))).collect();
        Pass { outputs, records, tracked }
    }

    /// What is kept of a segment that is computed again. A tensor that several read is copied to the host once.
    fn record(&self, cx: &Cx, i: usize, inputs: Vec<Tensor>, away: &mut HashMap<Slot, Offloaded>) -> Record {
        if self.policy != Policy::Offload {
            return Record::Inputs(inputs);
        }
        let slots = &self.model.segments[i].inputs;
        let one = |(tensor, slot): (Tensor, &Slot)| {
            away.entry(*slot).or_insert_with(|| Offloaded::of(&tensor, &cx.device)).clone()
        };
        Record::Away(inputs.into_iter().zip(slots).map(one).collect())
    }

    fn run(
        &self,
        cx: &Cx,
        i: usize,
        inputs: Vec<Tensor>,
        tracked: &[bool],
        tape: &Tape,
        fetched: Option<&HashMap<String, Stored>>,
    ) -> (Vec<Var>, Vec<Var>) {
        let segment = &self.model.segments[i];
        let vars: Vec<Var> = inputs
            .into_iter()
            .zip(&segment.inputs)
            .map(|(tensor, &slot)| if tracked[slot] { tape.input(tensor) } else { Var::constant(tensor) })
            .collect();
        let recording = cx.with_tape(tape);
        let outputs = (segment.forward)(&self.net(&recording, segment.part, fetched), &vars);
        (vars, outputs)
    }

    /// Runs segment `i` a second time, now with a tape.
    fn again(&self, cx: &Cx, i: usize, inputs: Vec<Tensor>, tracked: &[bool]) -> (Tape, Vec<Var>, Vec<Var>) {
        let (tape, fetched) = (Tape::new(), self.fetch(cx, i));
        let (inputs, outputs) = self.run(cx, i, inputs, tracked, &tape, Some(&fetched));
        (tape, inputs, outputs)
    }

    /// Walks back from gradients of slots. Trainable gradients are added to `leaves`; gradients of
    /// the slots in `wanted` are returned.
    pub fn backward(
        &self,
        cx: &Cx,
        pass: Pass,
        seeds: Vec<(Slot, Tensor)>,
        wanted: &[Slot],
        leaves: &mut HashMap<String, Tensor>,
    ) -> HashMap<Slot, Tensor> {
        let mut back = Back::new(pass, seeds);
        while back.step(self, cx, leaves) {}
        back.slots(wanted)
    }
}

/// The way back over a pass, one segment at a time: between two, weights may change whose gradient no segment that is
/// still to come adds to.
pub struct Back {
    grads: HashMap<Slot, Tensor>,
    records: Vec<(usize, Record)>,
    tracked: Vec<bool>,
}

impl Back {
    /// At the end of a pass, with gradients of its slots.
    pub fn new(pass: Pass, seeds: Vec<(Slot, Tensor)>) -> Self {
        let Pass { records, tracked, .. } = pass;
        Back { grads: seeds.into_iter().collect(), records, tracked }
    }

    /// Walks back over the next segment that a gradient reaches, and adds those of its trainable weights to `leaves`.
    /// False at the end. `setting` is that of the forward pass.
    pub fn step(&mut self, setting: &Setting, cx: &Cx, leaves: &mut HashMap<String, Tensor>) -> bool {
        while let Some((i, record)) = self.records.pop() {
            let segment = &setting.model.segments[i];
            let out_grads: Vec<Option<Tensor>> = segment.outputs.iter().map(|s| self.grads.remove(s)).collect();
            if out_grads.iter().all(Option::is_none) {
                continue;
            }
            let (tape, inputs, outputs) = match record {
                Record::Kept { tape, inputs, outputs } => (tape, inputs, outputs),
                Record::Inputs(inputs) => setting.again(cx, i, inputs, &self.tracked),
                Record::Away(away) => {
                    let inputs = away.iter().map(|one| one.tensor(&cx.device)).collect();
                    drop(away);
                    setting.again(cx, i, inputs, &self.tracked)
                }
            };
            let seeds = outputs.into_iter().zip(out_grads).filter_map(|(v, g)| g.map(|g| (v, g))).collect();
            let input_grads = tape.backward(cx, seeds, &inputs, leaves);
            for (&slot, grad) in segment.inputs.iter().zip(input_grads) {
                if let Some(grad) = grad {
                    let sum = match self.grads.remove(&slot) {
                        Some(old) => op::add_tensors(cx, old, grad),
                        None => grad,
                    };
                    self.grads.insert(slot, sum);
                }
            }
            return true;
        }
        false
    }

    /// Whether a segment that is still to come may add to the gradient of a network's own weight.
    pub fn awaits(&self, model: &Model, key: &str) -> bool {
        self.records.iter().any(|(i, _)| {
            let segment = &model.segments[*i];
            segment.weights.iter().any(|w| under(&model.parts[segment.part], w, key))
        })
    }

    /// Gradients of slots, at the end.
    pub fn slots(mut self, wanted: &[Slot]) -> HashMap<Slot, Tensor> {
        self.grads.retain(|slot, _| wanted.contains(slot));
        self.grads
    }
}

impl Pass {
    /// The tensor of a wanted slot.
    pub fn output(&self, slot: Slot) -> &Tensor {
        &self.outputs[&slot]
    }
}
