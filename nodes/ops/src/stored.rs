//! Frozen weights at rest: in a type, and perhaps in a place, of their own.
//!
//! A [`Stored`] weight is a [`Tensor`] only while an operation uses it: forward and backward each make their own and
//! drop it. On the CPU it is a row of bytes; a GPU holds f16 and bf16 as such and e4m3 as four codes in a 32-bit word,
//! as burn has no 8-bit floats.

use std::sync::Arc;

use burn::tensor::{DType as BurnType, Int, TensorData};

use crate::host::narrow;
use crate::tensor::{Block, DType, Device, Meter, Tensor};

/// Element type of a weight at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit float with 4 exponent and 3 mantissa bits, no infinities (Micikevicius et al. 2022).
    F8E4M3,
}

impl Storage {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Storage::F32 => 4,
            Storage::F16 | Storage::Bf16 => 2,
            Storage::F8E4M3 => 1,
        }
    }
    /// The same as a type that operations compute in.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Storage::F32 => Some(DType::F32),
            Storage::F16 => Some(DType::F16),
            Storage::Bf16 => Some(DType::BF16),
            Storage::F8E4M3 => None,
        }
    }
    /// Little-endian bytes of values, rounded to the nearest.
    pub fn bytes(self, values: &[f32]) -> Vec<u8> {
        match self {
            Storage::F32 => bytemuck::cast_slice(values).to_vec(),
            Storage::F16 => narrow::to_f16(values),
            Storage::Bf16 => narrow::to_bf16(values),
            Storage::F8E4M3 => narrow::to_e4m3(values),
        }
    }
    /// Values of little-endian bytes.
    pub fn values(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Storage::F32 => bytemuck::pod_collect_to_vec(bytes),
            Storage::F16 => narrow::from_f16(bytes),
            Storage::Bf16 => narrow::from_bf16(bytes),
            Storage::F8E4M3 => narrow::from_e4m3(bytes),
        }
    }
}

impl From<DType> for Storage {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Storage::F32,
            DType::F16 => Storage::F16,
            DType::BF16 => Storage::Bf16,
        }
    }
}

/// Where a weight rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Home {
    /// Where it is used.
    Device,
    /// In the host's memory; it is copied to the device for each use.
    Host,
}

#[derive(Debug)]
enum Data {
    /// Bytes in the host's memory, little-endian.
    Bytes(Vec<u8>),
    /// On a device, in its own type.
    Tensor(Tensor),
    /// e4m3 codes on a device, four in a word; the last word may be filled up.
    Words(burn::Tensor<1, Int>),
    /// No data, counted by a meter.
    Meta(Arc<Block>),
}

/// A weight at rest. Cloning shares the data.
#[derive(Clone, Debug)]
pub struct Stored {
    shape: Vec<usize>,
    storage: Storage,
    data: Arc<Data>,
}

impl Stored {
    /// A weight from its little-endian bytes in `storage`.
    pub fn new(device: &Device, home: Home, bytes: Vec<u8>, shape: &[usize], storage: Storage) -> Self {
        let len: usize = shape.iter().product();
        assert_eq!(bytes.len(), len * storage.size(), "{} bytes for shape {shape:?}", bytes.len());
        let data = match (device, home) {
            (Device::Meta(meter), Home::Device) => Data::Meta(Block::new(meter, bytes.len() as u64).into()),
            (Device::Meta(meter), Home::Host) => Data::Meta(Block::away(meter, bytes.len() as u64).into()),
            (Device::Burn(device), Home::Device) => on_device(device, bytes, len, storage),
            _ => Data::Bytes(bytes),
        };
        Stored { shape: shape.to_vec(), storage, data: Arc::new(data) }
    }

    /// A weight without data, for planning.
    pub fn meta(meter: &Arc<Meter>, home: Home, shape: &[usize], storage: Storage) -> Self {
        let bytes = (shape.iter().product::<usize>() * storage.size()) as u64;
        let block = match home {
            Home::Device => Block::new(meter, bytes),
            Home::Host => Block::away(meter, bytes),
        };
        Stored { shape: shape.to_vec(), storage, data: Arc::new(Data::Meta(block.into())) }
    }

    /// Sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// Element type at rest.
    pub fn storage(&self) -> Storage {
        self.storage
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// True when an axis is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes at rest.
    pub fn size(&self) -> u64 {
        (self.len() * self.storage.size()) as u64
    }

    /// Where it rests, seen from a device: the CPU is its own host.
    pub fn home(&self, device: &Device) -> Home {
        match (&*self.data, device) {
            (Data::Bytes(_), Device::Burn(_)) => Home::Host,
            (Data::Meta(block), _) if block.is_away() => Home::Host,
            _ => Home::Device,
        }
    }

    /// The same elements in another shape.
    pub fn reshape(&self, shape: &[usize]) -> Self {
        assert_eq!(self.len(), shape.iter().product::<usize>(), "{:?} cannot become {shape:?}", self.shape);
        Stored { shape: shape.to_vec(), ..self.clone() }
    }

    /// The weight in its own type on the device: a copy where it rests elsewhere.
    pub fn fetched(&self, device: &Device) -> Self {
        let data = match (&*self.data, device) {
            (Data::Bytes(bytes), Device::Burn(device)) => on_device(device, bytes.clone(), self.len(), self.storage),
            (Data::Meta(block), Device::Meta(meter)) if block.is_away() => {
                Data::Meta(Block::new(meter, self.size()).into())
            }
            _ => return self.clone(),
        };
        Stored { data: Arc::new(data), ..self.clone() }
    }

    /// The weight as a tensor of the device in `dtype`.
    pub fn tensor(&self, device: &Device, dtype: DType) -> Tensor {
        match &*self.data {
            Data::Bytes(bytes) => match device {
                Device::Burn(_) => self.fetched(device).tensor(device, dtype),
                _ => Tensor::host(self.storage.values(bytes), &self.shape).cast(dtype),
            },
            Data::Tensor(tensor) => tensor.cast(dtype).reshape(&self.shape),
            Data::Words(words) => unpacked(words.clone(), self.len(), dtype).reshape(&self.shape),
            Data::Meta(block) if self.storage.dtype() == Some(dtype) => match block.is_away() {
                true => Tensor::meta(&self.shape, dtype, block.meter()),
                // Nothing is cast, and the memory is that at rest.
                false => Tensor::of_block(&self.shape, dtype, block.clone()),
            },
            Data::Meta(block) => {
                // What is copied to the device for this use lives as long as the cast takes.
                let _fetched = block.is_away().then(|| Block::new(block.meter(), self.size()));
                Tensor::meta(&self.shape, dtype, block.meter())
            }
        }
    }

    /// Rows `ids` of a table `[V, D]`: `[ids.len(), D]` in `dtype`.
    pub fn rows(&self, device: &Device, ids: &[u32], dtype: DType) -> Tensor {
        let (v, d) = (self.shape[0], self.len() / self.shape[0].max(1));
        assert!(ids.iter().all(|&i| (i as usize) < v), "row outside the table");
        let shape = [ids.len(), d];
        match (&*self.data, device) {
            (Data::Bytes(bytes), _) => {
                let row = d * self.storage.size();
                let list: Vec<u8> = ids.iter().flat_map(|&i| &bytes[i as usize * row..][..row]).copied().collect();
                device.tensor(self.storage.values(&list), &shape, dtype)
            }
            (Data::Tensor(table), Device::Burn(device)) => {
                let table = table.reshape_burn([v, d]);
                Tensor::from_burn(table.select(0, Device::indices(device, ids))).cast(dtype)
            }
            (Data::Meta(block), _) => Tensor::meta(&shape, dtype, block.meter()),
            _ => {
                let all = self.tensor(device, dtype);
                let Device::Burn(device) = device else { unreachable!("words are of a device") };
                Tensor::from_burn(all.reshape_burn([v, d]).select(0, Device::indices(device, ids)))
            }
        }
    }

    /// Other values, kept in the same type and place.
    pub fn replaced(&self, device: &Device, values: &[f32]) -> Self {
        Stored::new(device, self.home(device), self.storage.bytes(values), &self.shape, self.storage)
    }

    /// All values, on the host. Waits for the device.
    pub fn values(&self) -> Vec<f32> {
        match &*self.data {
            Data::Bytes(bytes) => self.storage.values(bytes),
            Data::Tensor(tensor) => tensor.to_vec(),
            Data::Words(words) => unpacked(words.clone(), self.len(), DType::F32).to_vec(),
            Data::Meta(_) => vec![0.0; self.len()],
        }
    }
}

/// Bytes as they rest on a device of burn.
fn on_device(device: &burn::tensor::Device, mut bytes: Vec<u8>, len: usize, storage: Storage) -> Data {
    match storage.dtype() {
        Some(dtype) => {
            let data = TensorData::from_bytes_vec(bytes, [len], dtype.burn());
            Data::Tensor(Tensor::from_burn(burn::Tensor::<1>::from_data(data, (device, dtype.burn()))))
        }
        None => {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            let words: Vec<i32> = bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
            let data = TensorData::new(words, [bytes.len() / 4]);
            Data::Words(burn::Tensor::from_data(data, (device, BurnType::I32)))
        }
    }
}

/// Values of e4m3 codes, four in a word: `(m + 8·min(e, 1))·2^max(e, 1)·2⁻¹⁰` with the sign, in whole numbers as far as
/// they go, so that every device gives the same.
fn unpacked(words: burn::Tensor<1, Int>, len: usize, dtype: DType) -> Tensor {
    let n = words.dims()[0];
    let device = words.device();
    let shifts = TensorData::new(vec![0i32, 8, 16, 24], [1, 4]);
    let shifts = burn::Tensor::<2, Int>::from_data(shifts, (&device, BurnType::I32)).expand([n, 4]);
    let codes = words.reshape([n, 1]).expand([n, 4]).bitwise_right_shift(shifts).bitwise_and_scalar(0xff);
    let mantissa = codes.clone().bitwise_and_scalar(7);
    let exponent = codes.clone().bitwise_right_shift_scalar(3).bitwise_and_scalar(15);
    let negative = codes.bitwise_right_shift_scalar(7);
    let leading = exponent.clone().clamp_max(1).mul_scalar(8);
    let size = (mantissa + leading).bitwise_left_shift(exponent.clamp_min(1));
    let sign = negative.mul_scalar(-2).add_scalar(1);
    let values = (size * sign).float().cast(BurnType::F32).mul_scalar(0.000_976_562_5f32);
    let values = values.cast(dtype.burn()).reshape([4 * n]);
    Tensor::from_burn(if 4 * n == len { values } else { values.narrow(0, 0, len) })
}
