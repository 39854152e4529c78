//! A denoiser as a value, and its network joined with text encoders.

use std::sync::Arc;

use pipe_core::node::Value;
use pipe_core::run::RunError;
use pipe_data::weights::{Component, Family, Layout};
use pipe_networks::clip::Take;
use pipe_networks::pass::Policy;
use pipe_networks::{Builder, Conditions, Keeping, Model, Network, Slot, TextNetwork, TextOut, Weights, assemble};
use pipe_train::ddpm::{NoiseSchedule, Prediction};

use super::engine::Engine;
use super::family;
use super::lazy::Lazy;
use super::weights_source::Source;

/// A denoiser on an edge.
pub struct Denoiser {
    /// Family of models.
    pub family: Family,
    /// Sizes.
    pub network: Network,
    /// What a U-Net predicts; flow models predict velocities.
    pub prediction: Prediction,
    /// The U-Net was trained with a schedule that ends in pure noise.
    pub zero_terminal_snr: bool,
    /// What is kept for backward.
    pub policy: Policy,
    /// Where the weights come from.
    pub source: Source,
    /// Layout of the file they come from.
    pub layout: Option<Layout>,
    /// How the weights are kept.
    pub keeping: Keeping,
    /// Weights, loaded on demand.
    pub weights: Lazy<Weights>,
    /// Device.
    pub engine: Engine,
}

impl Value for Denoiser {
    fn unload(&self) {
        self.weights.unload();
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Denoiser {
    /// A denoiser whose weights load at first use.
    pub fn new(
        family: Family,
        network: Network,
        (prediction, zero_terminal_snr): (Prediction, bool),
        (policy, keeping): (Policy, Keeping),
        (source, layout): (Source, Option<Layout>),
        engine: Engine,
    ) -> Arc<Self> {
        let (load, shapes, load_engine, kept) = (source.clone(), network.shapes(), engine.clone(), keeping.clone());
        let component = family.denoiser();
        let weights = Lazy::new(move || load.load(component, &shapes, &load_engine.cx(), load_engine.compute, &kept));
        Arc::new(Denoiser {
            family,
            network,
            prediction,
            zero_terminal_snr,
            policy,
            source,
            layout,
            keeping,
            weights,
            engine,
        })
    }
    /// Its component.
    pub fn component(&self) -> Component {
        self.family.denoiser()
    }
    /// Name of its part in models and trainables.
    pub fn part(&self) -> &'static str {
        family::part(self.component())
    }
    /// The noise schedule of a U-Net.
    pub fn schedule(&self) -> NoiseSchedule {
        let schedule = NoiseSchedule::scaled_linear();
        if self.zero_terminal_snr { schedule.zero_terminal_snr() } else { schedule }
    }
}

/// A text encoder that runs inside the model.
pub struct Live<'a> {
    /// Which.
    pub component: Component,
    /// Sizes.
    pub network: &'a TextNetwork,
    /// Which of CLIP's states are taken.
    pub take: Take,
}

/// The segments of a denoiser and of text encoders before it.
pub struct DenoiserNet {
    /// Segments.
    pub model: Model,
    /// Noisy latent in.
    pub x: Slot,
    /// What the denoiser reads of the text: inputs where no encoder was named.
    pub conditions: Conditions,
    /// Outputs of each text encoder: inputs where it does not run inside.
    pub texts: Vec<(Component, TextOut)>,
    /// Prediction out.
    pub out: Slot,
}

impl DenoiserNet {
    /// Builds the segments. `live` encoders run inside, the outputs of `cached` ones are given. Without any,
    /// the joined conditions are given.
    pub fn new(family: Family, network: &Network, live: &[Live], cached: &[Component]) -> Result<Self, RunError> {
        let mut b = Builder::new();
        let mut texts: Vec<(Component, TextOut)> = Vec::new();
        for text in live {
            let out = text.network.build(&mut b, family::part(text.component), text.take);
            texts.push((text.component, out));
        }
        for &component in cached.iter().filter(|c| live.iter().all(|l| l.component != **c)) {
            let out = TextOut { hidden: b.input(), pooled: Some(b.input()) };
            texts.push((component, out));
        }
        let part = family::part(family.denoiser());
        b.part(part);
        let conditions = if texts.is_empty() {
            Conditions { context: b.input(), pooled: network.pooled().map(|_| b.input()) }
        } else {
            let outs = |kind| {
                let component = family::text_component(kind);
                texts.iter().find(|(c, _)| *c == component).map(|(_, out)| *out)
            };
            assemble(&mut b, network, &outs).map_err(|kind| {
                let wanted = family::encoder_type(family, family::text_component(kind));
                RunError::new("P0401", format!("{family} needs the outputs of `{wanted}`")).at("batch")
            })?
        };
        let x = b.input();
        let out = network.build(&mut b, part, x, conditions);
        Ok(DenoiserNet { model: b.finish(), x, conditions, texts, out })
    }

    /// Weights in the order of the model's parts.
    pub fn weights<'a>(&self, find: impl Fn(&str) -> Option<&'a Weights>, none: &'a Weights) -> Vec<&'a Weights> {
        self.model.parts.iter().map(|part| find(part).unwrap_or(none)).collect()
    }
}
