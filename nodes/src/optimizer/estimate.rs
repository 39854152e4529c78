//! The plan of a training step: the real forward and backward, run with shapes only.

use std::collections::HashMap;
use std::sync::RwLock;

use pipe_core::node::Facts;
use pipe_core::plan::{Bytes, Category, NodePlan, bytes_text};
use pipe_core::run::RunError;
use pipe_core::settings::Settings;
use pipe_data::weights::{Component, Family};
use pipe_networks::adapters::noise::Noise;
use pipe_networks::adapters::{self, Target};
use pipe_networks::clip::WINDOW;
use pipe_networks::pass::{Back, Policy, Setting};
use pipe_networks::vae::VaeConfig;
use pipe_networks::{Dropouts, Inputs, Network, Shapes, TextInput, TextNetwork, Trainables, Weights};
use pipe_ops::op::{self, Elementwise};
use pipe_ops::{Cx, DType, Device, Meter, Tensor};

use super::groups::Shape;
use super::rates::texts;
use crate::adapter::full::{frozen, learns};
use crate::cacher::fill::captions_at_once;
use crate::cacher::{encode_cost, text_cost};
use crate::common::autoencoder::{self, Terms};
use crate::common::denoiser::{DenoiserNet, Live};
use crate::common::engine::compute_type;
use crate::common::facts::{TextFacts, keeping_of, network_of, read, trained_texts};
use crate::common::family;
use crate::common::gradients::Gradients;
use crate::common::write;

/// How a step is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// A gradient is freed as soon as it is complete.
    pub fused: bool,
    /// The text encoders that learn stay as they are.
    pub texts_still: bool,
}

/// Gradients, activations and FLOPs of one step.
pub fn step(settings: &Settings, facts: &Facts, manner: Manner) -> NodePlan {
    let Manner { fused, .. } = manner;
    let parameters = facts.u64("parameters").unwrap_or(0);
    let mut plan = NodePlan::default();
    let measured = match facts.str("loss") {
        Some("autoencoder") => autoencoder_step(settings, facts, fused),
        _ => denoiser_step(settings, facts, manner),
    };
    if let Some(Measured { peak, flops, most, away }) = measured {
        // Gradients of weights in bf16 are of the compute type.
        let compute = compute_type(settings.train.precision, crate::planned_kind(settings));
        let size = if kept(facts) == DType::F32 { 4 } else { compute.size() as u64 };
        let gradients = if fused { most } else { size * parameters };
        // Encoders that run in the step are done before the model begins.
        let (live_peak, live_flops) = live(settings, facts, compute);
        let activations = peak.saturating_sub(gradients).max(live_peak);
        plan.step.push(Bytes { category: Category::Gradients, bytes: gradients });
        plan.step.push(Bytes { category: Category::Activations, bytes: activations });
        plan.step_flops = (flops + live_flops) * settings.train.accumulate;
        if away > 0 {
            plan.host += away;
            plan.notes.push(format!("activations: {} wait in host memory for the backward pass", bytes_text(away)));
        }
    }
    plan
}

/// Peak bytes and FLOPs of what is encoded for a batch in place of a cache.
fn live(settings: &Settings, facts: &Facts, compute: DType) -> (u64, u64) {
    let batch = settings.train.batch_size;
    let texts = facts.get("batch_facts").and_then(|b| b.get("live_texts")).cloned().unwrap_or_default();
    let texts: Vec<TextFacts> = serde_json::from_value(texts).unwrap_or_default();
    let vae = facts.get("batch_facts").and_then(|b| b.get("live_vae"));
    let of_images = vae.and_then(|vae| {
        let config: VaeConfig = serde_json::from_value(vae.get("config")?.clone()).ok()?;
        let [w, h, _]: [u64; 3] = serde_json::from_value(vae.get("largest")?.clone()).ok()?;
        Some(encode_cost(&config, &[[w, h, batch]], vae.get("at_once")?.as_u64()? as usize))
    });
    texts.iter().fold(of_images.unwrap_or_default(), |(peak, flops), text| {
        let chunk = captions_at_once(text.tokens as usize).min(batch as usize).max(1);
        let (own_peak, own_flops) = text_cost(text, compute, chunk);
        (peak.max(own_peak), flops + own_flops * batch)
    })
}

/// What one forward and backward pass took.
struct Measured {
    /// Peak bytes beyond weights and trainables.
    peak: u64,
    /// FLOPs.
    flops: u64,
    /// Most bytes of gradients at once.
    most: u64,
    /// Bytes of activations in the host's memory, away from the device.
    away: u64,
}

/// Gradients of a plan: all of them, or none longer than it is awaited.
#[derive(Default)]
struct Gathered {
    leaves: HashMap<String, Tensor>,
    fused: bool,
    most: u64,
}

impl Gradients for Gathered {
    fn leaves(&mut self) -> &mut HashMap<String, Tensor> {
        &mut self.leaves
    }
    fn segment(&mut self, awaits: &dyn Fn(&str) -> bool) -> Result<(), RunError> {
        self.most = self.most.max(self.leaves.values().map(|t| (t.len() * t.dtype().size()) as u64).sum());
        if self.fused {
            self.leaves.retain(|key, _| awaits(key));
        }
        Ok(())
    }
}

/// The type that what learns is kept in.
pub fn kept(facts: &Facts) -> DType {
    if facts.get("half") == Some(&serde_json::json!(true)) { DType::BF16 } else { DType::F32 }
}

/// Saves of the training state, of `size` bytes each: memory of one, disk of those that are kept, and how often.
pub fn states(settings: &Settings, facts: &Facts, steps: (u64, u64), size: u64, plan: &mut NodePlan) {
    let (per_epoch, total) = steps;
    let cadence = &settings.train.save_state;
    let keep = cadence.keep_last.count;
    // Where the clock decides: as many as are ever kept.
    let counted = cadence.count(0, total, per_epoch);
    plan.disk += size.saturating_mul(counted.unwrap_or(keep).min(keep));
    plan.disk_passing = if counted.is_none_or(|count| count > keep) { size } else { 0 };
    plan.event = write::event(settings, write::largest(facts));
    plan.event_count = counted.unwrap_or(1);
}

/// What learns: the group that is no text encoder, and every tensor's key and shape. Nothing where the facts do not tell.
pub fn tensors(facts: &Facts) -> Option<(&'static str, Vec<Shape>)> {
    let meter = Meter::new();
    let (main, train) = match (Subject::of(facts), read::<VaeConfig>(facts, "vae")) {
        (Some(subject), _) => (family::part(subject.family.denoiser()), trainables(facts, &subject, &meter)),
        (None, Some(vae)) => ("vae", vae_trainables(&vae, &meter, kept(facts))),
        (None, None) => return None,
    };
    Some((main, train.tensors.iter().map(|(key, tensor)| (key.clone(), tensor.shape().to_vec())).collect()))
}

/// Sizes `[w, h]` of a list in the batches' facts, the largest first.
fn sizes(facts: &Facts, name: &str) -> Vec<Vec<usize>> {
    let batch = facts.get("batch_facts").and_then(|b| b.get(name)).cloned().unwrap_or_default();
    let mut list: Vec<Vec<usize>> = serde_json::from_value(batch).unwrap_or_default();
    list.sort_by_key(|s| std::cmp::Reverse(s.iter().product::<usize>()));
    list
}

/// A denoiser and the text encoders that learn, from facts.
struct Subject {
    family: Family,
    network: Network,
    texts: Vec<TextFacts>,
}

impl Subject {
    fn of(facts: &Facts) -> Option<Self> {
        let family = family::of_id(facts.str("architecture")?)?;
        Some(Subject { family, network: network_of(facts)?, texts: trained_texts(facts) })
    }
    fn components(&self) -> Vec<(Component, Shapes)> {
        let mut list: Vec<_> = self.texts.iter().map(|t| (t.component(), t.network.shapes())).collect();
        list.push((self.family.denoiser(), self.network.shapes()));
        list
    }
}

fn vae_trainables(vae: &VaeConfig, meter: &std::sync::Arc<Meter>, kept: DType) -> Trainables {
    let mut train = Trainables::default();
    for (name, shape) in vae.shapes().into_iter().filter(|(name, _)| learns(name)) {
        train.tensors.insert(Trainables::key("vae", &name), Tensor::meta(&shape, kept, meter));
    }
    train
}

fn trainables(facts: &Facts, subject: &Subject, meter: &std::sync::Arc<Meter>) -> Trainables {
    if facts.str("method") == Some("full") {
        let mut train = Trainables::default();
        let (frozen, denoiser) = (frozen(facts), subject.family.denoiser());
        for (component, shapes) in subject.components() {
            let still = |name: &String| component == denoiser && frozen.contains(name);
            for (name, shape) in shapes.into_iter().filter(|(name, _)| learns(name) && !still(name)) {
                let key = Trainables::key(family::part(component), &name);
                train.tensors.insert(key, Tensor::meta(&shape, kept(facts), meter));
            }
        }
        return train;
    }
    let targets: Vec<Target> = read(facts, "targets").unwrap_or_default();
    let mut train = adapters::meta(&targets, Dropouts::default(), meter);
    train.noise = facts.get("perturbation").map(|_| Noise::default());
    train
}

fn denoiser_step(settings: &Settings, facts: &Facts, manner: Manner) -> Option<Measured> {
    let subject = Subject::of(facts)?;
    let batch = facts.get("batch_facts")?;
    let size = sizes(facts, "latent_sizes").into_iter().next()?;
    let compute = compute_type(settings.train.precision, crate::planned_kind(settings));
    let b = settings.train.batch_size as usize;
    let meter = Meter::new();
    let cx = Cx::new(Device::Meta(meter.clone()), compute);
    let mut train = trainables(facts, &subject, &meter);
    if manner.texts_still {
        train.still = texts();
    }
    let full = facts.str("method") == Some("full");
    let frozen = frozen(facts);
    let still = |component: Component, name: &String| component == subject.family.denoiser() && frozen.contains(name);
    let weights: HashMap<&str, Weights> = subject
        .components()
        .into_iter()
        .map(|(component, mut shapes)| {
            // Of a whole model that learns only buffers are left, and what is to stay as it is.
            shapes.retain(|(name, _)| !full || !learns(name) || still(component, name));
            let text = subject.texts.iter().find(|text| text.component() == component);
            let keeping = text.map_or_else(|| keeping_of(facts), TextFacts::keeping);
            let weights = Weights::meta(&shapes, &meter, compute, &keeping);
            (family::part(component), weights)
        })
        .collect();
    let live: Vec<Live> =
        subject.texts.iter().map(|t| Live { component: t.component(), network: &t.network, take: t.take }).collect();
    let cached: Vec<TextFacts> =
        batch.get("texts").and_then(|t| serde_json::from_value(t.clone()).ok()).unwrap_or_default();
    let components: Vec<Component> = cached.iter().map(TextFacts::component).collect();
    let net = DenoiserNet::new(subject.family, &subject.network, &live, &components).ok()?;
    let base = meter.live();
    meter.reset_peak();
    let away = meter.away();
    let shape = [b, subject.network.channels(), size[1], size[0]];
    let x = Tensor::meta(&shape, compute, &meter);
    let target = Tensor::meta(&shape, DType::F32, &meter);
    let mut inputs = Inputs {
        timesteps: vec![0.5; b],
        guidance: vec![1.0; b],
        sizes: vec![[512.0; 6]; b],
        latent: [size[1], size[0]],
        training: true,
        ..Default::default()
    };
    for text in &subject.texts {
        let windows = if matches!(text.network, TextNetwork::Clip(_)) { (text.tokens as usize - 2) / 75 } else { 1 };
        let length = if matches!(text.network, TextNetwork::Clip(_)) { WINDOW } else { text.tokens as usize };
        let ids = vec![vec![0; length]; b * windows];
        let input = TextInput { windows, ..TextInput::of_windows(ids) };
        inputs.text.insert(family::part(text.component()).to_string(), input);
    }
    let mut given = vec![(net.x, x, false)];
    let meta = |shape: &[usize]| Tensor::meta(shape, compute, &meter);
    if net.texts.is_empty() {
        let tokens = batch.get("context_tokens").and_then(|n| n.as_u64()).unwrap_or(WINDOW as u64) as usize;
        given.push((net.conditions.context, meta(&[b, tokens, subject.network.context()]), false));
        if let (Some(slot), Some(width)) = (net.conditions.pooled, subject.network.pooled()) {
            given.push((slot, meta(&[b, width]), false));
        }
    }
    for text in &cached {
        let Some((_, out)) = net.texts.iter().find(|(c, _)| *c == text.component()) else { continue };
        given.push((out.hidden, meta(&[b, text.tokens as usize, text.width as usize]), false));
        if let (Some(slot), Some(width)) = (out.pooled, text.pooled) {
            given.push((slot, meta(&[b, width as usize]), false));
        }
        if text.masks {
            inputs.text_mask = vec![vec![1.0; text.tokens as usize]; b];
        }
    }
    let policy = match facts.str("checkpointing") {
        Some("blocks") => Policy::Recompute,
        Some("offload") => Policy::Offload,
        _ => Policy::Keep,
    };
    let none = Weights::default();
    let setting = Setting {
        model: &net.model,
        weights: net.weights(|part| weights.get(part), &none),
        train: Some(&train),
        inputs: &inputs,
        policy,
    };
    let mut gathered = Gathered { fused: manner.fused, ..Default::default() };
    let mut learn = || {
        let pass = setting.forward(&cx, given.clone(), &[net.out], true);
        let forward = meter.flops();
        let weigh = op::Weigh { samples: &vec![1.0; b], ..Default::default() };
        let (_, grad) = op::loss_and_grad(&cx, Elementwise::L2, pass.output(net.out), &target, weigh);
        let mut back = Back::new(pass, vec![(net.out, grad)]);
        while back.step(&setting, &cx, gathered.leaves()) {
            gathered.segment(&|key| back.awaits(&net.model, key)).ok();
        }
        forward
    };
    let forward = learn();
    // What the base model predicts is a forward pass more; to keep a class, it learns a second time.
    let is = |key: &str| batch.get(key) == Some(&serde_json::json!(true));
    let mut more = if is("preserve") { forward } else { 0 };
    if is("class") {
        learn();
        more += forward;
    }
    Some(Measured {
        peak: meter.peak() - base,
        flops: meter.flops() + more,
        most: gathered.most,
        away: meter.away() - away,
    })
}

fn autoencoder_step(settings: &Settings, facts: &Facts, fused: bool) -> Option<Measured> {
    let vae: VaeConfig = read(facts, "vae")?;
    let size = sizes(facts, "image_sizes").into_iter().next()?;
    let b = settings.train.batch_size as usize;
    let meter = Meter::new();
    let cx = Cx::new(Device::Meta(meter.clone()), DType::F32);
    let train = vae_trainables(&vae, &meter, kept(facts));
    let network = autoencoder::Network::new(&vae);
    let base = meter.live();
    meter.reset_peak();
    let images = Tensor::meta(&[b, 3, size[1], size[0]], DType::F32, &meter);
    let f = vae.factor();
    let noise = Tensor::meta(&[b, vae.latent, size[1] / f, size[0] / f], DType::F32, &meter);
    let mut gathered = Gathered { fused, ..Default::default() };
    let none = Weights::default();
    let terms = Terms { kind: Elementwise::L2, kl_weight: 1.0, scale: 1.0 };
    let train = RwLock::new(train);
    autoencoder::reconstruct(&network, &cx, &none, &train, (&images, &noise), &terms, Some(&mut gathered)).ok()?;
    Some(Measured { peak: meter.peak() - base, flops: meter.flops(), most: gathered.most, away: 0 })
}
