//! What the CLIP nodes share.

use pipe_core::node::CheckCx;
use pipe_data::weights::ComponentWeights;
use pipe_networks::TextNetwork;
use pipe_networks::clip::{Activation, ClipConfig, WINDOW};
use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{Inferred, Length, rows_suffice};
use crate::common::errors;
use crate::common::text::Prompts;
use crate::common::weights_source::config_usize;

/// What shapes cannot tell.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct Hints {
    /// Attention heads. Default: from `config.json`, else heads of width 64.
    #[serde(default)]
    #[schemars(range(min = 1, max = 64))]
    heads: Option<u64>,
}

/// Windows of 75 tokens that so many take.
pub fn windows(max_tokens: u64) -> usize {
    (max_tokens / 75).clamp(1, 3) as usize
}

/// Refuses lengths that are no whole windows.
pub fn check_tokens(cx: &mut CheckCx, max_tokens: u64) {
    if ![75, 150, 225].contains(&max_tokens) {
        let message = format!("`max_tokens` is {max_tokens}; CLIP reads windows of 75");
        cx.error("P0403", "max_tokens", message, Some("use 75, 150 or 225".into()));
    }
}

/// Refuses to skip more layers than there are.
pub fn check_skip(cx: &mut CheckCx, clip_skip: u64, network: &TextNetwork) {
    let layers = network.layers() as u64;
    if clip_skip > layers {
        let plural = if layers == 1 { "" } else { "s" };
        let message = format!("`clip_skip` is {clip_skip}, the text encoder has {layers} layer{plural}");
        cx.error("P0403", "clip_skip", message, None);
    }
}

/// Length of the joined windows.
pub fn length(max_tokens: u64, weighted: bool, hides_padding: bool) -> Length {
    Length { weighted, hides_padding, ..Length::of(75 * windows(max_tokens) + 2, false) }
}

/// Tokenization.
pub fn prompts(max_tokens: u64, pad: u32, weighted: bool, masked: bool) -> Prompts {
    Prompts::Clip { windows: windows(max_tokens), pad, weighted, masked }
}

/// Reads the encoder from a file. `projected` keeps the projection of the pooled vector.
pub fn infer(file: &ComponentWeights, hints: Option<&Hints>, activation: Activation, projected: bool) -> Inferred {
    let json = file.config.as_ref();
    let heads = hints.and_then(|h| h.heads.map(|n| n as usize)).or(config_usize(json, "num_attention_heads")?);
    let mut config = ClipConfig::infer(file, heads, activation).map_err(errors::sizes)?;
    if !projected {
        config.projection = None;
    } else if config.projection.is_none() {
        return Err(("P0304", "tensor `text_projection.weight` is missing".into()));
    }
    if hints.is_none() {
        let other = match (config.width, activation) {
            (1024, Activation::QuickGelu) => Some("OpenCLIP ViT-H of SD 2.x: use `encoder.clip_h`"),
            (1280, Activation::QuickGelu) => Some("OpenCLIP ViT-bigG: use `encoder.clip_g`"),
            (768, Activation::Gelu) => Some("CLIP ViT-L: use `encoder.clip_l`"),
            (1024, Activation::Gelu) if projected => Some("OpenCLIP ViT-H of SD 2.x: use `encoder.clip_h`"),
            (1280, Activation::Gelu) if !projected => Some("OpenCLIP ViT-bigG: use `encoder.clip_g`"),
            _ => None,
        };
        if let Some(other) = other {
            return Err(("P0401", format!("the text encoder in the file is {other}")));
        }
    }
    rows_suffice(config.vocab, pipe_networks::clip::EOS as usize + 1)?;
    if config.positions < WINDOW {
        return Err((
            "P0305",
            format!("the position table has {} rows, a window has {WINDOW} tokens", config.positions),
        ));
    }
    Ok(TextNetwork::Clip(config))
}
