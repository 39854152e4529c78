//! Toy nodes that only give values: loaders, encoders, a cache, models.

use std::any::Any;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::note;
use crate::node::{About, CheckCx, Facts, Node, PlanCx, SharedValue, Value};
use crate::plan::{Bytes, Category, NodePlan};
use crate::port::{Input, Output, PortType, Rate};
use crate::run::{BuildCx, Built, RunError};

const MIB: u64 = 1 << 20;

/// A value that tells of its life.
pub(super) struct Toy(pub String);

impl Value for Toy {
    fn unload(&self) {
        note(format!("unload {}", self.0));
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        note(format!("drop {}", self.0));
    }
}

pub(super) fn toy(cx: &BuildCx) -> SharedValue {
    note(format!("build {}", cx.name));
    Arc::new(Toy(cx.name.to_owned()))
}

pub(super) fn toy_named(name: &str) -> SharedValue {
    Arc::new(Toy(name.to_owned()))
}

pub(super) fn one(cx: &BuildCx) -> Built {
    Built { outputs: vec![toy(cx)], ..Built::default() }
}

pub(super) fn bytes(category: Category, mib: u64) -> Vec<Bytes> {
    vec![Bytes { category, bytes: mib * MIB }]
}

pub(super) const fn about(type_name: &'static str, summary: &'static str, example: &'static str) -> About {
    About { type_name, summary, details: "A toy.", example }
}

/// A weights file: `missing.safetensors` is missing.
fn weights_exist(text: &str, cx: &mut CheckCx) {
    if text.contains("missing") {
        let help = "relative paths start from the folder of the document";
        cx.error("P0301", "weights", format!("there is no file `{text}`"), Some(help.into()));
    }
}

/// How captions are found.
#[derive(Deserialize, Serialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum Captions {
    /// A text file beside each image.
    #[default]
    Files,
    /// The file's own name.
    FileName,
    /// No captions.
    None,
}

/// Aspect-ratio buckets.
#[derive(Deserialize, Serialize, JsonSchema)]
pub struct Buckets {
    /// Smallest side.
    #[schemars(range(min = 64))]
    pub min: u32,
    /// Largest side.
    #[schemars(range(min = 64, max = 4096))]
    pub max: u32,
    /// Sides are multiples of this. Default 64.
    #[serde(default = "step")]
    #[schemars(range(min = 8))]
    pub step: u32,
}

fn step() -> u32 {
    64
}

#[derive(Deserialize, Serialize, JsonSchema)]
pub struct ImagesConfig {
    /// Folder of the images.
    path: String,
    /// Side in pixels. Default 512.
    #[serde(default = "resolution")]
    #[schemars(range(min = 64, max = 4096))]
    resolution: u32,
    /// How often each image counts in an epoch. Default 1.
    #[serde(default = "repeats")]
    #[schemars(range(min = 1))]
    repeats: u16,
    /// Where captions come from.
    #[serde(default)]
    captions: Captions,
    /// Several aspect ratios.
    #[serde(default)]
    buckets: Option<Buckets>,
    /// Mirror images at random.
    #[serde(default)]
    flip: bool,
}

fn resolution() -> u32 {
    512
}

fn repeats() -> u16 {
    1
}

/// `loader.images`
pub struct Images;

impl Node for Images {
    type Config = ImagesConfig;
    const ABOUT: About =
        about("loader.images", "Images of a folder.", "photos:\n  type: loader.images\n  path: ./photos\n");
    fn inputs() -> Vec<Input> {
        Vec::new()
    }
    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Samples, Rate::Setup, "The images.")]
    }
    fn check(config: &ImagesConfig, cx: &mut CheckCx) -> Facts {
        if config.path.contains("missing") {
            cx.error("P0301", "path", format!("there is no folder `{}`", config.path), None);
        }
        if let Some(buckets) = &config.buckets
            && buckets.min > buckets.max
        {
            cx.error("P0403", "buckets.min", "`min` is larger than `max`", None);
        }
        Facts::new().with("images", 20)
    }
    fn plan(_: &ImagesConfig, _: &PlanCx) -> NodePlan {
        NodePlan { epochs: Some(2.5), ..NodePlan::default() }
    }
    fn build(_: ImagesConfig, cx: &mut BuildCx) -> Result<Built, RunError> {
        Ok(one(cx))
    }
}

#[derive(Deserialize, Serialize, JsonSchema)]
pub struct WeightsConfig {
    /// A safetensors file.
    weights: String,
    /// Longest caption in tokens. Default 77.
    #[serde(default = "tokens")]
    #[schemars(range(min = 1, max = 512))]
    max_tokens: u32,
}

fn tokens() -> u32 {
    77
}

#[derive(Deserialize, Serialize, JsonSchema)]
pub struct VaeConfig {
    /// A safetensors file.
    weights: String,
    /// Decode in tiles of this many pixels, or `false`.
    #[serde(default)]
    tiling: Option<Tiling>,
}

/// A size or `false`.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Tiling {
    /// Off.
    Off(#[schemars(extend("const" = false))] bool),
    /// Pixels.
    Size(#[schemars(range(min = 64))] u32),
}

macro_rules! giver {
    ($node:ident, $config:ty, $name:literal, $summary:literal, $ty:ident, $mib:literal, $facts:expr) => {
        #[doc = concat!("`", $name, "`")]
        pub struct $node;

        impl Node for $node {
            type Config = $config;
            const ABOUT: About = about($name, $summary, concat!("a:\n  type: ", $name, "\n  weights: a.safetensors\n"));
            fn inputs() -> Vec<Input> {
                Vec::new()
            }
            fn outputs() -> Vec<Output> {
                vec![Output::single(PortType::$ty, Rate::Setup, $summary)]
            }
            fn check(config: &$config, cx: &mut CheckCx) -> Facts {
                weights_exist(&config.weights, cx);
                $facts(config)
            }
            fn plan(_: &$config, _: &PlanCx) -> NodePlan {
                NodePlan { resident: bytes(Category::Weights, $mib), ..NodePlan::default() }
            }
            fn build(_: $config, cx: &mut BuildCx) -> Result<Built, RunError> {
                Ok(one(cx))
            }
        }
    };
}

fn vae_facts(config: &VaeConfig) -> Facts {
    Facts::new().with("latent_channels", if config.weights.contains("16") { 16 } else { 4 })
}

giver!(Vae, VaeConfig, "encoder.vae", "An image autoencoder.", Vae, 160, vae_facts);
giver!(Text, WeightsConfig, "encoder.text", "A text encoder.", TextEncoder, 240, |_: &WeightsConfig| Facts::new());
giver!(Unet, UnetConfig, "model.unet", "A denoising network.", Model, 1700, |_: &UnetConfig| Facts::new()
    .with("latent_channels", 4));

/// Storage of frozen weights.
#[derive(Deserialize, Serialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    #[default]
    Bf16,
    Fp8,
    Nf4,
}

#[derive(Deserialize, Serialize, JsonSchema)]
pub struct UnetConfig {
    /// A safetensors file.
    weights: String,
    /// Storage of the frozen weights.
    #[serde(default)]
    storage: Storage,
}

#[derive(Deserialize, Serialize, JsonSchema)]
pub struct Empty {}

/// `model.bundle`: several outputs, two of one type.
pub struct Bundle;

impl Node for Bundle {
    type Config = UnetConfig;
    const ABOUT: About =
        about("model.bundle", "A network with its encoders.", "all:\n  type: model.bundle\n  weights: a\n");
    fn inputs() -> Vec<Input> {
        Vec::new()
    }
    fn outputs() -> Vec<Output> {
        let output = |name, ty| Output { name, ty, rate: Rate::Setup, doc: "A part." };
        vec![
            output("model", PortType::Model),
            output("vae", PortType::Vae),
            output("clip_l", PortType::TextEncoder),
            output("clip_g", PortType::TextEncoder),
        ]
    }
    fn check(config: &UnetConfig, cx: &mut CheckCx) -> Facts {
        weights_exist(&config.weights, cx);
        Facts::new()
    }
    fn plan(_: &UnetConfig, _: &PlanCx) -> NodePlan {
        NodePlan::default()
    }
    fn build(_: UnetConfig, cx: &mut BuildCx) -> Result<Built, RunError> {
        Ok(Built { outputs: (0..4).map(|_| toy(cx)).collect(), ..Built::default() })
    }
}

/// `cacher.memory`
pub struct Cache;

impl Node for Cache {
    type Config = Empty;
    const ABOUT: About = about(
        "cacher.memory",
        "Keeps encoded images in memory.",
        "cached:\n  type: cacher.memory\n  samples: photos\n  vae: vae\n",
    );
    fn inputs() -> Vec<Input> {
        vec![
            Input::one("samples", &[PortType::Samples], Rate::Sample, "Images to encode."),
            Input::one("vae", &[PortType::Vae], Rate::Sample, "Encodes the images."),
            Input::many("text", &[PortType::TextEncoder], Rate::Sample, "Encode the captions."),
        ]
    }
    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Batches, Rate::Setup, "Encoded batches.")]
    }
    fn check(_: &Empty, cx: &mut CheckCx) -> Facts {
        let channels = cx.inputs.one("vae").and_then(|vae| vae.facts.u64("latent_channels"));
        let facts = Facts::new();
        channels.map_or(facts.clone(), |channels| facts.with("latent_channels", channels))
    }
    fn plan(_: &Empty, _: &PlanCx) -> NodePlan {
        NodePlan {
            resident: bytes(Category::Batch, 8),
            build: bytes(Category::Working, 512),
            build_flops: 5_000_000_000_000,
            build_label: Some("cache latents".into()),
            notes: vec!["20 images in 1 bucket".into()],
            ..NodePlan::default()
        }
    }
    fn build(_: Empty, cx: &mut BuildCx) -> Result<Built, RunError> {
        cx.one::<Toy>("vae")?;
        cx.progress.tick("encode latents", 20, 20);
        Ok(one(cx))
    }
}
