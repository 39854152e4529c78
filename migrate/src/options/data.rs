//! Images, buckets, caches. Options that a dataset file has too are carried over in [`crate::convert`]'s data stage.

use super::Fate::*;
use super::*;
use crate::script::*;

const RESIZE: &[&str] = &["lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area"];

pub(super) const OPTIONS: &[Opt] = &[
    text("train_data_dir", ALL, Part("nodes.images.path")),
    text("reg_data_dir", ALL, Part("nodes.images.regularization")),
    text("in_json", ALL, Part("nodes.images.metadata")),
    int("dataset_repeats", "1", ALL, Part("nodes.images.repeats")),
    text("resolution", ALL, Part("nodes.images.resolution")),
    flag("enable_bucket", ALL, Part("nodes.images.buckets")),
    int("min_bucket_reso", "256", ALL, Part("nodes.images.buckets.min")),
    int("max_bucket_reso", "1024", ALL, Part("nodes.images.buckets.max")),
    int("bucket_reso_steps", "64", ALL, Part("nodes.images.buckets.step")),
    flag("bucket_no_upscale", ALL, Part("nodes.images.buckets.no_upscale")),
    Opt::new("resize_interpolation", Type::Choice(RESIZE), "", ALL, Part("nodes.images.resize_interpolation")),
    flag("color_aug", ALL, Part("nodes.images.color_aug")),
    flag("flip_aug", ALL, Part("nodes.images.flip_aug")),
    text("face_crop_aug_range", ALL, Part("nodes.images.face_crop")),
    flag("random_crop", ALL, Part("nodes.images.random_crop")),
    flag("alpha_mask", ALL, Part("nodes.images.alpha_mask")),
    text(
        "conditioning_data_dir",
        ALL.but(FINE_TUNE),
        Refused("masks belong to a folder: give `conditioning_data_dir` in the dataset file"),
    ),
    flag("cache_info", ALL, Part("nodes.cached")),
    flag("cache_latents", ALL, Part("nodes.cached.type")),
    flag("cache_latents_to_disk", ALL, Part("nodes.cached.type")),
    int("vae_batch_size", "1", ALL, set("nodes.cached.vae_batch_size")).always(),
    flag("cache_text_encoder_outputs", ALL.but(SD), Part("nodes.cached.text")),
    flag("cache_text_encoder_outputs_to_disk", ALL.but(SD), Part("nodes.cached.type")),
    int("text_encoder_batch_size", "", FLOW, Ignored("captions are encoded once, the batch changes no result")),
    flag("skip_cache_check", ALL, Ignored("a cache entry is found by its content, so there is nothing to skip")),
    flag(
        "skip_latents_validity_check",
        FULL.and(FLOW),
        Ignored("a cache entry is found by its content, so there is nothing to skip"),
    ),
];
