//! Size and colour kind of an image from its first bytes, without decoding.
//!
//! The format is told by content, not by extension. EXIF orientation is ignored, as it is when decoding.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::error::ImageError;

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Png,
    Jpeg,
    WebP,
    Bmp,
}

/// What the header of an image says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its format.
    pub format: Format,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Colour components of a JPEG; four are CMYK.
    pub components: Option<u8>,
}

/// Width and height of an image, from its header alone.
pub fn probe(path: impl AsRef<Path>) -> Result<(u32, u32), ImageError> {
    let probe = probe_header(path.as_ref())?;
    Ok((probe.width, probe.height))
}

/// Format, size and colour components of an image, from its header alone.
pub fn probe_header(path: &Path) -> Result<Probe, ImageError> {
    // Opening a pipe would wait for someone to write into it.
    let about = std::fs::metadata(path).map_err(|e| ImageError::reading(path, e))?;
    if !about.is_file() {
        let what = if about.is_dir() { "a folder" } else { "a pipe or a device" };
        return Err(ImageError::NotFile { path: path.into(), what });
    }
    let file = File::open(path).map_err(|e| ImageError::reading(path, e))?;
    let mut reader = BufReader::with_capacity(1024, file);
    let probe = read(&mut reader).map_err(|e| ImageError::reading(path, e))?;
    match probe {
        Ok(probe) if probe.width == 0 || probe.height == 0 => Err(ImageError::damaged(path, "it has no pixels")),
        Ok(probe) => Ok(probe),
        Err(Unreadable::Unknown { empty }) => Err(ImageError::UnknownFormat { path: path.into(), empty }),
        Err(Unreadable::Damaged(problem)) => Err(ImageError::damaged(path, problem)),
    }
}

enum Unreadable {
    Unknown { empty: bool },
    Damaged(&'static str),
}

fn read(reader: &mut (impl Read + Seek)) -> io::Result<Result<Probe, Unreadable>> {
    let mut head = Vec::with_capacity(32);
    reader.by_ref().take(32).read_to_end(&mut head)?;
    let le32 = |at: usize| Some(u32::from_le_bytes(*head.get(at..)?.first_chunk()?));
    let be32 = |at: usize| Some(u32::from_be_bytes(*head.get(at..)?.first_chunk()?));
    let le16 = |at: usize| Some(u32::from(u16::from_le_bytes(*head.get(at..)?.first_chunk()?)));
    let le24 = |at: usize| head.get(at..at + 3).map(|b| u32::from_le_bytes([b[0], b[1], b[2], 0]));
    let size = if head.starts_with(b"\x89PNG\r\n\x1a\n") {
        if head.get(12..16) != Some(b"IHDR") {
            return Ok(Err(Unreadable::Damaged("its first chunk is not IHDR")));
        }
        (Format::Png, be32(16).zip(be32(20)))
    } else if head.starts_with(b"\xff\xd8") {
        reader.seek(SeekFrom::Start(2))?;
        return jpeg(reader);
    } else if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
        let size = match head.get(12..16) {
            Some(b"VP8 ") if head.get(23..26) == Some(b"\x9d\x01\x2a") => {
                le16(26).zip(le16(28)).map(|(w, h)| (w & 0x3fff, h & 0x3fff))
            }
            Some(b"VP8L") if head.get(20) == Some(&0x2f) => {
                le32(21).map(|bits| ((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
            }
            Some(b"VP8X") => le24(24).zip(le24(27)).map(|(w, h)| (w + 1, h + 1)),
            _ => return Ok(Err(Unreadable::Damaged("it has no image chunk"))),
        };
        (Format::WebP, size)
    } else if head.starts_with(b"BM") && le32(14).is_some_and(|n| n == 12 || (16..=124).contains(&n)) {
        let size = if le32(14) == Some(12) {
            le16(18).zip(le16(20))
        } else {
            // A negative height means rows from the top.
            le32(18).zip(le32(22)).map(|(w, h)| (w, (h as i32).unsigned_abs()))
        };
        (Format::Bmp, size)
    } else {
        return Ok(Err(Unreadable::Unknown { empty: head.is_empty() }));
    };
    Ok(match size {
        (format, Some((width, height))) => Ok(Probe { format, width, height, components: None }),
        (_, None) => Err(Unreadable::Damaged("it ends inside its header")),
    })
}

/// Walks the segments up to the frame header.
fn jpeg(reader: &mut (impl Read + Seek)) -> io::Result<Result<Probe, Unreadable>> {
    let mut byte = || -> io::Result<u8> {
        let mut b = [0];
        reader.read_exact(&mut b)?;
        Ok(b[0])
    };
    let mut skipped = 0u32;
    loop {
        let mut marker = byte()?;
        if marker != 0xff {
            skipped += 1;
            if skipped > 1 << 16 {
                return Ok(Err(Unreadable::Damaged("no image starts in it")));
            }
            continue;
        }
        while marker == 0xff {
            marker = byte()?;
        }
        match marker {
            0x00 | 0x01 | 0xd0..=0xd8 => continue,
            0xd9 | 0xda => return Ok(Err(Unreadable::Damaged("its pixels come before its size"))),
            _ => {}
        }
        let length = u16::from_be_bytes([byte()?, byte()?]);
        if length < 2 {
            return Ok(Err(Unreadable::Damaged("a segment has an impossible length")));
        }
        let is_frame = matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc);
        if is_frame {
            let _precision = byte()?;
            let height = u16::from_be_bytes([byte()?, byte()?]);
            let width = u16::from_be_bytes([byte()?, byte()?]);
            let components = Some(byte()?);
            let (width, height) = (width.into(), height.into());
            return Ok(Ok(Probe { format: Format::Jpeg, width, height, components }));
        }
        for _ in 2..length {
            byte()?;
        }
    }
}
