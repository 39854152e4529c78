//! Cachers: encode images and captions once, then serve batches.

pub mod disk;
pub mod fill;
mod held_out;
pub mod memory;
pub mod store;

use std::sync::Arc;

use pipe_core::node::{CheckCx, Facts, InputFacts, PlanCx};
use pipe_core::plan::{Bytes, Category, NodePlan};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_networks::vae::VaeConfig;
use pipe_ops::{Cx, DType, Device, Meter, Tensor};
use serde_json::json;

use self::fill::Cached;
use self::held_out::HeldOut;
use crate::common::autoencoder::Network;
use crate::common::batch::{BatchSource, Batches, batches_per_epoch};
use crate::common::facts::{TextFacts, texts_of_port};
use crate::loader::images::{CaptionRules, Samples};

/// Ports of every cacher.
fn inputs() -> Vec<Input> {
    vec![
        Input::one("samples", &[PortType::Samples], Rate::Setup, "Images and captions."),
        Input::optional(
            "vae",
            &[PortType::Vae],
            Rate::Sample,
            "Autoencoder that makes latents of the images. Without it batches carry the images themselves.",
        ),
        Input::many(
            "text",
            &[PortType::TextEncoder],
            Rate::Sample,
            "Text encoders whose outputs are cached. Leave out those that are trained.",
        ),
    ]
}

fn outputs() -> Vec<Output> {
    let output = |name, doc| Output { name, ty: PortType::Batches, rate: Rate::Setup, doc };
    vec![
        output("out", "Shuffled batches that never mix buckets."),
        output("validation", "The images that `validation_split` of the loader sets aside, in a fixed order."),
    ]
}

/// Checks that hold for every cacher, and the facts of its batches.
fn check(cx: &mut CheckCx) -> Facts {
    let batch = cx.settings.train.batch_size;
    let Some(samples) = cx.inputs.one("samples").map(|s| s.facts.clone()) else { return Facts::new() };
    let vae = cx.inputs.one("vae").map(|s| s.facts.clone());
    let text = texts_of_port(cx.inputs, "text");
    let rules: CaptionRules =
        samples.get("captions").and_then(|c| serde_json::from_value(c.clone()).ok()).unwrap_or_default();
    if rules.shuffle && !text.is_empty() {
        cx.error(
            "P0403",
            "text",
            "captions are shuffled at each use, so their embeddings cannot be cached",
            Some("leave `shuffle_caption` out, or train the text encoder and leave `text` out here".into()),
        );
    }
    for (i, one) in text.iter().enumerate() {
        if text[..i].iter().any(|t| t.kind == one.kind) {
            cx.error("P0401", "text", format!("two of the text encoders are a {}", one.component().name()), None);
        }
    }
    let buckets = bucket_list(&samples, "buckets");
    let held_out = bucket_list(&samples, "held_out_buckets");
    let repeats = samples.u64("repeats").unwrap_or(1);
    let entries: u64 = buckets.iter().map(|b| b[2] * repeats).sum();
    let batches = batches_per_epoch(buckets.iter().map(|b| b[2] * repeats), batch);
    let mut facts = Facts::new().with("entries", entries).with("batches", batches);
    if let Some(images) = samples.u64("held_out") {
        let batches = batches_per_epoch(held_out.iter().map(|b| b[2]), batch);
        facts = facts.with("held_out", images).with("held_out_batches", batches);
    }
    // From here on, the sizes of all.
    let buckets: Vec<[u64; 3]> = buckets.into_iter().chain(held_out).collect();
    if let Some(vae) = vae {
        let factor = vae.u64("factor").unwrap_or(8);
        for b in &buckets {
            if b[0] % factor != 0 || b[1] % factor != 0 {
                let help =
                    format!("make sides multiples of {factor}: set `resolution` or `buckets.step` of the loader");
                let message = format!("the autoencoder cannot halve {}×{} pixels {} times", b[0], b[1], factor.ilog2());
                cx.error("P0401", "vae", message, Some(help));
                break;
            }
        }
        let sizes: Vec<Vec<u64>> = buckets.iter().map(|b| vec![b[0] / factor, b[1] / factor]).collect();
        facts = facts
            .with("latent_channels", vae.u64("latent_channels").unwrap_or(4))
            .with("latent_sizes", sizes)
            .with("latent_scale", vae.f64("scale").unwrap_or(1.0))
            .with("latent_scale_assumed", vae.get("scale_assumed") == Some(&json!(true)))
            .with("latent_shift", vae.f64("shift").unwrap_or(0.0));
    } else {
        let sizes: Vec<Vec<u64>> = buckets.iter().map(|b| vec![b[0], b[1]]).collect();
        facts = facts.with("image_sizes", sizes);
    }
    facts.with("texts", serde_json::to_value(&text).unwrap_or_default())
}

/// What a cacher's build gives, once its cache is filled.
fn built(cx: &BuildCx, cached: Cached) -> Result<Built, RunError> {
    let (content, remarks) = (Some(cached.content()), remarks(cx, &cached)?);
    let cached = Arc::new(cached);
    let held_out = Batches(Arc::new(HeldOut::new(cached.clone())));
    Ok(Built { outputs: vec![Arc::new(Batches(cached)), Arc::new(held_out)], content, remarks, ..Default::default() })
}

/// What the user should read again at the end of the run: how many images could not be used.
fn remarks(cx: &BuildCx, cached: &Cached) -> Result<Vec<String>, RunError> {
    let samples = cx.one::<Samples>("samples")?;
    let all = samples.items.len() as u64;
    let set_aside = all.saturating_sub(cached.usable());
    let line = || format!("{set_aside} of {all} images could not be decoded and were set aside; run.log names them");
    Ok((set_aside > 0).then(line).into_iter().collect())
}

fn bucket_list(samples: &Facts, name: &str) -> Vec<[u64; 3]> {
    samples.get(name).and_then(|b| serde_json::from_value(b.clone()).ok()).unwrap_or_default()
}

/// Bytes that the cached values take, and the work of making them.
fn plan(cx: &PlanCx, vae_batch: u64, in_memory: bool) -> NodePlan {
    let mut plan = NodePlan::default();
    let Some(samples) = cx.inputs.one("samples").map(|s| &s.facts) else { return plan };
    let buckets = [bucket_list(samples, "buckets"), bucket_list(samples, "held_out_buckets")].concat();
    let flips = if samples.get("flip") == Some(&json!(true)) { 2 } else { 1 };
    let images: u64 = buckets.iter().map(|b| b[2]).sum();
    let pixels: u64 = buckets.iter().map(|b| b[0] * b[1] * b[2]).sum();
    let mut cached = 0;
    match vae_config(cx.inputs) {
        Some((config, factor)) => {
            cached += pixels / (factor * factor) * 2 * config.latent as u64 * 4 * flips;
            let (peak, flops) = encode_cost(&config, &buckets, vae_batch as usize);
            plan.build.push(Bytes { category: Category::Activations, bytes: peak });
            plan.build_flops = flops * flips;
        }
        None => cached += pixels * 3 * 4 * flips,
    }
    for text in texts_of_port(cx.inputs, "text") {
        cached += images * text.floats() * 4;
        let compute =
            crate::common::engine::compute_type(cx.settings.train.precision, crate::planned_kind(cx.settings));
        let (peak, flops) = text_cost(&text, compute);
        plan.build.push(Bytes { category: Category::Activations, bytes: peak });
        plan.build_flops += flops * images;
    }
    // Encoders run one after the other, and free their activations.
    let largest_peak = plan.build.iter().map(|b| b.bytes).max().unwrap_or(0);
    plan.build = vec![Bytes { category: Category::Activations, bytes: largest_peak }];
    let largest = buckets.iter().map(|b| b[0] * b[1]).max().unwrap_or(0);
    plan.build.push(Bytes { category: Category::Working, bytes: largest * 3 * 8 * vae_batch });
    plan.build_label = Some(format!("cache {images} images"));
    if in_memory {
        plan.resident.push(Bytes { category: Category::Batch, bytes: cached });
    } else {
        plan.cache_disk = cached;
    }
    plan
}

fn vae_config(inputs: &InputFacts) -> Option<(VaeConfig, u64)> {
    let facts = &inputs.one("vae")?.facts;
    let config = serde_json::from_value(facts.get("vae")?.clone()).ok()?;
    Some((config, facts.u64("factor").unwrap_or(8)))
}

/// Peak bytes of encoding one chunk of captions, and FLOPs of a caption.
fn text_cost(text: &TextFacts, compute: DType) -> (u64, u64) {
    let meter = Meter::new();
    let cx = Cx::new(Device::Meta(meter.clone()), compute);
    let part = crate::common::family::part(text.component());
    let mut b = pipe_networks::Builder::new();
    let out = text.network.build(&mut b, part, text.take);
    let model = b.finish();
    let weights = pipe_networks::Weights::meta(&text.network.shapes(), &meter, compute);
    let base = meter.live();
    meter.reset_peak();
    let chunk = fill::captions_at_once(text.tokens as usize);
    let (windows, length) = match text.network {
        pipe_networks::TextNetwork::Clip(_) => ((text.tokens as usize - 2) / 75, pipe_networks::clip::WINDOW),
        _ => (1, text.tokens as usize),
    };
    let ids = vec![vec![0; length]; chunk * windows];
    let input = pipe_networks::TextInput { windows, ..pipe_networks::TextInput::of_windows(ids) };
    let inputs = pipe_networks::Inputs { text: [(part.to_string(), input)].into(), ..Default::default() };
    let setting = pipe_networks::pass::Setting {
        model: &model,
        weights: vec![&weights],
        train: None,
        inputs: &inputs,
        policy: Default::default(),
    };
    setting.forward(&cx, Vec::new(), &[out.hidden], false);
    (meter.peak() - base, meter.flops() / chunk as u64)
}

/// Peak bytes of encoding one batch of the largest bucket, and FLOPs of encoding everything.
fn encode_cost(config: &VaeConfig, buckets: &[[u64; 3]], batch: usize) -> (u64, u64) {
    let network = Network::new(config);
    let run = |w: u64, h: u64, b: usize| {
        let meter = Meter::new();
        let cx = Cx::new(Device::Meta(meter.clone()), DType::F32);
        let weights = pipe_networks::Weights::meta(&config.shapes(), &meter, DType::F32);
        let image = Tensor::meta(&[b, 3, h as usize, w as usize], DType::F32, &meter);
        let base = meter.live();
        meter.reset_peak();
        let inputs = Default::default();
        let setting = pipe_networks::pass::Setting {
            model: &network.model,
            weights: vec![&weights],
            train: None,
            inputs: &inputs,
            policy: Default::default(),
        };
        setting.forward(&cx, vec![(network.image, image, false)], &[network.moments], false);
        (meter.peak() - base, meter.flops())
    };
    let Some(largest) = buckets.iter().max_by_key(|b| b[0] * b[1]) else { return (0, 0) };
    let (peak, _) = run(largest[0], largest[1], batch.min(largest[2] as usize).max(1));
    let (_, flops) = run(largest[0], largest[1], 1);
    let area = (largest[0] * largest[1]) as f64;
    let total: f64 = buckets.iter().map(|b| (b[0] * b[1]) as f64 / area * b[2] as f64).sum();
    (peak, (flops as f64 * total) as u64)
}
