//! What the model nodes with a U-Net share: hints, sizes, which family a file is.

use pipe_data::weights::{ComponentWeights, Family, detect_set};
use pipe_networks::Network;
use pipe_networks::unet::{UnetConfig, UnetHints};
use pipe_train::ddpm::Prediction;
use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{Inferred, Objective};
use crate::common::errors;
use crate::common::weights_source::{config_list, config_usize};

/// What shapes cannot tell.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct Hints {
    /// Attention heads of each level; one number stands for all. Default: from `config.json`, else 8 in SD 1.x and heads of width 64 in the others.
    #[serde(default)]
    #[schemars(length(min = 1, max = 6))]
    heads: Option<Vec<u64>>,
    /// Groups of the group norms. Default: from `config.json`, else 32.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1024))]
    norm_groups: Option<u64>,
}

/// Reads the U-Net of a family from a file.
pub fn infer(file: &ComponentWeights, family: Family, hints: Option<&Hints>) -> Inferred {
    if let Some(what) = wrong_family(file, family) {
        return Err(("P0401", format!("the file is {what}, not {family}")));
    }
    let json = file.config.as_ref();
    let own = hints.and_then(|h| h.heads.as_ref()).map(|list| list.iter().map(|&n| n as usize).collect());
    let unet_hints = UnetHints {
        // Diffusers calls the number of heads `attention_head_dim`.
        heads: own.or(config_list(json, "attention_head_dim")?),
        head_dim: None,
        groups: hints.and_then(|h| h.norm_groups.map(|n| n as usize)).or(config_usize(json, "norm_num_groups")?),
        size_embedding: config_usize(json, "addition_time_embed_dim")?,
    };
    UnetConfig::infer(file, &unet_hints).map(Network::Unet).map_err(errors::sizes)
}

/// What a U-Net of another family is, by its weights' shapes.
fn wrong_family(file: &ComponentWeights, family: Family) -> Option<String> {
    let sdxl = file.shape("add_embedding.linear_1.weight").is_some();
    match (sdxl, family) {
        (true, Family::Sd1 | Family::Sd2) => return Some("an SDXL model".into()),
        (false, Family::Sdxl) => return Some("a U-Net without size conditions (SD 1.x or 2.x)".into()),
        _ => {}
    }
    let context = file.shape("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")?;
    match (context.get(1), family) {
        (Some(1024), Family::Sd1) => return Some("a Stable Diffusion 2.x model".into()),
        (Some(768), Family::Sd2) => return Some("a Stable Diffusion 1.x model".into()),
        (Some(1280), Family::Sdxl) => return Some("an SDXL refiner".into()),
        _ => {}
    }
    match file.shape("conv_in.weight")?.get(1) {
        Some(9) => Some("an inpainting model (9 input channels)".into()),
        Some(8) => Some("an instruct-pix2pix model (8 input channels)".into()),
        _ => None,
    }
}

/// What the document says a model predicts, else what the file's marks or its folder's scheduler say.
pub fn objective(
    file: &ComponentWeights,
    prediction: Option<Prediction>,
    zero_terminal_snr: Option<bool>,
) -> Objective {
    let marks = detect_set(file.set());
    Objective {
        prediction: prediction.or_else(|| known_prediction(file)).unwrap_or_default(),
        zero_terminal_snr: zero_terminal_snr.unwrap_or(marks.zero_terminal_snr),
    }
}

/// What the file says it predicts: a `v_pred` mark, or `scheduler/scheduler_config.json` of its pipeline folder.
pub fn known_prediction(file: &ComponentWeights) -> Option<Prediction> {
    if detect_set(file.set()).v_pred {
        return Some(Prediction::V);
    }
    // The set's path is the component's folder of a pipeline, or the file in it.
    let folder = file.set().path().ancestors().skip(1).take(2).find(|f| f.join("model_index.json").is_file())?;
    let text = std::fs::read_to_string(folder.join("scheduler/scheduler_config.json")).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    match json.get("prediction_type")?.as_str()? {
        "v_prediction" => Some(Prediction::V),
        "epsilon" => Some(Prediction::Epsilon),
        _ => None,
    }
}
