//! Writes safetensors files, tensor by tensor and all or nothing.
//!
//! A writer holds names, types and shapes. Values are asked for when their turn comes, so a file larger than memory
//! can be written as long as one tensor fits.
//!
//! Layout as the reference writer: wider types first, then by name; the header padded with spaces to a multiple of
//! eight bytes. The data bytes of a set of tensors, and so their hash, are therefore the same as there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde::ser::{SerializeMap, Serializer};
use serde_json::json;

use super::atomic::write_atomic;
use super::convert::f32_to_bytes;
use super::dtype::DType;
use super::error::FileError;

/// Where a tensor's bytes come from.
pub enum TensorData<'a> {
    /// Little-endian bytes of the stated type.
    Bytes(Cow<'a, [u8]>),
    /// Numbers cast to the stated float type piece by piece while writing.
    F32(Cow<'a, [f32]>),
    /// Bytes made when their turn comes; called once a pass.
    Lazy(Box<dyn Fn() -> io::Result<Vec<u8>> + Send + 'a>),
    /// Numbers handed over when their turn comes, such as a tensor of the CPU that is borrowed or one of a device that
    /// is read back, and cast to the stated float type piece by piece; called once a pass.
    Stream(Stream<'a>),
}

/// Gives all of a tensor's numbers to the sink it is called with, in order, in as many parts as it likes.
pub type Stream<'a> = Box<dyn Fn(&mut Sink<'_>) -> io::Result<()> + Send + 'a>;

/// Takes the next numbers of a tensor.
pub type Sink<'s> = dyn FnMut(&[f32]) -> io::Result<()> + 's;

/// One tensor to write.
pub struct TensorOut<'a> {
    /// Its name.
    pub name: String,
    /// Stored type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// The values.
    pub data: TensorData<'a>,
}

impl<'a> TensorOut<'a> {
    /// A tensor of `f32` values, cast to `dtype` (a float type) when written.
    pub fn f32(
        name: impl Into<String>,
        dtype: DType,
        shape: impl Into<Vec<usize>>,
        data: impl Into<Cow<'a, [f32]>>,
    ) -> Self {
        TensorOut { name: name.into(), dtype, shape: shape.into(), data: TensorData::F32(data.into()) }
    }

    /// A tensor of ready bytes.
    pub fn bytes(
        name: impl Into<String>,
        dtype: DType,
        shape: impl Into<Vec<usize>>,
        data: impl Into<Cow<'a, [u8]>>,
    ) -> Self {
        TensorOut { name: name.into(), dtype, shape: shape.into(), data: TensorData::Bytes(data.into()) }
    }

    /// A tensor whose bytes are made on demand.
    pub fn lazy(
        name: impl Into<String>,
        dtype: DType,
        shape: impl Into<Vec<usize>>,
        make: impl Fn() -> io::Result<Vec<u8>> + Send + 'a,
    ) -> Self {
        TensorOut { name: name.into(), dtype, shape: shape.into(), data: TensorData::Lazy(Box::new(make)) }
    }

    /// A tensor whose numbers are handed over on demand, cast to `dtype`, a float type.
    pub fn stream(
        name: impl Into<String>,
        dtype: DType,
        shape: impl Into<Vec<usize>>,
        give: impl Fn(&mut Sink<'_>) -> io::Result<()> + Send + 'a,
    ) -> Self {
        TensorOut { name: name.into(), dtype, shape: shape.into(), data: TensorData::Stream(Box::new(give)) }
    }

    /// Bytes it takes, or nothing when its shape overflows.
    fn len(&self) -> Option<usize> {
        self.shape.iter().try_fold(self.dtype.size(), |n, &size| n.checked_mul(size))
    }

    /// Bytes it takes, when its values fit its shape and type.
    pub(super) fn check(&self) -> Result<usize, String> {
        let needed = self.len().ok_or_else(|| format!("the shape of `{}` overflows", self.name))?;
        let given = match &self.data {
            TensorData::Bytes(bytes) => bytes.len(),
            TensorData::F32(_) | TensorData::Stream(_) if !self.dtype.is_float() => {
                return Err(format!("`{}` cannot be cast to {}", self.name, self.dtype));
            }
            TensorData::F32(values) => values.len() * self.dtype.size(),
            TensorData::Lazy(_) | TensorData::Stream(_) => needed,
        };
        if given == needed { Ok(needed) } else { Err(wrong_length(&self.name, needed, given)) }
    }

    /// Writes its values.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.data {
            TensorData::Bytes(bytes) => out.write_all(bytes),
            TensorData::F32(values) => write_cast(values, self.dtype, out),
            TensorData::Stream(give) => {
                let mut written = 0;
                give(&mut |values: &[f32]| {
                    written += values.len() * self.dtype.size();
                    write_cast(values, self.dtype, out)
                })?;
                let needed = self.len().unwrap_or(0);
                if written == needed {
                    Ok(())
                } else {
                    Err(io::Error::other(wrong_length(&self.name, needed, written)))
                }
            }
            TensorData::Lazy(make) => {
                let bytes = make()?;
                let needed = self.len().unwrap_or(0);
                if bytes.len() != needed {
                    return Err(io::Error::other(wrong_length(&self.name, needed, bytes.len())));
                }
                out.write_all(&bytes)
            }
        }
    }
}

/// Numbers in the stored type, through a buffer of a quarter of a megabyte; f32 without one.
fn write_cast(values: &[f32], dtype: DType, out: &mut dyn Write) -> io::Result<()> {
    if dtype == DType::F32 {
        return out.write_all(bytemuck::cast_slice(values));
    }
    values.chunks(1 << 16).try_for_each(|piece| out.write_all(&f32_to_bytes(piece, dtype).unwrap_or_default()))
}

fn wrong_length(name: &str, needed: usize, given: usize) -> String {
    format!("`{name}` needs {needed} bytes for its shape and has {given}")
}

/// A checked set of tensors in file order, with its header.
pub struct SafetensorsWriter<'a> {
    tensors: Vec<TensorOut<'a>>,
    header: Vec<u8>,
    data_bytes: usize,
}

impl<'a> SafetensorsWriter<'a> {
    /// Orders the tensors and makes the header; says what is wrong with them otherwise.
    pub fn new(
        tensors: impl IntoIterator<Item = TensorOut<'a>>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let mut tensors: Vec<_> = tensors.into_iter().collect();
        tensors.sort_by(|a, b| b.dtype.rank().cmp(&a.dtype.rank()).then_with(|| a.name.cmp(&b.name)));
        let mut ends = Vec::with_capacity(tensors.len());
        let mut end = 0usize;
        for tensor in &tensors {
            let too_large = || "the tensors are impossibly large".to_owned();
            end = end.checked_add(tensor.check()?).ok_or_else(too_large)?;
            ends.push(end);
        }
        let names = distinct_names(&tensors)?;
        if names.binary_search(&"__metadata__").is_ok() {
            return Err("`__metadata__` cannot be the name of a tensor".to_owned());
        }
        let header = header(&tensors, &ends, metadata).map_err(|e| e.to_string())?;
        Ok(SafetensorsWriter { tensors, header, data_bytes: end })
    }

    /// Size of the file.
    pub fn file_bytes(&self) -> usize {
        8 + self.header.len() + self.data_bytes
    }

    /// Writes length, header and data.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&(self.header.len() as u64).to_le_bytes())?;
        out.write_all(&self.header)?;
        self.write_data(out)
    }

    /// Writes the data alone.
    pub fn write_data(&self, out: &mut dyn Write) -> io::Result<()> {
        self.tensors.iter().try_for_each(|tensor| tensor.write(out))
    }

    /// Writes the file: complete, or not at all.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        write_atomic(path, |out| self.write(out))
    }
}

/// Writes a safetensors file: complete, or not at all.
pub fn write_safetensors<'a>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = TensorOut<'a>>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), FileError> {
    let path = path.as_ref();
    let writer = SafetensorsWriter::new(tensors, metadata)
        .map_err(|problem| FileError::BadTensors { path: path.into(), problem })?;
    writer.save(path)
}

/// Names in order; says which of them is there twice.
pub(super) fn distinct_names<'t>(tensors: &'t [TensorOut<'_>]) -> Result<Vec<&'t str>, String> {
    let mut names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("two tensors are named `{}`", pair[0])),
        None => Ok(names),
    }
}

fn header(
    tensors: &[TensorOut<'_>],
    ends: &[usize],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::new();
    let mut json = serde_json::Serializer::new(&mut bytes);
    let mut map = (&mut json).serialize_map(None)?;
    if !metadata.is_empty() {
        map.serialize_entry("__metadata__", metadata)?;
    }
    let mut start = 0;
    for (tensor, &end) in tensors.iter().zip(ends) {
        let entry = json!({ "dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [start, end] });
        map.serialize_entry(&tensor.name, &entry)?;
        start = end;
    }
    map.end()?;
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    Ok(bytes)
}
