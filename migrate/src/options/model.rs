//! Base models and text encoders.

use super::Fate::*;
use super::*;
use crate::script::*;

const DROPOUT: &str = "not in validation; sd-scripts leaves encoders out there too";
const ENCODERS: Scripts = SD3.or(FLUX);

pub(super) const OPTIONS: &[Opt] = &[
    text("pretrained_model_name_or_path", ALL, Part("nodes.model.weights")),
    text("vae", ALL, Part("nodes.vae.weights")).only(UNET.or(SD3)),
    flag("v2", ALL, Part("nodes.model.type")).only(SD),
    flag("v_parameterization", ALL, Part("nodes.model.prediction")).only(UNET),
    flag("zero_terminal_snr", ALL, set("nodes.model.zero_terminal_snr"))
        .only(UNET)
        .changed("min-SNR and the other SNR weights use the schedule that is trained; sd-scripts takes the one before the change"),
    text("clip_l", ENCODERS, Part("nodes.clip_l.weights")),
    text("clip_g", SD3, Part("nodes.clip_g.weights")),
    text("t5xxl", ENCODERS, Part("nodes.t5.weights")),
    text("ae", FLUX.or(LUMINA), Part("nodes.vae.weights")),
    text("gemma2", LUMINA, Part("nodes.gemma.weights")),
    Opt::new("model_type", Type::Choice(&["flux", "chroma"]), "flux", FLUX, Part("nodes.model.type")),
    int("clip_skip", "", ALL, Part("nodes.clip.clip_skip"))
        .only(SD)
        .note("SDXL, SD3 and FLUX always read the layer they were trained with"),
    Opt::new("max_token_length", Type::Choice(&["75", "150", "225"]), "", ALL, Part("nodes.clip.max_tokens")).only(UNET),
    int("t5xxl_max_token_length", "256", SD3, set("nodes.t5.max_tokens")).always(),
    int("t5xxl_max_token_length", "", FLUX, set("nodes.t5.max_tokens")),
    int("gemma2_max_token_length", "", LUMINA, set("nodes.gemma.max_tokens")),
    text("system_prompt", LUMINA, Set("nodes.gemma.system_prompt", How::OffAtZero)),
    flag("apply_t5_attn_mask", SD3, set("nodes.t5.attention_mask"))
        .changed("sd-scripts applies it only when T5's outputs are cached"),
    flag("apply_t5_attn_mask", FLUX, set("nodes.t5.attention_mask")),
    flag("apply_lg_attn_mask", SD3, Part("nodes.clip_l.attention_mask")),
    float("clip_l_dropout_rate", "0.0", SD3, unless_zero("nodes.model.text_dropout.clip_l")).changed(DROPOUT),
    float("clip_g_dropout_rate", "0.0", SD3, unless_zero("nodes.model.text_dropout.clip_g")).changed(DROPOUT),
    float("t5_dropout_rate", "0.0", SD3, unless_zero("nodes.model.text_dropout.t5xxl")).changed(DROPOUT),
    float("pos_emb_random_crop_rate", "0.0", SD3, unless_zero("nodes.model.position_random_crop"))
        .changed("not in validation and previews; sd-scripts takes random positions there too"),
    flag("enable_scaled_pos_embed", SD3, Part("nodes.model.scaled_positions")),
    text("tokenizer_cache_dir", ALL, Ignored("the CLIP and T5 tokenizers are inside the program, Gemma's lies beside its weights")),
    flag("disable_mmap_load_safetensors", ALL.but(SD), Ignored("how a file is read changes nothing in it")),
    text("t5xxl_device", SD3, Ignored("encoders run on the run's device and are freed before the model is loaded")),
    text("t5xxl_dtype", SD3, Ignored("encoders compute in the run's precision")),
    text(
        "controlnet_model_name_or_path",
        FLUX,
        Refused("not available yet: ControlNet"),
    ),
];
