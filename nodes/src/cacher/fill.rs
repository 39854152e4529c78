//! Filling a cache, and serving batches from it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use pipe_core::run::{BuildCx, RunError};
use pipe_data::captions::{self, CaptionOptions};
use pipe_data::images;
use pipe_data::metadata::count_tags;
use pipe_data::weights::Component;
use pipe_ops::rng::{self, Purpose};

use super::store::{Store, key};
use crate::common::autoencoder::Autoencoder;
use crate::common::batch::{Batch, BatchSource, DataAbout, HostTensor, TextRows, epoch_order};
use crate::common::text::TextEncoder;
use crate::loader::images::{Sample, Samples};

/// Encodes what is not cached yet and gives the source of batches.
pub fn fill(cx: &mut BuildCx, store: Store, vae_batch: usize) -> Result<Cached, RunError> {
    let samples = cx.one::<Samples>("samples")?.clone();
    let vae = cx.typed::<Autoencoder>("vae")?.into_iter().next();
    let texts = cx.typed::<TextEncoder>("text")?;
    let mut cached = Cached {
        store,
        samples: samples.clone(),
        usable: Vec::new(),
        held_out: Vec::new(),
        image_keys: HashMap::new(),
        text_keys: BTreeMap::new(),
        latent_scale: vae.map(|v| (v.scale, v.shift)),
        seed: cx.settings.seed,
        batch: cx.settings.train.batch_size as usize,
        order: Mutex::new(None),
        statistics: (0, 0.0, 0.0),
    };
    cached.fill_images(cx, vae, vae_batch)?;
    // Each encoder is freed before the next one loads.
    if let Some(vae) = vae {
        vae.weights.unload();
    }
    for text in texts {
        cached.fill_captions(cx, text)?;
        text.weights.unload();
    }
    if cached.usable.is_empty() {
        return Err(RunError::new("P0306", "no usable image is left").at("samples"));
    }
    Ok(cached)
}

/// The batches of an epoch, as entry numbers.
type Order = Arc<Vec<Vec<usize>>>;

/// Batches from a filled cache.
pub struct Cached {
    store: Store,
    samples: Samples,
    /// Indices of images that could be decoded and are trained on.
    usable: Vec<usize>,
    /// Indices of those that are set aside for validation.
    held_out: Vec<usize>,
    /// (image, mirrored) → key.
    image_keys: HashMap<(usize, bool), String>,
    /// Text encoder → its outputs, and caption → key.
    text_keys: BTreeMap<Component, (Outputs, HashMap<String, String>)>,
    /// Scale and shift of the latents, when images were encoded.
    latent_scale: Option<(f32, f32)>,
    seed: u64,
    batch: usize,
    order: Mutex<Option<(u64, Order)>>,
    /// Number, sum and sum of squares of the latent means made in this run.
    statistics: (u64, f64, f64),
}

/// Which outputs a text encoder has besides its hidden states.
#[derive(Clone, Copy)]
struct Outputs {
    pooled: bool,
    mask: bool,
}

/// Captions encoded at once, fewer of encoders with long inputs.
pub(super) fn captions_at_once(tokens: usize) -> usize {
    if tokens <= 256 { 8 } else { 2 }
}

/// Key of one of several outputs.
fn output_key(key: &str, output: &str) -> String {
    super::store::key(&[key.as_bytes(), output.as_bytes()])
}

struct Todo {
    sample: usize,
    mirrored: bool,
    key: String,
}

impl Cached {
    fn fill_images(&mut self, cx: &BuildCx, vae: Option<&Autoencoder>, vae_batch: usize) -> Result<(), RunError> {
        let items = self.samples.items.clone();
        let fingerprint = vae.map_or("pixels", |v| v.fingerprint.as_str()).to_string();
        let mut todo: BTreeMap<(usize, usize), Vec<Todo>> = BTreeMap::new();
        for (i, sample) in items.iter().enumerate() {
            let content = match images::content_hash(&sample.path) {
                Ok(hash) => hash,
                Err(e) => {
                    cx.progress.warn(&format!("set aside: {e}"));
                    continue;
                }
            };
            let shape = self.value_shape(sample, vae);
            let mirrors: &[bool] = if self.samples.flip && !sample.held_out { &[false, true] } else { &[false] };
            for &mirrored in mirrors {
                let fit = format!("{:?} {:?} {mirrored}", sample.fit.bucket, sample.fit.resized);
                let key = key(&[b"image", &content, fit.as_bytes(), fingerprint.as_bytes()]);
                if !self.store.has(&key, &shape) {
                    todo.entry(sample.fit.bucket).or_default().push(Todo { sample: i, mirrored, key: key.clone() });
                }
                self.image_keys.insert((i, mirrored), key);
            }
            if sample.held_out { &mut self.held_out } else { &mut self.usable }.push(i);
        }
        let total: u64 = todo.values().map(|v| v.len() as u64).sum();
        let what = if vae.is_some() { "encode images" } else { "read images" };
        let mut done = 0;
        for (bucket, list) in todo {
            for chunk in list.chunks(vae_batch.max(1)) {
                if cx.stop.is_set() {
                    return Err(RunError::interrupted());
                }
                self.fill_chunk(cx, vae, bucket, chunk, &items)?;
                done += chunk.len() as u64;
                cx.progress.tick(what, done, total);
            }
        }
        if let (n @ 1.., sum, squares) = self.statistics {
            let mean = sum / n as f64;
            let deviation = (squares / n as f64 - mean * mean).max(0.0).sqrt();
            let unit = 1.0 / deviation.max(1e-12);
            cx.progress.say(&format!(
                "latents: mean {mean:.4}, standard deviation {deviation:.4} (a scaling factor of {unit:.5} makes it 1)"
            ));
        }
        for list in [&mut self.usable, &mut self.held_out] {
            list.retain(|i| self.image_keys.contains_key(&(*i, false)));
        }
        Ok(())
    }

    fn value_shape(&self, sample: &Sample, vae: Option<&Autoencoder>) -> Vec<usize> {
        let (w, h) = sample.fit.bucket;
        match vae {
            Some(v) => vec![2 * v.config.latent, h / v.config.factor(), w / v.config.factor()],
            None => vec![3, h, w],
        }
    }

    /// Decodes, fits and encodes images of one bucket. An image that does not decode is set aside.
    fn fill_chunk(
        &mut self,
        cx: &BuildCx,
        vae: Option<&Autoencoder>,
        (w, h): (usize, usize),
        chunk: &[Todo],
        items: &[Sample],
    ) -> Result<(), RunError> {
        let (mut pixels, mut good) = (Vec::new(), Vec::new());
        for todo in chunk {
            let sample = &items[todo.sample];
            match images::decode(&sample.path) {
                Ok(image) => {
                    let image = image.fitted(&sample.fit);
                    let image = if todo.mirrored { image.flipped() } else { image };
                    pixels.extend(images::to_tensor(&image));
                    good.push(todo);
                }
                Err(e) => {
                    cx.progress.warn(&format!("set aside: {e}"));
                    self.image_keys.remove(&(todo.sample, todo.mirrored));
                    self.image_keys.remove(&(todo.sample, false));
                }
            }
        }
        if good.is_empty() {
            return Ok(());
        }
        let (values, shape) = match vae {
            Some(vae) => {
                let moments = vae.encode(pixels, &[good.len(), 3, h, w])?;
                let shape = moments.shape()[1..].to_vec();
                (moments.into_vec(), shape)
            }
            None => (pixels, vec![3, h, w]),
        };
        let span: usize = shape.iter().product();
        for (todo, values) in good.iter().zip(values.chunks(span)) {
            if values.iter().any(|v| !v.is_finite()) {
                let name = items[todo.sample].path.display();
                return Err(RunError::new(
                    "P0901",
                    format!("the autoencoder gives values that are not finite for `{name}`"),
                )
                .at("vae"));
            }
            if vae.is_some() {
                let means = &values[..span / 2];
                self.statistics.0 += means.len() as u64;
                self.statistics.1 += means.iter().map(|&x| x as f64).sum::<f64>();
                self.statistics.2 += means.iter().map(|&x| x as f64 * x as f64).sum::<f64>();
            }
            self.store.put(&todo.key, HostTensor { values: values.to_vec(), shape: shape.clone() })?;
        }
        Ok(())
    }

    fn fill_captions(&mut self, cx: &BuildCx, text: &TextEncoder) -> Result<(), RunError> {
        let all = self.usable.iter().chain(&self.held_out);
        let mut captions: Vec<String> = all.map(|&i| self.samples.items[i].caption.clone()).collect();
        captions.push(String::new()); // dropped captions
        captions.sort();
        captions.dedup();
        let (tokens, width) = (text.prompts.tokens(), text.network.width());
        let outputs =
            Outputs { pooled: text.take.pooled && text.network.pooled().is_some(), mask: text.prompts.masks() };
        let mut keys = HashMap::new();
        let mut todo = Vec::new();
        for caption in captions {
            let key = key(&[b"text", caption.as_bytes(), text.fingerprint.as_bytes()]);
            let pooled = outputs.pooled.then(|| text.network.pooled()).flatten();
            let complete = self.store.has(&key, &[tokens, width])
                && pooled.is_none_or(|p| self.store.has(&output_key(&key, "pooled"), &[p]))
                && (!outputs.mask || self.store.has(&output_key(&key, "mask"), &[tokens]));
            if !complete {
                todo.push((caption.clone(), key.clone()));
            }
            keys.insert(caption, key);
        }
        self.text_keys.insert(text.component, (outputs, keys));
        let total = todo.len() as u64;
        let (size, mut done) = (captions_at_once(tokens), 0);
        for chunk in todo.chunks(size) {
            if cx.stop.is_set() {
                return Err(RunError::interrupted());
            }
            let texts: Vec<String> = chunk.iter().map(|(c, _)| c.clone()).collect();
            let encoded = text.encode(&texts, false, None)?;
            let row = |values: &[f32], i: usize, span: usize| values[i * span..(i + 1) * span].to_vec();
            let hidden = encoded.hidden.to_vec();
            let pooled = encoded.pooled.map(|p| (p.dim(1), p.to_vec()));
            for (i, (caption, key)) in chunk.iter().enumerate() {
                let values = row(&hidden, i, tokens * width);
                if values.iter().any(|v| !v.is_finite()) {
                    let message =
                        format!("the {} gives values that are not finite for `{caption}`", text.component.name());
                    return Err(RunError::new("P0901", message)
                        .at("text")
                        .help("set `train.precision: f32` or `bf16`"));
                }
                // The hidden states last: they make the entry complete.
                if let Some((p, pooled)) = &pooled {
                    let value = HostTensor { values: row(pooled, i, *p), shape: vec![*p] };
                    self.store.put(&output_key(key, "pooled"), value)?;
                }
                if let Some(mask) = &encoded.mask {
                    let value = HostTensor { values: mask[i].clone(), shape: vec![tokens] };
                    self.store.put(&output_key(key, "mask"), value)?;
                }
                self.store.put(key, HostTensor { values, shape: vec![tokens, width] })?;
            }
            done += chunk.len() as u64;
            cx.progress.tick("encode captions", done, total);
        }
        Ok(())
    }

    /// Cached outputs of every text encoder for captions.
    fn text_rows(&self, captions: &[String]) -> Result<BTreeMap<Component, TextRows>, RunError> {
        let mut rows = BTreeMap::new();
        for (&component, (outputs, keys)) in &self.text_keys {
            let mut of_encoder = TextRows::default();
            let (mut pooled, mut mask) = (HostTensor::default(), HostTensor::default());
            for caption in captions {
                let key = keys.get(caption).ok_or_else(|| {
                    RunError::new("P0905", format!("no embedding of the caption `{caption}` was cached"))
                })?;
                push(&mut of_encoder.hidden, self.store.get(key)?);
                if outputs.pooled {
                    push(&mut pooled, self.store.get(&output_key(key, "pooled"))?);
                }
                if outputs.mask {
                    push(&mut mask, self.store.get(&output_key(key, "mask"))?);
                }
            }
            of_encoder.pooled = outputs.pooled.then_some(pooled);
            of_encoder.mask = outputs.mask.then_some(mask);
            rows.insert(component, of_encoder);
        }
        Ok(rows)
    }

    /// Entries (image, repeat) by bucket; an entry's number is `position·repeats + repeat`.
    fn buckets(&self) -> BTreeMap<(usize, usize), Vec<usize>> {
        let mut buckets: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        let repeats = self.samples.repeats as usize;
        for (position, &i) in self.usable.iter().enumerate() {
            let list = buckets.entry(self.samples.items[i].fit.bucket).or_default();
            list.extend((0..repeats).map(|r| position * repeats + r));
        }
        buckets
    }

    fn order(&self, epoch: u64) -> Order {
        let mut slot = self.order.lock().unwrap_or_else(|e| e.into_inner());
        match &*slot {
            Some((e, order)) if *e == epoch => order.clone(),
            _ => {
                let buckets: Vec<Vec<usize>> = self.buckets().into_values().collect();
                let order = Arc::new(epoch_order(&buckets, self.batch, self.seed, epoch));
                *slot = Some((epoch, order.clone()));
                order
            }
        }
    }

    fn caption(&self, sample: &Sample, epoch: u64, entry: u64) -> String {
        let rules = self.samples.captions;
        let options = CaptionOptions {
            dropout: rules.dropout,
            shuffle: rules.shuffle,
            keep_tokens: rules.keep_tokens as usize,
            ..CaptionOptions::default()
        };
        if options.is_constant() {
            return sample.caption.clone();
        }
        let mut stream = rng::stream(self.seed, Purpose::Caption, epoch, entry);
        let mut random = move || rand::Rng::next_u64(&mut stream);
        captions::process(&sample.caption, &options, &mut random, 0, epoch + 1)
    }

    /// A batch of images, each with whether it is mirrored and its caption.
    fn gather(&self, uses: impl Iterator<Item = (usize, bool, String)>) -> Result<Batch, RunError> {
        let mut batch = Batch::default();
        let mut images = HostTensor::default();
        for (i, mirrored, caption) in uses {
            let sample = &self.samples.items[i];
            push(&mut images, self.store.get(&self.image_keys[&(i, mirrored)])?);
            batch.sizes.push(size_conditions(sample, mirrored));
            batch.names.push(sample.path.display().to_string());
            batch.captions.push(caption);
            batch.weights.push(1.0);
        }
        if self.latent_scale.is_some() {
            batch.latent_scale = self.latent_scale;
            batch.moments = Some(images);
        } else {
            batch.images = Some(images);
        }
        batch.text = self.text_rows(&batch.captions)?;
        Ok(batch)
    }

    /// Images that can be used, those set aside for validation among them.
    pub(super) fn usable(&self) -> u64 {
        (self.usable.len() + self.held_out.len()) as u64
    }

    /// The images set aside for validation, in batches that never mix buckets.
    pub(super) fn held_out_batches(&self) -> Vec<Vec<usize>> {
        let mut buckets: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for &i in &self.held_out {
            buckets.entry(self.samples.items[i].fit.bucket).or_default().push(i);
        }
        buckets
            .into_values()
            .flat_map(|list| list.chunks(self.batch).map(<[usize]>::to_vec).collect::<Vec<_>>())
            .collect()
    }

    /// A batch of images as they are: whole captions, not mirrored.
    pub(super) fn plain_batch(&self, images: &[usize]) -> Result<Batch, RunError> {
        self.gather(images.iter().map(|&i| (i, false, self.samples.items[i].caption.clone())))
    }
}

impl BatchSource for Cached {
    fn per_epoch(&self) -> u64 {
        self.buckets().values().map(|b| b.len().div_ceil(self.batch) as u64).sum()
    }

    fn batch(&self, epoch: u64, index: u64) -> Result<Batch, RunError> {
        let order = self.order(epoch);
        let entries = &order[index as usize % order.len()];
        let repeats = self.samples.repeats as usize;
        let uses = entries.iter().map(|&entry| {
            let i = self.usable[entry / repeats];
            let mirrored = self.samples.flip
                && rng::uniform(&mut rng::stream(self.seed, Purpose::Augment, epoch, entry as u64), 1, 0.0, 1.0)[0]
                    < 0.5;
            (i, mirrored, self.caption(&self.samples.items[i], epoch, entry as u64))
        });
        self.gather(uses)
    }

    fn text_encoders(&self) -> Vec<Component> {
        self.text_keys.keys().copied().collect()
    }

    fn content(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for &i in &self.usable {
            hasher.update(self.image_keys[&(i, false)].as_bytes());
            hasher.update(self.samples.items[i].caption.as_bytes());
        }
        for &i in &self.held_out {
            hasher.update(b"held out");
            hasher.update(self.image_keys[&(i, false)].as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    fn about(&self) -> DataAbout {
        let s = &self.samples;
        let tags = count_tags(self.usable.iter().map(|&i| s.items[i].caption.as_str()));
        DataAbout {
            images: self.usable.len() as u64 * s.repeats,
            held_out: self.held_out.len() as u64,
            folders: vec![(s.folder.clone(), s.repeats, self.usable.len() as u64)],
            tags: vec![(s.folder.clone(), tags.into_iter().collect())],
            resolution: s.resolution,
            buckets: self.buckets().into_iter().map(|(b, e)| (b, e.len() as u64)).collect(),
            batch_size: self.batch as u64,
        }
    }
}

/// Original height and width, crop top and left, target height and width, as SDXL was trained to read them.
///
/// The reference computes the crop for an image fitted inside its bucket, so its numbers stand on the axis that was
/// not cut; here they are where the cut was made, in pixels of the resized image.
fn size_conditions(sample: &Sample, mirrored: bool) -> [f32; 6] {
    let ((width, height), (w, h)) = (sample.size, sample.fit.bucket);
    let (left, top) = sample.fit.crop();
    // A mirrored image was cut on the other side.
    let left = if mirrored { sample.fit.resized.0.saturating_sub(w + left) } else { left };
    [height, width, top, left, h, w].map(|v| v as f32)
}

/// Adds one more row to a stack.
fn push(stack: &mut HostTensor, row: HostTensor) {
    if stack.shape.is_empty() {
        stack.shape = vec![0];
        stack.shape.extend(&row.shape);
    }
    stack.shape[0] += 1;
    stack.values.extend(row.values);
}
