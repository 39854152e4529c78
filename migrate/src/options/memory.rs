//! Memory and precision.

use super::Fate::*;
use super::*;
use crate::script::*;

const SWAP: Scripts = FLOW;
const OFFLOAD: Scripts = NET.or(FULL.and(FLUX.or(LUMINA)));
const ATTENTION: &str = "attention is our own; the result is the same up to rounding";
const MEMORY: &str = "memory is managed by the schedule that `pipe plan` shows";

pub(super) const OPTIONS: &[Opt] = &[
    Opt::new("mixed_precision", Type::Choice(&["no", "fp16", "bf16"]), "no", ALL, Part("train.precision")),
    flag("full_fp16", ALL, Part("nodes.full.storage")),
    flag("full_bf16", ALL, Part("nodes.full.storage")).only(ALL.but(TRAIN_DB.or(FINE_TUNE))),
    flag("fp8_base", ALL, Part("nodes.model.storage")).only(NET),
    flag("fp8_base_unet", NET, Part("nodes.model.storage")),
    flag("no_half_vae", NET.or(UNET), Ignored("the autoencoder computes in f32 on every device")),
    flag("gradient_checkpointing", ALL, Part("nodes.model.checkpointing")),
    flag("cpu_offload_checkpointing", OFFLOAD, Part("nodes.model.checkpointing")).only(FLUX.or(LUMINA.and(FULL))),
    int("blocks_to_swap", "", SWAP, Part("nodes.model.swap_blocks")),
    int("double_blocks_to_swap", "", FLUX.and(FULL), Part("nodes.model.swap_blocks")),
    int("single_blocks_to_swap", "", FLUX.and(FULL), Part("nodes.model.swap_blocks")),
    flag("split_mode", FLUX.and(NET), Part("nodes.model.swap_blocks")),
    flag("xformers", ALL, Ignored(ATTENTION)),
    flag("diffusers_xformers", FINE_TUNE.or(SDXL.and(FULL)), Ignored(ATTENTION)),
    flag("mem_eff_attn", ALL, Ignored(ATTENTION)),
    flag("sdpa", ALL, Ignored(ATTENTION)),
    flag("use_flash_attn", LUMINA, Ignored(ATTENTION)),
    flag("use_sage_attn", LUMINA, Ignored(ATTENTION)),
    flag("lowram", ALL, Ignored(MEMORY)),
    flag("highvram", ALL, Ignored(MEMORY)),
    flag("torch_compile", ALL, Ignored("there is no Python to compile")),
    Opt::new(
        "dynamo_backend",
        Type::Choice(&[
            "eager",
            "aot_eager",
            "inductor",
            "aot_ts_nvfuser",
            "nvprims_nvfuser",
            "cudagraphs",
            "ofi",
            "fx2trt",
            "onnxrt",
            "tensort",
            "ipex",
            "tvm",
        ]),
        "inductor",
        ALL,
        Ignored("there is no Python to compile"),
    ),
];
