//! The CLIP text encoder as a value.

use std::sync::Arc;

use pipe_core::node::Value;
use pipe_core::run::RunError;
use pipe_data::tokenizer::ClipTokenizer;
use pipe_data::weights::Component;
use pipe_networks::clip::{ClipConfig, WINDOW};
use pipe_networks::pass::{Policy, Setting};
use pipe_networks::{Builder, Inputs, Model, Slot, Trainables, Weights};
use pipe_ops::Tensor;

use super::engine::Engine;
use super::lazy::Lazy;
use super::weights_source::Source;

/// End-of-text token, also CLIP-L's padding.
pub const EOS: u32 = 49407;

/// A text encoder on an edge.
pub struct TextEncoder {
    /// Sizes.
    pub config: ClipConfig,
    /// 1 takes the last layer, 2 the one before.
    pub clip_skip: usize,
    /// Where the weights come from.
    pub source: Source,
    /// Names the weights' content and the layer taken.
    pub fingerprint: String,
    /// Weights, loaded on demand, in the compute type.
    pub weights: Lazy<Weights>,
    /// Device.
    pub engine: Engine,
    model: Model,
    out: Slot,
}

impl Value for TextEncoder {
    fn unload(&self) {
        self.weights.unload();
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl TextEncoder {
    /// A text encoder whose weights load at first use.
    pub fn new(config: ClipConfig, clip_skip: usize, source: Source, engine: Engine) -> Result<Arc<Self>, RunError> {
        let fingerprint = format!("{} skip {clip_skip}", source.fingerprint(Component::TextEncoder)?);
        let (load_source, load_engine, shapes) = (source.clone(), engine.clone(), config.shapes());
        let weights = Lazy::new(move || {
            load_source.load(Component::TextEncoder, &shapes, &load_engine.cx(), load_engine.compute)
        });
        let mut b = Builder::new();
        let out = config.build(&mut b, "text_encoder", clip_skip);
        Ok(Arc::new(TextEncoder { config, clip_skip, source, fingerprint, weights, engine, model: b.finish(), out }))
    }

    /// Token ids of a caption: one window of 77, padded with the end token.
    pub fn tokens(&self, caption: &str) -> Vec<u32> {
        ClipTokenizer::embedded().encode(caption, WINDOW, EOS)
    }

    /// Hidden states `[B, 77, D]` of captions, with what learns if given.
    pub fn encode(&self, captions: &[String], train: Option<&Trainables>) -> Result<Tensor, RunError> {
        let weights = self.weights.get()?;
        Ok(self.encode_with(&weights, captions, train))
    }

    /// As [`TextEncoder::encode`] with given weights.
    pub fn encode_with(&self, weights: &Weights, captions: &[String], train: Option<&Trainables>) -> Tensor {
        let inputs = Inputs { tokens: captions.iter().map(|c| self.tokens(c)).collect(), ..Default::default() };
        let setting =
            Setting { model: &self.model, weights: vec![weights], train, inputs: &inputs, policy: Policy::Keep };
        setting.forward(&self.engine.cx(), Vec::new(), &[self.out], false).output(self.out).clone()
    }
}
