//! Learning rates of parameter groups, before the schedule.

use std::collections::{BTreeMap, BTreeSet};

use pipe_core::node::Facts;
use serde::{Deserialize, Serialize};

use super::frame::Frame;
use crate::common::facts::read;

/// The learning rate of a tensor that does not simply follow its part's, such as LoRA+'s `up` factors. Adapters say it
/// in the fact `rates`: a table from a tensor's key to this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyRate {
    /// Name of its parameter group.
    pub group: String,
    /// Multiplies the rate.
    pub factor: f64,
    /// A rate in place of the part's.
    pub absolute: Option<f64>,
    /// The adapter's field that says so, as a path from the document's root.
    #[serde(default)]
    pub field: String,
}

/// Rates by part of the model and by tensor.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// `learning_rate`; nothing where the optimizer sets its own.
    pub base: Option<f64>,
    /// Of the three text encoders, where given.
    text: [Option<f64>; 3],
    /// Of single tensors.
    own: BTreeMap<String, KeyRate>,
}

/// Fields of the text encoders' rates, and the part each is of.
pub const TEXT: [(&str, &str); 3] = [
    ("text_encoder_learning_rate", "text_encoder"),
    ("text_encoder_2_learning_rate", "text_encoder_2"),
    ("text_encoder_3_learning_rate", "text_encoder_3"),
];

/// Whether a part of the model is a text encoder.
pub fn is_text(part: &str) -> bool {
    TEXT.iter().any(|(_, of)| *of == part)
}

/// The text encoders' parts.
pub fn texts() -> BTreeSet<String> {
    TEXT.iter().map(|(_, part)| part.to_string()).collect()
}

impl Rates {
    /// From an optimizer's fields and the facts of its loss.
    pub fn new(base: Option<f64>, frame: &Frame, facts: &Facts) -> Self {
        let text =
            [frame.text_encoder_learning_rate, frame.text_encoder_2_learning_rate, frame.text_encoder_3_learning_rate];
        Rates { base, text, own: read(facts, "rates").unwrap_or_default() }
    }

    /// The field that gives a part's rate, and the rate, where one does.
    pub fn given(&self, part: &str) -> Option<(&'static str, f64)> {
        let place = TEXT.iter().position(|(_, of)| *of == part)?;
        // The first field is of all text encoders without one of their own.
        [place, 0].into_iter().find_map(|i| Some((TEXT[i].0, self.text[i]?)))
    }

    /// The rate of a part of the model.
    pub fn of(&self, part: &str) -> Option<f64> {
        self.given(part).map(|(_, rate)| rate).or(self.base)
    }

    /// Name and rate of the group that a tensor of a part belongs to.
    pub fn group(&self, part: &str, key: &str) -> (String, Option<f64>) {
        match self.own.get(key) {
            Some(own) => (own.group.clone(), own.absolute.or(self.of(part)).map(|rate| rate * own.factor)),
            None => (part.to_string(), self.of(part)),
        }
    }

    /// Fields that are given, with their rates and parts.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &'static str, f64)> {
        TEXT.iter().zip(self.text).filter_map(|((field, part), rate)| Some((*field, *part, rate?)))
    }

    /// What an adapter says of a tensor.
    pub fn own(&self, key: &str) -> Option<&KeyRate> {
        self.own.get(key)
    }

    /// Everything that an adapter says of tensors.
    pub fn all_own(&self) -> impl Iterator<Item = &KeyRate> {
        self.own.values()
    }

    /// Whether a tensor of a part learns at `learning_rate`, or at a multiple of it.
    pub fn follows_base(&self, part: &str, key: &str) -> bool {
        self.own(key).is_none_or(|own| own.absolute.is_none()) && self.given(part).is_none()
    }
}
