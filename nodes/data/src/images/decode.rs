//! Decodes an image file to 8-bit RGB, or its alpha channel.
//!
//! Alpha is dropped, not blended; palettes, grey and CMYK (inverted, as Adobe writes it) become RGB; 16-bit values are
//! rounded; EXIF orientation and colour profiles are ignored. That is how the reference loads images, and what its results depend on.

use std::fs;
use std::io::{BufReader, Cursor};
use std::path::Path;

use image::{ImageDecoder, ImageFormat, ImageReader, Limits};

use super::Rgb8;
use super::error::ImageError;
use super::probe::{Format, probe_header};

/// Most pixels decoded, the point where Pillow suspects an attack.
pub const MAX_PIXELS: u64 = 178_956_970;

/// Decodes an image file.
pub fn decode(path: impl AsRef<Path>) -> Result<Rgb8, ImageError> {
    let image = open(path.as_ref())?.into_rgb8();
    Ok(Rgb8 { width: image.width() as usize, height: image.height() as usize, pixels: image.into_raw() })
}

/// The alpha channel of an image file as a grey picture; nothing where the file has none.
pub fn decode_alpha(path: impl AsRef<Path>) -> Result<Option<Rgb8>, ImageError> {
    let image = open(path.as_ref())?;
    if !image.color().has_alpha() {
        return Ok(None);
    }
    let image = image.into_rgba8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    let pixels = image.as_raw().as_chunks::<4>().0.iter().flat_map(|pixel| [pixel[3]; 3]).collect();
    Ok(Some(Rgb8 { width, height, pixels }))
}

/// Whether an image has an alpha channel, from the beginning of the file alone.
pub fn has_alpha(path: impl AsRef<Path>) -> Result<bool, ImageError> {
    let path = path.as_ref();
    let probe = probe_header(path)?;
    let file = fs::File::open(path).map_err(|e| ImageError::reading(path, e))?;
    let reader = ImageReader::with_format(BufReader::new(file), format_of(probe.format));
    let decoder = reader.into_decoder().map_err(|e| ImageError::damaged(path, plain_words(&e)))?;
    Ok(decoder.color_type().has_alpha())
}

/// The decoder's name of a format.
fn format_of(format: Format) -> ImageFormat {
    match format {
        Format::Png => ImageFormat::Png,
        Format::Jpeg => ImageFormat::Jpeg,
        Format::WebP => ImageFormat::WebP,
        Format::Bmp => ImageFormat::Bmp,
    }
}

fn open(path: &Path) -> Result<image::DynamicImage, ImageError> {
    let probe = probe_header(path)?;
    let (width, height) = (probe.width, probe.height);
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(ImageError::TooLarge { path: path.into(), width, height });
    }
    let bytes = fs::read(path).map_err(|e| ImageError::reading(path, e))?;
    if probe.format == Format::Jpeg && !jpeg_is_complete(&bytes) {
        return Err(ImageError::damaged(path, "it ends before its last row"));
    }
    let damaged = |e: image::ImageError| ImageError::damaged(path, plain_words(&e));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format_of(probe.format));
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_PIXELS * 16);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(damaged)?;
    if decoder.dimensions() != (width, height) {
        return Err(ImageError::damaged(path, "it states two different sizes"));
    }
    image::DynamicImage::from_decoder(decoder).map_err(damaged)
}

/// Whether the end mark follows the start of the pixels: decoders would fill what is missing with grey.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let scan = jpeg_scan(bytes).unwrap_or(bytes.len());
    // In the pixels' bytes 0xff is always followed by zero or a restart mark, so this cannot be a value.
    bytes[scan..].windows(2).rev().any(|pair| pair == [0xff, 0xd9])
}

/// Where the pixels of a JPEG start, walking its segments, so that an embedded thumbnail is passed over.
fn jpeg_scan(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        match (*bytes.get(at)?, *bytes.get(at + 1)?) {
            (0xff, 0xda) => return Some(at),
            (0xff, 0x00 | 0x01 | 0xd0..=0xd9) => at += 2,
            (0xff, 0xff) => at += 1,
            (0xff, _) => at += 2 + usize::from(u16::from_be_bytes(*bytes.get(at + 2..)?.first_chunk()?)),
            _ => at += 1,
        }
    }
}

/// The decoder's message on one line, without its own preamble.
fn plain_words(error: &image::ImageError) -> String {
    let text = match error {
        image::ImageError::Decoding(e) => std::error::Error::source(e).map_or(e.to_string(), ToString::to_string),
        other => other.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_owned()
}
