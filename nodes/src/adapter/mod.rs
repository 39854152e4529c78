//! Adapters: what of a model learns.

mod base;
mod blocks;
pub mod boft;
pub mod common;
pub mod diag_oft;
pub mod diff;
pub mod dora;
pub mod dylora;
mod expressions;
mod extras;
mod file;
mod form;
pub mod full;
mod full_blocks;
pub mod glora;
pub mod ia3;
mod layer_rates;
pub mod loha;
pub mod lokr;
pub mod lora;
pub mod oft;
mod resolve;
pub mod size;
mod start;
mod targeting;
mod values;

use pipe_core::node::{CheckCx, Facts, InputFacts};
use pipe_core::run::{BuildCx, RunError};
use pipe_data::weights::{Component, Family};
use pipe_networks::Network;
use pipe_networks::Shapes;
use pipe_networks::vae::VaeConfig;

use crate::common::facts::{TextFacts, network_of, read, texts_of_port};
use crate::common::family;
use crate::common::text::TextEncoder;
use crate::common::trainable::Held;

/// A denoiser and the text encoders that are to learn with it, as facts or values know them.
pub struct Parts {
    /// Family of the denoiser.
    pub family: Family,
    /// Its sizes.
    pub network: Network,
    /// The text encoders that learn, with their tensors.
    pub texts: Vec<(Component, Shapes)>,
}

impl Parts {
    /// From the facts of an adapter's inputs, where the model is a denoiser.
    pub fn of(inputs: &InputFacts) -> Option<Self> {
        let facts = &inputs.one("model")?.facts;
        let family = family::of_id(facts.str("architecture")?)?;
        let texts = texts_of_port(inputs, "text");
        let texts = texts.iter().map(|t| (t.component(), t.network.shapes())).collect();
        Some(Parts { family, network: network_of(facts)?, texts })
    }

    /// Every component with its tensors, the text encoders first.
    pub fn components(&self) -> Vec<(Component, Shapes)> {
        let mut list = self.texts.clone();
        list.push((self.family.denoiser(), self.network.shapes()));
        list
    }
}

/// The autoencoder on the model port.
pub(crate) fn vae_of(inputs: &InputFacts) -> Option<VaeConfig> {
    read(&inputs.one("model")?.facts, "vae")
}

/// Text encoders that the family does not have, or has twice; `whole` is whether all of their weights would learn.
pub(crate) fn check_texts(cx: &mut CheckCx, whole: bool) {
    let texts: Vec<TextFacts> = texts_of_port(cx.inputs, "text");
    let Some(parts) = Parts::of(cx.inputs) else { return };
    for (i, text) in texts.iter().enumerate() {
        let component = text.component();
        if !parts.family.has(component) {
            let message = format!("{} has no {}", parts.family, component.name());
            cx.error("P0401", "text", message, None);
        } else if whole && component == Component::Gemma {
            let message = "Gemma is not trained as a whole";
            let help = "leave `text` out and cache its outputs, or train an adapter on it: `adapter.lora`";
            cx.error("P0401", "text", message, Some(help.into()));
        } else if texts[..i].iter().any(|t| t.kind == text.kind) {
            cx.error("P0401", "text", format!("two of the text encoders are a {}", component.name()), None);
        }
    }
}

/// Facts of the model that pass through an adapter, with the text encoders that learn.
pub(crate) fn pass_on(inputs: &InputFacts) -> Facts {
    let facts = inputs.one("model").map(|s| s.facts.clone()).unwrap_or_default();
    let texts = texts_of_port(inputs, "text");
    facts
        .with("trained_texts", serde_json::to_value(&texts).unwrap_or_default())
        .with("trained_texts_unknown", inputs.many("text").len() > texts.len())
}

/// The text encoders on the port, as values.
pub(crate) fn texts_of(cx: &BuildCx) -> Result<Vec<Held<TextEncoder>>, RunError> {
    Ok(Held::<TextEncoder>::all(cx, "text"))
}
