//! Names of T5 and Gemma, which every checkpoint takes from Hugging Face Transformers.

use super::rules::{Rule, same};

/// A name that stays.
macro_rules! kept {
    ($($name:literal),* $(,)?) => {
        &[$(same($name, &[$name])),*]
    };
}

/// The T5 encoder.
pub(super) const T5: &[&[Rule]] = &[kept![
    "shared.weight",
    "encoder.block.#.layer.0.SelfAttention.q.weight",
    "encoder.block.#.layer.0.SelfAttention.k.weight",
    "encoder.block.#.layer.0.SelfAttention.v.weight",
    "encoder.block.#.layer.0.SelfAttention.o.weight",
    "encoder.block.#.layer.0.SelfAttention.relative_attention_bias.weight",
    "encoder.block.#.layer.0.layer_norm.weight",
    "encoder.block.#.layer.1.DenseReluDense.wi_0.weight",
    "encoder.block.#.layer.1.DenseReluDense.wi_1.weight",
    "encoder.block.#.layer.1.DenseReluDense.wo.weight",
    "encoder.block.#.layer.1.layer_norm.weight",
    "encoder.final_layer_norm.weight",
]];

/// Gemma 1 and 2.
pub(super) const GEMMA: &[&[Rule]] = &[kept![
    "embed_tokens.weight",
    "layers.#.self_attn.q_proj.weight",
    "layers.#.self_attn.k_proj.weight",
    "layers.#.self_attn.v_proj.weight",
    "layers.#.self_attn.o_proj.weight",
    "layers.#.mlp.gate_proj.weight",
    "layers.#.mlp.up_proj.weight",
    "layers.#.mlp.down_proj.weight",
    "layers.#.input_layernorm.weight",
    "layers.#.post_attention_layernorm.weight",
    "layers.#.pre_feedforward_layernorm.weight",
    "layers.#.post_feedforward_layernorm.weight",
    "norm.weight",
]];

/// The embedding's second name.
pub(super) const T5_EMBEDDING: [&str; 2] = ["shared.weight", "encoder.embed_tokens.weight"];
