//! Masks in the cache: at the size of the latents, cut and mirrored as their images are.

use std::collections::HashSet;

use pipe_core::run::{BuildCx, RunError};
use pipe_data::images::{self, Filter, ImageError, Rgb8};
use pipe_train::loss::area_resize;

use super::cached::Cached;
use super::fill;
use super::store::key;
use crate::common::batch::HostTensor;
use crate::loader::pixels::View;
use crate::loader::sample::{MaskSource, Sample};

/// Where the values of a mask come from: the content of a file, and which channel of it.
fn source(sample: &Sample) -> Option<(&std::path::Path, &'static [u8])> {
    match sample.mask.as_ref()? {
        MaskSource::Alpha => Some((&sample.path, b"alpha")),
        MaskSource::File(path) => Some((path, b"red")),
    }
}

/// The mask as a grey picture; nothing for an image without alpha.
pub(super) fn picture(sample: &Sample) -> Result<Option<Rgb8>, ImageError> {
    match &sample.mask {
        Some(MaskSource::Alpha) => images::decode_alpha(&sample.path),
        Some(MaskSource::File(path)) => images::decode(path).map(Some),
        None => Ok(None),
    }
}

/// A mask as its image is seen, then by area means to `[h, w]`.
pub(super) fn values(
    picture: Option<Rgb8>,
    sample: &Sample,
    view: &View,
    filter: Option<Filter>,
    (h, w): (usize, usize),
) -> Result<Vec<f32>, RunError> {
    let Some(picture) = picture else { return Ok(vec![1.0; h * w]) };
    let (width, height) = sample.fit.bucket;
    let seen = view.of(&picture, sample, filter);
    area_resize(&images::to_mask(&seen), (height, width), (h, w)).map_err(|e| RunError::new("P0902", e.to_string()))
}

impl Cached {
    /// Makes the masks that are not cached yet. An image whose mask does not decode is set aside.
    pub(super) fn fill_masks(&mut self, cx: &BuildCx) -> Result<(), RunError> {
        let vae = cx.typed::<crate::common::autoencoder::Autoencoder>("vae")?.into_iter().next();
        let items = self.items.clone();
        let (mut bad, mut black) = (HashSet::new(), Vec::new());
        for &i in self.usable.iter().chain(&self.held_out) {
            let (sample, folder) = (&items[i].sample, items[i].folder);
            let Some((path, channel)) = source(sample) else { continue };
            if cx.stop.is_set() {
                return Err(RunError::interrupted());
            }
            if self.is_live(&self.folders[folder]) {
                // Nothing is cached; the key tells a changed mask.
                let looked = images::content_hash(path).and_then(|content| Ok((content, picture(sample)?)));
                match looked {
                    Ok((content, picture)) => {
                        self.mask_keys.insert((i, false), key(&[b"live mask", channel, &content]));
                        if !sample.held_out
                            && picture.is_some_and(|picture| picture.pixels.iter().all(|value| *value == 0))
                        {
                            black.push(&items[i].sample.path);
                        }
                    }
                    Err(e) => {
                        cx.progress.warn(&format!("set aside, its mask cannot be used: {e}"));
                        bad.insert(i);
                    }
                }
                continue;
            }
            let (shape, filter) = (self.value_shape(sample, vae)[1..].to_vec(), self.folders[folder].pixels.filter);
            let made = images::content_hash(path).and_then(|content| {
                let mut todo = Vec::new();
                for &mirrored in self.folders[folder].mirrors() {
                    let fit = format!("{} {shape:?}", fill::fit(sample, mirrored, filter));
                    let key = key(&[b"mask", channel, &content, fit.as_bytes()]);
                    if !self.store.has(&key, &shape) {
                        todo.push((mirrored, key.clone()));
                    }
                    self.mask_keys.insert((i, mirrored), key);
                }
                Ok((if todo.is_empty() { None } else { picture(sample)? }, todo))
            });
            match made {
                Ok((picture, todo)) => {
                    for (mirrored, key) in todo {
                        let view = View::plain(sample, mirrored);
                        let values = values(picture.clone(), sample, &view, filter, (shape[0], shape[1]))?;
                        self.store.put(&key, HostTensor { values, shape: shape.clone() })?;
                    }
                }
                Err(e) => {
                    cx.progress.warn(&format!("set aside, its mask cannot be used: {e}"));
                    bad.insert(i);
                }
            }
        }
        for &i in self.usable.iter().filter(|i| !bad.contains(*i)) {
            if let Some(key) = self.mask_keys.get(&(i, false)).or_else(|| self.mask_keys.get(&(i, true)))
                && !self.is_live(&self.folders[items[i].folder])
                && self.value(key)?.values.iter().all(|value| *value == 0.0)
            {
                black.push(&items[i].sample.path);
            }
        }
        if let Some(first) = black.first() {
            let name = first.file_name().unwrap_or_default().to_string_lossy();
            let which = match black.len() {
                1 => format!("the mask of `{name}` is"),
                n => format!("the masks of {n} images, `{name}` the first, are"),
            };
            cx.progress.warn(&format!(
                "{which} black: without a `floor` of the loss's `mask` nothing is learned from such an image"
            ));
        }
        for list in [&mut self.usable, &mut self.held_out] {
            list.retain(|i| !bad.contains(i));
        }
        Ok(())
    }
}
