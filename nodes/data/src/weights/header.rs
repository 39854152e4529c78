//! The header of a safetensors file: read alone, trusted in nothing.
//!
//! The format is a little-endian `u64`, that many bytes of JSON (`name → {dtype, shape, data_offsets}` and
//! `__metadata__`), then the data. Every count is checked against the file before it is used; after
//! [`Header::from_reader`] each tensor lies inside the file, none overlap and no byte belongs to nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use indexmap::IndexMap;
use indexmap::map::Entry;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::dtype::DType;
use super::error::{Damage, FileError};
use super::json::Text;
use super::sniff::looks_like;

/// Longest header accepted, the limit of the reference reader.
pub const MAX_HEADER: u64 = 100_000_000;
/// Most tensors accepted; the largest public models have a few thousand.
const MAX_TENSORS: usize = 200_000;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 64;

/// Where a tensor is and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// First byte, counted from [`Header::data_start`].
    pub start: usize,
    /// `start` and the length of the values. One past the last byte, except where a torch checkpoint holds a tensor as
    /// a strided view: its values are spread over more or fewer stored bytes, which only
    /// [`WeightFile::bytes`](super::WeightFile::bytes) gathers.
    pub end: usize,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        (self.end - self.start) / self.dtype.size()
    }
}

/// What a weight file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The tensors, in the header's order.
    pub tensors: IndexMap<String, TensorInfo>,
    /// The `__metadata__` texts; of a torch checkpoint `epoch`, `global_step` and `pytorch-lightning_version`.
    pub metadata: BTreeMap<String, String>,
    /// Where the data begin in the file; 0 for torch checkpoints, whose tensors lie anywhere.
    pub data_start: usize,
}

impl Header {
    /// Number of parameters: elements of all tensors together.
    pub fn elements(&self) -> usize {
        self.tensors.values().map(TensorInfo::elements).sum()
    }

    /// Bytes of all tensors together.
    pub fn data_bytes(&self) -> usize {
        self.tensors.values().map(|t| t.end - t.start).sum()
    }

    /// Reads from an open safetensors file of `len` bytes; `path` is for messages.
    pub(crate) fn from_reader(path: &Path, file: &mut impl Read, len: u64) -> Result<Header, FileError> {
        let damaged = |damage| FileError::damaged(path, damage);
        let mut head = Vec::with_capacity(64);
        file.take(64).read_to_end(&mut head).map_err(|e| FileError::reading(path, e))?;
        if head.is_empty() {
            return Err(damaged(Damage::Empty));
        }
        let other_format =
            || looks_like(&head).map(|looks_like| FileError::NotSafetensors { path: path.into(), looks_like });
        let Some(stated) = head.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)) else {
            return Err(other_format().unwrap_or_else(|| damaged(Damage::TooShort { bytes: len })));
        };
        let opens = head.get(8) == Some(&b'{');
        if stated > MAX_HEADER {
            let sniffed = if opens { None } else { other_format() };
            return Err(sniffed.unwrap_or_else(|| damaged(Damage::HeaderTooLong { stated })));
        }
        if !opens && let Some(error) = other_format() {
            return Err(error);
        }
        if stated > len.saturating_sub(8) {
            return Err(damaged(Damage::HeaderTruncated { stated, have: len.saturating_sub(8) }));
        }
        let stated = stated as usize;
        let mut json = head[8..].to_vec();
        if stated > json.len() {
            json.reserve_exact(stated - json.len());
            let missing = (stated - json.len()) as u64;
            file.take(missing).read_to_end(&mut json).map_err(|e| FileError::reading(path, e))?;
            if json.len() < stated {
                return Err(damaged(Damage::HeaderTruncated { stated: stated as u64, have: json.len() as u64 }));
            }
        }
        json.truncate(stated);
        let parsed: Parsed = serde_json::from_slice(&json).map_err(|e| damaged(Damage::Json(e.to_string())))?;
        drop(json);
        parsed.check(path, 8 + stated, len - 8 - stated as u64)
    }
}

/// A tensor's entry as written.
#[derive(Deserialize)]
struct Raw {
    dtype: String,
    shape: Sizes,
    data_offsets: (u64, u64),
}

/// Sizes of a tensor, no more of them than any tensor has.
struct Sizes(Vec<u64>);

impl<'de> Deserialize<'de> for Sizes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl<'de> Visitor<'de> for Numbers {
            type Value = Sizes;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the sizes of a tensor")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Sizes, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = seq.next_element()? {
                    if sizes.len() == MAX_DIMENSIONS {
                        return Err(A::Error::custom(format!("a tensor has more than {MAX_DIMENSIONS} dimensions")));
                    }
                    sizes.push(size);
                }
                Ok(Sizes(sizes))
            }
        }
        deserializer.deserialize_seq(Numbers)
    }
}

/// The header as written, duplicates kept.
#[derive(Default)]
struct Parsed {
    tensors: Vec<(String, Raw)>,
    metadata: BTreeMap<String, String>,
    /// Reading stopped, since there are more tensors than any model has.
    too_many: bool,
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Parsed;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
                let mut parsed = Parsed::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        parsed.metadata = map.next_value::<Texts>()?.0;
                    } else if parsed.tensors.len() == MAX_TENSORS {
                        map.next_value::<IgnoredAny>()?;
                        parsed.too_many = true;
                    } else {
                        parsed.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(parsed)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// `__metadata__`: a map of texts, or `null`; values of other kinds are skipped, they mean nothing to anyone.
struct Texts(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map: Option<BTreeMap<String, Text>> = Deserialize::deserialize(deserializer)?;
        Ok(Texts(map.unwrap_or_default().into_iter().filter_map(|(key, Text(value))| Some((key, value?))).collect()))
    }
}

impl Parsed {
    fn check(self, path: &Path, data_start: usize, data_len: u64) -> Result<Header, FileError> {
        let damaged = |damage| FileError::damaged(path, damage);
        if self.too_many {
            return Err(damaged(Damage::TooMany { limit: MAX_TENSORS }));
        }
        let mut tensors = IndexMap::with_capacity(self.tensors.len());
        for (name, raw) in self.tensors {
            let info = raw.check(path, &name)?;
            match tensors.entry(name) {
                Entry::Occupied(entry) => return Err(damaged(Damage::Duplicate(entry.key().clone()))),
                Entry::Vacant(entry) => entry.insert(info),
            };
        }
        let mut by_place: Vec<(&String, &TensorInfo)> = tensors.iter().collect();
        by_place.sort_by_key(|(_, t)| (t.start, t.end));
        let mut end = 0;
        let mut before: Option<&String> = None;
        for (name, tensor) in by_place {
            if tensor.start < end {
                let first = before.cloned().unwrap_or_default();
                return Err(damaged(Damage::Overlap { first, second: name.clone() }));
            }
            if tensor.start > end {
                // A far offset in a short file is more likely a cut file than a hole.
                let needed = tensors.values().map(|t| t.end).max().unwrap_or(0) as u64;
                return Err(damaged(if needed > data_len {
                    Damage::DataTruncated { needed, have: data_len }
                } else {
                    Damage::Hole { before: name.clone(), bytes: (tensor.start - end) as u64 }
                }));
            }
            end = tensor.end;
            before = Some(name);
        }
        let needed = end as u64;
        if needed > data_len {
            return Err(damaged(Damage::DataTruncated { needed, have: data_len }));
        }
        if needed < data_len {
            return Err(damaged(Damage::Trailing { extra: data_len - needed }));
        }
        Ok(Header { tensors, metadata: self.metadata, data_start })
    }
}

impl Raw {
    fn check(self, path: &Path, name: &str) -> Result<TensorInfo, FileError> {
        let damaged = |damage| FileError::damaged(path, damage);
        let tensor = || name.to_owned();
        let Some(dtype) = DType::from_name(&self.dtype) else {
            return Err(FileError::UnsupportedType { path: path.into(), tensor: tensor(), dtype: self.dtype });
        };
        let (start, end) = self.data_offsets;
        if end < start {
            return Err(damaged(Damage::Backwards { tensor: tensor(), start, end }));
        }
        let overflow = || damaged(Damage::ShapeOverflow { tensor: tensor() });
        let mut needed = dtype.size() as u64;
        for &size in &self.shape.0 {
            needed = needed.checked_mul(size).ok_or_else(overflow)?;
        }
        if needed != end - start {
            return Err(damaged(Damage::Size { tensor: tensor(), needed, given: end - start }));
        }
        let count = |n: u64| usize::try_from(n).map_err(|_| overflow());
        let shape = self.shape.0.into_iter().map(count).collect::<Result<_, _>>()?;
        Ok(TensorInfo { dtype, shape, start: count(start)?, end: count(end)? })
    }
}
