//! Values beyond the range of f16, the usual type of files: a run does not end without its result for them, and no file
//! holds infinities in their place. The tensors that have such values are written in f32, and the user is told.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use pipe_core::run::{Progress, RunError};
use pipe_data::weights::convert::infinite_from;
use pipe_data::weights::{DType, TensorData, TensorOut};

use crate::common::errors;

/// Keeps values in range, and tells of them.
pub struct Range(Arc<dyn Progress>);

impl Range {
    /// Tells by `progress`.
    pub fn new(progress: Arc<dyn Progress>) -> Range {
        Range(progress)
    }

    /// Names of the f16 tensors with values that f16 has no number for; what is infinite already is none of them.
    ///
    /// # Errors
    /// Those of reading a tensor.
    pub fn beyond(list: &[TensorOut]) -> io::Result<BTreeSet<String>> {
        let Some(limit) = infinite_from(DType::F16) else { return Ok(BTreeSet::new()) };
        let mut names = BTreeSet::new();
        for tensor in list.iter().filter(|tensor| tensor.dtype == DType::F16) {
            let mut wide = false;
            let mut look = |values: &[f32]| -> io::Result<()> {
                wide |= values.iter().any(|x| x.is_finite() && x.abs() >= limit);
                Ok(())
            };
            match &tensor.data {
                TensorData::F32(values) => look(values)?,
                TensorData::Stream(give) => give(&mut look)?,
                TensorData::Bytes(_) | TensorData::Lazy(_) => {}
            }
            if wide {
                names.insert(tensor.name.clone());
            }
        }
        Ok(names)
    }

    /// Gives the tensors of a file the types that their values need; says so if `aloud`.
    ///
    /// # Errors
    /// P0903 when a tensor cannot be read.
    pub fn fit(&self, list: &mut [TensorOut], aloud: bool) -> Result<(), RunError> {
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::InvalidData => RunError::new("P0901", e.to_string()).help(errors::NO_NUMBERS),
            _ => RunError::new("P0903", format!("a tensor cannot be read: {e}")),
        };
        let wide = Range::beyond(list).map_err(failed)?;
        Range::widen(list, &wide);
        if aloud {
            self.tell(&wide);
        }
        Ok(())
    }

    /// Gives these tensors the type that has their values.
    pub fn widen(list: &mut [TensorOut], names: &BTreeSet<String>) {
        for tensor in list.iter_mut().filter(|tensor| names.contains(&tensor.name)) {
            tensor.dtype = DType::F32;
        }
    }

    /// Says which tensors were widened.
    pub fn tell(&self, names: &BTreeSet<String>) {
        let Some(first) = names.first() else { return };
        let what = match names.len() {
            1 => format!("`{first}` has values beyond the range of f16 and is"),
            n => format!("`{first}` and {} more tensors have values beyond the range of f16 and are", n - 1),
        };
        self.0.warn(&format!("{what} saved in f32; `dtype: bf16` has nearly the range of f32 in as few bytes"));
    }
}
