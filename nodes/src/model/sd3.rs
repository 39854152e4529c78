//! `model.sd3`: the transformer of Stable Diffusion 3 and 3.5.

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::{ComponentWeights, Family};
use pipe_networks::Network;
use pipe_networks::mmdit::{MmditConfig, Options};
use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{self, Inferred, Objective};
use super::memory::BlockMemory;
use crate::common::errors;
use crate::common::weights_source::config_usize;

/// Fields of `model.sd3`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Checkpoint: a single file with or without encoders, or a Diffusers folder.
    #[schemars(extend("x-path" = "any"))]
    weights: String,
    #[serde(flatten)]
    memory: BlockMemory,
    /// Probability of doing without a text encoder, for each sample of training by itself: its embedding and its pooled
    /// vector are zero then. Default: none.
    #[serde(default)]
    text_dropout: Option<TextDropout>,
    /// Probability that a forward pass of training takes a random part of the position table in place of its centre.
    /// Default: never.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 1.0))]
    position_random_crop: Option<f64>,
    /// Resolutions that are trained, in pixels, as the sides of squares: positions are computed, scaled to the one
    /// nearest in area, in place of the file's table. Previews use them too. Default: the file's table.
    #[serde(default)]
    #[schemars(inner(range(min = 64, max = 8192)), length(min = 1))]
    scaled_positions: Option<Vec<u64>>,
    /// What shapes cannot tell, for reduced models.
    #[serde(default)]
    config: Option<Hints>,
}

/// Probabilities by text encoder.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
struct TextDropout {
    /// Of CLIP-L. Default: never.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 1.0))]
    clip_l: Option<f64>,
    /// Of OpenCLIP bigG. Default: never.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 1.0))]
    clip_g: Option<f64>,
    /// Of T5. Default: never.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 1.0))]
    t5xxl: Option<f64>,
}

/// What shapes cannot tell.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
struct Hints {
    /// Attention heads. Default: from `config.json` or the norms' widths, else heads of width 64.
    #[serde(default)]
    #[schemars(range(min = 1, max = 256))]
    heads: Option<u64>,
}

/// The node type.
pub struct Sd3Model;

const FAMILY: Family = Family::Sd3;

impl Config {
    fn infer(&self, file: &ComponentWeights) -> Inferred {
        let own = self.config.as_ref().and_then(|c| c.heads).map(|n| n as usize);
        let heads = own.or(config_usize(file.config.as_ref(), "num_attention_heads")?);
        let sizes = MmditConfig::infer(file, heads).map_err(errors::sizes)?;
        Ok(self.with_options(sizes))
    }

    /// With what the fields change of the text and of positions.
    fn with_options(&self, sizes: MmditConfig) -> Network {
        let dropout = self.text_dropout.clone().unwrap_or_default();
        let mut scaled: Vec<usize> =
            self.scaled_positions.iter().flatten().map(|side| (*side as usize / 8 / sizes.patch).max(1)).collect();
        scaled.sort_unstable();
        scaled.dedup();
        let options = Options {
            scaled,
            random_crop: self.position_random_crop.unwrap_or(0.0) as f32,
            text_dropout: [dropout.clip_l, dropout.clip_g, dropout.t5xxl].map(|p| p.unwrap_or(0.0) as f32),
        };
        Network::Mmdit(MmditConfig { options, ..sizes })
    }
}

/// The size of a file that is not there yet, by its name.
fn assumed(weights: &str) -> MmditConfig {
    let name = std::path::Path::new(weights).file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    match name {
        _ if name.contains("large") => MmditConfig::sd35_large(),
        _ if name.contains("3.5") || name.contains("sd35") => MmditConfig::sd35_medium(),
        _ => MmditConfig::sd3_medium(),
    }
}

impl Node for Sd3Model {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "model.sd3",
        summary: "The transformer (MMDiT) of Stable Diffusion 3 and 3.5, Medium and Large.",
        details: "Esser et al. 2024. Which of the three it is is read from the weights. Text comes from any of CLIP-L, OpenCLIP bigG and T5-XXL; missing ones count as zeros, and with `text_dropout` training leaves each out by chance, cached or not, so that the model does without. Computed positions of `scaled_positions`: sines and cosines of `(16/p)·(i − (g − p)/2)`, for p patches a side and a grid of g = ⌊1.5·p⌋.",
        example: "sd3:\n  type: model.sd3\n  weights: sd3_medium.safetensors\n  checkpointing: blocks",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        common::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let full = config.with_options(assumed(&config.weights));
        if let Some(TextDropout { clip_l: None, clip_g: None, t5xxl: None }) = config.text_dropout {
            cx.error("P0402", "text_dropout", "`text_dropout` names no text encoder", Some("leave it out".into()));
        }
        let sides = config.scaled_positions.as_deref().unwrap_or_default();
        if let Some((i, side)) = sides.iter().enumerate().find(|(i, side)| sides[..*i].contains(side)) {
            let message = format!("{side} stands twice in `scaled_positions`");
            cx.error("P0402", &format!("scaled_positions.{i}"), message, Some("take one out".into()));
        }
        let infer = |file: &_| config.infer(file);
        let Some((network, file)) = common::check_file(cx, &config.weights, FAMILY, full, infer) else {
            return Facts::new();
        };
        common::facts(cx, FAMILY, &network, file.as_deref(), &config.memory, Objective::default())
            .with("text_dropout", format!("/nodes.{}.text_dropout", cx.name))
    }

    fn plan(_config: &Config, cx: &PlanCx) -> NodePlan {
        common::plan(cx)
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let infer = |file: &_| config.infer(file);
        common::build_file(cx, &config.weights, FAMILY, &config.memory, |_| Objective::default(), infer)
    }
}
