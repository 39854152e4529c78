//! Filling a cache.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use pipe_core::run::{BuildCx, RunError};
use pipe_data::images::{self, Filter};
use pipe_ops::DType;
use rayon::prelude::*;

use super::cached::{Cached, Item, Outputs, output_key};
use super::store::{Store, key};
use super::uses;
use crate::common::autoencoder::Autoencoder;
use crate::common::batch::{BatchSource, HostTensor, run_steps};
use crate::common::text::TextEncoder;
use crate::common::trainable::Held;
use crate::loader::pixels::View;
use crate::loader::sample::{Sample, Samples};

/// Encodes what is not cached yet and gives the source of batches.
pub fn fill(cx: &mut BuildCx, store: Store, vae_batch: usize) -> Result<Cached, RunError> {
    let folders: Vec<Samples> = cx.typed::<Samples>("samples")?.into_iter().cloned().collect();
    let vae = cx.typed::<Autoencoder>("vae")?.into_iter().next();
    let live_vae = Held::<Autoencoder>::all(cx, "live_vae").into_iter().next();
    let known = vae.or(live_vae.as_deref());
    let texts = cx.typed::<TextEncoder>("text")?;
    let live_texts = Held::<TextEncoder>::all(cx, "live_text");
    let about = texts.iter().copied().chain(live_texts.iter().map(|text| &**text));
    let mut cached = Cached {
        store,
        items: used(cx, &folders),
        folders,
        usable: Vec::new(),
        starts: Vec::new(),
        batches: 0,
        held_out: Vec::new(),
        image_keys: HashMap::new(),
        mask_keys: HashMap::new(),
        text_keys: BTreeMap::new(),
        latent_scale: known.map(|v| (v.scale, v.shift)),
        vae_file: known.and_then(|v| v.source.path()).map(Path::to_path_buf),
        texts: about.map(TextEncoder::about).collect(),
        live_vae: live_vae.clone().map(|vae| (vae, vae_batch.max(1))),
        live_texts,
        captions: Vec::new(),
        seed: cx.settings.seed,
        batch: cx.settings.train.batch_size as usize,
        accumulate: cx.settings.train.accumulate.max(1),
        order: Mutex::new(None),
        plain: OnceLock::new(),
        notices: Vec::new(),
        apart: 0,
        statistics: (0, 0.0, 0.0),
    };
    cached.fill_images(cx, vae, vae_batch)?;
    // Each encoder is freed before the next one loads.
    if let Some(vae) = vae {
        vae.weights.unload();
    }
    cached.fill_masks(cx)?;
    cached.number();
    let (_, total) = run_steps(cx.settings, cached.per_epoch());
    cached.captions = cached.folders.iter().map(|folder| folder.captions.of(total)).collect();
    cached.look_at_captions(cx, &texts);
    for text in texts {
        cached.fill_captions(cx, text)?;
        text.weights.unload();
    }
    // Regularization images alone have nothing to balance.
    if cached.starts.last().is_none_or(|entries| *entries == 0) {
        return Err(RunError::new("P0306", "no usable image is left").at("samples"));
    }
    Ok(cached)
}

/// The images of all folders, without regularization images that no epoch has room for.
fn used(cx: &BuildCx, folders: &[Samples]) -> Vec<Item> {
    let counts: Vec<uses::Folder> = folders.iter().map(|f| f.counted(f.trained())).collect();
    let mut items = Vec::new();
    let mut idle = 0;
    for ((folder, samples), uses) in folders.iter().enumerate().zip(uses::count(&counts)) {
        idle += uses.iter().filter(|&&n| n == 0).count();
        let mut uses = uses.into_iter();
        // What is set aside for validation is used, though not in an epoch.
        let some = samples.items.iter().filter(|sample| sample.held_out || uses.next().is_some_and(|n| n > 0));
        items.extend(some.map(|sample| Item { folder, sample: sample.clone() }));
    }
    if idle > 0 {
        cx.progress.say(&format!("{idle} regularization images are not used: there are enough without them"));
    }
    items
}

/// Captions encoded at once, fewer of encoders with long inputs.
pub fn captions_at_once(tokens: usize) -> usize {
    if tokens <= 256 { 8 } else { 2 }
}

/// Refuses outputs that overflowed.
pub(super) fn finite(text: &TextEncoder, caption: &str, values: &[f32], port: &str) -> Result<(), RunError> {
    if values.iter().all(|v| v.is_finite()) {
        return Ok(());
    }
    let message = format!("the {} gives values that are not finite for `{caption}`", text.component.name());
    Err(RunError::new("P0901", message).at(port).help("set `train.precision: f32` or `bf16`"))
}

/// Refuses latents that overflowed.
pub(super) fn finite_latents(path: &Path, values: &[f32], port: &str) -> Result<(), RunError> {
    if values.iter().all(|v| v.is_finite()) {
        return Ok(());
    }
    let message = format!("the autoencoder gives values that are not finite for `{}`", path.display());
    Err(RunError::new("P0901", message).at(port))
}

/// Everything that the pixels of a cached image depend on besides its file.
pub(super) fn fit(sample: &Sample, mirrored: bool, filter: Option<Filter>) -> String {
    let fit = format!("{:?} {:?} {mirrored}", sample.fit.bucket, sample.fit.resized);
    filter.map_or(fit.clone(), |filter| format!("{fit} {filter:?}"))
}

/// Key of an encoder's output: in bf16 the same weights give other values than in f32.
fn text_key(caption: &str, encoder: &str, compute: DType) -> String {
    key(&[b"text", caption.as_bytes(), encoder.as_bytes(), format!("{compute:?}").as_bytes()])
}

struct Todo {
    sample: usize,
    mirrored: bool,
    key: String,
}

impl Cached {
    fn fill_images(&mut self, cx: &BuildCx, vae: Option<&Autoencoder>, vae_batch: usize) -> Result<(), RunError> {
        let items = self.items.clone();
        let fingerprint = vae.map_or("pixels", |v| v.fingerprint.as_str()).to_string();
        let mut contents = HashMap::new();
        let mut todo: BTreeMap<(usize, usize), Vec<Todo>> = BTreeMap::new();
        for (i, Item { folder, sample }) in items.iter().enumerate() {
            let content = match images::content_hash(&sample.path) {
                Ok(hash) => hash,
                Err(e) => {
                    cx.progress.warn(&format!("set aside: {e}"));
                    continue;
                }
            };
            let shape = self.value_shape(sample, vae);
            let (live, filter) = (self.is_live(&self.folders[*folder]), self.folders[*folder].pixels.filter);
            let mirrors = if sample.held_out { &[false] } else { self.folders[*folder].mirrors() };
            for &mirrored in mirrors {
                let fit = fit(sample, mirrored, filter);
                let key = key(&[b"image", &content, fit.as_bytes(), fingerprint.as_bytes()]);
                if !live && !self.store.has(&key, &shape) {
                    todo.entry(sample.fit.bucket).or_default().push(Todo { sample: i, mirrored, key: key.clone() });
                }
                self.image_keys.insert((i, mirrored), key);
            }
            if sample.held_out { &mut self.held_out } else { &mut self.usable }.push(i);
            contents.insert(i, content);
        }
        self.keep_apart(cx, &contents);
        self.look(cx, &items)?;
        let total: u64 = todo.values().map(|v| v.len() as u64).sum();
        let what = format!("{}: {}", cx.name, if vae.is_some() { "encode images" } else { "read images" });
        let mut done = 0;
        for (bucket, list) in todo {
            for chunk in list.chunks(vae_batch.max(1)) {
                if cx.stop.is_set() {
                    return Err(RunError::interrupted());
                }
                self.fill_chunk(cx, vae, bucket, chunk, &items)?;
                done += chunk.len() as u64;
                cx.progress.tick(&what, done, total);
            }
        }
        if let (n @ 1.., sum, squares) = self.statistics {
            let mean = sum / n as f64;
            let deviation = (squares / n as f64 - mean * mean).max(0.0).sqrt();
            let unit = 1.0 / deviation.max(1e-12);
            cx.progress.say(&format!(
                "{}: latents have mean {mean:.4} and standard deviation {deviation:.4} (a scaling factor of {unit:.5} makes it 1)",
                cx.name
            ));
        }
        for list in [&mut self.usable, &mut self.held_out] {
            list.retain(|i| self.image_keys.contains_key(&(*i, false)));
        }
        Ok(())
    }

    /// What one loader holds out is not trained on through another: images with the same bytes are set aside.
    fn keep_apart(&mut self, cx: &BuildCx, contents: &HashMap<usize, [u8; 32]>) {
        let held: HashSet<&[u8; 32]> = self.held_out.iter().filter_map(|i| contents.get(i)).collect();
        let before = self.usable.len();
        self.usable.retain(|i| contents.get(i).is_none_or(|content| !held.contains(content)));
        self.apart = before - self.usable.len();
        if let n @ 1.. = self.apart {
            let images = if n == 1 { "image is".into() } else { format!("{n} images are") };
            let message = "not trained on: another loader holds the same out for validation";
            self.notices.push(format!("{images} {message}"));
            cx.progress.warn(&format!("{}: {images} {message}", cx.name));
        }
    }

    /// Tells of captions that are cut, or that lack the trigger of a class.
    fn look_at_captions(&mut self, cx: &BuildCx, texts: &[&TextEncoder]) {
        let mut told = Vec::new();
        let live: Vec<&TextEncoder> = self.live_texts.iter().map(|text| &**text).collect();
        for text in texts.iter().chain(&live) {
            let Some(room) = text.prompts.room() else { continue };
            let of = |i: &usize| text.prompts.tokens_of(&self.whole_caption(*i)) > room;
            let cut = self.usable.iter().filter(|i| of(i)).count();
            if cut > 0 {
                let (name, all) = (text.component.name(), self.usable.len());
                told.push(format!(
                    "{cut} of {all} captions are longer than the {room} tokens that the {name} reads: what is behind is cut off \
                     (`max_tokens` of the encoder)"
                ));
            }
        }
        told.extend(self.untriggered());
        for line in told {
            cx.progress.warn(&format!("{}: {line}", cx.name));
            self.notices.push(line);
        }
    }

    /// Decodes once what is decoded at each use, so that what cannot be is set aside now.
    fn look(&mut self, cx: &BuildCx, items: &[Item]) -> Result<(), RunError> {
        let all = self.usable.iter().chain(&self.held_out).copied();
        let live: Vec<usize> = all.filter(|&i| self.is_live(&self.folders[items[i].folder])).collect();
        let (total, mut done) = (live.len() as u64, 0);
        for chunk in live.chunks(64) {
            if cx.stop.is_set() {
                return Err(RunError::interrupted());
            }
            let look = |&i: &usize| images::decode(&items[i].sample.path).err().map(|e| (i, e));
            let bad: Vec<_> = chunk.par_iter().filter_map(look).collect();
            for (i, e) in bad {
                cx.progress.warn(&format!("set aside: {e}"));
                self.image_keys.remove(&(i, false));
            }
            done += chunk.len() as u64;
            cx.progress.tick(&format!("{}: look at images", cx.name), done, total);
        }
        Ok(())
    }

    pub(super) fn value_shape(&self, sample: &Sample, vae: Option<&Autoencoder>) -> Vec<usize> {
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
        items: &[Item],
    ) -> Result<(), RunError> {
        let (mut pixels, mut good) = (Vec::new(), Vec::new());
        for todo in chunk {
            let sample = &items[todo.sample].sample;
            match images::decode(&sample.path) {
                Ok(image) => {
                    let filter = self.folders[items[todo.sample].folder].pixels.filter;
                    let view = View::plain(sample, todo.mirrored);
                    pixels.extend(images::to_tensor(&view.of(&image, sample, filter)));
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
            finite_latents(&items[todo.sample].sample.path, values, "vae")?;
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
        let mut captions = vec![String::new()]; // dropped captions
        for &i in self.usable.iter().chain(&self.held_out) {
            let caption = self.whole_caption(i);
            let class = self.folders[self.items[i].folder].class.as_ref();
            captions.extend(class.and_then(|class| class.caption(&caption)));
            captions.push(caption);
        }
        captions.sort();
        captions.dedup();
        let (tokens, width) = (text.prompts.tokens(), text.network.width());
        let outputs =
            Outputs { pooled: text.take.pooled && text.network.pooled().is_some(), mask: text.prompts.masks() };
        let mut keys = HashMap::new();
        let mut todo = Vec::new();
        for caption in captions {
            let key = text_key(&caption, &text.fingerprint, text.engine.compute);
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
                finite(text, caption, &values, "text")?;
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
            cx.progress.tick(&format!("{}: encode captions", cx.name), done, total);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_in_another_type_is_another_entry() {
        let key = |compute| text_key("a face", "clip", compute);
        assert_ne!(key(DType::F32), key(DType::BF16));
        assert_ne!(key(DType::F16), key(DType::BF16));
    }
}
