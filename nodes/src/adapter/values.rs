//! Values of adapter files as they are stored.

use std::path::Path;

use pipe_core::run::RunError;
use pipe_data::weights::{WeightFile, shown};

use crate::common::errors;

/// Values of a tensor of an adapter file; one that is no finite number would spoil the whole model.
pub(super) fn values(file: &WeightFile, key: &str) -> Result<Vec<f32>, RunError> {
    let values = file.f32(key).map_err(|e| errors::file_error(&e, "weights"))?;
    finite(file, key, values)
}

/// Refuses what is no finite number.
fn finite(file: &WeightFile, key: &str, values: Vec<f32>) -> Result<Vec<f32>, RunError> {
    if values.iter().all(|x| x.is_finite()) {
        return Ok(values);
    }
    let message = format!("tensor `{}` of `{}` has values that are not finite", shown(key), file.path().display());
    let help = "the training diverged; use a file that was saved earlier";
    Err(RunError::new("P0303", message).at("weights").help(help))
}

/// A number of a file, whole or not.
pub(super) fn number(file: &WeightFile, name: &str) -> Result<Option<f32>, RunError> {
    let whole = || file.i64(name).map(|v| v.into_iter().map(|x| x as f32).collect::<Vec<f32>>());
    let values = file.f32(name).or_else(|_| whole()).map_err(|e| errors::file_error(&e, "weights"))?;
    Ok(finite(file, name, values)?.first().copied())
}

/// Names the content of a file: equal fingerprints mean equal tensors.
pub(super) fn fingerprint(path: &Path) -> Result<String, RunError> {
    let error = |e| errors::file_error(&e, "weights");
    let file = WeightFile::open(path).map_err(error)?;
    let mut names: Vec<&str> = file.names().collect();
    names.sort_unstable();
    let mut hasher = blake3::Hasher::new();
    for name in names {
        let shape = file.info(name).map(|info| format!(" {:?} {:?}", info.dtype, info.shape)).unwrap_or_default();
        hasher.update(name.as_bytes());
        hasher.update(shape.as_bytes());
        hasher.update_rayon(&file.bytes(name).map_err(error)?);
    }
    if let Some(text) = file.header().metadata.get("lora_adapter_metadata") {
        hasher.update(text.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}
