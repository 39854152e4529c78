//! One component's tensors under their checkpoint names.

use std::collections::HashMap;
use std::sync::Arc;

use pipe_data::weights::{ComponentWeights, FileError, shown};
use pipe_ops::{Cx, DType, Meter, Tensor};

/// Named tensors of a network.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    tensors: HashMap<String, Tensor>,
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
        Weights { tensors }
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

    /// Loads the expected tensors onto the device in `dtype`, one at a time.
    pub fn load(
        file: &ComponentWeights,
        expected: &[(String, Vec<usize>)],
        cx: &Cx,
        dtype: DType,
    ) -> Result<Self, WeightsError> {
        let mut tensors = HashMap::with_capacity(expected.len());
        for (name, shape) in expected {
            if file.shape(name).is_none() {
                continue;
            }
            let values = file.f32(name)?;
            if values.len() != shape.iter().product::<usize>() {
                let found = file.shape(name).unwrap_or_default();
                return Err(WeightsError::Shape { name: name.clone(), found, wanted: shape.clone() });
            }
            tensors.insert(name.clone(), cx.device.tensor(values, shape, dtype));
        }
        Ok(Weights { tensors })
    }

    /// Shapes without data, for planning.
    pub fn meta(expected: &[(String, Vec<usize>)], meter: &Arc<Meter>, dtype: DType) -> Self {
        Weights { tensors: expected.iter().map(|(n, s)| (n.clone(), Tensor::meta(s, dtype, meter))).collect() }
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }
    /// Whether a tensor is there.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
    /// Takes a tensor out (it becomes trainable elsewhere).
    pub fn take(&mut self, name: &str) -> Option<Tensor> {
        self.tensors.remove(name)
    }
    /// Puts a tensor in.
    pub fn insert(&mut self, name: String, tensor: Tensor) {
        self.tensors.insert(name, tensor);
    }
    /// All names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|t| (t.len() * t.dtype().size()) as u64).sum()
    }
}
