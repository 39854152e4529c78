//! Adapters: what of a model learns.

pub mod full;
pub mod lora;

use pipe_core::node::{Facts, InputFacts};
use pipe_networks::clip::ClipConfig;
use pipe_networks::unet::UnetConfig;
use pipe_networks::vae::VaeConfig;
use serde::de::DeserializeOwned;

/// A configuration carried by facts.
pub(crate) fn config<T: DeserializeOwned>(facts: &Facts, key: &str) -> Option<T> {
    serde_json::from_value(facts.get(key)?.clone()).ok()
}

/// Configurations of the inputs of an adapter.
pub(crate) struct Subjects {
    pub unet: Option<UnetConfig>,
    pub vae: Option<VaeConfig>,
    pub clip: Option<ClipConfig>,
}

impl Subjects {
    pub fn of(inputs: &InputFacts) -> Self {
        let model = inputs.one("model").map(|s| &s.facts);
        Subjects {
            unet: model.and_then(|f| config(f, "unet")),
            vae: model.and_then(|f| config(f, "vae")),
            clip: inputs.one("text").and_then(|s| config(&s.facts, "clip")),
        }
    }
}

/// Facts of the model that pass through an adapter.
pub(crate) fn pass_on(inputs: &InputFacts) -> Facts {
    let mut facts = inputs.one("model").map(|s| s.facts.clone()).unwrap_or_default();
    if let Some(text) = inputs.one("text") {
        for key in ["clip", "clip_skip"] {
            if let Some(value) = text.facts.get(key) {
                facts = facts.with(key, value.clone());
            }
        }
        facts = facts.with("trains_text", true);
    }
    facts
}
