//! Entry points of the fuzz targets and the mutation test: bytes in, no panic and no great amount of memory out.
//!
//! Not part of the library's interface.

use std::path::Path;

use super::convert::{to_f32, to_i64};
use super::header::{Header, TensorInfo};
use super::{FileError, pickle};

/// Most bytes of tensors read for one input.
const MOST: usize = 1 << 20;

/// A safetensors file.
///
/// # Errors
/// As [`WeightFile::open`](super::WeightFile::open).
pub fn safetensors(data: &[u8]) -> Result<(), FileError> {
    let header = Header::from_reader(Path::new("input"), &mut &*data, data.len() as u64)?;
    for info in header.tensors.values() {
        values(info, &data[header.data_start + info.start..header.data_start + info.end]);
    }
    Ok(())
}

/// A torch checkpoint of either form.
///
/// # Errors
/// As [`WeightFile::open`](super::WeightFile::open).
pub fn torch(data: &[u8]) -> Result<(), FileError> {
    let contents = pickle::read(Path::new("input"), data)?;
    let mut read = 0;
    for (name, info) in &contents.header.tensors {
        read += info.end - info.start;
        if read > MOST {
            break;
        }
        match contents.strides.get(name) {
            None => values(info, &data[info.start..info.end]),
            Some(strides) => values(info, &pickle::gather(data, info.start, &info.shape, strides, info.dtype.size())),
        }
    }
    Ok(())
}

/// `config.json`, `model_index.json` and the index of shards, which are read by the same means.
///
/// # Errors
/// As [`WeightSet::open`](super::WeightSet::open), when it is none of the three.
pub fn diffusers(data: &[u8]) -> Result<(), FileError> {
    let path = Path::new("input");
    let config = super::diffusers::parse_object(path, data).map(|_| ());
    let index = super::diffusers::ModelIndex::parse(path, data).map(|_| ());
    let shards = super::set::parse_index(path, data).map(|_| ());
    config.or(index).or(shards)
}

/// Converts a tensor and checks that the numbers are as many as its shape says.
fn values(info: &TensorInfo, bytes: &[u8]) {
    let count = to_f32(info.dtype, bytes).map(|v| v.len()).or_else(|| to_i64(info.dtype, bytes).map(|v| v.len()));
    assert_eq!(count, Some(info.shape.iter().product()));
}
