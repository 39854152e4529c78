//! Writes an adapter file.

use std::collections::BTreeMap;

use pipe_data::weights::convert::f32_to_bytes;
use pipe_data::weights::{DType, TensorOut, write_safetensors};

use super::pair::Pair;
use crate::error::{Result, ToolError};
use crate::metadata;
use crate::output::Output;

/// Whose names the layers of a file have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `X.lora_down.weight`, `X.lora_up.weight`, `X.alpha`, `X.dora_scale`.
    Kohya,
    /// `X.lora_A.weight`, `X.lora_B.weight`, `X.lora_magnitude_vector`; no α.
    Peft,
}

/// The tensors of a file to be.
#[derive(Debug)]
pub struct Tensors {
    dtype: DType,
    list: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Entry {
    fn out(&self) -> TensorOut<'_> {
        TensorOut::bytes(self.name.clone(), self.dtype, self.shape.clone(), self.bytes.as_slice())
    }
}

impl Tensors {
    /// None yet; factors are written as `dtype`.
    pub fn new(dtype: DType) -> Tensors {
        Tensors { dtype, list: Vec::new() }
    }

    /// Adds values in the file's type.
    pub fn push(&mut self, name: String, shape: Vec<usize>, values: &[f32]) {
        self.push_as(name, self.dtype, shape, values);
    }

    /// Adds one number, in f32 as trainers do.
    pub fn push_alpha(&mut self, name: String, alpha: f32) {
        self.push_as(name, DType::F32, Vec::new(), &[alpha]);
    }

    fn push_as(&mut self, name: String, dtype: DType, shape: Vec<usize>, values: &[f32]) {
        self.list.push(Entry { name, dtype, shape, bytes: f32_to_bytes(values, dtype).unwrap_or_default() });
    }

    /// Adds a layer.
    pub fn push_pair(&mut self, layer: &str, pair: &Pair, naming: Naming) {
        match naming {
            Naming::Kohya => {
                self.push(format!("{layer}.lora_down.weight"), pair.down_shape(), &pair.down);
                self.push(format!("{layer}.lora_up.weight"), pair.up_shape(), &pair.up);
                self.push_alpha(format!("{layer}.alpha"), pair.alpha);
                if let Some(magnitude) = &pair.magnitude {
                    self.push(format!("{layer}.dora_scale"), pair.magnitude_shape(), magnitude);
                }
            }
            Naming::Peft => {
                // Readers of these names do not agree on where α is: it is 1 in effect, and the scale in the factor.
                let pair = pair.clone().folded();
                self.push(format!("{layer}.lora_A.weight"), pair.down_shape(), &pair.down);
                self.push(format!("{layer}.lora_B.weight"), pair.up_shape(), &pair.up);
                if let Some(magnitude) = &pair.magnitude {
                    // A convolution's have the axes of its kernel, a matrix' have one.
                    let mut shape = vec![magnitude.len()];
                    if pair.weight.len() > 2 {
                        shape = pair.weight.iter().map(|_| 1).collect();
                        shape[1] = magnitude.len();
                    }
                    self.push(format!("{layer}.lora_magnitude_vector"), shape, magnitude);
                }
            }
        }
    }

    /// Whether a value cannot be told in the file's type.
    fn overflows(&self) -> Option<&str> {
        let bad = |bytes: &[u8]| match self.dtype {
            DType::F16 => bytes.as_chunks::<2>().0.iter().any(|b| u16::from_le_bytes(*b) & 0x7c00 == 0x7c00),
            DType::BF16 => bytes.as_chunks::<2>().0.iter().any(|b| u16::from_le_bytes(*b) & 0x7f80 == 0x7f80),
            DType::F32 => bytes.as_chunks::<4>().0.iter().any(|b| !f32::from_le_bytes(*b).is_finite()),
            _ => false,
        };
        self.list.iter().find(|e| e.dtype == self.dtype && bad(&e.bytes)).map(|e| e.name.as_str())
    }

    /// Writes the file with its hashes: complete, or not at all.
    ///
    /// # Errors
    /// P0903 when it cannot be written; P0403 when its values do not fit its type.
    pub fn write(&self, output: &Output, mut metadata: BTreeMap<String, String>) -> Result<()> {
        if let Some(name) = self.overflows() {
            let message = format!("`{name}` has values beyond the range of {}", self.dtype);
            return Err(ToolError::new("P0403", message).at(&output.path).help("`--dtype bf16` has the largest range"));
        }
        let tensors = || self.list.iter().map(Entry::out).collect::<Vec<_>>();
        let wrong =
            |problem| ToolError::new("P0903", format!("`{}` cannot be written: {problem}", output.path.display()));
        output.prepare()?;
        metadata::add_hashes(&mut metadata, tensors).map_err(wrong)?;
        Ok(write_safetensors(&output.path, tensors(), &metadata)?)
    }
}
