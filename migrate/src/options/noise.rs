//! Noise, target and loss of epsilon and v models, and what the losses of all models share.

use super::Fate::*;
use super::*;
use crate::script::*;

const MASKED: Scripts = ALL.but(FINE_TUNE);

pub(super) const OPTIONS: &[Opt] = &[
    int("min_timestep", "", ALL, Part("nodes.loss.timesteps.min")).only(UNET.or(SD3)),
    int("max_timestep", "", ALL, Part("nodes.loss.timesteps.max")).only(UNET.or(SD3)),
    float("noise_offset", "", ALL, unless_zero("nodes.loss.noise_offset")).only(UNET),
    flag("noise_offset_random_strength", ALL, Part("nodes.loss.noise_offset_random_strength")).only(UNET),
    float("adaptive_noise_scale", "", ALL, Part("nodes.loss.adaptive_noise_scale")).only(UNET),
    int("multires_noise_iterations", "", ALL, Part("nodes.loss.multires_noise.iterations"))
        .only(UNET)
        .note("each sample is normalised by itself; sd-scripts lets the samples of a batch influence each other"),
    float("multires_noise_discount", "0.3", ALL, Part("nodes.loss.multires_noise.discount")).only(UNET),
    float("ip_noise_gamma", "", ALL, unless_zero("nodes.loss.ip_noise_gamma")).only(ALL.but(SD3)),
    flag("ip_noise_gamma_random_strength", ALL, Part("nodes.loss.ip_noise_gamma_random_strength")).only(ALL.but(SD3)),
    Opt::new("loss_type", Type::Choice(&["l1", "l2", "huber", "smooth_l1"]), "l2", ALL, set("nodes.loss.loss_type")),
    Opt::new(
        "huber_schedule",
        Type::Choice(&["constant", "exponential", "snr"]),
        "snr",
        ALL,
        Part("nodes.loss.huber.schedule"),
    ),
    float("huber_c", "0.1", ALL, Part("nodes.loss.huber.c")),
    float("huber_scale", "1.0", ALL, Part("nodes.loss.huber.scale")),
    float("min_snr_gamma", "", ALL, unless_zero("nodes.loss.min_snr_gamma")).only(UNET),
    flag("scale_v_pred_loss_like_noise_pred", ALL, Part("nodes.loss.scale_v_pred_loss_like_noise_pred")).only(UNET),
    float("v_pred_like_loss", "", ALL, Part("nodes.loss.v_pred_like_loss")).only(UNET.but(TRAIN_DB.or(FINE_TUNE))),
    flag("debiased_estimation_loss", ALL, set("nodes.loss.debiased_estimation_loss")).only(UNET),
    flag("masked_loss", MASKED, Ignored("masks that a loader names count without further ado")),
    float("prior_loss_weight", "1.0", ALL, Part("nodes.images.regularization.weight")).only(NET.or(TRAIN_DB)),
];
