//! Adapters: `--network_*` and what is trained.

use super::Fate::*;
use super::*;
use crate::script::*;

const TE1_TE2: Scripts = SDXL.and(FULL).or(SD3.and(FULL));

pub(super) const OPTIONS: &[Opt] = &[
    text("network_module", NET, Part("nodes.lora.type")),
    int("network_dim", "", NET, Part("nodes.lora.rank")),
    float("network_alpha", "1", NET, Part("nodes.lora.alpha")),
    float("network_dropout", "", NET, unless_zero("nodes.lora.dropout")),
    Opt::new("network_args", Type::Texts, "", NET, Part("nodes.lora")),
    text("network_weights", NET, Part("nodes.lora.weights")),
    flag("dim_from_weights", NET, Part("nodes.lora.rank")),
    flag("network_train_unet_only", NET, Part("nodes.lora.text")),
    flag("network_train_text_encoder_only", NET, Part("nodes.lora.include")),
    Opt::new("base_weights", Type::Texts, "", NET, Part("nodes.lora.base_weights")),
    Opt::new("base_weights_multiplier", Type::Floats, "", NET, Part("nodes.lora.base_weights")),
    float("scale_weight_norms", "", NET, unless_zero("nodes.lora.scale_weight_norms"))
        .changed("applied once a step; sd-scripts applies it after every forward pass of an accumulated step"),
    float("unet_lr", "", NET, Part("nodes.optimizer.learning_rate")),
    Opt::new("text_encoder_lr", Type::Floats, "", NET, Part("nodes.optimizer.text_encoder_learning_rate")),
    float("learning_rate_te", "", TRAIN_DB.or(FINE_TUNE), Part("nodes.optimizer.text_encoder_learning_rate")),
    float("learning_rate_te1", "", TE1_TE2, Part("nodes.optimizer.text_encoder_learning_rate")),
    float("learning_rate_te2", "", TE1_TE2, Part("nodes.optimizer.text_encoder_2_learning_rate")),
    float("learning_rate_te3", "", SD3.and(FULL), Part("nodes.optimizer.text_encoder_3_learning_rate")),
    Opt::new("block_lr", Type::Text, "", SDXL.and(FULL), Part("nodes.full.block_learning_rates")),
    flag("train_text_encoder", FINE_TUNE.or(TE1_TE2), Part("nodes.full.text")),
    flag("train_t5xxl", SD3.and(FULL), Part("nodes.full.text")),
    flag("use_t5xxl_cache_only", SD3.and(FULL), Part("nodes.cached.text")),
    int("stop_text_encoder_training", "", TRAIN_DB, Part("nodes.optimizer.stop_text_encoder_training")),
    int("num_last_block_to_freeze", "", SD3.and(FULL), unless_zero("nodes.full.freeze_last_blocks"))
        .changed("counts blocks; sd-scripts counts single tensors, so its 1 freezes one bias"),
];
