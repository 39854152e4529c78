//! What a folder of images tells the nodes behind its loader before a run.

use std::collections::BTreeMap;

use pipe_core::node::Facts;
use serde_json::json;

use super::faults::emphasis;
use super::images::Config;
use super::sample::{Samples, mean_ratio_error};
use crate::common::lengths::BothLengths;

/// Of images that are there, or that are assumed: of those no caption is known.
pub(super) fn of(config: &Config, samples: &Samples, assumed: bool) -> Facts {
    let buckets = |held_out: bool| {
        let mut counts: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for s in samples.items.iter().filter(|s| s.held_out == held_out) {
            *counts.entry(s.fit.bucket).or_default() += 1;
        }
        counts.iter().map(|((w, h), n)| json!([w, h, n])).collect::<Vec<_>>()
    };
    let held_out = samples.items.iter().filter(|s| s.held_out).count();
    let mut facts = Facts::new();
    if samples.regularization {
        // Which of them are used depends on their order.
        let order: Vec<_> = samples.items.iter().map(|s| json!([s.fit.bucket.0, s.fit.bucket.1])).collect();
        facts = facts.with("regularization", order);
    }
    if config.masks.is_some() || samples.items.iter().any(|s| s.mask.is_some()) {
        facts = facts.with("masked", true);
    }
    if !assumed {
        let captions: Vec<&str> = samples.items.iter().map(|sample| sample.caption.as_str()).collect();
        let lengths = BothLengths::of(&captions, &samples.captions.options);
        facts = facts.with("lengths", serde_json::to_value(lengths).unwrap_or_default());
    }
    if let Some(class) = &samples.class {
        facts = facts.with("class", serde_json::to_value(class).unwrap_or_default());
    }
    facts
        .with("preserve", samples.preserve)
        .with("weighs", samples.items.iter().any(|s| s.weight != 1.0))
        .with("emphasis_fault", emphasis(&samples.items, &samples.captions.options))
        .with("resolution", json!([samples.resolution.0, samples.resolution.1]))
        .with("largest_image", samples.items.iter().map(|s| (s.size.0 * s.size.1) as u64).max().unwrap_or(0))
        .with("warmup_ratio", samples.captions.warmup.and_then(|(_, _, ratio)| ratio))
        .with("for_training", for_training(config))
        .with("ratio_error", mean_ratio_error(samples.items.iter()))
        .with("assumed", assumed)
        .with("images", (samples.items.len() - held_out) as u64)
        .with("held_out", held_out as u64)
        .with("held_out_buckets", buckets(true))
        .with("repeats", samples.repeats)
        .with("flip", samples.flip)
        .with("buckets", buckets(false))
        .with("varying_captions", config.captions.varying())
        .with("varying_images", config.pixels.varying())
}

/// Fields that are set and that change only what is trained on.
fn for_training(config: &Config) -> Vec<&'static str> {
    let own = [
        ("flip_aug", config.flip_aug),
        ("repeats", config.repeats > 1),
        ("loss_weight", config.loss_weight.is_some_and(|weight| weight != 1.0)),
        ("image_weights", config.image_weights.is_some()),
        ("preserve_class", config.preserve_class.is_some()),
    ];
    let own = own.into_iter().filter(|(_, set)| *set).map(|(field, _)| field);
    own.chain(config.captions.for_training()).chain(config.pixels.varying()).collect()
}
