//! Batches from a filled cache.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use pipe_core::run::RunError;
use pipe_data::captions::{self, CaptionOptions};
use pipe_data::weights::Component;
use pipe_ops::rng::{self, Purpose};

use super::store::{DAMAGED, Store};
use super::uses;
use crate::common::autoencoder::Autoencoder;
use crate::common::batch::{Batch, BatchSource, ClassText, DataAbout, HostTensor, TextAbout, TextRows, epoch_order};
use crate::common::text::TextEncoder;
use crate::common::trainable::Held;
use crate::loader::pixels::View;
use crate::loader::sample::{Sample, Samples};

/// The batches of an epoch, as entry numbers.
type Order = Arc<Vec<Vec<usize>>>;

/// Batches from a filled cache.
pub struct Cached {
    pub(super) store: Store,
    pub(super) folders: Vec<Samples>,
    /// The images of all folders that are used.
    pub(super) items: Vec<Item>,
    /// Indices of images that could be decoded and are trained on.
    pub(super) usable: Vec<usize>,
    /// Indices of those that are set aside for validation.
    pub(super) held_out: Vec<usize>,
    /// Number of the first entry of each usable image, and one past the last entry of all.
    pub(super) starts: Vec<usize>,
    /// Batches of an epoch.
    pub(super) batches: u64,
    /// (image, mirrored) → key.
    pub(super) image_keys: HashMap<(usize, bool), String>,
    /// (image, mirrored) → key of its mask.
    pub(super) mask_keys: HashMap<(usize, bool), String>,
    /// Text encoder → its outputs, and caption → key.
    pub(super) text_keys: BTreeMap<Component, (Outputs, HashMap<String, String>)>,
    /// Scale and shift of the latents, when images were encoded.
    pub(super) latent_scale: Option<(f32, f32)>,
    /// File of the autoencoder that encoded them.
    pub(super) vae_file: Option<PathBuf>,
    /// The text encoders.
    pub(super) texts: Vec<TextAbout>,
    /// The autoencoder, where it runs at each use, and the images it takes at once.
    pub(super) live_vae: Option<(Held<Autoencoder>, usize)>,
    /// Text encoders that run at each use.
    pub(super) live_texts: Vec<Held<TextEncoder>>,
    /// How the captions of each folder change.
    pub(super) captions: Vec<CaptionOptions>,
    pub(super) seed: u64,
    pub(super) batch: usize,
    /// Batches of an optimizer step.
    pub(super) accumulate: u64,
    pub(super) order: Mutex<Option<(u64, Order)>>,
    /// Every image once, in a fixed order.
    pub(super) plain: OnceLock<Vec<Vec<usize>>>,
    /// What the user should read again at the end of the run.
    pub(super) notices: Vec<String>,
    /// Images that are not trained on since another loader holds the same out.
    pub(super) apart: usize,
    /// Number, sum and sum of squares of the latent means made in this run.
    pub(super) statistics: (u64, f64, f64),
}

/// An image of one of the folders.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Which folder.
    pub folder: usize,
    /// The image.
    pub sample: Sample,
}

/// One use of an image in an epoch.
pub(super) struct Use<'a> {
    /// Index of the image.
    pub image: usize,
    pub sample: &'a Sample,
    /// Number of its folder.
    number: usize,
    pub folder: &'a Samples,
}

/// Which outputs a text encoder has besides its hidden states.
#[derive(Clone, Copy)]
pub(super) struct Outputs {
    pub pooled: bool,
    pub mask: bool,
}

/// Key of one of several outputs.
pub(super) fn output_key(key: &str, output: &str) -> String {
    super::store::key(&[key.as_bytes(), output.as_bytes()])
}

impl Cached {
    /// Entries are uses of images: counts those of each image, once it is known which can be used.
    pub(super) fn number(&mut self) {
        let of = |folder: usize| self.usable.iter().filter(|&&i| self.items[i].folder == folder).count();
        let counts: Vec<uses::Folder> = (0..self.folders.len()).map(|f| self.folders[f].counted(of(f))).collect();
        let mut uses: Vec<_> = uses::count(&counts).into_iter().map(Vec::into_iter).collect();
        self.starts = vec![0];
        let mut next = 0;
        for &i in &self.usable {
            next += uses[self.items[i].folder].next().unwrap_or(0) as usize;
            self.starts.push(next);
        }
        self.batches = self.bucket_uses().into_values().map(|uses| uses.div_ceil(self.batch as u64)).sum();
    }

    /// The image of an entry.
    fn of_entry(&self, entry: usize) -> Use<'_> {
        // An image without uses starts where the next one does.
        let position = self.starts.partition_point(|&start| start <= entry) - 1;
        let image = self.usable[position];
        let Item { folder, sample } = &self.items[image];
        Use { image, sample, number: *folder, folder: &self.folders[*folder] }
    }

    /// Uses in an epoch of each usable image.
    pub(super) fn uses(&self) -> impl Iterator<Item = (usize, usize)> {
        self.usable.iter().zip(self.starts.windows(2)).map(|(&i, pair)| (i, pair[1] - pair[0]))
    }

    /// The cached value of a key. Where one is damaged all of this run are looked at: that each ends a run of its own is
    /// worse than the time it takes.
    pub(super) fn value(&self, key: &str) -> Result<HostTensor, RunError> {
        self.store.get(key).map_err(|error| if error.code == DAMAGED { self.sweep(error) } else { error })
    }

    fn sweep(&self, mut error: RunError) -> RunError {
        let texts = self.text_keys.values().flat_map(|(_, keys)| keys.values());
        let texts = texts.flat_map(|key| [key.clone(), output_key(key, "pooled"), output_key(key, "mask")]);
        let images = self.image_keys.values().chain(self.mask_keys.values()).cloned();
        let is_damaged = |key: &String| self.store.get(key).is_err_and(|other| other.code == DAMAGED);
        if let more @ 1.. = images.chain(texts).filter(is_damaged).count() {
            error.message = format!("{}; so are {more} more entries of this run", error.message);
        }
        error
    }

    /// Outputs of every text encoder for captions: cached ones, and of those that run at each use.
    fn text_rows(&self, captions: &[String]) -> Result<BTreeMap<Component, TextRows>, RunError> {
        let mut rows = BTreeMap::new();
        for (&component, (outputs, keys)) in &self.text_keys {
            let mut of_encoder = TextRows::default();
            let (mut pooled, mut mask) = (HostTensor::default(), HostTensor::default());
            for caption in captions {
                let key = keys.get(caption).ok_or_else(|| {
                    RunError::new("P0905", format!("no embedding of the caption `{caption}` was cached"))
                })?;
                push(&mut of_encoder.hidden, self.value(key)?);
                if outputs.pooled {
                    push(&mut pooled, self.value(&output_key(key, "pooled"))?);
                }
                if outputs.mask {
                    push(&mut mask, self.value(&output_key(key, "mask"))?);
                }
            }
            of_encoder.pooled = outputs.pooled.then_some(pooled);
            of_encoder.mask = outputs.mask.then_some(mask);
            rows.insert(component, of_encoder);
        }
        rows.extend(self.live_rows(captions)?);
        Ok(rows)
    }

    /// Number of entries by bucket.
    pub(super) fn bucket_uses(&self) -> BTreeMap<(usize, usize), u64> {
        let mut buckets = BTreeMap::new();
        for (image, uses) in self.uses() {
            *buckets.entry(self.items[image].sample.fit.bucket).or_default() += uses as u64;
        }
        buckets
    }

    /// Entries by bucket.
    fn buckets(&self) -> BTreeMap<(usize, usize), Vec<usize>> {
        let mut buckets: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (&i, entries) in self.usable.iter().zip(self.starts.windows(2)) {
            buckets.entry(self.items[i].sample.fit.bucket).or_default().extend(entries[0]..entries[1]);
        }
        buckets
    }

    /// The cached mask of a use; ones of a shape where it has none.
    pub(super) fn mask(&self, of: &Use, mirrored: bool, shape: &[usize]) -> Result<HostTensor, RunError> {
        match self.mask_keys.get(&(of.image, mirrored)) {
            Some(key) => self.value(key),
            None => Ok(HostTensor { values: vec![1.0; shape.iter().product()], shape: shape.to_vec() }),
        }
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

    /// The caption of a use at an optimizer step.
    fn caption(&self, of: &Use, (epoch, step): (u64, u64), entry: u64) -> String {
        let mut stream = rng::stream(self.seed, Purpose::Caption, epoch, entry);
        let mut random = move || rand::Rng::next_u64(&mut stream);
        captions::process(&of.sample.caption, &self.captions[of.number], &mut random, step, epoch + 1)
    }

    /// What is wrong with the captions of the first epoch, where a class is to be preserved: how many lack its trigger.
    pub(super) fn untriggered(&self) -> Option<String> {
        let (mut all, mut without, mut trigger) = (0u64, 0u64, None);
        for entry in 0..self.starts.last().copied().unwrap_or(0) {
            let of = self.of_entry(entry);
            let Some(class) = of.folder.class.as_ref().filter(|_| !of.folder.captions.is_plain()) else { continue };
            let caption = self.caption(&of, (0, 0), entry as u64);
            if !caption.is_empty() {
                all += 1;
                without += u64::from(class.caption(&caption).is_none());
                trigger = trigger.or(Some(&class.trigger));
            }
        }
        let trigger = trigger.filter(|_| without > 0)?;
        Some(format!(
            "{without} of the {all} captions of the first epoch are without the trigger `{trigger}`: the class is not preserved there"
        ))
    }

    /// The caption of an image with all its tags in order: what validation measures, and what is cached. A wildcard of it is
    /// drawn once for all runs.
    pub(super) fn whole_caption(&self, image: usize) -> String {
        let Item { folder, sample } = &self.items[image];
        let mut stream = rng::stream(0, Purpose::Validation, 0, image as u64);
        let mut random = move || rand::Rng::next_u64(&mut stream);
        captions::whole(&sample.caption, &self.captions[*folder], &mut random)
    }

    /// How an image is seen in one use.
    fn view(&self, of: &Use, epoch: u64, entry: u64) -> View {
        let mut stream = rng::stream(self.seed, Purpose::Augment, epoch, entry);
        let mirrored = of.folder.flip && rng::uniform(&mut stream, 1, 0.0, 1.0)[0] < 0.5;
        let numbers = |name: &str| {
            let mut stream = rng::named_stream(self.seed, Purpose::Augment, epoch, &format!("{name} {entry}"));
            move || f64::from(rng::uniform(&mut stream, 1, 0.0, 1.0)[0])
        };
        View::draw(&of.folder.pixels, of.sample, mirrored, &mut numbers("place"), &mut numbers("colour"))
    }

    /// A batch of images, each with its view and its caption.
    fn gather(&self, uses: Vec<(Use, View, String)>) -> Result<Batch, RunError> {
        let masked = uses.iter().any(|(of, ..)| of.sample.mask.is_some());
        let preserved = uses.iter().any(|(of, ..)| of.folder.preserve);
        let mut batch = Batch::default();
        let images = self.images(&uses)?;
        if masked {
            batch.mask = Some(self.masks(&uses, &images.shape[2..])?);
        }
        for (of, view, caption) in uses {
            if preserved {
                batch.preserve.push(of.folder.preserve);
            }
            batch.sizes.push(size_conditions(of.sample, &view));
            batch.names.push(of.sample.path.display().to_string());
            batch.captions.push(caption);
            batch.weights.push(of.sample.weight);
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

    /// The images set aside for validation, in batches that never mix buckets.
    pub(super) fn held_out_batches(&self) -> Vec<Vec<usize>> {
        self.batches_of(self.held_out.iter().copied())
    }

    /// The images that are trained on, each once, in batches that never mix buckets.
    fn plain(&self) -> &[Vec<usize>] {
        self.plain.get_or_init(|| self.batches_of(self.uses().map(|(image, _)| image)))
    }

    fn batches_of(&self, images: impl Iterator<Item = usize>) -> Vec<Vec<usize>> {
        let mut buckets: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for i in images {
            buckets.entry(self.items[i].sample.fit.bucket).or_default().push(i);
        }
        let batches = |list: Vec<usize>| list.chunks(self.batch).map(<[usize]>::to_vec).collect::<Vec<_>>();
        buckets.into_values().flat_map(batches).collect()
    }

    /// A batch of images as they are: whole captions, not mirrored.
    pub(super) fn batch_of(&self, images: &[usize]) -> Result<Batch, RunError> {
        let plain = |&image: &usize| {
            let Item { folder, sample } = &self.items[image];
            let of = Use { image, sample, number: *folder, folder: &self.folders[*folder] };
            (of, View::plain(sample, false), self.whole_caption(image))
        };
        self.gather(images.iter().map(plain).collect())
    }
}

impl BatchSource for Cached {
    fn per_epoch(&self) -> u64 {
        self.batches
    }

    fn batch(&self, epoch: u64, index: u64) -> Result<Batch, RunError> {
        let order = self.order(epoch);
        let entries = &order[index as usize % order.len()];
        let step = epoch * self.batches.div_ceil(self.accumulate) + index / self.accumulate;
        let mut class = ClassText::default();
        let uses: Vec<(Use, View, String)> = entries
            .iter()
            .map(|&entry| {
                let of = self.of_entry(entry);
                let view = self.view(&of, epoch, entry as u64);
                let caption = self.caption(&of, (epoch, step), entry as u64);
                let of_class = of.folder.class.as_ref().and_then(|c| Some((c.caption(&caption)?, c.weight)));
                class.weights.push(of_class.as_ref().map_or(0.0, |(_, weight)| *weight as f32));
                class.captions.push(of_class.map_or_else(|| caption.clone(), |(caption, _)| caption));
                (of, view, caption)
            })
            .collect();
        let mut batch = self.gather(uses)?;
        if class.weights.iter().any(|w| *w > 0.0) {
            class.text = self.text_rows(&class.captions)?;
            batch.class = Some(class);
        }
        Ok(batch)
    }

    fn plain_batches(&self) -> u64 {
        self.plain().len() as u64
    }

    fn plain_batch(&self, index: u64) -> Result<Batch, RunError> {
        self.plain().get(index as usize).map_or_else(|| Ok(Batch::default()), |images| self.batch_of(images))
    }

    fn text_encoders(&self) -> Vec<Component> {
        self.text_keys.keys().copied().chain(self.live_texts.iter().map(|text| text.component)).collect()
    }

    fn tags_until(&self) -> Option<u64> {
        self.captions.iter().filter_map(|options| Some(options.warmup?.steps)).max()
    }

    fn content(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (i, uses) in self.uses() {
            let Item { folder, sample } = &self.items[i];
            let folder = &self.folders[*folder];
            hasher.update(self.image_keys[&(i, false)].as_bytes());
            hasher.update(sample.caption.as_bytes());
            hasher.update(self.mask_keys.get(&(i, false)).map_or("", String::as_str).as_bytes());
            hasher.update(&sample.weight.to_le_bytes());
            hasher.update(format!("{uses} {} {:?}", folder.preserve, folder.class).as_bytes());
        }
        for &i in &self.held_out {
            hasher.update(b"held out");
            hasher.update(self.image_keys[&(i, false)].as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    fn about(&self) -> DataAbout {
        self.describe()
    }
}

/// Original height and width, crop top and left, target height and width, as SDXL was trained to read them.
///
/// The reference computes the crop for an image fitted inside its bucket, so its numbers stand on the axis that was
/// not cut; here they are where the cut was made, in pixels of the resized image.
fn size_conditions(sample: &Sample, view: &View) -> [f32; 6] {
    let ((width, height), (w, h)) = (sample.size, sample.fit.bucket);
    let (left, top) = view.corner;
    // A mirrored image was cut on the other side.
    let left = if view.mirrored { view.resized.0.saturating_sub(w + left) } else { left };
    [height, width, top, left, h, w].map(|v| v as f32)
}

/// Adds one more row to a stack.
pub(super) fn push(stack: &mut HostTensor, row: HostTensor) {
    if stack.shape.is_empty() {
        stack.shape = vec![0];
        stack.shape.extend(&row.shape);
    }
    stack.shape[0] += 1;
    stack.values.extend(row.values);
}

#[cfg(test)]
mod tests;
