//! Keys of the dataset file. A key is looked up in the subset, its dataset, `[general]` and the command line.

use super::Fate::*;
use super::*;

const RESIZE: &[&str] = &["lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", "box"];

const fn key(name: &'static str, kind: Type, default: &'static str, fate: Fate) -> Opt {
    Opt::new(name, kind, default, ALL, fate).at(Place::Dataset)
}

pub(super) const OPTIONS: &[Opt] = &[
    key("resolution", Type::Size, "", Part("nodes.images.resolution")),
    key("batch_size", Type::Int, "1", Part("train.batch_size")),
    key("enable_bucket", Type::Flag, "", Part("nodes.images.buckets")),
    key("min_bucket_reso", Type::Int, "256", Part("nodes.images.buckets.min")),
    key("max_bucket_reso", Type::Int, "1024", Part("nodes.images.buckets.max")),
    key("bucket_reso_steps", Type::Int, "64", Part("nodes.images.buckets.step")),
    key("bucket_no_upscale", Type::Flag, "", Part("nodes.images.buckets.no_upscale")),
    key(
        "network_multiplier",
        Type::Float,
        "1.0",
        Refused(
            "an adapter has one strength here, in training as in use; `loss_weight` of the loader sets how much the images of a folder count",
        ),
    ),
    key("validation_split", Type::Float, "0.0", Part("nodes.validation.batch")),
    key("validation_seed", Type::Int, "", Part("nodes.validation.batch")),
    key("resize_interpolation", Type::Choice(RESIZE), "", set("nodes.images.resize_interpolation")),
    key("image_dir", Type::Text, "", Part("nodes.images.path")),
    key("metadata_file", Type::Text, "", Part("nodes.images.metadata")),
    key("conditioning_data_dir", Type::Text, "", set("nodes.images.masks")),
    key("class_tokens", Type::Text, "", Part("nodes.images.default_caption")),
    key("caption_extension", Type::Text, ".caption", Part("nodes.images.caption_extension")),
    key(
        "cache_info",
        Type::Flag,
        "",
        Ignored(
            "not needed: captions and sizes are read anew at each start, which takes a moment, so that they are never out of date",
        ),
    ),
    key("is_reg", Type::Flag, "", Part("nodes.images.regularization")),
    key("prior_loss_weight", Type::Float, "1.0", Part("nodes.images.regularization.weight")),
    key("alpha_mask", Type::Flag, "", set("nodes.images.alpha_mask")),
    key("num_repeats", Type::Int, "1", Part("nodes.images.repeats")),
    key("shuffle_caption", Type::Flag, "", Part("nodes.images.shuffle_caption")),
    key("caption_separator", Type::Text, ",", Part("nodes.images.caption_separator")),
    key("keep_tokens", Type::Int, "0", Part("nodes.images.keep_tokens")),
    key("keep_tokens_separator", Type::Text, "", Part("nodes.images.keep_tokens_separator")),
    key("secondary_separator", Type::Text, "", Part("nodes.images.secondary_separator")),
    key("enable_wildcard", Type::Flag, "", set("nodes.images.wildcards")),
    key("caption_prefix", Type::Text, "", unless_zero("nodes.images.caption_prefix")),
    key("caption_suffix", Type::Text, "", unless_zero("nodes.images.caption_suffix")),
    key("token_warmup_min", Type::Int, "1", Part("nodes.images.token_warmup.min")),
    key("token_warmup_step", Type::Float, "0", Part("nodes.images.token_warmup")),
    key("caption_dropout_rate", Type::Float, "0.0", unless_zero("nodes.images.caption_dropout_rate")),
    key("caption_dropout_every_n_epochs", Type::Int, "0", unless_zero("nodes.images.caption_dropout_every_epochs")),
    key("caption_tag_dropout_rate", Type::Float, "0.0", unless_zero("nodes.images.tag_dropout_rate")),
    key("color_aug", Type::Flag, "", Part("nodes.images.color_aug"))
        .changed("sd-scripts darkens the images by mistake; here the colours turn as intended"),
    key("flip_aug", Type::Flag, "", set("nodes.images.flip_aug")),
    key("random_crop", Type::Flag, "", Part("nodes.images.random_crop")),
    key("face_crop_aug_range", Type::Floats, "", Part("nodes.images.face_crop")),
    key("custom_attributes", Type::Table, "", Part("nodes.images")),
    key("diff_output_preservation", Type::Flag, "", Part("nodes.images.preserve_output")),
];
