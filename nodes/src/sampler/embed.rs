//! Embeddings of prompts: those of frozen text encoders are made once, before the model is loaded, and kept; a text
//! encoder that learns is asked each time.

use std::collections::{BTreeMap, HashMap};

use pipe_core::node::InputFacts;
use pipe_core::run::{BuildCx, RunError};
use pipe_data::weights::Component;

use crate::common::batch::{HostTensor, TextRows};
use crate::common::facts::{TextFacts, texts_of_port, trained_texts};
use crate::common::plain_value;
use crate::common::text::{Encoded, TextEncoder};
use crate::common::trainable::Trainable;

/// A text, and whether it is a negative prompt, which some encoders read otherwise.
pub type Text = (String, bool);

/// Embeddings of texts by frozen encoders.
#[derive(Clone, Default)]
pub struct Embedded {
    /// All text encoders of the prompts, in the document's order.
    pub components: Vec<Component>,
    rows: HashMap<(Component, Text), TextRows>,
}

plain_value!(Embedded);

/// Text encoders that do not learn, by the facts of the inputs.
pub fn frozen(inputs: &InputFacts) -> Vec<TextFacts> {
    let trained = inputs.one("model").map(|model| trained_texts(&model.facts)).unwrap_or_default();
    let learns = |kind| trained.iter().any(|text| text.kind == kind);
    texts_of_port(inputs, "text").into_iter().filter(|text| !learns(text.kind)).collect()
}

/// Bytes of the kept embeddings of so many texts.
pub fn kept_bytes(inputs: &InputFacts, texts: u64) -> u64 {
    frozen(inputs).iter().map(|text| 4 * text.floats() * texts).sum()
}

impl Embedded {
    /// Encodes texts by the encoders of port `text` that do not learn; each is freed before the next one loads.
    pub fn make(cx: &BuildCx, texts: &[Text]) -> Result<Self, RunError> {
        let frozen: Vec<Component> = frozen(cx.facts).iter().map(|text| text.component()).collect();
        let mut embedded = Embedded::default();
        for encoder in cx.typed::<TextEncoder>("text")? {
            embedded.components.push(encoder.component);
            if !frozen.contains(&encoder.component) {
                continue;
            }
            for (done, text) in texts.iter().enumerate() {
                if cx.stop.is_set() {
                    return Err(RunError::interrupted());
                }
                let rows = row(encoder.encode(std::slice::from_ref(&text.0), text.1, None)?);
                embedded.rows.insert((encoder.component, text.clone()), rows);
                cx.progress.tick("encode prompts", done as u64 + 1, texts.len() as u64);
            }
            encoder.weights.unload();
        }
        Ok(embedded)
    }

    /// Embeddings of a negative and a positive prompt, one batch of two for each encoder.
    pub fn pair(
        &self,
        trainable: &Trainable,
        negative: &str,
        positive: &str,
    ) -> Result<BTreeMap<Component, TextRows>, RunError> {
        let train = trainable.read();
        let mut all = BTreeMap::new();
        for component in &self.components {
            let one =
                |text: Text| match (trainable.trained_text(*component), self.rows.get(&(*component, text.clone()))) {
                    (Some(t), _) => Ok(row(t.encoder.encode_with(&t.weights, &[text.0], text.1, Some(&train))?)),
                    (None, Some(rows)) => Ok(rows.clone()),
                    (None, None) => {
                        let message = format!("the prompts were not encoded by the {}", component.name());
                        Err(RunError::new("P0902", message).at("text"))
                    }
                };
            let pair = [one((negative.to_owned(), true))?, one((positive.to_owned(), false))?];
            all.insert(*component, stacked(&pair));
        }
        Ok(all)
    }
}

/// One text's outputs on the host.
fn row(encoded: Encoded) -> TextRows {
    let host = |tensor: &pipe_ops::Tensor| HostTensor { values: tensor.to_vec(), shape: tensor.shape().to_vec() };
    TextRows {
        hidden: host(&encoded.hidden),
        pooled: encoded.pooled.as_ref().map(host),
        mask: encoded.mask.map(|mask| HostTensor { shape: vec![mask.len(), mask[0].len()], values: mask.concat() }),
    }
}

fn stacked(rows: &[TextRows; 2]) -> TextRows {
    let stack = |parts: [&HostTensor; 2]| {
        let mut shape = parts[0].shape.clone();
        shape[0] = parts.iter().map(|part| part.shape[0]).sum();
        HostTensor { values: parts.iter().flat_map(|part| part.values.iter().copied()).collect(), shape }
    };
    let [a, b] = rows;
    TextRows {
        hidden: stack([&a.hidden, &b.hidden]),
        pooled: a.pooled.as_ref().zip(b.pooled.as_ref()).map(|(a, b)| stack([a, b])),
        mask: a.mask.as_ref().zip(b.mask.as_ref()).map(|(a, b)| stack([a, b])),
    }
}
