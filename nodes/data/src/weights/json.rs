//! JSON files beside weights: read up to a size, and without keeping more than is asked for.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::FileError;

/// Longest index of shards; that of a model with 400 billion parameters has 100 kB.
pub(crate) const MAX_INDEX: u64 = 4 << 20;
/// Longest configuration; public ones have a few kB.
pub(crate) const MAX_CONFIG: u64 = 1 << 20;

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let about = std::fs::metadata(path).map_err(|e| FileError::reading(path, e))?;
    if about.is_dir() {
        return Err(FileError::IsFolder { path: path.into() });
    }
    // Opening a pipe would wait for someone to write into it.
    if !about.is_file() {
        return Err(FileError::NotFile { path: path.into(), what: "a pipe or a device" });
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| FileError::reading(path, e))?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| FileError::reading(path, e))?;
    if bytes.len() as u64 > limit {
        let problem = format!("it has more than {limit} bytes, too many for such a file");
        return Err(FileError::BadJson { path: path.into(), problem });
    }
    Ok(bytes)
}

/// Reads JSON; `path` is for messages.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, FileError> {
    let bad = |e: serde_json::Error| format!("it is not valid JSON of its kind: {e}");
    serde_json::from_slice(bytes).map_err(|e| FileError::BadJson { path: path.into(), problem: bad(e) })
}

/// A text; values of other kinds are passed over, however large they are.
pub(crate) struct Text(pub Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(Some(text.to_owned())))
            }
            fn visit_string<E>(self, text: String) -> Result<Text, E> {
                Ok(Text(Some(text)))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
