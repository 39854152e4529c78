//! Cachers: encode images and captions once, then serve batches.

mod about;
pub mod cached;
pub mod disk;
pub mod fill;
mod held_out;
mod live;
mod masks;
pub mod memory;
pub mod store;
pub mod uses;

use std::collections::BTreeMap;

use std::sync::Arc;

use pipe_core::node::{CheckCx, Facts, InputFacts, PlanCx};
use pipe_core::plan::{Bytes, Category, NodePlan};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_networks::vae::VaeConfig;
use pipe_ops::{Cx, DType, Device, Meter, Tensor};
use serde_json::json;

use self::cached::Cached;
use self::held_out::HeldOut;
use crate::common::autoencoder::Network;
use crate::common::batch::{BatchSource, Batches, batches_per_epoch, run_steps};
use crate::common::facts::{TextFacts, read, texts_of_port};
use crate::common::lengths::BothLengths;
use crate::common::texts_fit;
use crate::loader::sample::Samples;

/// Ports of every cacher.
fn inputs() -> Vec<Input> {
    vec![
        Input::several(
            "samples",
            &[PortType::Samples],
            Rate::Setup,
            "Folders of images with captions; a batch may mix them.",
        ),
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
        Input::optional(
            "live_vae",
            &[PortType::Vae],
            Rate::Step,
            "Autoencoder that encodes images at each use in place of a cache: for cuts and colours that change.",
        ),
        Input::many(
            "live_text",
            &[PortType::TextEncoder],
            Rate::Step,
            "Text encoders that run at each use in place of a cache, without learning: for captions that change.",
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
fn check(cx: &mut CheckCx, vae_batch: u64) -> Facts {
    let batch = cx.settings.train.batch_size;
    let folders: Vec<Facts> = cx.inputs.many("samples").iter().map(|s| s.facts.clone()).collect();
    if folders.is_empty() {
        return Facts::new();
    }
    let regularization = |f: &Facts| f.get("regularization").is_some();
    if folders.iter().all(regularization) {
        let help = "name the loader of the training images too: `samples: [photos, others]`";
        cx.error(
            "P0403",
            "samples",
            "these are regularization images alone, with nothing to balance",
            Some(help.into()),
        );
    }
    let [vae, live_vae] = ["vae", "live_vae"].map(|port| cx.inputs.one(port).map(|s| s.facts.clone()));
    check_live_images(cx, vae.is_some(), live_vae.is_some());
    let is_live = live_vae.is_some();
    let vae_port = if is_live { "live_vae" } else { "vae" };
    let vae = vae.or(live_vae);
    let (cached_text, live_text) = (texts_of_port(cx.inputs, "text"), texts_of_port(cx.inputs, "live_text"));
    for source in cx.inputs.many("samples").to_vec() {
        let fields: Vec<String> = read(&source.facts, "varying_captions").unwrap_or_default();
        if let (Some(field), false) = (fields.first(), cached_text.is_empty()) {
            let message = format!(
                "`{field}` of `{}` changes captions at each use, so their embeddings cannot be cached",
                source.node
            );
            let help = format!("write `live_text` in place of `text`, or leave `{field}` out");
            cx.error("P0403", "text", message, Some(help));
            break;
        }
    }
    let text: Vec<TextFacts> = cached_text.iter().chain(&live_text).cloned().collect();
    for (i, one) in text.iter().enumerate() {
        if text[..i].iter().any(|t| t.kind == one.kind) {
            let port = if i < cached_text.len() { "text" } else { "live_text" };
            cx.error("P0401", port, format!("two of the text encoders are a {}", one.component().name()), None);
        }
    }
    for samples in &folders {
        texts_fit::emphasis(cx, "samples", samples, &text);
    }
    let counts = counts(&folders);
    idle_regularization(cx, &counts);
    let buckets = epoch(&folders, &counts);
    let entries: u64 = buckets.iter().map(|b| b[2]).sum();
    let batches = batches_per_epoch(buckets.iter().map(|b| b[2]), batch);
    let mut facts = Facts::new().with("entries", entries).with("batches", batches);
    // Of a run in steps the loader knows it.
    if let (None, Some(_)) = (cx.settings.train.steps, cx.settings.train.epochs) {
        let (_, total) = run_steps(cx.settings, batches);
        for source in cx.inputs.many("samples").to_vec() {
            if let Some(ratio) = source.facts.f64("warmup_ratio").filter(|ratio| ratio * (total as f64) < 1.0) {
                let message = format!(
                    "`token_warmup` of `{}` has no effect: {ratio} of {total} steps is less than one",
                    source.node
                );
                cx.error("P0402", "samples", message, Some("give `steps` in place of `ratio`, or leave it out".into()));
            }
        }
    }
    let any = |key: &str| folders.iter().any(|f| f.get(key) == Some(&json!(true)));
    let weighs = any("weighs") || folders.iter().any(regularization);
    let lengths = folders.iter().filter_map(|f| read::<BothLengths>(f, "lengths")).reduce(BothLengths::join);
    if let Some(lengths) = lengths {
        facts = facts.with("lengths", serde_json::to_value(lengths).unwrap_or_default());
    }
    for (name, is) in [("masked", any("masked")), ("preserve", any("preserve")), ("weighs", weighs)] {
        facts = facts.with(name, is);
    }
    if folders.iter().any(|f| f.get("class").is_some()) {
        facts = facts.with("class", true);
    }
    let images: u64 = folders.iter().filter_map(|f| f.u64("held_out")).sum();
    let held_out: Vec<[u64; 3]> = folders.iter().flat_map(|f| bucket_list(f, "held_out_buckets")).collect();
    let mut sums: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for [w, h, n] in &held_out {
        *sums.entry((*w, *h)).or_default() += n;
    }
    if folders.iter().any(|f| f.get("held_out").is_some()) {
        let batches = batches_per_epoch(sums.into_values(), batch);
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
                cx.error("P0401", vae_port, message, Some(help));
                break;
            }
        }
        let sizes: Vec<Vec<u64>> = buckets.iter().map(|b| vec![b[0] / factor, b[1] / factor]).collect();
        facts = facts
            .with("latent_channels", vae.u64("latent_channels").unwrap_or(4))
            .with("latent_sizes", sizes)
            .with("latent_scale", vae.f64("scale").unwrap_or(1.0))
            .with("latent_scale_from", vae.str("scale_from").unwrap_or_default())
            .with("latent_shift", vae.f64("shift").unwrap_or(0.0));
        if let Some(largest) = buckets.iter().max_by_key(|b| b[0] * b[1]).filter(|_| is_live) {
            let config = vae.get("vae").cloned().unwrap_or_default();
            facts = facts.with("live_vae", json!({ "config": config, "largest": largest, "at_once": vae_batch }));
        }
        if vae.get("guessed").is_some() {
            facts = facts.with("latents_guessed", true);
        }
    } else {
        let sizes: Vec<Vec<u64>> = buckets.iter().map(|b| vec![b[0], b[1]]).collect();
        facts = facts.with("image_sizes", sizes);
    }
    facts
        .with("texts", serde_json::to_value(&text).unwrap_or_default())
        .with("live_texts", serde_json::to_value(&live_text).unwrap_or_default())
        .with("texts_unknown", cx.inputs.many("text").len() + cx.inputs.many("live_text").len() > text.len())
        .with("emphasis_fault", folders.iter().find_map(|f| f.str("emphasis_fault").map(str::to_owned)))
}

/// Images that change cannot be cached.
fn check_live_images(cx: &mut CheckCx, cached: bool, live: bool) {
    if cached && live {
        let message = "`live_vae` encodes every image at each use, so `vae` has nothing to do";
        cx.error("P0402", "vae", message, Some("give one of the two".into()));
        return;
    }
    for source in cx.inputs.many("samples").to_vec() {
        let fields: Vec<String> = read(&source.facts, "varying_images").unwrap_or_default();
        if let (Some(field), true) = (fields.first(), cached) {
            let message =
                format!("`{field}` of `{}` changes images at each use, so their latents cannot be cached", source.node);
            let help = format!("write `live_vae` in place of `vae`, or leave `{field}` out");
            cx.error("P0403", "vae", message, Some(help));
            return;
        }
    }
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
    let all: usize = cx.typed::<Samples>("samples")?.iter().map(|samples| samples.items.len()).sum();
    let set_aside = cached.items.len() - cached.usable.len() - cached.held_out.len() - cached.apart;
    let line = || format!("{set_aside} of {all} images could not be decoded and were set aside; run.log names them");
    Ok((set_aside > 0).then(line).into_iter().chain(cached.notices.iter().cloned()).collect())
}

/// The folders as they count in an epoch.
fn counts(folders: &[Facts]) -> Vec<uses::Folder> {
    let of = |f: &Facts| uses::Folder {
        images: f.u64("images").unwrap_or(0) as usize,
        repeats: f.u64("repeats").unwrap_or(1),
        resolution: read(f, "resolution").unwrap_or_default(),
        regularization: f.get("regularization").is_some(),
    };
    folders.iter().map(of).collect()
}

/// Regularization images of which none is used: others are enough, or there is nothing to balance.
fn idle_regularization(cx: &mut CheckCx, counts: &[uses::Folder]) {
    let trained = |f: &uses::Folder| !f.regularization && f.images > 0;
    if !counts.iter().any(trained) {
        return;
    }
    let uses = uses::count(counts);
    let sources: Vec<String> = cx.inputs.many("samples").iter().map(|source| source.node.clone()).collect();
    for ((folder, uses), name) in counts.iter().zip(uses).zip(sources) {
        if folder.regularization && folder.images > 0 && uses.iter().all(|uses| *uses == 0) {
            let (w, h) = folder.resolution;
            let message = format!("none of the regularization images of `{name}` is used");
            let help = match counts.iter().any(|f| trained(f) && f.resolution == folder.resolution) {
                true => format!("those before them are as many as the training images of {w}×{h}: leave `{name}` out"),
                false => format!(
                    "no training images are of {w}×{h}, and the others have regularization images of their own: set the \
                     `resolution` of the images that they are to balance"
                ),
            };
            cx.warn("P0402", "samples", message, Some(help));
        }
    }
}

/// Uses in an epoch of each bucket `[w, h, uses]`, over all folders.
fn epoch(folders: &[Facts], counts: &[uses::Folder]) -> Vec<[u64; 3]> {
    let mut sums: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for (facts, uses) in folders.iter().zip(uses::count(counts)) {
        match read::<Vec<[u64; 2]>>(facts, "regularization") {
            Some(order) => {
                for ([w, h], uses) in order.into_iter().zip(uses).filter(|(_, uses)| *uses > 0) {
                    *sums.entry((w, h)).or_default() += uses;
                }
            }
            None => {
                for [w, h, n] in bucket_list(facts, "buckets") {
                    *sums.entry((w, h)).or_default() += n * facts.u64("repeats").unwrap_or(1);
                }
            }
        }
    }
    sums.into_iter().map(|((w, h), n)| [w, h, n]).collect()
}

fn bucket_list(samples: &Facts, name: &str) -> Vec<[u64; 3]> {
    samples.get(name).and_then(|b| serde_json::from_value(b.clone()).ok()).unwrap_or_default()
}

/// Bytes that the cached values take, and the work of making them.
fn plan(cx: &PlanCx, vae_batch: u64, in_memory: bool) -> NodePlan {
    let mut plan = NodePlan::default();
    // Mirrored images are encoded as well.
    let mut buckets: Vec<[u64; 3]> = Vec::new();
    let (mut images, mut captions, mut places) = (0, 0, 0);
    let factor = vae_config(cx.inputs).map_or(1, |(_, factor)| factor);
    let live = cx.inputs.one("live_vae").is_some();
    for facts in cx.inputs.many("samples").iter().map(|s| &s.facts) {
        let flips = if facts.get("flip") == Some(&json!(true)) { 2 } else { 1 };
        let held_out = bucket_list(facts, "held_out_buckets");
        let own = bucket_list(facts, "buckets").into_iter().map(|[w, h, n]| [w, h, n * flips]).chain(held_out);
        // What changes is made anew at each use.
        let varies = read::<Vec<String>>(facts, "varying_images").is_some_and(|fields| !fields.is_empty());
        let count = facts.u64("images").unwrap_or(0) + facts.u64("held_out").unwrap_or(0);
        images += count;
        captions += if facts.get("class").is_some() { 2 * count } else { count };
        if live || varies {
            continue;
        }
        if facts.get("masked") == Some(&json!(true)) {
            places += own.clone().map(|[w, h, n]| w * h * n).sum::<u64>() / (factor * factor);
        }
        buckets.extend(own);
    }
    let pixels: u64 = buckets.iter().map(|b| b[0] * b[1] * b[2]).sum();
    let mut cached = 4 * places;
    match vae_config(cx.inputs) {
        Some((config, factor)) => {
            cached += pixels / (factor * factor) * 2 * config.latent as u64 * 4;
            let (peak, flops) = encode_cost(&config, &buckets, vae_batch as usize);
            plan.build.push(Bytes { category: Category::Activations, bytes: peak });
            plan.build_flops = flops;
        }
        None if live => {}
        None => cached += pixels * 3 * 4,
    }
    for text in texts_of_port(cx.inputs, "text") {
        cached += captions * text.floats() * 4;
        let compute =
            crate::common::engine::compute_type(cx.settings.train.precision, crate::planned_kind(cx.settings));
        let chunk = fill::captions_at_once(text.tokens as usize);
        let (peak, flops) = text_cost(&text, compute, chunk);
        plan.build.push(Bytes { category: Category::Activations, bytes: peak });
        plan.build_flops += flops * captions;
    }
    // Encoders run one after the other, and free their activations.
    let largest_peak = plan.build.iter().map(|b| b.bytes).max().unwrap_or(0);
    plan.build = vec![Bytes { category: Category::Activations, bytes: largest_peak }];
    let largest = buckets.iter().map(|b| b[0] * b[1]).max().unwrap_or(0);
    // Pictures as they are decoded: one after another for a cache, side by side where they are used anew.
    let picture = cx.inputs.many("samples").iter().filter_map(|s| s.facts.u64("largest_image")).max().unwrap_or(0) * 3;
    let at_once = |images: u64| images.min(rayon::current_num_threads() as u64).max(1);
    let looked_at = if live { at_once(images) } else { 1 };
    plan.build.push(Bytes { category: Category::Working, bytes: largest * 3 * 8 * vae_batch + picture * looked_at });
    if live {
        let bytes = picture * at_once(cx.settings.train.batch_size);
        plan.resident.push(Bytes { category: Category::Working, bytes });
    }
    let verb = if live { "look at" } else { "cache" };
    plan.build_label = Some(format!("{verb} {images} images"));
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

/// Peak bytes of encoding `chunk` captions at once, and FLOPs of a caption.
pub fn text_cost(text: &TextFacts, compute: DType, chunk: usize) -> (u64, u64) {
    let meter = Meter::new();
    let cx = Cx::new(Device::Meta(meter.clone()), compute);
    let part = crate::common::family::part(text.component());
    let mut b = pipe_networks::Builder::new();
    let out = text.network.build(&mut b, part, text.take);
    let model = b.finish();
    let weights = pipe_networks::Weights::meta(&text.network.shapes(), &meter, compute, &text.keeping());
    let base = meter.live();
    meter.reset_peak();
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
pub fn encode_cost(config: &VaeConfig, buckets: &[[u64; 3]], batch: usize) -> (u64, u64) {
    let network = Network::new(config);
    let run = |w: u64, h: u64, b: usize| {
        let meter = Meter::new();
        let cx = Cx::new(Device::Meta(meter.clone()), DType::F32);
        let weights = pipe_networks::Weights::meta(&config.shapes(), &meter, DType::F32, &Default::default());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_counts_what_a_run_uses() {
        let photos =
            Facts::new().with("images", 5u64).with("repeats", 2u64).with("buckets", json!([[64, 64, 3], [64, 96, 2]]));
        let of_class = Facts::new().with("images", 3u64).with("regularization", json!([[64, 64], [96, 64], [64, 64]]));
        // Ten uses of photos; of the others four, three and three.
        let folders = [photos, of_class];
        assert_eq!(epoch(&folders, &counts(&folders)), [[64, 64, 6 + 4 + 3], [64, 96, 4], [96, 64, 3]]);
    }
}
