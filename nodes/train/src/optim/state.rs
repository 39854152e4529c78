//! Named state of tensors, saved and restored exactly.
//!
//! An entry's name is `{buffer}.{tensor}` for a buffer, `updates.{tensor}` for the number of updates and
//! `global.{scalar}` for what belongs to no tensor. Bytes are little-endian.

use std::collections::{BTreeMap, BTreeSet};

use super::rule::Rule;
use super::{Error, Slot, TensorInfo, Values};

/// Element type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 32-bit floating point.
    F32,
    /// Codes of 8-bit state.
    U8,
    /// 64-bit floating point, one number.
    F64,
    /// A count, one number.
    U64,
}

impl Kind {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Kind::U8 => 1,
            Kind::F32 => 4,
            Kind::F64 | Kind::U64 => 8,
        }
    }
}

/// A piece of saved state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Element type.
    pub kind: Kind,
    /// The elements.
    pub bytes: Vec<u8>,
}

/// A piece of state that is borrowed, to be written without a copy.
#[derive(Clone, Debug, PartialEq)]
pub struct View<'a> {
    /// Its name.
    pub name: String,
    /// The elements.
    pub data: Data<'a>,
}

/// Elements of a piece of state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Data<'a> {
    /// 32-bit floating point.
    F32(&'a [f32]),
    /// Codes of 8-bit state.
    U8(&'a [u8]),
    /// One number.
    F64(f64),
    /// A count.
    U64(u64),
}

impl View<'_> {
    /// A copy in bytes.
    pub fn entry(&self) -> Entry {
        let (kind, bytes) = match self.data {
            Data::F32(v) => (Kind::F32, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Data::U8(v) => (Kind::U8, v.to_vec()),
            Data::F64(x) => (Kind::F64, x.to_le_bytes().to_vec()),
            Data::U64(x) => (Kind::U64, x.to_le_bytes().to_vec()),
        };
        Entry { name: self.name.clone(), kind, bytes }
    }
}

/// Saved state that is read entry by entry, such as a file.
pub trait Entries {
    /// Names of all entries.
    fn names(&self) -> Vec<String>;
    /// The entry of a name; `None` where there is none, an error where it cannot be read.
    fn entry(&self, name: &str) -> Result<Option<Entry>, Error>;
}

impl Entries for Vec<Entry> {
    fn names(&self) -> Vec<String> {
        self.iter().map(|e| e.name.clone()).collect()
    }
    fn entry(&self, name: &str) -> Result<Option<Entry>, Error> {
        Ok(self.iter().find(|e| e.name == name).cloned())
    }
}

/// First values of a buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Init {
    /// The same everywhere.
    Fill(f32),
    /// Every n-th weight.
    Weights { stride: usize },
}

/// A buffer a tensor needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spec {
    pub name: &'static str,
    pub kind: Kind,
    pub len: usize,
    pub init: Init,
}

impl Spec {
    /// f32 zeros.
    pub fn zeros(name: &'static str, len: usize) -> Self {
        Spec { name, kind: Kind::F32, len, init: Init::Fill(0.0) }
    }

    /// Codes, 0 at first.
    pub fn codes(name: &'static str, len: usize) -> Self {
        Spec { kind: Kind::U8, ..Spec::zeros(name, len) }
    }

    /// A copy of the weights.
    pub fn weights(name: &'static str, len: usize) -> Self {
        Spec { init: Init::Weights { stride: 1 }, ..Spec::zeros(name, len) }
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> u64 {
        (self.len * self.kind.size()) as u64
    }

    fn make(&self, values: &Values) -> Buffer {
        match (self.kind, self.init) {
            (Kind::U8, _) => Buffer::U8(vec![0; self.len]),
            (_, Init::Fill(x)) => Buffer::F32(vec![x; self.len]),
            (_, Init::Weights { stride }) => Buffer::F32(match values {
                Values::F32(v) => v.iter().step_by(stride).copied().collect(),
                Values::Bf16(v) => v.iter().step_by(stride).map(|x| x.to_f32()).collect(),
            }),
        }
    }
}

/// State of a tensor under one name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Buffer {
    F32(Vec<f32>),
    U8(Vec<u8>),
}

/// The first `N` buffers, which a rule has asked for as f32.
pub(crate) fn floats<const N: usize>(buffers: &mut [Buffer]) -> [&mut [f32]; N] {
    let mut rest = buffers.iter_mut();
    std::array::from_fn(|_| match rest.next() {
        Some(Buffer::F32(v)) => v.as_mut_slice(),
        _ => &mut [],
    })
}

/// State of a tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cell {
    pub updates: u64,
    pub buffers: Vec<Buffer>,
}

/// State of an optimizer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Table {
    pub cells: BTreeMap<String, Cell>,
    scalars: BTreeMap<String, f64>,
}

impl Table {
    /// A scalar, or `default` before it is set.
    pub fn scalar(&self, name: &str, default: f64) -> f64 {
        self.scalars.get(name).copied().unwrap_or(default)
    }

    /// Sets a scalar.
    pub fn set(&mut self, name: &str, value: f64) {
        self.scalars.insert(name.to_string(), value);
    }

    /// State of a tensor, made if there is none.
    pub fn cell(&mut self, rule: &(impl Rule + ?Sized), slot: &Slot) -> &mut Cell {
        if !self.cells.contains_key(slot.name) {
            let buffers = rule.buffers(slot.shape).iter().map(|spec| spec.make(&slot.values)).collect();
            self.cells.insert(slot.name.to_string(), Cell { updates: 0, buffers });
        }
        self.cells.entry(slot.name.to_string()).or_default()
    }

    /// Every entry, in the order of names.
    pub fn views(&self, rule: &(impl Rule + ?Sized), shape: impl Fn(&str) -> Vec<usize>) -> Vec<View<'_>> {
        let mut views = Vec::new();
        for (name, value) in &self.scalars {
            views.push(View { name: format!("global.{name}"), data: Data::F64(*value) });
        }
        for (tensor, cell) in &self.cells {
            views.push(View { name: format!("updates.{tensor}"), data: Data::U64(cell.updates) });
            for (spec, buffer) in rule.buffers(&shape(tensor)).iter().zip(&cell.buffers) {
                let data = match buffer {
                    Buffer::F32(v) => Data::F32(v),
                    Buffer::U8(v) => Data::U8(v),
                };
                views.push(View { name: format!("{}.{tensor}", spec.name), data });
            }
        }
        views
    }

    /// Reads entries for the given tensors; every entry must be known and complete.
    pub fn load(rule: &(impl Rule + ?Sized), entries: &dyn Entries, tensors: &[TensorInfo]) -> Result<Table, Error> {
        let names = entries.names();
        let mut known = BTreeSet::new();
        let mut table = Table::default();
        for name in &names {
            if let (Some(scalar), Some(entry)) = (name.strip_prefix("global."), entries.entry(name)?) {
                table.set(scalar, f64::from_le_bytes(eight(&entry, Kind::F64)?));
                known.insert(name.clone());
            }
        }
        for tensor in tensors {
            let count = format!("updates.{}", tensor.name);
            let Some(entry) = entries.entry(&count)? else { continue };
            let mut cell = Cell { updates: u64::from_le_bytes(eight(&entry, Kind::U64)?), buffers: Vec::new() };
            known.insert(count);
            for spec in rule.buffers(&tensor.shape) {
                let name = format!("{}.{}", spec.name, tensor.name);
                let entry = entries.entry(&name)?.ok_or_else(|| Error::State(format!("`{name}` is missing")))?;
                if entry.kind != spec.kind || entry.bytes.len() as u64 != spec.bytes() {
                    let (bytes, wanted) = (entry.bytes.len(), spec.bytes());
                    let text =
                        format!("`{name}` has {bytes} bytes of {:?}, not {wanted} of {:?}", entry.kind, spec.kind);
                    return Err(Error::State(text));
                }
                cell.buffers.push(match spec.kind {
                    Kind::U8 => Buffer::U8(entry.bytes),
                    _ => Buffer::F32(
                        entry.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
                    ),
                });
                known.insert(name);
            }
            table.cells.insert(tensor.name.clone(), cell);
        }
        match names.iter().find(|name| !known.contains(*name)) {
            Some(name) => Err(Error::State(format!("`{name}` belongs to no trained tensor of this optimizer"))),
            None => Ok(table),
        }
    }
}

fn eight(entry: &Entry, kind: Kind) -> Result<[u8; 8], Error> {
    let wrong = || Error::State(format!("`{}` is not one number of {kind:?}", entry.name));
    if entry.kind != kind { Err(wrong()) } else { entry.bytes.as_slice().try_into().map_err(|_| wrong()) }
}
