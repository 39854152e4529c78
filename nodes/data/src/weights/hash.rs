//! Hashes by which other programs know a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::error::FileError;
use super::writer::SafetensorsWriter;

/// The window of the old short hash.
const WINDOW: std::ops::Range<u64> = 0x10_0000..0x11_0000;

/// SHA-256 of the data of a safetensors file with these tensors, in hex (`sshs_model_hash`); metadata do not count.
pub fn sshs_model_hash(tensors: &SafetensorsWriter<'_>) -> io::Result<String> {
    let mut hasher = Hasher(Sha256::new());
    tensors.write_data(&mut hasher)?;
    Ok(hex(hasher.0))
}

/// Eight hex digits over a window of the file (`sshs_legacy_hash`), for a writer made with the `ss_*` metadata alone;
/// see [`legacy_metadata`].
///
/// A file that ends before the window is hashed whole: by the window alone all small files would have one hash, that
/// of nothing (`e3b0c442`), and readers that know files by it would take one for the other.
pub fn sshs_legacy_hash(tensors: &SafetensorsWriter<'_>) -> io::Result<String> {
    if (tensors.file_bytes() as u64) <= WINDOW.start {
        let mut whole = Hasher(Sha256::new());
        tensors.write(&mut whole)?;
        return Ok(hex(whole.0)[..8].to_owned());
    }
    let mut window = Window { hasher: Sha256::new(), at: 0 };
    tensors.write(&mut window)?;
    Ok(hex(window.hasher)[..8].to_owned())
}

/// The metadata the legacy hash is made with.
pub fn legacy_metadata(metadata: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    metadata.iter().filter(|(key, _)| key.starts_with("ss_")).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// SHA-256 of a whole file, in hex (`ss_new_sd_model_hash`).
pub fn file_sha256(path: impl AsRef<Path>) -> Result<String, FileError> {
    let path = path.as_ref();
    let mut file = File::open(path).map_err(|e| FileError::reading(path, e))?;
    let mut hasher = Hasher(Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(|e| FileError::reading(path, e))? {
            0 => return Ok(hex(hasher.0)),
            n => hasher.0.update(&buffer[..n]),
        }
    }
}

/// Eight hex digits over a window of a file (`ss_sd_model_hash`); a file too short for the window hashes as empty.
pub fn file_short_hash(path: impl AsRef<Path>) -> Result<String, FileError> {
    let path = path.as_ref();
    let read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(WINDOW.start))?;
        let mut bytes = Vec::new();
        file.take(WINDOW.end - WINDOW.start).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes: Vec<u8> = read().map_err(|e| FileError::reading(path, e))?;
    Ok(hex(Sha256::new_with_prefix(bytes))[..8].to_owned())
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Hasher(Sha256);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes what falls into the window.
struct Window {
    hasher: Sha256,
    at: u64,
}

impl Write for Window {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = self.at + bytes.len() as u64;
        let from = WINDOW.start.clamp(self.at, end) - self.at;
        let to = WINDOW.end.clamp(self.at, end) - self.at;
        self.hasher.update(&bytes[from as usize..to as usize]);
        self.at = end;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::dtype::DType;
    use super::super::writer::TensorOut;
    use super::*;

    /// A writer of so many numbers, its bytes, and its legacy hash.
    fn of(count: usize, first: f32) -> (Vec<u8>, String) {
        let values: Vec<f32> = (0..count).map(|i| first + i as f32).collect();
        let writer =
            SafetensorsWriter::new([TensorOut::f32("a", DType::F32, [count], values)], &BTreeMap::new()).unwrap();
        let mut bytes = Vec::new();
        writer.write(&mut bytes).unwrap();
        (bytes, sshs_legacy_hash(&writer).unwrap())
    }

    #[test]
    fn a_small_file_has_a_hash_of_its_own() {
        let short = |bytes: &[u8]| hex(Sha256::new_with_prefix(bytes))[..8].to_owned();
        let nothing = short(&[]);
        assert_eq!(nothing, "e3b0c442");
        for count in [1, 1000, 262_000] {
            let ((bytes, hash), (_, other)) = (of(count, 0.0), of(count, 1.0));
            assert!(bytes.len() <= WINDOW.start as usize);
            assert_eq!(hash, short(&bytes));
            assert!(hash != other && hash != nothing);
        }
        // Beyond the first MiB it is that of the window, as everywhere.
        for count in [270_000, 400_000] {
            let (bytes, hash) = of(count, 0.0);
            let end = bytes.len().min(WINDOW.end as usize);
            assert_eq!(hash, short(&bytes[WINDOW.start as usize..end]));
        }
    }
}
