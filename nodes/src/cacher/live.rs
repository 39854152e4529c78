//! What is not cached: images and captions that change from use to use are encoded in the step that uses them.
//!
//! An image is decoded anew at each use. That it can be is seen while the cache is filled, so that a run does not end in
//! its middle.

use pipe_core::run::RunError;
use pipe_data::images::{self, ImageError, Rgb8};
use pipe_data::weights::Component;
use rayon::prelude::*;

use super::cached::{Cached, Use, push};
use super::fill::{captions_at_once, finite, finite_latents};
use super::masks;
use crate::common::batch::{HostTensor, TextRows};
use crate::common::text::TextEncoder;
use crate::loader::pixels::View;
use crate::loader::sample::Samples;

/// Outputs of a text encoder for captions.
fn rows(text: &TextEncoder, captions: &[String]) -> Result<TextRows, RunError> {
    let (tokens, width) = (text.prompts.tokens(), text.network.width());
    let mut rows = TextRows::default();
    for chunk in captions.chunks(captions_at_once(tokens)) {
        let encoded = text.encode(chunk, false, None)?;
        let hidden = encoded.hidden.to_vec();
        for (caption, values) in chunk.iter().zip(hidden.chunks(tokens * width)) {
            finite(text, caption, values, "live_text")?;
            push(&mut rows.hidden, HostTensor { values: values.to_vec(), shape: vec![tokens, width] });
        }
        if let Some(pooled) = &encoded.pooled {
            let stack = rows.pooled.get_or_insert_default();
            for values in pooled.to_vec().chunks(pooled.dim(1)) {
                push(stack, HostTensor { values: values.to_vec(), shape: vec![pooled.dim(1)] });
            }
        }
        for values in encoded.mask.into_iter().flatten() {
            let stack = rows.mask.get_or_insert_default();
            push(stack, HostTensor { shape: vec![values.len()], values });
        }
    }
    Ok(rows)
}

/// The picture of a use, cut, coloured and mirrored.
fn picture(of: &Use, view: &View) -> Result<Rgb8, RunError> {
    let image = images::decode(&of.sample.path).map_err(gone)?;
    let (size, known) = ((image.width, image.height), of.sample.size);
    if size != known {
        let path = of.sample.path.display();
        let message = format!("`{path}` had {}×{} pixels and has {}×{} now", known.0, known.1, size.0, size.1);
        return Err(RunError::new("P0307", message).at("samples").help(CHANGED));
    }
    Ok(view.coloured(view.of(&image, of.sample, of.folder.pixels.filter)))
}

/// A file that could be read when the run began.
fn gone(error: ImageError) -> RunError {
    RunError::new("P0307", error.to_string()).at("samples").help(CHANGED)
}

const CHANGED: &str = "the file changed while the run used it; put it back and continue with `--resume`";

impl Cached {
    /// Whether the images of a folder are made anew at each use.
    pub(super) fn is_live(&self, folder: &Samples) -> bool {
        self.live_vae.is_some() || folder.pixels.vary()
    }

    /// The images of some uses, or their moments.
    pub(super) fn images(&self, uses: &[(Use, View, String)]) -> Result<HostTensor, RunError> {
        let mut stack = HostTensor::default();
        if self.live_vae.is_none() && uses.iter().all(|(of, ..)| !self.is_live(of.folder)) {
            for (of, view, _) in uses {
                push(&mut stack, self.value(&self.image_keys[&(of.image, view.mirrored)])?);
            }
            return Ok(stack);
        }
        let make = |(of, view, _): &(Use, View, String)| match self.is_live(of.folder) {
            true => Ok(images::to_tensor(&picture(of, view)?)),
            // Without an autoencoder the cache holds images.
            false => self.value(&self.image_keys[&(of.image, view.mirrored)]).map(|image| image.values),
        };
        let pixels: Vec<Vec<f32>> = uses.par_iter().map(make).collect::<Result<_, _>>()?;
        let (w, h) = uses[0].0.sample.fit.bucket;
        let Some((vae, at_once)) = &self.live_vae else {
            pixels.into_iter().for_each(|values| push(&mut stack, HostTensor { values, shape: vec![3, h, w] }));
            return Ok(stack);
        };
        for (chunk, uses) in pixels.chunks(*at_once).zip(uses.chunks(*at_once)) {
            let moments = vae.encode(chunk.concat(), &[chunk.len(), 3, h, w])?;
            let shape = moments.shape()[1..].to_vec();
            let values = moments.into_vec();
            for (values, (of, ..)) in values.chunks(values.len() / chunk.len()).zip(uses) {
                finite_latents(&of.sample.path, values, "live_vae")?;
                push(&mut stack, HostTensor { values: values.to_vec(), shape: shape.clone() });
            }
        }
        Ok(stack)
    }

    /// Masks of some uses, of the shape `[h, w]`.
    pub(super) fn masks(&self, uses: &[(Use, View, String)], shape: &[usize]) -> Result<HostTensor, RunError> {
        let mut stack = HostTensor::default();
        for (of, view, _) in uses {
            let mask = match self.is_live(of.folder) && of.sample.mask.is_some() {
                true => {
                    let picture = masks::picture(of.sample).map_err(gone)?;
                    let filter = of.folder.pixels.filter;
                    let values = masks::values(picture, of.sample, view, filter, (shape[0], shape[1]))?;
                    HostTensor { values, shape: shape.to_vec() }
                }
                false => self.mask(of, view.mirrored, shape)?,
            };
            push(&mut stack, mask);
        }
        Ok(stack)
    }

    /// Outputs of the text encoders that run at each use.
    pub(super) fn live_rows(&self, captions: &[String]) -> Result<Vec<(Component, TextRows)>, RunError> {
        let of = |text: &TextEncoder| Ok((text.component, rows(text, captions)?));
        self.live_texts.iter().map(|text| of(text)).collect()
    }
}
