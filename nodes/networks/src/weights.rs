//! One component's tensors under their checkpoint names.

use std::collections::HashMap;
use std::sync::Arc;

use pipe_data::weights::{ComponentWeights, DType as FileType, FileError, shown};
use pipe_ops::{Cx, DType, Device, Home, Meter, Storage, Stored, Tensor};

use crate::keeping::Keeping;

/// Named tensors of a network.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    tensors: HashMap<String, Tensor>,
    /// Those that are tensors only while they are used.
    stored: HashMap<String, Stored>,
}

/// Why a component cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file is damaged or unreadable.
    #[error(transparent)]
    File(#[from] FileError),
    /// Names that the network needs and the file lacks.
    #[error("{} {} missing: {}{}", names.len(), if names.len() == 1 { "tensor is" } else { "tensors are" }, list(names), empties(empty))]
    Missing {
        /// The names.
        names: Vec<String>,
        /// Stored tensors without values, which may be the reason.
        empty: Vec<String>,
    },
    /// Names that the network does not know.
    #[error("{} unknown: {}", if .0.len() == 1 { "1 tensor is".to_string() } else { format!("{} tensors are", .0.len()) }, list(.0))]
    Unexpected(Vec<String>),
    /// A tensor that 8 bits cannot hold.
    #[error("`{}` holds values that are no numbers", shown(.0))]
    NotANumber(String),
    /// A tensor of another shape than the network's.
    #[error("`{}` has shape {found:?}, the network needs {wanted:?}", shown(name))]
    Shape {
        /// Name of the tensor.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape the network needs.
        wanted: Vec<usize>,
    },
}

/// The first names of a list, and how many more.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names.iter().take(SHOWN).map(|n| format!("`{}`", shown(n))).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

/// What to say of stored tensors without values.
fn empties(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => format!("; the file holds `{}` without any values, with a zero in its shape", shown(one)),
        _ => format!(
            "; the file holds {} tensors without any values, with zeros in their shapes: {}",
            names.len(),
            list(names)
        ),
    }
}

impl Weights {
    /// The tensors of a map.
    pub fn from_map(tensors: HashMap<String, Tensor>) -> Self {
        Weights { tensors, ..Default::default() }
    }

    /// Compares what a file has with what the network needs (`expected`: name and shape) without
    /// reading data. Names in `optional` may be missing or present.
    pub fn verify(
        file: &ComponentWeights,
        expected: &[(String, Vec<usize>)],
        optional: impl Fn(&str) -> bool,
    ) -> Result<(), WeightsError> {
        let missing: Vec<String> = expected
            .iter()
            .filter(|(name, _)| file.shape(name).is_none() && !optional(name))
            .map(|(n, _)| n.clone())
            .collect();
        if !missing.is_empty() {
            // As the file would call them; what it keeps in one is told once.
            let mut told = std::collections::HashSet::new();
            let stored = missing.iter().flat_map(|name| file.stored_names(name));
            let missing = stored.filter(|name| told.insert(name.clone())).collect();
            return Err(WeightsError::Missing { names: missing, empty: file.empty.clone() });
        }
        let known: std::collections::HashSet<&str> = expected.iter().map(|(n, _)| n.as_str()).collect();
        let mut unexpected: Vec<String> =
            file.names().filter(|n| !known.contains(n) && !optional(n)).map(String::from).collect();
        unexpected.extend(file.unexpected.iter().cloned());
        if !unexpected.is_empty() {
            return Err(WeightsError::Unexpected(unexpected));
        }
        for (name, wanted) in expected {
            if let Some(found) = file.shape(name)
                && found != *wanted
            {
                return Err(WeightsError::Shape { name: name.clone(), found, wanted: wanted.clone() });
            }
        }
        Ok(())
    }

    /// Loads the expected tensors one at a time: onto the device in `dtype`, or as they are to be kept. What the file
    /// has in the type that it is kept in is taken over as it is.
    pub fn load(
        file: &ComponentWeights,
        expected: &[(String, Vec<usize>)],
        cx: &Cx,
        dtype: DType,
        keeping: &Keeping,
    ) -> Result<Self, WeightsError> {
        let mut weights = Weights::default();
        for (name, shape) in expected {
            if file.shape(name).is_none() {
                continue;
            }
            let len: usize = shape.iter().product();
            let wrong = || {
                let found = file.shape(name).unwrap_or_default();
                WeightsError::Shape { name: name.clone(), found, wanted: shape.clone() }
            };
            match keeping.of(name, shape, dtype) {
                Some((storage, home)) if as_in(file, name, storage)? => {
                    let bytes = file.bytes(name)?.into_owned();
                    if bytes.len() != len * storage.size() {
                        return Err(wrong());
                    }
                    weights.keep(name, Stored::new(&cx.device, home, numbers(name, storage, bytes)?, shape, storage));
                }
                _ => {
                    let values = file.f32(name)?;
                    if values.len() != len {
                        return Err(wrong());
                    }
                    weights.put(name, values, shape, cx, dtype, keeping)?;
                }
            }
        }
        Ok(weights)
    }

    /// Puts values in, as they are to be kept.
    ///
    /// # Errors
    /// Values that are no numbers, which 8 bits cannot tell from others on every device.
    pub fn put(
        &mut self,
        name: &str,
        values: Vec<f32>,
        shape: &[usize],
        cx: &Cx,
        dtype: DType,
        keeping: &Keeping,
    ) -> Result<(), WeightsError> {
        match keeping.of(name, shape, dtype) {
            Some((storage, home)) => {
                let bytes = numbers(name, storage, storage.bytes(&values))?;
                self.keep(name, Stored::new(&cx.device, home, bytes, shape, storage));
            }
            None => self.insert(name.into(), cx.device.tensor(values, shape, dtype)),
        }
        Ok(())
    }

    /// Shapes without data, for planning.
    pub fn meta(expected: &[(String, Vec<usize>)], meter: &Arc<Meter>, dtype: DType, keeping: &Keeping) -> Self {
        let mut weights = Weights::default();
        for (name, shape) in expected {
            match keeping.of(name, shape, dtype) {
                Some((storage, home)) => weights.keep(name, Stored::meta(meter, home, shape, storage)),
                None => weights.insert(name.clone(), Tensor::meta(shape, dtype, meter)),
            }
        }
        weights
    }

    /// Puts a weight at rest in.
    pub fn keep(&mut self, name: &str, stored: Stored) {
        self.tensors.remove(name);
        self.stored.insert(name.to_owned(), stored);
    }

    /// A weight at rest by name.
    pub fn stored(&self, name: &str) -> Option<&Stored> {
        self.stored.get(name)
    }
    /// Whether any weight rests in another type or place than it is used in.
    pub fn rests(&self) -> bool {
        !self.stored.is_empty()
    }
    /// All values of a tensor in f32, on the host.
    pub fn values(&self, name: &str) -> Option<Vec<f32>> {
        self.tensors.get(name).map(Tensor::to_vec).or_else(|| self.stored.get(name).map(Stored::values))
    }
    /// Sizes of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(Tensor::shape).or_else(|| self.stored.get(name).map(Stored::shape))
    }
    /// The weights under these prefixes that rest in the host's memory, copied to the device.
    pub fn fetched(&self, prefixes: &[String], device: &Device) -> HashMap<String, Stored> {
        let under = |name: &str| {
            let rest = |prefix: &String| name.strip_prefix(prefix.as_str());
            prefixes.iter().filter_map(rest).any(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let away = self.stored.iter().filter(|(name, stored)| stored.home(device) == Home::Host && under(name));
        away.map(|(name, stored)| (name.clone(), stored.fetched(device))).collect()
    }

    /// A tensor by name, unless it is [at rest](Weights::stored).
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }
    /// Whether a tensor is there.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.stored.contains_key(name)
    }
    /// Takes a tensor out (it becomes trainable elsewhere).
    pub fn take(&mut self, name: &str) -> Option<Tensor> {
        self.tensors.remove(name)
    }
    /// Puts a tensor in.
    pub fn insert(&mut self, name: String, tensor: Tensor) {
        self.stored.remove(&name);
        self.tensors.insert(name, tensor);
    }
    /// All names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().chain(self.stored.keys()).map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

/// Whether a file has a tensor in the very type it is to be kept in.
fn as_in(file: &ComponentWeights, name: &str, storage: Storage) -> Result<bool, FileError> {
    let same = match storage {
        Storage::F32 => FileType::F32,
        Storage::F16 => FileType::F16,
        Storage::Bf16 => FileType::BF16,
        Storage::F8E4M3 => FileType::F8E4M3,
    };
    Ok(file.dtype(name) == Some(same) && file.scale(name)?.is_none())
}

/// Bytes that are numbers, as far as 8 bits are asked for.
fn numbers(name: &str, storage: Storage, bytes: Vec<u8>) -> Result<Vec<u8>, WeightsError> {
    match storage == Storage::F8E4M3 && bytes.iter().any(|code| code & 0x7f == 0x7f) {
        true => Err(WeightsError::NotANumber(name.into())),
        false => Ok(bytes),
    }
}
