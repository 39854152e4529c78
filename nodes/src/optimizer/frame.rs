//! Fields that every optimizer has.

use pipe_train::schedule::{Length, Schedule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rates of the text encoders, clipping and schedule.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct Frame {
    /// Learning rate of the text encoders. Default: `learning_rate`.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub text_encoder_learning_rate: Option<f64>,
    /// Learning rate of the second text encoder, CLIP-G. Default: `text_encoder_learning_rate`.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub text_encoder_2_learning_rate: Option<f64>,
    /// Learning rate of the third text encoder, T5. Default: `text_encoder_learning_rate`.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub text_encoder_3_learning_rate: Option<f64>,
    /// From here on the text encoders stay as they are, as they were trained so far, and only the rest learns: after so
    /// many `steps`, or after a part of the run, `ratio`. Default: they learn to the end.
    #[serde(default)]
    pub stop_text_encoder_training: Option<Length>,
    /// Largest L2 norm of all gradients together; larger ones are scaled down. `false` turns it off. With
    /// `fused_backward` it is that of each tensor's gradient. Default 1.0.
    #[serde(default)]
    pub max_grad_norm: Limit,
    /// Full fine-tuning: each weight is clipped and updated on the way back as soon as its gradient is complete, and the
    /// gradient is freed, so that those of the whole model are never in memory at once. Default false.
    #[serde(default)]
    pub fused_backward: bool,
    /// Learning rate over time, as a factor of every group's rate. Default constant.
    #[serde(default)]
    pub schedule: Schedule,
}

/// A number, or `false` for none.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Limit {
    /// The limit.
    At(#[schemars(range(min = 0.000001))] f64),
    /// No limit.
    Off(False),
}

impl Limit {
    /// The limit, if there is one.
    pub fn get(self) -> Option<f64> {
        match self {
            Limit::At(limit) => Some(limit),
            Limit::Off(_) => None,
        }
    }
}

impl Default for Limit {
    fn default() -> Self {
        Limit::At(1.0)
    }
}

/// The value `false`.
#[derive(Clone, Copy, Debug)]
pub struct False;

impl Serialize for False {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bool(false)
    }
}

impl<'de> Deserialize<'de> for False {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match bool::deserialize(d)? {
            false => Ok(False),
            true => Err(serde::de::Error::custom("`true` is no limit; give a number")),
        }
    }
}

impl JsonSchema for False {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "False".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "boolean", "const": false })
    }
}
