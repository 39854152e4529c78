//! Sample images.

use super::Fate::*;
use super::*;
use crate::script::*;

pub(super) const OPTIONS: &[Opt] = &[
    text("sample_prompts", ALL, Part("nodes.preview.prompts")),
    int("sample_every_n_steps", "", ALL, Part("nodes.preview.every.steps")),
    int("sample_every_n_epochs", "", ALL, Part("nodes.preview.every.epochs")),
    flag("sample_at_first", ALL, Ignored("pictures are always drawn before the first step")),
    Opt::new(
        "sample_sampler",
        Type::Choice(&[
            "ddim",
            "pndm",
            "lms",
            "euler",
            "euler_a",
            "heun",
            "dpm_2",
            "dpm_2_a",
            "dpmsolver",
            "dpmsolver++",
            "dpmsingle",
            "k_lms",
            "k_euler",
            "k_euler_a",
            "k_dpm_2",
            "k_dpm_2_a",
        ]),
        "ddim",
        ALL,
        Part("nodes.preview.sampler"),
    )
    .only(UNET),
    int("sample_batch_size", "", LUMINA, Ignored("pictures are drawn one by one")),
];
