//! CLIP text encoder names: the spellings of Hugging Face Transformers, and OpenCLIP's.
//!
//! OpenCLIP keeps query, key and value in one matrix and its projection transposed.

use super::{after, number, swap_head};

/// Which part of a stored tensor an internal one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slice {
    /// All of it.
    Whole,
    /// The given third of its rows.
    Third(usize),
    /// All of it, rows and columns exchanged.
    Transposed,
}

/// Whether a name is a buffer or a scalar the encoder does not use.
pub fn is_ignored(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    matches!(last, "position_ids" | "attn_mask" | "logit_scale")
        || name.starts_with("vision_model.")
        || name.starts_with("visual_projection.")
}

/// The internal name (with `text_model.`) of a Hugging Face name of any age.
pub fn to_internal(name: &str) -> Option<String> {
    let known = |rest: &str| ["embeddings", "encoder", "final_layer_norm"].iter().any(|h| after(rest, h).is_some());
    match name.strip_prefix("text_model.") {
        Some(rest) => known(rest).then(|| name.to_owned()),
        None if known(name) => Some(format!("text_model.{name}")),
        None => (name == "text_projection.weight").then(|| name.to_owned()),
    }
}

/// The internal tensors that an OpenCLIP tensor holds.
pub fn from_open_clip(name: &str) -> Vec<(String, Slice)> {
    const TOP: [(&str, &str); 2] =
        [("token_embedding", "text_model.embeddings.token_embedding"), ("ln_final", "text_model.final_layer_norm")];
    const LAYER: [(&str, &str); 5] = [
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("attn.out_proj", "self_attn.out_proj"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
    ];
    if name == "positional_embedding" {
        return vec![("text_model.embeddings.position_embedding.weight".to_owned(), Slice::Whole)];
    }
    if name == "text_projection" {
        return vec![("text_projection.weight".to_owned(), Slice::Transposed)];
    }
    if let Some(name) = swap_head(name, &TOP, false) {
        return vec![(name, Slice::Whole)];
    }
    let Some((layer, rest)) = after(name, "transformer.resblocks").and_then(number) else { return Vec::new() };
    let layer = format!("text_model.encoder.layers.{layer}");
    if let Some(kind) = rest.strip_prefix("attn.in_proj_").filter(|kind| matches!(*kind, "weight" | "bias")) {
        let third = |(i, part)| (format!("{layer}.self_attn.{part}.{kind}"), Slice::Third(i));
        return ["q_proj", "k_proj", "v_proj"].into_iter().enumerate().map(third).collect();
    }
    swap_head(rest, &LAYER, false).map(|rest| (format!("{layer}.{rest}"), Slice::Whole)).into_iter().collect()
}
