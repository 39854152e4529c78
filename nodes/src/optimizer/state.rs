//! Training state on disk: safetensors, f32, every tensor under its key. Written tensor by tensor, so that saving takes
//! no memory to speak of.

use std::collections::BTreeMap;
use std::path::Path;

use pipe_core::run::RunError;
use pipe_data::weights::{DType, WeightFile, write_safetensors};
use pipe_ops::{Device, Tensor};

use crate::common::errors;
use crate::common::write::tensor_out;

/// Bytes of a state's header for each trainable tensor: three entries with their names, and the number of updates.
const HEADER: u64 = 600;

/// Bytes of the state of so many trainable values in so many tensors: the value and AdamW's two moments, f32.
pub fn bytes(values: u64, tensors: u64) -> u64 {
    12 * values + HEADER * tensors
}

const FILE: &str = "state.safetensors";

/// Writes tensors and text values.
pub fn save(dir: &Path, tensors: &[(String, &Tensor)], values: &BTreeMap<String, String>) -> Result<(), RunError> {
    let list = tensors.iter().map(|(name, tensor)| tensor_out(name.clone(), DType::F32, tensor.shape(), tensor));
    write_safetensors(dir.join(FILE), list, values).map_err(|e| errors::file_error(&e, ""))
}

/// An opened state.
pub struct State {
    file: WeightFile,
}

impl State {
    /// Opens the state in a folder.
    pub fn open(dir: &Path) -> Result<Self, RunError> {
        let file = WeightFile::open(dir.join(FILE)).map_err(|e| errors::file_error(&e, ""))?;
        Ok(State { file })
    }
    /// A text value.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.file.header().metadata.get(name).map(String::as_str)
    }
    /// A tensor of the expected shape.
    pub fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor, RunError> {
        let found = self.file.info(name).map(|i| i.shape.clone());
        if found.as_deref() != Some(shape) {
            let message = format!("the saved state has `{name}` as {found:?}, the run needs {shape:?}");
            return Err(RunError::new("P0305", message).help("the document changed since the state was saved"));
        }
        let values = self.file.f32(name).map_err(|e| errors::file_error(&e, ""))?;
        Ok(device.tensor(values, shape, pipe_ops::DType::F32))
    }
    /// Whether a tensor is there.
    pub fn has(&self, name: &str) -> bool {
        self.file.info(name).is_some()
    }
}
