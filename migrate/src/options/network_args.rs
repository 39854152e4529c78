//! `--network_args`: what the adapter modules take. Which module takes which is in [`crate::convert`].

use super::Fate::*;
use super::*;
use crate::script::*;

const DOUBLE: Scripts = FLUX.or(SD3).and(NET);
const FLUX_NET: Scripts = FLUX.and(NET);
const SD3_NET: Scripts = SD3.and(NET);
const LUMINA_NET: Scripts = LUMINA.and(NET);
const UNET_NET: Scripts = UNET.and(NET);

const fn arg(name: &'static str, kind: Type, default: &'static str, scripts: Scripts, fate: Fate) -> Opt {
    Opt::new(name, kind, default, scripts, fate).at(Place::NetworkArgs)
}
const fn list(name: &'static str, path: &'static str) -> Opt {
    arg(name, Type::Text, "", UNET_NET, Part(path))
}
const fn rank(name: &'static str, scripts: Scripts, path: &'static str) -> Opt {
    arg(name, Type::Int, "", scripts, set(path))
}

pub(super) const OPTIONS: &[Opt] = &[
    arg("conv_dim", Type::Int, "", NET, Part("nodes.lora.conv.rank")).only(UNET_NET),
    arg("conv_alpha", Type::Float, "1.0", NET, Part("nodes.lora.conv.alpha")).only(UNET_NET),
    arg("rank_dropout", Type::Float, "", NET, unless_zero("nodes.lora.rank_dropout")),
    arg("module_dropout", Type::Float, "", NET, unless_zero("nodes.lora.module_dropout")),
    arg("dropout", Type::Float, "", NET, Part("nodes.lora.dropout")),
    // Block-wise.
    list("block_dims", "nodes.lora.blocks"),
    list("block_alphas", "nodes.lora.blocks"),
    list("conv_block_dims", "nodes.lora.conv.blocks"),
    list("conv_block_alphas", "nodes.lora.conv.blocks"),
    list("down_lr_weight", "nodes.lora.block_rates"),
    list("mid_lr_weight", "nodes.lora.block_rates"),
    list("up_lr_weight", "nodes.lora.block_rates"),
    arg("block_lr_zero_threshold", Type::Float, "0.0", UNET_NET, Part("nodes.lora.block_rates")),
    // LoRA+.
    arg("loraplus_lr_ratio", Type::Float, "", NET, Part("nodes.lora.lora_plus")),
    arg("loraplus_unet_lr_ratio", Type::Float, "", NET, Part("nodes.lora.lora_plus")),
    arg("loraplus_text_encoder_lr_ratio", Type::Float, "", NET, Part("nodes.lora.lora_plus")),
    // DyLoRA and OFT.
    arg("unit", Type::Int, "1", UNET_NET, set("nodes.lora.unit")),
    arg("enable_all_linear", Type::Text, "", NET, Part("nodes.lora.layers")),
    arg("enable_conv", Type::Text, "", NET, Part("nodes.lora.layers")),
    // FLUX.
    arg("train_blocks", Type::Text, "all", FLUX_NET.or(LUMINA_NET), Part("nodes.lora.blocks")),
    arg("train_double_block_indices", Type::Text, "all", FLUX_NET, Part("nodes.lora.blocks")),
    arg("train_single_block_indices", Type::Text, "all", FLUX_NET, Part("nodes.lora.blocks")),
    rank("img_attn_dim", FLUX_NET, "nodes.lora.ranks.img_attn"),
    rank("txt_attn_dim", FLUX_NET, "nodes.lora.ranks.txt_attn"),
    rank("img_mlp_dim", FLUX_NET, "nodes.lora.ranks.img_mlp"),
    rank("txt_mlp_dim", FLUX_NET, "nodes.lora.ranks.txt_mlp"),
    rank("img_mod_dim", FLUX_NET, "nodes.lora.ranks.img_mod"),
    rank("txt_mod_dim", FLUX_NET, "nodes.lora.ranks.txt_mod"),
    rank("single_dim", FLUX_NET, "nodes.lora.ranks.single"),
    rank("single_mod_dim", FLUX_NET, "nodes.lora.ranks.single_mod"),
    arg("in_dims", Type::Text, "", FLUX_NET, Part("nodes.lora.embedders")),
    arg("network_reg_dims", Type::Text, "", FLUX_NET, Part("nodes.lora.patterns")),
    arg("network_reg_lrs", Type::Text, "", FLUX_NET, Part("nodes.lora.patterns")),
    arg("ggpo_sigma", Type::Float, "", FLUX_NET, set("nodes.lora.perturbation.sigma")),
    arg("ggpo_beta", Type::Float, "", FLUX_NET, set("nodes.lora.perturbation.beta")),
    arg("split_qkv", Type::Text, "", DOUBLE.or(LUMINA_NET), Part("nodes.lora.split_qkv")).changed(
        "the file is written with n times α, so that other programs read it with the strength it was trained with",
    ),
    arg("train_t5xxl", Type::Text, "", DOUBLE, Part("nodes.lora.text")),
    arg("verbose", Type::Text, "", NET, Ignored("`pipe plan` lists what is trained")),
    // SD3.
    rank("context_attn_dim", SD3_NET, "nodes.lora.ranks.context_attn"),
    rank("context_mlp_dim", SD3_NET, "nodes.lora.ranks.context_mlp"),
    rank("context_mod_dim", SD3_NET, "nodes.lora.ranks.context_mod"),
    rank("x_attn_dim", SD3_NET, "nodes.lora.ranks.x_attn"),
    rank("x_mlp_dim", SD3_NET, "nodes.lora.ranks.x_mlp"),
    rank("x_mod_dim", SD3_NET, "nodes.lora.ranks.x_mod"),
    arg("emb_dims", Type::Text, "", SD3_NET, Part("nodes.lora.embedders")),
    arg("train_block_indices", Type::Text, "all", SD3_NET, Part("nodes.lora.blocks")),
    // Lumina.
    rank("attn_dim", LUMINA_NET, "nodes.lora.ranks.attn"),
    arg(
        "mlp_dim",
        Type::Int,
        "",
        LUMINA_NET,
        Ignored("no layer of Lumina has such a name in sd-scripts; `ranks: { mlp: … }` sets the feed-forward here"),
    ),
    rank("mod_dim", LUMINA_NET, "nodes.lora.ranks.mod"),
    arg("refiner_dim", Type::Int, "", LUMINA_NET, Part("nodes.lora.blocks")),
    arg("embedder_dims", Type::Text, "", LUMINA_NET, Part("nodes.lora.embedders")),
    // LyCORIS, a module of others.
    arg("algo", Type::Text, "lora", NET, Part("nodes.lora.type")),
    arg("preset", Type::Text, "full", NET, Part("nodes.lora.include")),
    arg("factor", Type::Int, "-1", NET, unless_zero("nodes.lora.factor")),
    arg("decompose_both", Type::Text, "False", NET, Part("nodes.lora.decompose_both")),
    arg("full_matrix", Type::Text, "False", NET, Part("nodes.lora.full_matrix")),
    arg("use_tucker", Type::Text, "False", NET, Part("nodes.lora.tucker")),
    arg("use_scalar", Type::Text, "False", NET, Part("nodes.lora.scalar")),
    arg("rs_lora", Type::Text, "False", NET, Part("nodes.lora.rs_lora")),
    arg("dora_wd", Type::Text, "False", NET, Part("nodes.lora.type")),
    arg("train_norm", Type::Text, "False", NET, Part("nodes.lora.norms")),
    arg("bypass_mode", Type::Text, "False", NET, Ignored("how the product is computed changes no result")),
    arg("constraint", Type::Float, "0", NET, unless_zero("nodes.lora.constraint")),
    arg("rescaled", Type::Text, "False", NET, Part("nodes.lora.rescaled")),
    arg("block_size", Type::Int, "4", NET, Part("nodes.lora.unit")),
    arg("wd_on_output", Type::Text, "True", NET, Refused("not available: DoRA with lengths of columns")),
    arg("unbalanced_factorization", Type::Text, "False", NET, Refused("not available: the large factor of rows first")),
];
