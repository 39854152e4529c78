//! An [`Optimizer`] of any [`Algorithm`]: checks what it is given, keeps the state.

use std::collections::{BTreeMap, BTreeSet};

use super::rule::{Algorithm, count, with_weights};
use super::state::{Buffer, Entries, Table, View};
use super::{Context, Error, Group, Mode, Optimizer, Report, Slot, TensorInfo};
use crate::Invalid;

/// Settings and state.
pub(crate) struct Engine<A> {
    algorithm: A,
    table: Table,
    shapes: BTreeMap<String, Vec<usize>>,
}

/// Scalar that is 1 while the weights are averages.
const EVAL: &str = "eval";

impl<A: Algorithm> Engine<A> {
    pub fn new(algorithm: A) -> Self {
        Engine { algorithm, table: Table::default(), shapes: BTreeMap::new() }
    }

    fn check(&self, groups: &[Group]) -> Result<(), Error> {
        let mut names = BTreeSet::new();
        let mut rate: Option<(&str, f64)> = None;
        for group in groups {
            if !(group.rate >= 0.0 && group.rate.is_finite()) {
                let reason = format!("{} is no learning rate (group `{}`)", group.rate, group.name);
                return Err(Invalid::new("learning_rate", reason).into());
            }
            if let Some(why) = self.algorithm.traits().one_rate
                && group.rate > 0.0
            {
                if let Some((other, first)) = rate
                    && first != group.rate
                {
                    return Err(different(self.algorithm.name(), why, (other, first), (group.name, group.rate)).into());
                }
                rate = Some((group.name, group.rate));
            }
            for slot in &group.slots {
                self.check_slot(slot)?;
                if !names.insert(slot.name) {
                    return Err(wrong(slot, "is given twice".into()));
                }
            }
        }
        Ok(())
    }

    fn check_slot(&self, slot: &Slot) -> Result<(), Error> {
        let (n, values) = (count(slot.shape), slot.values.len());
        if n != values {
            return Err(wrong(slot, format!("{values} weights, its shape {:?} has {n}", slot.shape)));
        }
        if let Some(g) = slot.gradient
            && g.len() != n
        {
            return Err(wrong(slot, format!("{} gradients for {n} weights", g.len())));
        }
        match self.shapes.get(slot.name) {
            Some(shape) if shape != slot.shape => {
                Err(wrong(slot, format!("shape {:?}, its state is of {shape:?}", slot.shape)))
            }
            _ => Ok(()),
        }
    }

    fn remember(&mut self, groups: &[Group]) {
        for slot in groups.iter().flat_map(|g| &g.slots).filter(|s| s.gradient.is_some()) {
            if !self.shapes.contains_key(slot.name) {
                self.shapes.insert(slot.name.to_string(), slot.shape.to_vec());
            }
        }
    }

    /// z of an averaging optimizer, always its first buffer.
    fn anchor(&self, name: &str) -> Option<&[f32]> {
        match self.table.cells.get(name)?.buffers.first()? {
            Buffer::F32(z) => Some(z),
            Buffer::U8(_) => None,
        }
    }
}

fn wrong(slot: &Slot, reason: String) -> Error {
    Error::Tensor { name: slot.name.to_string(), reason }
}

/// Two rates where only one is possible.
pub(crate) fn different(name: &str, why: &str, a: (&str, f64), b: (&str, f64)) -> Invalid {
    let reason = format!("`{}` has the rate {:?}, `{}` {:?}; {name} {why}", a.0, a.1, b.0, b.1);
    Invalid::new("learning_rate", reason).help("give every group the same rate")
}

/// PyTorch's `lerp`: exact at both ends.
pub(crate) fn lerp(a: f32, b: f32, w: f32) -> f32 {
    if w.abs() < 0.5 { a + w * (b - a) } else { b - (b - a) * (1.0 - w) }
}

impl<A: Algorithm> Optimizer for Engine<A> {
    fn name(&self) -> &'static str {
        self.algorithm.name()
    }

    fn step(&mut self, cx: &Context, groups: &mut [Group<'_>]) -> Result<Report, Error> {
        if self.mode() == Mode::Eval {
            return Err(Error::Averaged);
        }
        self.check(groups)?;
        self.remember(groups);
        Ok(self.algorithm.step(&mut self.table, cx, groups))
    }

    fn streams(&self) -> bool {
        !self.algorithm.traits().whole
    }

    fn averages(&self) -> bool {
        self.algorithm.traits().averages.is_some()
    }

    fn mode(&self) -> Mode {
        if self.table.scalar(EVAL, 0.0) == 1.0 { Mode::Eval } else { Mode::Train }
    }

    fn set_mode(&mut self, mode: Mode, groups: &mut [Group<'_>]) -> Result<(), Error> {
        let Some(beta) = self.algorithm.traits().averages else { return Ok(()) };
        if mode == self.mode() {
            return Ok(());
        }
        self.check(groups)?;
        let w = if mode == Mode::Eval { 1.0 - 1.0 / beta } else { 1.0 - beta } as f32;
        for slot in groups.iter_mut().flat_map(|g| &mut g.slots) {
            let Some(z) = self.anchor(slot.name) else { continue };
            let updates = self.table.cells.get(slot.name).map_or(0, |cell| cell.updates);
            let cx = Context::default();
            with_weights(slot, &cx, updates, |theta| theta.iter_mut().zip(z).for_each(|(y, z)| *y = lerp(*y, *z, w)));
        }
        self.table.set(EVAL, if mode == Mode::Eval { 1.0 } else { 0.0 });
        Ok(())
    }

    fn averaged(&self, name: &str, weights: &[f32]) -> Option<Vec<f32>> {
        let beta = self.algorithm.traits().averages?;
        if self.mode() == Mode::Eval {
            return None;
        }
        let z = self.anchor(name)?;
        let w = (1.0 - 1.0 / beta) as f32;
        Some(weights.iter().zip(z).map(|(y, z)| lerp(*y, *z, w)).collect())
    }

    fn views(&self) -> Vec<View<'_>> {
        self.table.views(&self.algorithm, |name| self.shapes.get(name).cloned().unwrap_or_default())
    }

    fn load(&mut self, entries: &dyn Entries, tensors: &[TensorInfo]) -> Result<(), Error> {
        let table = Table::load(&self.algorithm, entries, tensors)?;
        let known = tensors.iter().filter(|t| table.cells.contains_key(&t.name));
        self.shapes = known.map(|t| (t.name.clone(), t.shape.clone())).collect();
        self.table = table;
        Ok(())
    }
}
