//! CLIP text encoder names: the spellings of Hugging Face Transformers, and OpenCLIP's.
//!
//! OpenCLIP keeps query, key and value in one matrix and its projection transposed.

use super::after;
use super::rules::{How, Rule, join, same};

/// OpenCLIP's names, joined, and those of Hugging Face Transformers.
pub(super) const OPEN_CLIP: &[&[Rule]] = &[&[
    same("token_embedding.weight", &["text_model.embeddings.token_embedding.weight"]),
    same("positional_embedding", &["text_model.embeddings.position_embedding.weight"]),
    join(
        "transformer.resblocks.#.attn.in_proj_weight",
        &[
            "text_model.encoder.layers.#.self_attn.q_proj.weight",
            "text_model.encoder.layers.#.self_attn.k_proj.weight",
            "text_model.encoder.layers.#.self_attn.v_proj.weight",
        ],
        How::Equal,
    ),
    join(
        "transformer.resblocks.#.attn.in_proj_bias",
        &[
            "text_model.encoder.layers.#.self_attn.q_proj.bias",
            "text_model.encoder.layers.#.self_attn.k_proj.bias",
            "text_model.encoder.layers.#.self_attn.v_proj.bias",
        ],
        How::Equal,
    ),
    same("transformer.resblocks.#.attn.out_proj.*", &["text_model.encoder.layers.#.self_attn.out_proj.*"]),
    same("transformer.resblocks.#.ln_1.*", &["text_model.encoder.layers.#.layer_norm1.*"]),
    same("transformer.resblocks.#.ln_2.*", &["text_model.encoder.layers.#.layer_norm2.*"]),
    same("transformer.resblocks.#.mlp.c_fc.*", &["text_model.encoder.layers.#.mlp.fc1.*"]),
    same("transformer.resblocks.#.mlp.c_proj.*", &["text_model.encoder.layers.#.mlp.fc2.*"]),
    same("ln_final.*", &["text_model.final_layer_norm.*"]),
    // Applied as `x · P` there, as `x · Wᵀ` here.
    join("text_projection", &["text_projection.weight"], How::Transposed),
    same("logit_scale", &["logit_scale"]),
]];

/// Whether a name is a buffer, or belongs to the image side of CLIP.
pub fn is_ignored(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    matches!(last, "position_ids" | "attn_mask")
        || name.starts_with("vision_model.")
        || name.starts_with("visual_projection.")
}

/// The internal name (with `text_model.`) of a Hugging Face name of any age.
pub fn to_internal(name: &str) -> Option<String> {
    let known = |rest: &str| ["embeddings", "encoder", "final_layer_norm"].iter().any(|h| after(rest, h).is_some());
    match name.strip_prefix("text_model.") {
        Some(rest) => known(rest).then(|| name.to_owned()),
        None if known(name) => Some(format!("text_model.{name}")),
        None => matches!(name, "text_projection.weight" | "logit_scale").then(|| name.to_owned()),
    }
}

/// The layer an internal name belongs to.
pub fn layer(internal: &str) -> Option<u32> {
    Some(super::number(after(internal, "text_model.encoder.layers")?)?.0)
}
