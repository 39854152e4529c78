//! Where cached tensors are kept: memory, or files named by their content's hash.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use pipe_core::run::RunError;
use pipe_data::weights::{DType, TensorOut, WeightFile, write_safetensors};

use crate::common::batch::HostTensor;
use crate::common::errors;

/// Version of what the keys stand for; a change here makes every old entry unused.
const FORMAT: &str = "pipe cache 2";

/// Hash of everything a cached value depends on.
pub fn key(parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(FORMAT.as_bytes());
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_hex()[..40].to_string()
}

/// Code of an entry whose bytes changed.
pub(super) const DAMAGED: &str = "P0303";

/// Name of the hash of an entry's value in its metadata.
const HASH: &str = "blake3";

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// An entry whose bytes are not those that were written. It is removed, so that the next run makes it anew.
fn damaged(path: &Path) -> RunError {
    let removed = std::fs::remove_file(path).is_ok();
    let help = match removed {
        true => {
            "what is damaged was removed: go on with `--resume`, or start the run again, and it is made anew; look after the disk"
        }
        false => "remove what is damaged, and go on with `--resume`, or start the run again; look after the disk",
    };
    let message = format!("the cache entry `{}` is damaged: its bytes are not those that were written", path.display());
    RunError::new(DAMAGED, message).help(help)
}

/// A store of tensors by key.
pub enum Store {
    /// Values of this run alone.
    Memory(Mutex<HashMap<String, HostTensor>>),
    /// Files under a folder, shared between runs. Each is written to a temporary name and renamed,
    /// so two runs at once can only write the same bytes twice.
    Disk(PathBuf),
}

impl Store {
    /// An empty store in memory.
    pub fn memory() -> Self {
        Store::Memory(Mutex::default())
    }

    fn file(folder: &Path, key: &str) -> PathBuf {
        folder.join(&key[..2]).join(format!("{key}.safetensors"))
    }

    /// Whether a value of `shape` is there (a file that is cut short or is no safetensors counts as absent). Values are not
    /// read: [`Store::get`] tests them.
    pub fn has(&self, key: &str, shape: &[usize]) -> bool {
        match self {
            Store::Memory(map) => map.lock().unwrap_or_else(|e| e.into_inner()).contains_key(key),
            Store::Disk(folder) => {
                let file = WeightFile::open(Self::file(folder, key));
                file.is_ok_and(|f| f.info("value").is_some_and(|i| i.shape == shape && i.dtype == DType::F32))
            }
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Result<HostTensor, RunError> {
        match self {
            Store::Memory(map) => map
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .get(key)
                .cloned()
                .ok_or_else(|| RunError::new("P0905", format!("cache entry `{key}` was never made"))),
            Store::Disk(folder) => {
                let file = WeightFile::open(Self::file(folder, key)).map_err(|e| {
                    errors::file_error(&e, "").help("the cache changed while the run used it; start the run again")
                })?;
                let shape = file.info("value").map(|i| i.shape.clone()).unwrap_or_default();
                let bytes = file.bytes("value").map_err(|e| errors::file_error(&e, ""))?;
                if file.header().metadata.get(HASH).is_none_or(|known| *known != hash(&bytes)) {
                    return Err(damaged(file.path()));
                }
                Ok(HostTensor { values: file.f32("value").map_err(|e| errors::file_error(&e, ""))?, shape })
            }
        }
    }

    /// Keeps a value.
    pub fn put(&self, key: &str, value: HostTensor) -> Result<(), RunError> {
        match self {
            Store::Memory(map) => {
                map.lock().unwrap_or_else(|e| e.into_inner()).insert(key.to_string(), value);
                Ok(())
            }
            Store::Disk(folder) => {
                let path = Self::file(folder, key);
                let failed = |e: std::io::Error| {
                    RunError::new("P0903", format!("cannot write to the cache `{}`: {e}", folder.display()))
                        .help("free some space, or set another `folder`")
                };
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).map_err(failed)?;
                }
                let bytes: Vec<u8> = value.values.iter().flat_map(|x| x.to_le_bytes()).collect();
                let metadata = BTreeMap::from([(HASH.to_string(), hash(&bytes))]);
                let tensor = TensorOut::bytes("value", DType::F32, value.shape, bytes);
                write_safetensors(&path, [tensor], &metadata).map_err(|e| errors::file_error(&e, ""))
            }
        }
    }
}
