//! Lumina-Image-2.0 and Lumina-Next names: the authors' ↔ Diffusers'.
//!
//! Lumina-Image-2.0 joins query, key and value, with fewer keys than queries. Lumina-Next keeps them apart; there
//! Diffusers stores the query matrix and its norm a second time for the attention to the text.

use super::rules::{How, Rule, join, same};

const EMBEDDERS: &[Rule] = &[
    same("t_embedder.mlp.0.*", &["time_caption_embed.timestep_embedder.linear_1.*"]),
    same("t_embedder.mlp.2.*", &["time_caption_embed.timestep_embedder.linear_2.*"]),
    same("cap_embedder.0.*", &["time_caption_embed.caption_embedder.0.*"]),
    same("cap_embedder.1.*", &["time_caption_embed.caption_embedder.1.*"]),
    same("final_layer.adaLN_modulation.1.*", &["norm_out.linear_1.*"]),
    same("final_layer.linear.*", &["norm_out.linear_2.*"]),
];

/// What the blocks of both models have, with the name of the first norm.
macro_rules! block {
    ($block:literal, $norm1:literal) => {
        &[
            same(concat!($block, ".#.feed_forward.w1.weight"), &[concat!($block, ".#.feed_forward.linear_1.weight")]),
            same(concat!($block, ".#.feed_forward.w2.weight"), &[concat!($block, ".#.feed_forward.linear_2.weight")]),
            same(concat!($block, ".#.feed_forward.w3.weight"), &[concat!($block, ".#.feed_forward.linear_3.weight")]),
            same(concat!($block, ".#.attention_norm1.weight"), &[concat!($block, ".#.", $norm1, ".weight")]),
            same(concat!($block, ".#.attention_norm2.weight"), &[concat!($block, ".#.norm2.weight")]),
            same(concat!($block, ".#.ffn_norm1.weight"), &[concat!($block, ".#.ffn_norm1.weight")]),
            same(concat!($block, ".#.ffn_norm2.weight"), &[concat!($block, ".#.ffn_norm2.weight")]),
            same(concat!($block, ".#.adaLN_modulation.1.*"), &[concat!($block, ".#.norm1.linear.*")]),
        ]
    };
}

/// The attention of Lumina-Image-2.0.
macro_rules! attention {
    ($block:literal) => {
        &[
            join(
                concat!($block, ".#.attention.qkv.weight"),
                &[
                    concat!($block, ".#.attn.to_q.weight"),
                    concat!($block, ".#.attn.to_k.weight"),
                    concat!($block, ".#.attn.to_v.weight"),
                ],
                // As many queries as outputs; the keys and values of fewer heads share the rest.
                How::Like { like: concat!($block, ".#.attention.out.weight"), count: 1 },
            ),
            same(concat!($block, ".#.attention.out.weight"), &[concat!($block, ".#.attn.to_out.0.weight")]),
            same(concat!($block, ".#.attention.q_norm.weight"), &[concat!($block, ".#.attn.norm_q.weight")]),
            same(concat!($block, ".#.attention.k_norm.weight"), &[concat!($block, ".#.attn.norm_k.weight")]),
        ]
    };
}

const X_EMBEDDER: &[Rule] = &[same("x_embedder.*", &["x_embedder.*"])];

/// Lumina-Image-2.0: the authors' names, joined, and Diffusers'. The authors' unused `norm_final.weight` is not
/// among them.
pub(super) const LUMINA2: &[&[Rule]] = &[
    EMBEDDERS,
    X_EMBEDDER,
    block!("layers", "norm1.norm"),
    attention!("layers"),
    block!("noise_refiner", "norm1.norm"),
    attention!("noise_refiner"),
    block!("context_refiner", "norm1"),
    attention!("context_refiner"),
];

const NEXT: &[Rule] = &[
    same("pad_token", &["pad_token"]),
    // A patch is flattened as (channel, row, column), so that a convolution's kernel is the same matrix.
    join("x_embedder.weight", &["patch_embedder.proj.weight"], How::Flat),
    same("x_embedder.bias", &["patch_embedder.proj.bias"]),
    same("layers.#.attention.gate", &["layers.#.gate"]),
    join("layers.#.attention.wq.weight", &["layers.#.attn1.to_q.weight", "layers.#.attn2.to_q.weight"], How::Tied),
    same("layers.#.attention.wk.weight", &["layers.#.attn1.to_k.weight"]),
    same("layers.#.attention.wv.weight", &["layers.#.attn1.to_v.weight"]),
    same("layers.#.attention.wk_y.weight", &["layers.#.attn2.to_k.weight"]),
    same("layers.#.attention.wv_y.weight", &["layers.#.attn2.to_v.weight"]),
    same("layers.#.attention.wo.weight", &["layers.#.attn2.to_out.0.weight"]),
    join("layers.#.attention.q_norm.*", &["layers.#.attn1.norm_q.*", "layers.#.attn2.norm_q.*"], How::Tied),
    same("layers.#.attention.k_norm.*", &["layers.#.attn1.norm_k.*"]),
    same("layers.#.attention.ky_norm.*", &["layers.#.attn2.norm_k.*"]),
    same("layers.#.attention_y_norm.weight", &["layers.#.norm1_context.weight"]),
];

/// Lumina-Next: the authors' names and Diffusers'.
pub(super) const LUMINA_NEXT: &[&[Rule]] = &[EMBEDDERS, NEXT, block!("layers", "norm1.norm")];
