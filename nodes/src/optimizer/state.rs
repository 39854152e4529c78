//! Training state on disk: safetensors, every buffer of the optimizer under its name. Written tensor by tensor, so that
//! saving takes no memory to speak of, and read in the same way.

use std::collections::BTreeMap;
use std::path::Path;

use pipe_core::run::{Position, RunError};
use pipe_data::weights::{DType, TensorOut, WeightFile, write_safetensors};
use pipe_ops::{Device, Tensor};
use pipe_train::optim::{Data, Entries, Entry, Error, Kind, OptimizerConfig, View};

use super::groups::Group;
use crate::common::errors;
use crate::common::write::tensor_out;

const FILE: &str = "state.safetensors";
/// Weights are under this and their key.
pub const PARAMETER: &str = "param.";
/// Tensors of an adapter that do not learn are under this and their key.
pub const FROZEN: &str = "frozen.";
/// The losses that averages are made of: bytes of f64.
pub const LOSSES: &str = "run.losses";

/// A piece of an optimizer's state.
pub enum Piece<'a> {
    /// A tensor of a device.
    Tensor(String, &'a Tensor),
    /// Numbers of the host. Counts and single numbers go into the file's metadata.
    View(View<'a>),
}

/// Most bytes of a state of these groups: weights and the optimizer's buffers, f32, the losses of an epoch, and the file's
/// header.
pub fn bytes(groups: &[Group], config: &OptimizerConfig, position: Position) -> u64 {
    let losses = 8 * position.steps_per_epoch.min(position.total_steps);
    let tensors = groups.iter().flat_map(|group| &group.tensors);
    let of = |(key, shape): &(String, Vec<usize>)| {
        let values = shape.iter().product::<usize>() as u64;
        // Weights and buffers are entries of the header with type, shape and place; the number of updates is a text.
        let entries = 1 + config.state_buffers(shape) as u64;
        let key = key.len() as u64;
        4 * values + config.state_bytes(shape) + entries * (key + 85) + key + 20
    };
    1024 + losses + tensors.map(of).sum::<u64>()
}

/// Bytes that `count` tensors which do not learn, of so many values in all, add to it.
pub fn frozen_bytes(values: u64, count: u64) -> u64 {
    4 * values + 256 * count
}

/// Writes tensors, pieces of the optimizer's state and text values.
pub fn save(
    dir: &Path,
    weights: &[(String, &Tensor)],
    pieces: Vec<Piece>,
    mut values: BTreeMap<String, String>,
) -> Result<(), RunError> {
    let mut list: Vec<TensorOut> =
        weights.iter().map(|(name, tensor)| tensor_out(name.clone(), DType::F32, tensor.shape(), tensor)).collect();
    for piece in pieces {
        match piece {
            Piece::Tensor(name, tensor) => list.push(tensor_out(name, DType::F32, tensor.shape(), tensor)),
            Piece::View(View { name, data }) => match data {
                Data::F32(v) => list.push(TensorOut::f32(name, DType::F32, [v.len()], v)),
                Data::U8(v) => list.push(TensorOut::bytes(name, DType::U8, [v.len()], v)),
                // Rust writes the shortest text that reads back the same.
                Data::F64(x) => drop(values.insert(name, format!("{x:?}"))),
                Data::U64(x) => drop(values.insert(name, x.to_string())),
            },
        }
    }
    write_safetensors(dir.join(FILE), list, &values).map_err(|e| match errors::file_code(&e) {
        "P0901" => errors::write_error(&e),
        _ => errors::file_error(&e, ""),
    })
}

/// An opened state.
pub struct State {
    file: WeightFile,
}

impl State {
    /// Opens the state in a folder.
    pub fn open(dir: &Path) -> Result<Self, RunError> {
        let file = WeightFile::open(dir.join(FILE)).map_err(|e| errors::file_error(&e, ""))?;
        Ok(State { file })
    }
    /// A text value.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.file.header().metadata.get(name).map(String::as_str)
    }
    /// A count.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.value(name)?.parse().ok()
    }
    /// The bytes of an entry; none where a state of an older version lacks it.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, RunError> {
        match self.file.info(name) {
            Some(_) => Ok(self.file.bytes(name).map_err(|e| errors::file_error(&e, ""))?.into_owned()),
            None => Ok(Vec::new()),
        }
    }
    /// A tensor with as many values as the shape has.
    pub fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor, RunError> {
        let found = self.file.info(name).map(|i| i.shape.clone());
        if found.as_ref().map(|s| s.iter().product()) != Some(shape.iter().product::<usize>()) {
            let message = format!("the saved state has `{name}` as {found:?}, the run needs {shape:?}");
            return Err(RunError::new("P0305", message).help("the document changed since the state was saved"));
        }
        let values = self.file.f32(name).map_err(|e| errors::file_error(&e, ""))?;
        Ok(device.tensor(values, shape, pipe_ops::DType::F32))
    }
}

/// The optimizer's state: what is not of the weights or of the run.
impl Entries for State {
    fn names(&self) -> Vec<String> {
        let own = |name: &&str| [PARAMETER, FROZEN].iter().all(|prefix| !name.starts_with(prefix)) && *name != LOSSES;
        let buffers = self.file.names().filter(own);
        let numbers = self.file.header().metadata.keys().map(String::as_str);
        let numbers = numbers.filter(|name| name.starts_with("updates.") || name.starts_with("global."));
        buffers.chain(numbers).map(String::from).collect()
    }

    fn entry(&self, name: &str) -> Result<Option<Entry>, Error> {
        let wrong = || Error::State(format!("`{name}` is damaged"));
        let entry = |kind, bytes| Ok(Some(Entry { name: name.to_string(), kind, bytes }));
        if let Some(text) = self.value(name) {
            return match name.starts_with("updates.") {
                true => entry(Kind::U64, text.parse::<u64>().map_err(|_| wrong())?.to_le_bytes().to_vec()),
                false => entry(Kind::F64, text.parse::<f64>().map_err(|_| wrong())?.to_le_bytes().to_vec()),
            };
        }
        let Some(info) = self.file.info(name) else { return Ok(None) };
        let kind = match info.dtype {
            DType::F32 => Kind::F32,
            DType::U8 => Kind::U8,
            _ => return Err(wrong()),
        };
        let bytes = self.file.bytes(name).map_err(|e| Error::State(e.to_string()))?;
        entry(kind, bytes.into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_kind_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let view = |name: &str, data| View { name: name.into(), data };
        let floats = [0.1f32, -0.0, f32::INFINITY];
        let views = [
            view("m.a", Data::F32(&floats)),
            view("m_absmax.a", Data::U8(&[0, 127, 255])),
            view("updates.a", Data::U64(u64::MAX)),
            view("global.d", Data::F64(1.0 / 3.0)),
            view("global.e", Data::F64(5e-324)),
            view("global.f", Data::F64(f64::INFINITY)),
        ];
        let weights = Tensor::host(vec![1.0], &[1]);
        let pieces = views.iter().cloned().map(Piece::View).collect();
        let values = BTreeMap::from([("step".to_string(), "3".to_string())]);
        save(folder.path(), &[("param.a".into(), &weights)], pieces, values).unwrap();
        let state = State::open(folder.path()).unwrap();
        let mut names = state.names();
        names.sort();
        assert_eq!(names, ["global.d", "global.e", "global.f", "m.a", "m_absmax.a", "updates.a"]);
        for view in &views {
            assert_eq!(state.entry(&view.name).unwrap().unwrap(), view.entry());
        }
        assert_eq!(state.entry("v.a").unwrap(), None);
        assert_eq!(state.number("step"), Some(3));
    }
}
