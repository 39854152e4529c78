//! SD3 and SD3.5 names: Stability's ↔ Diffusers'.
//!
//! Stability joins query, key and value. The last modulation and that of the last block's context are (shift, scale)
//! there and (scale, shift) in Diffusers.

use super::rules::{How, Rule, join, same};

const OUTER: &[Rule] = &[
    same("pos_embed", &["pos_embed.pos_embed"]),
    same("x_embedder.proj.*", &["pos_embed.proj.*"]),
    same("t_embedder.mlp.0.*", &["time_text_embed.timestep_embedder.linear_1.*"]),
    same("t_embedder.mlp.2.*", &["time_text_embed.timestep_embedder.linear_2.*"]),
    same("y_embedder.mlp.0.*", &["time_text_embed.text_embedder.linear_1.*"]),
    same("y_embedder.mlp.2.*", &["time_text_embed.text_embedder.linear_2.*"]),
    same("context_embedder.*", &["context_embedder.*"]),
    same("final_layer.linear.*", &["proj_out.*"]),
    join("final_layer.adaLN_modulation.1.*", &["norm_out.linear.*"], How::Swapped),
];

const IMAGE: &[Rule] = &[
    join(
        "joint_blocks.#.x_block.attn.qkv.*",
        &["transformer_blocks.#.attn.to_q.*", "transformer_blocks.#.attn.to_k.*", "transformer_blocks.#.attn.to_v.*"],
        How::Equal,
    ),
    same("joint_blocks.#.x_block.attn.proj.*", &["transformer_blocks.#.attn.to_out.0.*"]),
    same("joint_blocks.#.x_block.attn.ln_q.weight", &["transformer_blocks.#.attn.norm_q.weight"]),
    same("joint_blocks.#.x_block.attn.ln_k.weight", &["transformer_blocks.#.attn.norm_k.weight"]),
    join(
        "joint_blocks.#.x_block.attn2.qkv.*",
        &[
            "transformer_blocks.#.attn2.to_q.*",
            "transformer_blocks.#.attn2.to_k.*",
            "transformer_blocks.#.attn2.to_v.*",
        ],
        How::Equal,
    ),
    same("joint_blocks.#.x_block.attn2.proj.*", &["transformer_blocks.#.attn2.to_out.0.*"]),
    same("joint_blocks.#.x_block.attn2.ln_q.weight", &["transformer_blocks.#.attn2.norm_q.weight"]),
    same("joint_blocks.#.x_block.attn2.ln_k.weight", &["transformer_blocks.#.attn2.norm_k.weight"]),
    same("joint_blocks.#.x_block.mlp.fc1.*", &["transformer_blocks.#.ff.net.0.proj.*"]),
    same("joint_blocks.#.x_block.mlp.fc2.*", &["transformer_blocks.#.ff.net.2.*"]),
    same("joint_blocks.#.x_block.adaLN_modulation.1.*", &["transformer_blocks.#.norm1.linear.*"]),
];

const CONTEXT: &[Rule] = &[
    join(
        "joint_blocks.#.context_block.attn.qkv.*",
        &[
            "transformer_blocks.#.attn.add_q_proj.*",
            "transformer_blocks.#.attn.add_k_proj.*",
            "transformer_blocks.#.attn.add_v_proj.*",
        ],
        How::Equal,
    ),
    same("joint_blocks.#.context_block.attn.proj.*", &["transformer_blocks.#.attn.to_add_out.*"]),
    same("joint_blocks.#.context_block.attn.ln_q.weight", &["transformer_blocks.#.attn.norm_added_q.weight"]),
    same("joint_blocks.#.context_block.attn.ln_k.weight", &["transformer_blocks.#.attn.norm_added_k.weight"]),
    same("joint_blocks.#.context_block.mlp.fc1.*", &["transformer_blocks.#.ff_context.net.0.proj.*"]),
    same("joint_blocks.#.context_block.mlp.fc2.*", &["transformer_blocks.#.ff_context.net.2.*"]),
    join(
        "joint_blocks.$.context_block.adaLN_modulation.1.*",
        &["transformer_blocks.$.norm1_context.linear.*"],
        How::Swapped,
    ),
    same("joint_blocks.#.context_block.adaLN_modulation.1.*", &["transformer_blocks.#.norm1_context.linear.*"]),
];

/// Stability's names, joined, and Diffusers'.
pub(super) const RULES: &[&[Rule]] = &[OUTER, IMAGE, CONTEXT];
