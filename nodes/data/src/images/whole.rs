//! Whether a file goes on to the end of its image, from a few bytes at that end.
//!
//! A download or copy that was cut short has a good header. This finds it without decoding: what is damaged in its middle
//! shows only when the pixels are decoded.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::error::ImageError;
use super::probe::{Format, Probe, probe_header};

/// Bytes at the end in which the end mark of an image is looked for; some programs write data of their own behind it.
const TAIL: u64 = 64 << 10;

/// Header of an image whose file is not cut short.
pub fn probe_whole(path: impl AsRef<Path>) -> Result<Probe, ImageError> {
    let path = path.as_ref();
    let probe = probe_header(path)?;
    let failed = |error| ImageError::reading(path, error);
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    match ends(&mut file, length, &probe).map_err(failed)? {
        true => Ok(probe),
        false => Err(ImageError::damaged(path, "it ends before its last row")),
    }
}

fn ends(file: &mut File, length: u64, probe: &Probe) -> io::Result<bool> {
    match probe.format {
        Format::Png => Ok(holds(&tail(file, length, TAIL)?, b"IEND") || holds(&tail(file, length, length)?, b"IEND")),
        Format::Jpeg => {
            let end = [0xff, 0xd9];
            Ok(holds(&tail(file, length, TAIL)?, &end) || holds(&tail(file, length, length)?, &end))
        }
        Format::WebP => {
            let head = head(file, 12)?;
            let stated = head.get(4..8).and_then(|bytes| bytes.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
            Ok(u64::from(stated) + 8 <= length)
        }
        Format::Bmp => {
            let head = head(file, 34)?;
            let at =
                |at: usize| head.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
            let bits = match at(14) {
                12 => u64::from(at(24) & 0xffff),
                _ => u64::from(at(28) & 0xffff),
            };
            // Rows are filled up to four bytes; run-length coded pixels tell their end by themselves.
            let coded = at(14) != 12 && !matches!(at(30), 0 | 3);
            let row = (u64::from(probe.width) * bits).div_ceil(32) * 4;
            Ok(coded || u64::from(at(10)) + row * u64::from(probe.height) <= length)
        }
    }
}

fn head(file: &mut File, length: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.by_ref().take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn tail(file: &mut File, length: u64, size: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(length.saturating_sub(size)))?;
    let mut bytes = Vec::new();
    file.by_ref().take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn holds(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.windows(mark.len()).rev().any(|window| window == mark)
}
