//! Values of adapter fields that several shapes have.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// The value `false`.
#[derive(Clone, Copy, Debug)]
pub struct No;

impl<'de> Deserialize<'de> for No {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match bool::deserialize(d)? {
            false => Ok(No),
            true => Err(serde::de::Error::custom("`true` is no rank; give a number")),
        }
    }
}

impl JsonSchema for No {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "No".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "boolean", "const": false })
    }
}

/// A rank, a rank with its α, or `false` for no adapter.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Size {
    /// No adapter.
    Off(No),
    /// The rank; α is the adapter's `alpha`, for 3×3 convolutions `conv.alpha`; else this rank.
    Rank(#[schemars(range(min = 1, max = 4096))] u64),
    /// Rank and α.
    Both(RankAlpha),
}

/// Rank and α.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub struct RankAlpha {
    /// Rank.
    #[schemars(range(min = 1, max = 4096))]
    pub rank: u64,
    /// Scale numerator α. Default: the adapter's `alpha`, for 3×3 convolutions `conv.alpha`; else this rank.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 1000000.0))]
    pub alpha: Option<f64>,
}

impl Size {
    /// Rank and α, or nothing for `false`.
    pub fn get(self) -> Option<RankAlpha> {
        match self {
            Size::Off(_) => None,
            Size::Rank(rank) => Some(RankAlpha { rank, alpha: None }),
            Size::Both(both) => Some(both),
        }
    }
}

/// A value for each of some blocks: a table by block or range, or a list of all blocks.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ByBlock<T> {
    /// By name, as in `down.4`, `double.0-9` or `mid`.
    Some(BTreeMap<String, T>),
    /// One for each block of the model.
    All(Vec<T>),
}

/// Multiplies a learning rate: one number for the blocks, one for each of them, or a curve over them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Weight {
    /// The same for each block.
    One(#[schemars(range(min = 0.0, max = 1000.0))] f64),
    /// One for each block.
    Each(#[schemars(inner(range(min = 0.0, max = 1000.0)))] Vec<f64>),
    /// A curve.
    Curve(Curve),
}

/// A curve over blocks.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub struct Curve {
    /// Its form; with `x` from 0 at the first block to 1 at the last.
    pub curve: Form,
    /// Added to it. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub base: f64,
}

/// The form of a curve.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// `sin(πx/2)`, rising.
    Sine,
    /// `sin(π(1 − x)/2)`, falling.
    Cosine,
    /// `x`.
    Linear,
    /// `1 − x`.
    ReverseLinear,
    /// 0.
    Zeros,
}

impl Weight {
    /// The weights of `n` blocks in order, or how many numbers there are instead.
    pub fn over(&self, n: usize) -> Result<Vec<f64>, usize> {
        match self {
            Weight::One(w) => Ok(vec![*w; n]),
            Weight::Each(list) if list.len() == n => Ok(list.clone()),
            Weight::Each(list) => Err(list.len()),
            Weight::Curve(Curve { curve, base }) => Ok((0..n)
                .map(|i| {
                    let x = if n > 1 { i as f64 / (n - 1) as f64 } else { 0.0 };
                    let half = std::f64::consts::FRAC_PI_2;
                    let y = match curve {
                        Form::Sine => (half * x).sin(),
                        Form::Cosine => (half * (1.0 - x)).sin(),
                        Form::Linear => x,
                        Form::ReverseLinear => 1.0 - x,
                        Form::Zeros => 0.0,
                    };
                    y + base
                })
                .collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_over_twelve_blocks() {
        let curve = |curve, base| Weight::Curve(Curve { curve, base }).over(12).unwrap();
        let sine = curve(Form::Sine, 0.25);
        assert!((sine[0] - 0.25).abs() < 1e-12 && (sine[11] - 1.25).abs() < 1e-12);
        assert!((sine[4] - (std::f64::consts::PI * 4.0 / 11.0 / 2.0).sin() - 0.25).abs() < 1e-12);
        let cosine: Vec<f64> = curve(Form::Cosine, 0.25).into_iter().rev().collect();
        assert!(sine.iter().zip(&cosine).all(|(a, b)| (a - b).abs() < 1e-12));
        assert_eq!(curve(Form::Linear, 0.0)[11], 1.0);
        assert_eq!(curve(Form::ReverseLinear, 0.5)[0], 1.5);
        assert_eq!(curve(Form::Zeros, 0.5), vec![0.5; 12]);
        assert_eq!(Weight::Each(vec![1.0]).over(12).unwrap_err(), 1);
    }
}
