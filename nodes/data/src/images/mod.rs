//! Images: finding, probing, decoding, fitting into buckets, and writing previews.
//!
//! Everything here is plain bytes and numbers; a picture leaves as a `[3, H, W]` list in [−1, 1].

pub mod buckets;
mod colour;
mod decode;
mod error;
mod font;
mod listed;
pub mod png;
mod probe;
mod resize;
mod scan;
mod whole;

use std::fs::File;
use std::path::Path;

pub use decode::{MAX_PIXELS, decode, decode_alpha, has_alpha};
pub use error::ImageError;
pub use listed::{Keys, ListError, Listed, read_list};
pub use probe::{Format, Probe, probe, probe_header};
pub use resize::{Filter, resize, resize_with};
pub use scan::{EXTENSIONS, Entry, by_stem, caption_candidates, caption_text, read_caption, scan, unread};
pub use whole::probe_whole;

/// An 8-bit RGB image, rows from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb8 {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green and blue of each pixel.
    pub pixels: Vec<u8>,
}

impl Rgb8 {
    /// A black image.
    pub fn new(width: usize, height: usize) -> Rgb8 {
        Rgb8 { width, height, pixels: vec![0; width * height * 3] }
    }

    /// One row.
    pub fn row(&self, y: usize) -> &[u8] {
        &self.pixels[y * self.width * 3..][..self.width * 3]
    }

    /// The part of `width` × `height` at `left`, `top`; what is outside stays black.
    pub fn crop(&self, left: usize, top: usize, width: usize, height: usize) -> Rgb8 {
        let mut out = Rgb8::new(width, height);
        let kept = width.min(self.width.saturating_sub(left)) * 3;
        for y in 0..height.min(self.height.saturating_sub(top)) {
            let from = &self.row(top + y)[left.min(self.width) * 3..][..kept];
            out.pixels[y * width * 3..][..kept].copy_from_slice(from);
        }
        out
    }

    /// The middle part of `width` × `height`; the odd pixel stays on the right and below.
    pub fn centre_crop(&self, width: usize, height: usize) -> Rgb8 {
        self.crop(self.width.saturating_sub(width) / 2, self.height.saturating_sub(height) / 2, width, height)
    }

    /// Left and right exchanged.
    pub fn flipped(&self) -> Rgb8 {
        let mut out = self.clone();
        for row in out.pixels.chunks_exact_mut((self.width * 3).max(1)) {
            row.as_chunks_mut::<3>().0.reverse();
        }
        out
    }

    /// Resized with a filter, or the automatic one.
    pub fn resized(&self, (width, height): (usize, usize), filter: Option<Filter>) -> Rgb8 {
        match filter {
            Some(filter) => resize_with(self, width, height, filter),
            None => resize(self, width, height),
        }
    }
}

/// `[3, H, W]` values in [−1, 1]: `(x/255 − 0.5)/0.5`.
pub fn to_tensor(image: &Rgb8) -> Vec<f32> {
    let table: [f32; 256] = std::array::from_fn(|x| (x as f32 / 255.0 - 0.5) / 0.5);
    let pixels = image.pixels.as_chunks::<3>().0;
    (0..3).flat_map(|c| pixels.iter().map(move |pixel| pixel[c])).map(|x| table[usize::from(x)]).collect()
}

/// `[H, W]` values of 0 to 1 of the red channel: a mask.
pub fn to_mask(image: &Rgb8) -> Vec<f32> {
    image.pixels.as_chunks::<3>().0.iter().map(|pixel| f32::from(pixel[0]) / 255.0).collect()
}

/// The picture of `[3, H, W]` values in [−1, 1], clamped and rounded; what is missing is black.
pub fn from_tensor(values: &[f32], width: usize, height: usize) -> Rgb8 {
    let mut out = Rgb8::new(width, height);
    let plane = width * height;
    for c in 0..3 {
        let values = values.get(c * plane..).unwrap_or_default();
        for (pixel, &x) in out.pixels.as_chunks_mut::<3>().0.iter_mut().zip(values) {
            // Casting makes NaN black.
            pixel[c] = ((x * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8;
        }
    }
    out
}

/// BLAKE3 hash of a file's bytes.
pub fn content_hash(path: impl AsRef<Path>) -> Result<[u8; 32], ImageError> {
    let path = path.as_ref();
    let hash = || {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path)?)?;
        Ok(*hasher.finalize().as_bytes())
    };
    hash().map_err(|e| ImageError::reading(path, e))
}
