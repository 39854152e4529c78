//! What SD3's training leaves to chance: samples without one of the text encoders, and positions from a random part of
//! their table. Neither acts in validation and previews.

use std::collections::BTreeMap;

use pipe_core::node::{CheckCx, Facts};
use pipe_networks::mmdit::MmditConfig;
use pipe_networks::{Network, TextKind};
use pipe_ops::rng::{self, Purpose};

use super::At;
use crate::common::denoise::Chance;
use crate::common::facts::{cached_texts, network_of, read, trained_texts};
use crate::common::family;

/// The encoders in the order of the network's probabilities, with their fields.
const TEXTS: [(TextKind, &str); 3] = [(TextKind::Clip, "clip_l"), (TextKind::ClipG, "clip_g"), (TextKind::T5, "t5xxl")];

/// The draws of a forward pass over `b` samples.
pub fn of(network: &Network, at: &At, b: usize) -> Chance {
    let Network::Mmdit(config) = network else { return Chance::default() };
    let draw = |name: &str, step: u64, n: usize| {
        rng::uniform(&mut rng::named_stream(at.seed, Purpose::Dropout, step, name), n, 0.0, 1.0)
    };
    let options = &config.options;
    let crop = (options.random_crop > 0.0).then(|| draw("positions", at.pass, 3));
    let crop = crop.filter(|u| u[0] < options.random_crop).map(|u| [u[1], u[2]]);
    let mut text_keep = BTreeMap::new();
    for ((kind, name), p) in TEXTS.into_iter().zip(options.text_dropout).filter(|(_, p)| *p > 0.0) {
        let sample = |i: usize| format!("text {name} {}", at.first_sample + i as u64);
        let keep: Vec<f32> = (0..b).map(|i| if draw(&sample(i), at.step, 1)[0] < p { 0.0 } else { 1.0 }).collect();
        if keep.contains(&0.0) {
            text_keep.insert(kind, keep);
        }
    }
    Chance { crop, text_keep }
}

/// Dropout of an encoder that the run does not have.
pub fn check(cx: &mut CheckCx, model: &Facts, batch: &Facts) {
    let (Some(Network::Mmdit(config)), Some(field)) = (network_of(model), model.str("text_dropout")) else { return };
    let unknown = |facts: &Facts, key| facts.get(key) == Some(&serde_json::json!(true));
    if unknown(batch, "texts_unknown") || unknown(model, "trained_texts_unknown") {
        return;
    }
    let texts: Vec<TextKind> = cached_texts(batch).iter().chain(&trained_texts(model)).map(|text| text.kind).collect();
    let embedded = batch.get("replay").is_some() && batch.get("captions").is_none();
    for ((kind, name), _) in TEXTS.into_iter().zip(config.options.text_dropout).filter(|(_, p)| *p > 0.0) {
        let component = family::text_component(kind);
        let why = match embedded {
            true => "the replay carries joined embeddings".to_owned(),
            false if !texts.contains(&kind) => format!("this run reads no {}", component.name()),
            false => continue,
        };
        let message = format!("`text_dropout` of `{name}` has no effect: {why}");
        cx.error("P0402", &format!("{field}.{name}"), message, Some("leave it out".into()));
    }
    for (text, name) in trained_texts(model).iter().filter_map(|text| {
        let at = TEXTS.iter().position(|(kind, _)| *kind == text.kind)?;
        (config.options.text_dropout[at] >= 1.0).then_some((text, TEXTS[at].1))
    }) {
        let message = format!(
            "with `text_dropout` of 1 no sample of training has {}, which is to learn",
            text.component().name()
        );
        cx.error("P0403", &format!("{field}.{name}"), message, Some("lower it, or do not train this encoder".into()));
    }
    cropped(cx, &config, field.replace("text_dropout", "position_random_crop").as_str(), batch);
}

/// Random parts of the position table where every size of the data takes all of it.
fn cropped(cx: &mut CheckCx, config: &MmditConfig, field: &str, batch: &Facts) {
    if config.options.random_crop == 0.0 || !config.options.scaled.is_empty() {
        return;
    }
    let sizes: Vec<[usize; 2]> = read(batch, "latent_sizes").unwrap_or_default();
    if !sizes.is_empty() && sizes.iter().flatten().all(|side| side / config.patch >= config.positions) {
        let side = 8 * config.patch * config.positions;
        let message = format!(
            "`position_random_crop` has no effect: all images have {side}×{side} pixels, which takes the whole position table"
        );
        cx.error("P0402", field, message, Some("leave it out".into()));
    }
}

#[cfg(test)]
mod tests {
    use pipe_networks::mmdit::Options;

    use super::*;

    /// Each sample draws by itself, as often as it should; the next step and another seed draw otherwise.
    #[test]
    fn draws_are_functions_of_the_sample() {
        let options = Options { random_crop: 0.25, text_dropout: [0.0, 0.5, 0.2], ..Options::default() };
        let network = Network::Mmdit(MmditConfig { options, ..MmditConfig::sd3_medium() });
        let at = |seed, step| At { seed, step, first_sample: 0, pass: step, scale: 1.0, timesteps: None };
        let (n, mut crops, mut dropped) = (2000, 0, [0; 3]);
        for step in 0..n {
            let chance = of(&network, &at(1, step), 2);
            crops += chance.crop.is_some() as u64;
            for (i, (kind, _)) in TEXTS.iter().enumerate() {
                let keep = chance.text_keep.get(kind);
                dropped[i] += keep.map_or(0, |keep| keep.iter().filter(|keep| **keep == 0.0).count());
            }
            // The second sample of a batch of two is that of a batch of one behind another.
            let second = of(&network, &At { first_sample: 1, ..at(1, step) }, 1);
            let alone = |chance: &Chance, i: usize| chance.text_keep.get(&TextKind::T5).map_or(1.0, |keep| keep[i]);
            assert_eq!(alone(&chance, 1), alone(&second, 0));
        }
        let share = |found: f64, of: f64, wanted: f64| assert!((found / of - wanted).abs() < 0.03, "{found} of {of}");
        share(crops as f64, n as f64, 0.25);
        assert_eq!(dropped[0], 0);
        share(dropped[1] as f64, 2.0 * n as f64, 0.5);
        share(dropped[2] as f64, 2.0 * n as f64, 0.2);
        let many = |seed| (0..40).map(|step| of(&network, &at(seed, step), 1).text_keep.len()).collect::<Vec<_>>();
        assert!(many(1) == many(1) && many(1) != many(2));
    }
}
