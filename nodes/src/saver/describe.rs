//! The JSON files of a Diffusers folder, from a model's weights alone: for tools that never build the model.

use pipe_data::weights::{Component, ComponentWeights, Family};
use pipe_networks::clip::{Activation, ClipConfig};
use pipe_networks::flux::FluxConfig;
use pipe_networks::gemma::GemmaConfig;
use pipe_networks::lumina_next::LuminaNextConfig;
use pipe_networks::lumina2::Lumina2Config;
use pipe_networks::mmdit::MmditConfig;
use pipe_networks::t5::T5Config;
use pipe_networks::vae::VaeConfig;
use pipe_networks::{Network, TextNetwork};
use pipe_train::ddpm::Prediction;
use serde_json::{Value, json};

use super::parts::{network_config, scheduler_of, text_config, vae_config};
use crate::common::family::latent_scale;
use crate::model::unet;

/// `config.json` of a part: its own where it comes from a folder, else from its shapes. What shapes cannot tell (heads of
/// reduced models, groups of norms) is that of the public models.
///
/// # Errors
/// Which tensor is missing or odd.
pub fn config(family: Family, part: &ComponentWeights) -> Result<Value, String> {
    if let Some(own) = &part.config {
        return Ok(own.clone());
    }
    let clip = |activation, projected: bool| -> Result<Value, String> {
        let mut config = ClipConfig::infer(part, None, activation)?;
        if !projected {
            config.projection = None;
        } else if config.projection.is_none() {
            // Made up as the identity where a folder needs one.
            config.projection = Some(config.width);
        }
        Ok(text_config(&TextNetwork::Clip(config)))
    };
    let network = match part.component {
        Component::Vae => {
            let (scale, shift) = latent_scale(family);
            return Ok(vae_config(&VaeConfig::infer(part, None)?, scale, shift));
        }
        Component::TextEncoder if family == Family::Sd2 => return clip(Activation::Gelu, false),
        Component::TextEncoder => return clip(Activation::QuickGelu, family == Family::Sd3),
        Component::ClipG => return clip(Activation::Gelu, true),
        Component::T5 => return Ok(text_config(&TextNetwork::T5(T5Config::infer(part)?))),
        Component::Gemma => return Ok(text_config(&TextNetwork::Gemma(GemmaConfig::infer(part, None)?))),
        Component::Unet => unet::infer(part, family, None).map_err(|(_, why)| why)?,
        Component::Mmdit => Network::Mmdit(MmditConfig::infer(part, None)?),
        Component::Flux => Network::Flux(FluxConfig::infer(part, None)?),
        Component::Lumina2 => Network::Lumina2(Lumina2Config::infer(part, None)?),
        Component::LuminaNext => Network::LuminaNext(LuminaNextConfig::infer(part)?),
    };
    Ok(network_config(&network))
}

/// What the file of a denoiser says of its training: whether it predicts v, and whether its schedule ends in pure noise.
pub fn objective(denoiser: &ComponentWeights) -> (bool, bool) {
    let found = unet::objective(denoiser, None, None);
    (found.prediction == Prediction::V, found.zero_terminal_snr)
}

/// Class and configuration of a family's scheduler.
pub fn scheduler(family: Family, denoiser: &ComponentWeights) -> (&'static str, Value) {
    let (v, zero) = objective(denoiser);
    let prediction = if v { Prediction::V } else { Prediction::Epsilon };
    scheduler_of(family, prediction, zero, denoiser.shape("guidance_in.in_layer.weight").is_some())
}

/// `model_index.json` of a pipeline of which no part is there yet.
pub fn empty_index(family: Family) -> Value {
    let mut index = json!({"_class_name": family.pipeline(), "_diffusers_version": "0.30.0"});
    if matches!(family, Family::Sd1 | Family::Sd2) {
        index["requires_safety_checker"] = json!(false);
    }
    // Parts a pipeline of this family asks for that are not in the folder.
    let absent: &[&str] = match family {
        Family::Sd1 | Family::Sd2 => &["feature_extractor", "safety_checker", "tokenizer"],
        Family::Sdxl => &["feature_extractor", "image_encoder", "tokenizer", "tokenizer_2"],
        Family::Sd3 => &["tokenizer", "tokenizer_2", "tokenizer_3"],
        Family::Flux => &["tokenizer", "tokenizer_2"],
        _ => &["tokenizer"],
    };
    let own = family.text_encoders().iter().chain(&[Component::Vae]).filter_map(|c| family.folder(*c));
    for part in absent.iter().copied().chain(own) {
        index[part] = json!([null, null]);
    }
    index
}
