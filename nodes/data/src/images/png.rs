//! PNG files of previews: single pictures and contact sheets, with their settings in text chunks.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use ::png::{BitDepth, ColorType, Encoder, EncodingError};

use super::Rgb8;
use super::font;
use crate::weights::{FileError, write_atomic};

/// What a picture was made with, written as other programs read it (`parameters`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    /// The prompt.
    pub prompt: String,
    /// The negative prompt, empty for none.
    pub negative_prompt: String,
    /// Sampling steps.
    pub steps: Option<u32>,
    /// Sampler.
    pub sampler: Option<String>,
    /// Guidance scale.
    pub guidance: Option<f64>,
    /// Seed.
    pub seed: Option<u64>,
    /// Width and height.
    pub size: Option<(usize, usize)>,
    /// The model's name.
    pub model: Option<String>,
    /// Anything else, by name.
    pub more: Vec<(String, String)>,
}

impl Parameters {
    /// The text of the `parameters` chunk.
    pub fn text(&self) -> String {
        let mut text = self.prompt.clone();
        if !self.negative_prompt.is_empty() {
            let _ = write!(text, "\nNegative prompt: {}", self.negative_prompt);
        }
        let size = self.size.map(|(w, h)| format!("{w}x{h}"));
        let known = [
            ("Steps", self.steps.map(|n| n.to_string())),
            ("Sampler", self.sampler.clone()),
            ("CFG scale", self.guidance.map(|g| g.to_string())),
            ("Seed", self.seed.map(|n| n.to_string())),
            ("Size", size),
            ("Model", self.model.clone()),
        ];
        let known = known.into_iter().filter_map(|(name, value)| Some(format!("{name}: {}", value?)));
        let more = self.more.iter().map(|(name, value)| format!("{name}: {value}"));
        let settings: Vec<String> = known.chain(more).collect();
        if !settings.is_empty() {
            let _ = write!(text, "\n{}", settings.join(", "));
        }
        text
    }
}

/// Writes a PNG file with text chunks (name, text): complete, or not at all.
pub fn write(path: impl AsRef<Path>, image: &Rgb8, texts: &[(&str, &str)]) -> Result<(), FileError> {
    let bytes = encode(image, texts).map_err(|e| FileError::writing(path.as_ref(), e))?;
    write_atomic(path, |out| out.write_all(&bytes))
}

/// The bytes of a PNG file with text chunks (name, text).
pub fn encode(image: &Rgb8, texts: &[(&str, &str)]) -> io::Result<Vec<u8>> {
    let side = |n: usize| u32::try_from(n).map_err(io::Error::other);
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, side(image.width)?, side(image.height)?);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    let failed = |e: EncodingError| io::Error::other(e.to_string());
    for (name, text) in texts {
        // The older kind of chunk holds Latin-1 only; readers expect it where it is enough.
        let latin = text.chars().all(|c| (c as u32) < 256);
        let (name, text) = ((*name).to_owned(), (*text).to_owned());
        if latin { encoder.add_text_chunk(name, text) } else { encoder.add_itxt_chunk(name, text) }.map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&image.pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// Space between the pictures of a contact sheet.
const GAP: usize = 4;
const PAPER: [u8; 3] = [24, 24, 24];
const INK: [u8; 3] = [224, 224, 224];

/// A contact sheet: pictures in rows of `columns`, each with its label beneath, if there are labels.
pub fn grid(images: &[Rgb8], columns: usize, labels: Option<&[String]>) -> Rgb8 {
    let columns = columns.clamp(1, images.len().max(1));
    let rows = images.len().div_ceil(columns);
    let cell_width = images.iter().map(|image| image.width).max().unwrap_or(0);
    let cell_height = images.iter().map(|image| image.height).max().unwrap_or(0);
    let strip = if labels.is_some() { font::HEIGHT + GAP } else { 0 };
    let mut sheet = Rgb8::new(GAP + columns * (cell_width + GAP), GAP + rows * (cell_height + strip + GAP));
    for pixel in sheet.pixels.as_chunks_mut::<3>().0 {
        *pixel = PAPER;
    }
    for (i, image) in images.iter().enumerate() {
        let left = GAP + i % columns * (cell_width + GAP);
        let top = GAP + i / columns * (cell_height + strip + GAP);
        for y in 0..image.height {
            let at = ((top + y) * sheet.width + left) * 3;
            sheet.pixels[at..at + image.width * 3].copy_from_slice(image.row(y));
        }
        if let Some(label) = labels.and_then(|labels| labels.get(i)) {
            let label = shortened(label, cell_width / font::ADVANCE);
            font::draw(&mut sheet, left, top + cell_height + GAP, &label, INK);
        }
    }
    sheet
}

/// The first line of a label, its end replaced by two dots when it is longer than `room`.
fn shortened(label: &str, room: usize) -> String {
    let line = label.lines().next().unwrap_or_default();
    if line.chars().count() <= room {
        return line.to_owned();
    }
    let dots = room.min(2);
    line.chars().take(room - dots).chain(std::iter::repeat_n('.', dots)).collect()
}
