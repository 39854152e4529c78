//! One safetensors file, mapped into memory.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::convert::{to_f32, to_i64};
use super::error::FileError;
use super::header::{Header, TensorInfo};

/// A safetensors file whose tensors can be read one by one without loading the whole.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    header: Header,
    map: Mmap,
}

impl WeightFile {
    /// Maps a file and checks its header.
    pub fn open(path: impl AsRef<Path>) -> Result<WeightFile, FileError> {
        let path = path.as_ref();
        let mut file = File::open(path).map_err(|e| FileError::reading(path, e))?;
        let about = file.metadata().map_err(|e| FileError::reading(path, e))?;
        if about.is_dir() {
            return Err(FileError::IsFolder { path: path.into() });
        }
        let header = Header::from_reader(path, &mut file, about.len())?;
        // SAFETY: the map is read only. Another process may still change the file while it is mapped, which no reader
        // of weight files can rule out; every value read is treated as data, so what that can cause is wrong
        // numbers, or the system ending the process when the file is cut short.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(|e| FileError::reading(path, e))?;
        if map.len() < header.data_start + header.data_bytes() {
            let source = std::io::Error::other("it became shorter while it was opened");
            return Err(FileError::Io { path: path.into(), action: "read", source });
        }
        Ok(WeightFile { path: path.into(), header, map })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Names of its tensors, in the header's order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.header.tensors.keys().map(String::as_str)
    }

    /// Type, shape and place of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensors.get(name)
    }

    /// A tensor's bytes as stored.
    pub fn bytes(&self, name: &str) -> Result<&[u8], FileError> {
        let info = self.need(name)?;
        Ok(&self.map[self.header.data_start + info.start..self.header.data_start + info.end])
    }

    /// A tensor of any float type as `f32`, in row-major order.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>, FileError> {
        let dtype = self.need(name)?.dtype;
        to_f32(dtype, self.bytes(name)?).ok_or_else(|| self.wrong_type(name, dtype, "a float type is"))
    }

    /// A tensor of any integer type as `i64`.
    pub fn i64(&self, name: &str) -> Result<Vec<i64>, FileError> {
        let dtype = self.need(name)?.dtype;
        to_i64(dtype, self.bytes(name)?).ok_or_else(|| self.wrong_type(name, dtype, "an integer type is"))
    }

    fn need(&self, name: &str) -> Result<&TensorInfo, FileError> {
        self.info(name).ok_or_else(|| FileError::NoTensor { path: self.path.clone(), tensor: name.into() })
    }

    fn wrong_type(&self, name: &str, dtype: super::DType, wanted: &'static str) -> FileError {
        FileError::WrongType { path: self.path.clone(), tensor: name.into(), dtype, wanted }
    }
}
