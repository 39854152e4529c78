//! Writes torch checkpoints (`.ckpt`): what `torch.load` of any version since 1.6 reads, also with `weights_only`.
//!
//! A zip of stored members: `data.pkl` with the dictionary `{state_dict, epoch, global_step}` in protocol 2, and one
//! storage a tensor, each at a multiple of 64 bytes. Tensors are written one by one; their checksums follow them.

mod zip;

use std::io::{self, Write};
use std::ops::Add;
use std::path::Path;

use super::atomic::write_atomic;
use super::dtype::DType;
use super::error::FileError;
use super::writer::{TensorOut, distinct_names};
use zip::ZipWriter;

/// How far a model was trained, as checkpoints count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Times the data were gone through.
    pub epoch: u64,
    /// Updates made.
    pub global_step: u64,
}

impl Add for Progress {
    type Output = Progress;

    /// What a run of its own adds to the progress of the checkpoint it began with.
    fn add(self, other: Progress) -> Progress {
        Progress {
            epoch: self.epoch.saturating_add(other.epoch),
            global_step: self.global_step.saturating_add(other.global_step),
        }
    }
}

/// A checked set of tensors in the order given, with its pickle.
pub struct CkptWriter<'a> {
    tensors: Vec<(TensorOut<'a>, usize)>,
    pickle: Vec<u8>,
}

impl<'a> CkptWriter<'a> {
    /// Makes the pickle; says what is wrong with the tensors otherwise.
    ///
    /// # Errors
    /// For two tensors of one name, values that do not fit a shape, and 8-bit floats, which torch's checkpoints have no
    /// storage for.
    pub fn new(tensors: impl IntoIterator<Item = TensorOut<'a>>, progress: Progress) -> Result<Self, String> {
        let tensors: Vec<_> = tensors.into_iter().collect();
        distinct_names(&tensors)?;
        let pickle = pickle(&tensors, progress)?;
        let sized = |tensor: TensorOut<'a>| tensor.check().map(|len| (tensor, len));
        Ok(CkptWriter { tensors: tensors.into_iter().map(sized).collect::<Result<_, _>>()?, pickle })
    }

    /// Writes the archive.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut zip = ZipWriter::new(out);
        zip.member("archive/data.pkl", self.pickle.len() as u64, |out| out.write_all(&self.pickle))?;
        zip.member("archive/byteorder", 6, |out| out.write_all(b"little"))?;
        for (number, (tensor, len)) in self.tensors.iter().enumerate() {
            zip.member(&format!("archive/data/{number}"), *len as u64, |out| tensor.write(out))?;
        }
        zip.member("archive/version", 2, |out| out.write_all(b"3\n"))?;
        zip.finish()
    }

    /// Writes the file: complete, or not at all.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        write_atomic(path, |out| self.write(out))
    }
}

/// Writes a torch checkpoint: complete, or not at all.
pub fn write_ckpt<'a>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = TensorOut<'a>>,
    progress: Progress,
) -> Result<(), FileError> {
    let path = path.as_ref();
    let writer =
        CkptWriter::new(tensors, progress).map_err(|problem| FileError::BadTensors { path: path.into(), problem })?;
    writer.save(path)
}

/// Torch's name of the storages of a type.
fn storage(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "DoubleStorage",
        DType::F32 => "FloatStorage",
        DType::F16 => "HalfStorage",
        DType::BF16 => "BFloat16Storage",
        DType::I64 => "LongStorage",
        DType::I32 => "IntStorage",
        DType::I16 => "ShortStorage",
        DType::I8 => "CharStorage",
        DType::U8 => "ByteStorage",
        DType::Bool => "BoolStorage",
        DType::F8E4M3 | DType::F8E5M2 => return None,
    })
}

fn pickle(tensors: &[TensorOut<'_>], progress: Progress) -> Result<Vec<u8>, String> {
    /// Entries set at a time, as Python does it.
    const BATCH: usize = 1000;
    let mut out = vec![0x80, 2, b'}', b'('];
    text(&mut out, "state_dict")?;
    out.push(b'}');
    for (batch, tensors) in tensors.chunks(BATCH).enumerate() {
        out.push(b'(');
        for (number, tensor) in tensors.iter().enumerate() {
            text(&mut out, &tensor.name)?;
            rebuild(&mut out, batch * BATCH + number, tensor)?;
        }
        out.push(b'u');
    }
    for (name, value) in [("epoch", progress.epoch), ("global_step", progress.global_step)] {
        text(&mut out, name)?;
        integer(&mut out, value);
    }
    out.extend(b"u.");
    Ok(out)
}

/// `torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`
fn rebuild(out: &mut Vec<u8>, number: usize, tensor: &TensorOut<'_>) -> Result<(), String> {
    let storage = storage(tensor.dtype)
        .ok_or_else(|| format!("`{}` is {}, which torch checkpoints cannot hold", tensor.name, tensor.dtype))?;
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(out, "storage")?;
    out.extend(format!("ctorch\n{storage}\n").bytes());
    text(out, &number.to_string())?;
    text(out, "cpu")?;
    integer(out, (tensor.check()? / tensor.dtype.size()) as u64);
    out.extend(b"tQK\0(");
    for &size in &tensor.shape {
        integer(out, size as u64);
    }
    out.extend(b"t(");
    for axis in 0..tensor.shape.len() {
        integer(out, tensor.shape[axis + 1..].iter().map(|&size| size.max(1) as u64).product());
    }
    out.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    Ok(())
}

fn text(out: &mut Vec<u8>, text: &str) -> Result<(), String> {
    let len = u32::try_from(text.len()).map_err(|_| "the name of a tensor is impossibly long".to_owned())?;
    out.push(b'X');
    out.extend(len.to_le_bytes());
    out.extend(text.bytes());
    Ok(())
}

fn integer(out: &mut Vec<u8>, number: u64) {
    if let Ok(number) = u8::try_from(number) {
        out.extend([b'K', number]);
    } else if let Ok(number) = u16::try_from(number) {
        out.push(b'M');
        out.extend(number.to_le_bytes());
    } else if let Ok(number) = i32::try_from(number) {
        out.push(b'J');
        out.extend(number.to_le_bytes());
    } else {
        // A ninth byte where the highest bit of the eighth would be taken for a sign.
        let len = if number > i64::MAX as u64 { 9 } else { 8 };
        out.extend([0x8a, len as u8]);
        out.extend(&[&number.to_le_bytes()[..], &[0]].concat()[..len]);
    }
}
