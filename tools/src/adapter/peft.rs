//! α where PEFT and Diffusers keep it: in a configuration in the metadata, or in a file beside the weights.

use std::path::Path;

use pipe_data::weights::WeightFile;
use serde_json::Value as Json;

/// Metadata key of Diffusers' configuration.
pub const KEY: &str = "lora_adapter_metadata";

/// Longest `adapter_config.json` that is read.
const LONGEST: u64 = 1 << 20;

/// The configuration of an adapter file, if there is one.
pub fn configuration(file: &WeightFile) -> Option<Json> {
    if let Some(text) = file.header().metadata.get(KEY) {
        return serde_json::from_str(text).ok();
    }
    let beside = file.path().parent().unwrap_or(Path::new(".")).join("adapter_config.json");
    let about = std::fs::metadata(&beside).ok().filter(|about| about.is_file() && about.len() <= LONGEST)?;
    debug_assert!(about.len() <= LONGEST);
    serde_json::from_str(&std::fs::read_to_string(beside).ok()?).ok()
}

/// α of a layer, such that α/rank is its scale.
pub fn alpha(config: &Json, layer: &str, rank: usize) -> Option<f32> {
    let layer = layer.strip_prefix("base_model.model.").unwrap_or(layer);
    // Diffusers has the settings of several parts under their names: `unet.lora_alpha`.
    let part = layer.split('.').next().unwrap_or_default();
    let get = |key: &str| config.get(format!("{part}.{key}")).or_else(|| config.get(key));
    let pattern = get("alpha_pattern").and_then(Json::as_object);
    let own = pattern.and_then(|map| {
        map.iter()
            .find(|(name, _)| layer == *name || layer.strip_suffix(name.as_str()).is_some_and(|h| h.ends_with('.')))
    });
    let alpha = own.map(|(_, value)| value).or_else(|| get("lora_alpha"))?.as_f64()?;
    let rslora = get("use_rslora").and_then(Json::as_bool).unwrap_or(false);
    // Rank-stabilised: α/√r (Kalajdzievski 2023).
    let factor = if rslora { (rank as f64).sqrt() } else { 1.0 };
    Some((alpha * factor) as f32).filter(|alpha| alpha.is_finite())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_of_parts_patterns_and_rslora() {
        let of_diffusers =
            json!({"unet.lora_alpha": 8, "unet.alpha_pattern": {"mid.to_q": 2.0}, "text_encoder.lora_alpha": 4});
        assert_eq!(alpha(&of_diffusers, "unet.down.to_q", 4), Some(8.0));
        assert_eq!(alpha(&of_diffusers, "unet.mid.to_q", 4), Some(2.0));
        assert_eq!(alpha(&of_diffusers, "text_encoder.x", 4), Some(4.0));
        assert_eq!(alpha(&of_diffusers, "transformer.x", 4), None);
        let of_peft = json!({"lora_alpha": 6, "use_rslora": true});
        assert_eq!(alpha(&of_peft, "base_model.model.x.to_q", 9), Some(18.0));
        assert_eq!(alpha(&json!([1]), "x", 9), None);
    }
}
