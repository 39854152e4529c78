//! Metadata of results: what is known is kept, what changed is changed, what no longer holds is left out.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use pipe_data::metadata::{BaseModel, ModelSpec, iso_date};
use pipe_data::weights::{SafetensorsWriter, TensorOut, hash};

use crate::model::Model;

/// Keys that are hashes of the file they were written for.
const HASHES: [&str; 4] = ["sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256", "hash_sha256"];

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Notes when and by what a file is written, and of what it was merged.
pub fn stamp(map: &mut BTreeMap<String, String>, merged: &[String]) {
    for key in HASHES {
        map.remove(key);
    }
    // The standard wants an architecture; without one the rest says little.
    if map.contains_key("modelspec.architecture") {
        map.insert("modelspec.sai_model_spec".into(), "1.0.1".into());
        map.insert("modelspec.date".into(), iso_date(now()));
        map.insert("modelspec.implementation_version".into(), concat!("pipe/", env!("CARGO_PKG_VERSION")).into());
    }
    if !merged.is_empty() {
        map.insert("modelspec.merged_from".into(), merged.join(", "));
    }
}

/// Metadata of a model that is written as a file.
pub fn of_model(model: &Model, title: &str, merged: &[String]) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    if let Some(file) = model.parts.first().and_then(|part| part.set().files().first()).filter(|_| !model.pipeline) {
        map = file.header().metadata.clone();
        // Of a torch checkpoint, which has its own.
        for key in ["epoch", "global_step", "pytorch-lightning_version"] {
            map.remove(key);
        }
    }
    if model.denoiser().is_some() {
        for (key, text) in spec(model.base_model(), false, title) {
            map.entry(key).or_insert(text);
        }
        if !merged.is_empty() {
            map.insert("modelspec.title".into(), title.to_owned());
        }
        stamp(&mut map, merged);
    }
    map
}

/// Modelspec of a new file.
pub fn spec(base: BaseModel, lora: bool, title: &str) -> BTreeMap<String, String> {
    let (Some(architecture), Some(implementation)) = (base.architecture(), base.implementation(lora)) else {
        return BTreeMap::new();
    };
    let spec = ModelSpec {
        architecture: architecture.into(),
        lora,
        implementation: implementation.into(),
        title: title.into(),
        resolution: base.resolution().filter(|_| lora),
        prediction_type: base.prediction_type().map(String::from),
        ..ModelSpec::default()
    };
    spec.to_map()
}

/// Adds the hashes by which other programs know an adapter; `tensors` makes it once for each hash.
///
/// # Errors
/// What is wrong with the tensors.
pub fn add_hashes<'a>(
    map: &mut BTreeMap<String, String>,
    tensors: impl Fn() -> Vec<TensorOut<'a>>,
) -> Result<(), String> {
    let legacy = SafetensorsWriter::new(tensors(), &hash::legacy_metadata(map))?;
    let model = hash::sshs_model_hash(&legacy).map_err(|e| e.to_string())?;
    let short = hash::sshs_legacy_hash(&legacy).map_err(|e| e.to_string())?;
    map.insert("sshs_model_hash".into(), model);
    map.insert("sshs_legacy_hash".into(), short);
    Ok(())
}
