//! Captions on the command line; a dataset file has the same.

use super::Fate::*;
use super::*;
use crate::script::*;

pub(super) const OPTIONS: &[Opt] = &[
    Opt::new("caption_extension", Type::Text, ".caption", ALL, Part("nodes.images.caption_extension")),
    text("caption_extention", ALL, Part("nodes.images.caption_extension")),
    flag("shuffle_caption", ALL, Part("nodes.images.shuffle_caption")),
    Opt::new("caption_separator", Type::Text, ",", ALL, Part("nodes.images.caption_separator")),
    int("keep_tokens", "0", ALL, Part("nodes.images.keep_tokens")),
    text("keep_tokens_separator", ALL, Part("nodes.images.keep_tokens_separator")),
    text("secondary_separator", ALL, Part("nodes.images.secondary_separator")),
    flag("enable_wildcard", ALL, Part("nodes.images.wildcards")),
    text("caption_prefix", ALL, Part("nodes.images.caption_prefix")),
    text("caption_suffix", ALL, Part("nodes.images.caption_suffix")),
    float("caption_dropout_rate", "0.0", ALL, Part("nodes.images.caption_dropout_rate")),
    int("caption_dropout_every_n_epochs", "0", ALL, Part("nodes.images.caption_dropout_every_epochs")),
    float("caption_tag_dropout_rate", "0.0", ALL, Part("nodes.images.tag_dropout_rate")),
    int("token_warmup_min", "1", ALL, Part("nodes.images.token_warmup.min")),
    float("token_warmup_step", "0", ALL, Part("nodes.images.token_warmup")),
    flag("weighted_captions", ALL, Part("nodes.clip.weighted_captions")).only(UNET),
    flag("no_token_padding", TRAIN_DB, Ignored("sd-scripts accepts it and does nothing with it")),
];
