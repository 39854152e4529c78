//! FLUX.1 names: Black Forest Labs' ↔ Diffusers'.
//!
//! Black Forest Labs join query, key and value, in the single blocks with the MLP's first matrix. Diffusers stores the
//! last modulation as (scale, shift), Black Forest Labs as (shift, scale).

use super::rules::{How, Rule, join, same};

const OUTER: &[Rule] = &[
    same("img_in.*", &["x_embedder.*"]),
    same("txt_in.*", &["context_embedder.*"]),
    same("time_in.in_layer.*", &["time_text_embed.timestep_embedder.linear_1.*"]),
    same("time_in.out_layer.*", &["time_text_embed.timestep_embedder.linear_2.*"]),
    same("vector_in.in_layer.*", &["time_text_embed.text_embedder.linear_1.*"]),
    same("vector_in.out_layer.*", &["time_text_embed.text_embedder.linear_2.*"]),
    same("guidance_in.in_layer.*", &["time_text_embed.guidance_embedder.linear_1.*"]),
    same("guidance_in.out_layer.*", &["time_text_embed.guidance_embedder.linear_2.*"]),
    same("final_layer.linear.*", &["proj_out.*"]),
    join("final_layer.adaLN_modulation.1.*", &["norm_out.linear.*"], How::Swapped),
];

const DOUBLE: &[Rule] = &[
    same("double_blocks.#.img_mod.lin.*", &["transformer_blocks.#.norm1.linear.*"]),
    same("double_blocks.#.txt_mod.lin.*", &["transformer_blocks.#.norm1_context.linear.*"]),
    join(
        "double_blocks.#.img_attn.qkv.*",
        &["transformer_blocks.#.attn.to_q.*", "transformer_blocks.#.attn.to_k.*", "transformer_blocks.#.attn.to_v.*"],
        How::Equal,
    ),
    join(
        "double_blocks.#.txt_attn.qkv.*",
        &[
            "transformer_blocks.#.attn.add_q_proj.*",
            "transformer_blocks.#.attn.add_k_proj.*",
            "transformer_blocks.#.attn.add_v_proj.*",
        ],
        How::Equal,
    ),
    same("double_blocks.#.img_attn.norm.query_norm.scale", &["transformer_blocks.#.attn.norm_q.weight"]),
    same("double_blocks.#.img_attn.norm.key_norm.scale", &["transformer_blocks.#.attn.norm_k.weight"]),
    same("double_blocks.#.txt_attn.norm.query_norm.scale", &["transformer_blocks.#.attn.norm_added_q.weight"]),
    same("double_blocks.#.txt_attn.norm.key_norm.scale", &["transformer_blocks.#.attn.norm_added_k.weight"]),
    same("double_blocks.#.img_attn.proj.*", &["transformer_blocks.#.attn.to_out.0.*"]),
    same("double_blocks.#.txt_attn.proj.*", &["transformer_blocks.#.attn.to_add_out.*"]),
    same("double_blocks.#.img_mlp.0.*", &["transformer_blocks.#.ff.net.0.proj.*"]),
    same("double_blocks.#.img_mlp.2.*", &["transformer_blocks.#.ff.net.2.*"]),
    same("double_blocks.#.txt_mlp.0.*", &["transformer_blocks.#.ff_context.net.0.proj.*"]),
    same("double_blocks.#.txt_mlp.2.*", &["transformer_blocks.#.ff_context.net.2.*"]),
];

const SINGLE: &[Rule] = &[
    join(
        "single_blocks.#.linear1.*",
        &[
            "single_transformer_blocks.#.attn.to_q.*",
            "single_transformer_blocks.#.attn.to_k.*",
            "single_transformer_blocks.#.attn.to_v.*",
            "single_transformer_blocks.#.proj_mlp.*",
        ],
        How::Like { like: "single_blocks.#.linear2.*", count: 3 },
    ),
    same("single_blocks.#.linear2.*", &["single_transformer_blocks.#.proj_out.*"]),
    same("single_blocks.#.modulation.lin.*", &["single_transformer_blocks.#.norm.linear.*"]),
    same("single_blocks.#.norm.query_norm.scale", &["single_transformer_blocks.#.attn.norm_q.weight"]),
    same("single_blocks.#.norm.key_norm.scale", &["single_transformer_blocks.#.attn.norm_k.weight"]),
];

/// Black Forest Labs' names, joined, and Diffusers'.
pub(super) const RULES: &[&[Rule]] = &[OUTER, DOUBLE, SINGLE];
