//! In which type frozen weights are kept: the field `storage` of models and text encoders.

use pipe_core::node::CheckCx;
use pipe_core::run::RunError;
use pipe_networks::Keeping;
use pipe_ops::{DType, Storage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::engine::{Engine, compute_type};

/// Type that frozen weights are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StorageType {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit floats with 3 bits of mantissa and no scale (`e4m3fn`): what is larger than 448 becomes 448.
    F8E4m3,
}

impl StorageType {
    /// As it is kept.
    pub fn storage(self) -> Storage {
        match self {
            StorageType::F32 => Storage::F32,
            StorageType::F16 => Storage::F16,
            StorageType::Bf16 => Storage::Bf16,
            StorageType::F8E4m3 => Storage::F8E4M3,
        }
    }
    /// Name in documents.
    pub fn name(self) -> &'static str {
        match self {
            StorageType::F32 => "f32",
            StorageType::F16 => "f16",
            StorageType::Bf16 => "bf16",
            StorageType::F8E4m3 => "f8_e4m3",
        }
    }
}

/// Weights kept in a type.
pub fn keeping(storage: Option<StorageType>) -> Keeping {
    Keeping::in_type(storage.map(StorageType::storage))
}

/// Reports a type that is wider than the one computed in.
pub fn check(cx: &mut CheckCx, storage: Option<StorageType>) {
    let compute = compute_type(cx.settings.train.precision, crate::planned_kind(cx.settings));
    if storage == Some(StorageType::F32) && compute != DType::F32 {
        let name = if compute == DType::F16 { "f16" } else { "bf16" };
        let message = format!(
            "`storage: f32` has no effect but twice the memory: the weights are rounded to {name}, the type that is computed in, at each use"
        );
        cx.error("P0402", "storage", message, Some("leave it out, or set `train.precision: f32`".into()));
    }
}

/// Refuses a type that the device of a run does not have.
pub fn refuse(engine: &Engine, storage: Option<StorageType>) -> Result<(), RunError> {
    match storage.filter(|storage| !engine.device.holds(storage.storage())) {
        Some(storage) => {
            let message = format!("the {} device does not have {}", engine.kind.name(), storage.name());
            Err(RunError::new("P0904", message).at("storage").help("`f8_e4m3` works on every device"))
        }
        None => Ok(()),
    }
}
