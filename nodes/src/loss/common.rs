//! What the losses of denoisers share: ports, the fit of data and model, latents.

use pipe_core::node::{CheckCx, Facts, Source};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::RunError;
use pipe_data::weights::{Component, Family};
use pipe_ops::op::Elementwise;
use pipe_ops::rng::{self, Purpose};
use pipe_train::ddpm::{IpNoise, normal};
use pipe_train::loss::LossType;

use super::At;
use crate::common::batch::{Batch, HostTensor};
use crate::common::facts::{TextFacts, cached_texts, network_of, trained_texts};
use crate::common::{family, latents_fit, texts_fit};

pub fn inputs() -> Vec<Input> {
    vec![
        Input::one("model", &[PortType::Trainable], Rate::Step, "What learns."),
        Input::one("batch", &[PortType::Batches], Rate::Step, "Training data."),
    ]
}

pub fn outputs() -> Vec<Output> {
    vec![Output::single(PortType::Loss, Rate::Setup, "The loss.")]
}

/// The operation of a loss type.
pub fn element(kind: LossType) -> Elementwise {
    match kind {
        LossType::L2 => Elementwise::L2,
        LossType::L1 => Elementwise::L1,
        LossType::Huber => Elementwise::Huber,
        LossType::SmoothL1 => Elementwise::SmoothL1,
    }
}

/// A number of the batch, for options with a random strength.
pub fn strength(at: &At, purpose: Purpose) -> f64 {
    let stream = &mut rng::named_stream(at.seed, purpose, at.step, &format!("strength {}", at.first_sample));
    rng::uniform(stream, 1, 0.0, 1.0)[0] as f64
}

/// The noise that the model is shown: that which it is to predict, and more of it with input perturbation.
pub fn seen(ip: Option<&IpNoise>, at: &At, sample: u64, noise: &[f32]) -> Vec<f32> {
    let Some(ip) = ip else { return noise.to_vec() };
    let gamma = ip.strength(strength(at, Purpose::InputNoise));
    let mut stream = rng::stream(at.seed, Purpose::InputNoise, at.step, sample);
    IpNoise::perturbed(gamma, noise, &normal(&mut stream, noise.len()))
}

/// Model-space latents of a batch: given ones, or a draw from the cached moments.
pub fn latents(batch: &Batch, at: &At) -> Result<HostTensor, RunError> {
    if let Some(replay) = &batch.replay {
        return Ok(replay.latents.clone());
    }
    let (scale, shift) = batch.latent_scale.unwrap_or((1.0, 0.0));
    let moments =
        batch.moments.as_ref().ok_or_else(|| RunError::new("P0401", "the batches carry no latents").at("batch"))?;
    let mut shape = moments.shape.clone();
    shape[1] /= 2;
    let span: usize = shape[1..].iter().product();
    let mut values = Vec::with_capacity(shape[0] * span);
    for (i, m) in moments.values.chunks(2 * span).enumerate() {
        let mut stream = rng::stream(at.seed, Purpose::VaeSample, at.step, at.first_sample + i as u64);
        let eps = rng::normal(&mut stream, span);
        let (mean, logvar) = m.split_at(span);
        values.extend((0..span).map(|j| {
            let std = (0.5 * logvar[j].clamp(-30.0, 20.0)).exp();
            (mean[j] + std * eps[j] - shift) * scale
        }));
    }
    Ok(HostTensor { values, shape })
}

/// Checks that hold for every denoiser's loss. Gives the facts of model and batch where both are sound.
pub fn check(cx: &mut CheckCx, flow: bool) -> Option<(Facts, Facts)> {
    let (model, batch) = (cx.inputs.one("model").cloned()?, cx.inputs.one("batch").cloned()?);
    not_held_out(cx, &batch);
    let m = &model.facts;
    if m.get("vae").is_some() {
        let message = format!("`{}` trains an autoencoder, which denoises nothing", model.node);
        cx.error("P0401", "model", message, Some("use `loss.autoencoder`".into()));
        return None;
    }
    let family = family::of_id(m.str("architecture")?)?;
    if family::flow(family).is_some() != flow {
        let (is, other) = if flow { ("noise or v", "loss.diffusion") } else { ("a velocity", "loss.flow") };
        let message = format!("{family} predicts {is}, which this loss does not train");
        cx.error("P0401", "model", message, Some(format!("use `{other}`")));
        return None;
    }
    fit(cx, family, m, &batch.facts, &batch.node);
    for (fact, field) in [("preserve", "preserve_output"), ("class", "preserve_class")] {
        if m.str("method") == Some("full") && batch.facts.get(fact) == Some(&serde_json::json!(true)) {
            let message =
                format!("`{field}` keeps what the model without adapter predicts, and here its weights change");
            cx.error(
                "P0403",
                "batch",
                message,
                Some(format!("train an adapter, or leave `{field}` out of the loader")),
            );
        }
    }
    Some((m.clone(), batch.facts.clone()))
}

/// `mask` needs masks.
pub fn check_mask(cx: &mut CheckCx, set: bool, batch: &Facts) {
    if set && batch.get("masked") != Some(&serde_json::json!(true)) {
        let help = "give the loader `masks` or `alpha_mask`, or leave `mask` out";
        cx.error("P0402", "mask", "`mask` has no effect: the images have no masks", Some(help.into()));
    }
}

/// What is set aside for validation is not trained on.
pub fn not_held_out(cx: &mut CheckCx, batch: &Source) {
    if batch.output == "validation" {
        let message = format!("the images that `{}` sets aside are not to be trained on", batch.node);
        cx.error("P0401", "batch", message, Some(format!("write `batch: {}`", batch.node)));
    }
}

/// Whether the data fits the model.
fn fit(cx: &mut CheckCx, family: Family, model: &Facts, batch: &Facts, name: &str) {
    let Some(channels) = batch.u64("latent_channels") else {
        if batch.get("image_sizes").is_some() {
            let help = format!("give `{name}` the autoencoder: `vae: …`");
            cx.error("P0401", "batch", format!("`{name}` carries images, the loss needs latents"), Some(help));
        }
        return;
    };
    if let Some(wanted) = model.u64("latent_channels")
        && wanted != channels
        && batch.get("latents_guessed").is_none()
    {
        let message =
            format!("the model works on {wanted} latent channels, the autoencoder of `{name}` makes {channels}");
        cx.error("P0401", "batch", message, Some("use the autoencoder of the model's family".into()));
    } else if let Some((message, help)) = latents_fit::misfit(family, batch, "latent_", name) {
        cx.error("P0401", "batch", message, Some(help));
    }
    sizes_fit(cx, family, model, batch, name);
    if batch.get("replay").is_some() {
        return replay_fits(cx, family, model, batch, name);
    }
    text_fits(cx, family, model, batch, name);
}

/// Latents that the network cannot cut into its patches.
fn sizes_fit(cx: &mut CheckCx, family: Family, model: &Facts, batch: &Facts, name: &str) {
    let Some(network) = network_of(model) else { return };
    let sizes: Vec<[usize; 2]> =
        batch.get("latent_sizes").and_then(|s| serde_json::from_value(s.clone()).ok()).unwrap_or_default();
    let cell = network.cell();
    if let Some([w, h]) = sizes.iter().find(|[w, h]| w % cell != 0 || h % cell != 0) {
        let message = format!("{family} takes latents with sides in multiples of {cell}, `{name}` has {w}×{h}");
        cx.error(
            "P0401",
            "batch",
            message,
            Some(format!("set `buckets.step` of the loader to a multiple of {}", 8 * cell)),
        );
    }
    if let Some(most) = network.largest()
        && let Some([w, h]) = sizes.iter().find(|[w, h]| *w > most || *h > most)
    {
        let message = format!("the position table ends at latents of {most}×{most}, `{name}` has {w}×{h}");
        cx.error("P0401", "batch", message, Some("train on smaller images".into()));
    }
}

/// Conditions of a replay: embeddings, or captions for the text encoders that learn.
fn replay_fits(cx: &mut CheckCx, family: Family, model: &Facts, batch: &Facts, name: &str) {
    match (batch.get("captions").is_some(), !trained_texts(model).is_empty()) {
        (true, true) => text_fits(cx, family, model, batch, name),
        (true, false) => {
            let message = format!("`{name}` carries captions, and no text encoder learns that would read them");
            let help = "give the adapter the text encoders: `text: …`, or put their outputs into the file as `context`";
            cx.error("P0401", "batch", message, Some(help.into()));
        }
        (false, true) => {
            let message = format!("`{name}` carries text embeddings, so the text encoders would learn nothing");
            let help = "put `captions` into the file in place of `context`, or leave `text` out of the adapter";
            cx.error("P0403", "batch", message, Some(help.into()));
        }
        (false, false) => {
            let pooled = network_of(model).and_then(|n| n.pooled());
            conditions_fit(cx, model, pooled, batch, name);
        }
    }
}

/// Embeddings of a replay.
fn conditions_fit(cx: &mut CheckCx, model: &Facts, pooled: Option<usize>, batch: &Facts, name: &str) {
    match (batch.u64("context_dim"), model.u64("context_dim")) {
        (None, _) => {
            cx.error("P0401", "batch", format!("`{name}` carries no text embeddings"), None);
        }
        (Some(width), Some(wanted)) if width != wanted => {
            let message = format!("the model reads text embeddings of width {wanted}, `{name}` carries width {width}");
            cx.error("P0401", "batch", message, None);
        }
        _ => {}
    }
    let found = batch.u64("pooled_dim").map(|p| p as usize);
    if found != pooled {
        let say = |p: Option<usize>| p.map_or("none".to_string(), |p| format!("one of width {p}"));
        let message = format!("the model reads pooled text: {}; `{name}` carries {}", say(pooled), say(found));
        cx.error("P0401", "batch", message, None);
    }
}

/// Text encoders of data and model together.
fn text_fits(cx: &mut CheckCx, family: Family, model: &Facts, batch: &Facts, name: &str) {
    let cached = cached_texts(batch);
    let trained = trained_texts(model);
    for text in &cached {
        if trained.iter().any(|t| t.kind == text.kind) {
            let message = format!("`{name}` carries the outputs of a text encoder that is being trained");
            cx.error("P0403", "batch", message, Some(format!("leave it out of the text encoders of `{name}`")));
        }
        if !family.has(text.component()) {
            let message = format!("{family} has no {}", text.component().name());
            cx.error("P0401", "batch", message, Some(format!("take it out of the text encoders of `{name}`")));
        }
    }
    // An encoder that could not be read has been reported where it is.
    let told = |facts: &Facts, key| facts.get(key) == Some(&serde_json::json!(true));
    if told(batch, "texts_unknown") || told(model, "trained_texts_unknown") {
        return;
    }
    let have = |c: Component| cached.iter().chain(&trained).find(|t| t.component() == c);
    let single = matches!(family, Family::Sd1 | Family::Sd2);
    let missing: Vec<Component> = family.text_encoders().iter().copied().filter(|c| have(*c).is_none()).collect();
    let optional = family == Family::Sd3 && missing.len() < 3;
    if !missing.is_empty() && !optional {
        let types: Vec<String> = missing.iter().map(|c| format!("`{}`", family::encoder_type(family, *c))).collect();
        let replayed = batch.get("replay").is_some();
        let to = if replayed { "the adapter".to_owned() } else { format!("`{name}`") };
        let help = format!("give {to} the text encoder: `text: …`");
        let what = types.join(" and ");
        let message = format!("{family} reads the outputs of {what}, which `{name}` does not carry");
        cx.error("P0401", "batch", message, Some(help));
        return;
    }
    if let Some(text) = have(Component::TextEncoder)
        && !text.assumed
        && text.single != single
        && family != Family::Sd2
    {
        let message = format!("`{name}` carries CLIP states as another family reads them");
        let wanted = family::id(family);
        cx.error("P0401", "batch", message, Some(format!("set `family: {wanted}` on `encoder.clip_l`")));
    }
    texts_fit::emphasis(cx, "batch", batch, &trained);
    let all: Vec<&TextFacts> = cached.iter().chain(&trained).collect();
    texts_fit::check(cx, "batch", family, model, &all);
    texts_fit::lengths(cx, "batch", family, batch, &all);
    let widths: Vec<u64> = family.text_encoders().iter().filter_map(|c| have(*c)).map(|t| t.width).collect();
    let Some(wanted) = model.u64("context_dim") else { return };
    let width = match family {
        Family::Sdxl => widths.iter().sum(),
        Family::Sd3 => match have(Component::T5) {
            Some(t5) => t5.width,
            None if widths.iter().sum::<u64>() <= wanted => return,
            None => widths.iter().sum(),
        },
        Family::Flux => have(Component::T5).map_or(wanted, |t| t.width),
        _ => widths.first().copied().unwrap_or(wanted),
    };
    if width != wanted {
        let message = format!("the model reads text embeddings of width {wanted}, `{name}` carries width {width}");
        cx.error("P0401", "batch", message, Some("use the text encoders of the model's family".into()));
    }
}
