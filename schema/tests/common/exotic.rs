//! A node type with every form of field that config structs take, more than any real one has.

use std::collections::BTreeMap;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx, Typed};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::registry::Registry;
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_core::settings::Every;
use schemars::JsonSchema;
use serde::Deserialize;

/// The toy registry's neighbour: one type.
pub fn registry() -> Registry {
    Registry::new(vec![Typed::<Exotic>::boxed(), Typed::<Plain>::boxed()])
}

/// How long.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// In steps.
    Steps(#[schemars(range(min = 1))] u32),
    /// As a part of the run.
    Ratio(#[schemars(range(min = 0, max = 1))] f32),
}

/// Off, a name, or a table.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Mixed {
    /// Off.
    Off(#[schemars(extend("const" = false))] bool),
    /// By name.
    Name(Named),
    /// Several.
    Many(#[schemars(length(max = 2))] Vec<u8>),
    /// In full.
    Full(Sizes),
}

/// Names.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Named {
    /// The first.
    First,
    Second,
    Third,
}

/// Sizes.
#[derive(Deserialize, JsonSchema)]
#[schemars(extend("x-exclusive" = [["min", "least"], ["max", "most"]]))]
pub struct Sizes {
    min: Option<i8>,
    least: Option<i32>,
    max: Option<u16>,
    most: Option<u64>,
    #[serde(default)]
    inner: Option<Box<Length>>,
}

/// A shape.
#[derive(Deserialize, JsonSchema)]
#[serde(tag = "shape", rename_all = "snake_case", deny_unknown_fields)]
pub enum Shape {
    /// Round.
    Circle {
        /// How large.
        #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 10))]
        radius: f64,
    },
    /// Of sizes.
    Box(Sizes),
    Empty,
}

/// Tables that differ by their fields alone.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Tables {
    One { a: u32, b: Option<String> },
    Two { a: String, c: Option<bool> },
}

/// One of three, and something else.
#[derive(Deserialize, JsonSchema)]
#[schemars(extend("x-one-of" = ["a", "b", "c"]))]
pub struct Three {
    a: Option<u32>,
    b: Option<u32>,
    c: Option<u32>,
    other: Option<bool>,
}

fn tenth() -> f32 {
    0.1
}

/// Everything.
#[derive(Deserialize, JsonSchema)]
pub struct ExoticConfig {
    /// A name of letters.
    #[schemars(regex(pattern = "^[a-z]+$"), length(min = 1, max = 8))]
    name: Option<String>,
    /// How long.
    length: Option<Length>,
    /// Something.
    mixed: Option<Mixed>,
    /// Shapes.
    #[serde(default)]
    shapes: Vec<Shape>,
    /// Weights by name.
    weights: Option<BTreeMap<String, f64>>,
    /// Shapes by name.
    named: Option<BTreeMap<String, Shape>>,
    /// Either table.
    tables: Option<Tables>,
    /// Three.
    three: Option<Three>,
    /// Anything.
    any: Option<serde_json::Value>,
    /// A pair and more.
    pair: Option<(u8, String)>,
    /// Names, each once.
    #[schemars(extend("uniqueItems" = true))]
    unique: Option<Vec<String>>,
    /// A part.
    #[serde(default = "tenth")]
    #[schemars(range(min = 0, max = 1))]
    part: f32,
    /// A name.
    choice: Option<Named>,
    /// When.
    every: Option<Every>,
    /// Signed.
    signed: Option<i64>,
}

pub struct Exotic;

impl Node for Exotic {
    type Config = ExoticConfig;
    const ABOUT: About = About {
        type_name: "test.exotic",
        summary: "Takes everything.",
        details: "",
        example: "all:\n  type: test.exotic\n  model: a\n",
    };
    fn inputs() -> Vec<Input> {
        vec![
            Input::one("model", &[PortType::Model], Rate::Step, "A model."),
            Input::optional("vae", &[PortType::Vae], Rate::Step, "A VAE."),
            Input::many("text", &[PortType::TextEncoder, PortType::Samples], Rate::Step, "Encoders."),
        ]
    }
    fn outputs() -> Vec<Output> {
        Vec::new()
    }
    fn check(_: &ExoticConfig, _: &mut CheckCx) -> Facts {
        Facts::new()
    }
    fn plan(_: &ExoticConfig, _: &PlanCx) -> NodePlan {
        NodePlan::default()
    }
    fn build(_: ExoticConfig, _: &mut BuildCx) -> Result<Built, RunError> {
        Ok(Built::default())
    }
}

#[derive(Deserialize, JsonSchema)]
pub struct PlainConfig {}

/// A type without fields whose name begins another's.
pub struct Plain;

impl Node for Plain {
    type Config = PlainConfig;
    const ABOUT: About =
        About { type_name: "test.exo", summary: "Takes nothing.", details: "", example: "a:\n  type: test.exo\n" };
    fn inputs() -> Vec<Input> {
        Vec::new()
    }
    fn outputs() -> Vec<Output> {
        Vec::new()
    }
    fn check(_: &PlainConfig, _: &mut CheckCx) -> Facts {
        Facts::new()
    }
    fn plan(_: &PlainConfig, _: &PlanCx) -> NodePlan {
        NodePlan::default()
    }
    fn build(_: PlainConfig, _: &mut BuildCx) -> Result<Built, RunError> {
        Ok(Built::default())
    }
}
