//! One weight file, mapped into memory: safetensors or a torch checkpoint, told apart by content.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::ckpt::Progress;
use super::convert::{to_f32, to_i64};
use super::error::FileError;
use super::header::{Header, MAX_HEADER, TensorInfo};
use super::{pickle, scale};

/// A file whose tensors can be read one by one without loading the whole.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    header: Header,
    /// Of tensors that are not contiguous: steps between neighbours, in elements.
    strides: HashMap<String, Vec<usize>>,
    map: Mmap,
}

impl Header {
    /// Reads and checks what a file says of itself, and none of its tensors.
    pub fn read(path: impl AsRef<Path>) -> Result<Header, FileError> {
        WeightFile::open(path).map(|file| file.header)
    }
}

impl WeightFile {
    /// Maps a file and checks its header (safetensors) or directory and pickle (torch).
    ///
    /// # Errors
    /// When there is no such file, when it is damaged or of another kind, or when its pickle asks for anything but
    /// tensors; nothing in a pickle is ever run.
    pub fn open(path: impl AsRef<Path>) -> Result<WeightFile, FileError> {
        let path = path.as_ref();
        // Asked before it is opened: opening a pipe waits for someone to write into it.
        let kind = std::fs::metadata(path).map_err(|e| FileError::reading(path, e))?;
        if kind.is_dir() {
            return Err(FileError::IsFolder { path: path.into() });
        }
        if !kind.is_file() {
            return Err(FileError::NotFile { path: path.into(), what: "a pipe or a device" });
        }
        let mut file = File::open(path).map_err(|e| FileError::reading(path, e))?;
        let about = file.metadata().map_err(|e| FileError::reading(path, e))?;
        let mut head = Vec::with_capacity(64);
        Read::by_ref(&mut file).take(64).read_to_end(&mut head).map_err(|e| FileError::reading(path, e))?;
        let torch = is_torch(&head);
        let mut header = Header::default();
        if !torch {
            header = Header::from_reader(path, &mut head.chain(&file), about.len())?;
        }
        // SAFETY: the map is read only. Another process may still change the file while it is mapped, which no reader
        // of weight files can rule out; every value read is treated as data, so what that can cause is wrong
        // numbers, or the system ending the process when the file is cut short.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(|e| FileError::reading(path, e))?;
        let mut strides = HashMap::new();
        if torch {
            let contents = pickle::read(path, &map)?;
            (header, strides) = (contents.header, contents.strides);
        } else if map.len() < header.data_start + header.data_bytes() {
            let source = std::io::Error::other("it became shorter while it was opened");
            return Err(FileError::Io { path: path.into(), action: "read", source });
        }
        Ok(WeightFile { path: path.into(), header, strides, map })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How far the model was trained, where a torch checkpoint says so.
    pub fn progress(&self) -> Option<Progress> {
        let number = |key: &str| self.header.metadata.get(key)?.parse().ok();
        let (epoch, global_step) = (number("epoch"), number("global_step"));
        epoch.or(global_step)?;
        Some(Progress { epoch: epoch.unwrap_or(0), global_step: global_step.unwrap_or(0) })
    }

    /// Names of its tensors, in the header's order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.header.tensors.keys().map(String::as_str)
    }

    /// Type, shape and place of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensors.get(name)
    }

    /// A tensor's values as stored, row-major; copied only where the file holds a strided view.
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, FileError> {
        let info = self.need(name)?;
        let start = self.header.data_start + info.start;
        Ok(match self.strides.get(name) {
            None => Cow::Borrowed(&self.map[start..self.header.data_start + info.end]),
            Some(strides) => Cow::Owned(pickle::gather(&self.map, start, &info.shape, strides, info.dtype.size())),
        })
    }

    /// A tensor of any float type as `f32`, in row-major order; scaled 8-bit weights with their scale.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>, FileError> {
        let mut values = self.unscaled(name)?;
        if let Some(scale) = self.scale(name)? {
            scale::multiply(&mut values, &scale);
        }
        Ok(values)
    }

    /// A tensor of any float type as `f32`, without regard to a scale.
    pub(crate) fn unscaled(&self, name: &str) -> Result<Vec<f32>, FileError> {
        let dtype = self.need(name)?.dtype;
        to_f32(dtype, &self.bytes(name)?).ok_or_else(|| self.wrong_type(name, dtype, "a float type is"))
    }

    /// What the stored values of a scaled 8-bit weight are multiplied by: one number, or one a row.
    pub fn scale(&self, name: &str) -> Result<Option<Vec<f32>>, FileError> {
        let Some((scale, info)) = scale::of_weight(name, |name| self.info(name)) else { return Ok(None) };
        if !scale::fits(info, self.need(name)?) {
            return Err(FileError::unfit_scale(&self.path, scale, info));
        }
        self.unscaled(&scale).map(Some)
    }

    /// A tensor of any integer type as `i64`.
    pub fn i64(&self, name: &str) -> Result<Vec<i64>, FileError> {
        let dtype = self.need(name)?.dtype;
        to_i64(dtype, &self.bytes(name)?).ok_or_else(|| self.wrong_type(name, dtype, "an integer type is"))
    }

    fn need(&self, name: &str) -> Result<&TensorInfo, FileError> {
        self.info(name).ok_or_else(|| FileError::NoTensor { path: self.path.clone(), tensor: name.into() })
    }

    fn wrong_type(&self, name: &str, dtype: super::DType, wanted: &'static str) -> FileError {
        FileError::WrongType { path: self.path.clone(), tensor: name.into(), dtype, wanted }
    }
}

/// Whether a file that begins so is a torch checkpoint. The length of a safetensors header may look like a pickle's
/// first bytes; the brace that follows it tells them apart.
fn is_torch(head: &[u8]) -> bool {
    let length = head.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    let has_header = head.get(8) == Some(&b'{') && length.is_some_and(|length| length <= MAX_HEADER);
    !has_header && (pickle::is_zip(head) || pickle::is_pickle(head))
}

#[cfg(test)]
mod tests {
    use super::is_torch;

    #[test]
    fn a_header_length_that_looks_like_a_pickle_is_none() {
        // 640 and 0x028a0280 bytes of header begin like protocol 2; 0x04034b50 like a zip.
        for start in [0x280u64, 0x028a_0280, 0x0403_4b50] {
            let head = [&start.to_le_bytes()[..], b"{\"a\":"].concat();
            assert!(!is_torch(&head), "{start:#x}");
        }
        assert!(is_torch(b"PK\x03\x04\x00\x00\x08\x08\x00\x00") && is_torch(b"PK\x05\x06"));
        assert!(is_torch(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20") && is_torch(b"\x80\x04."));
        assert!(is_torch(b"\x80\x02cos\nsy{") && !is_torch(b"\x80\x01}") && !is_torch(b"\x80"));
    }
}
