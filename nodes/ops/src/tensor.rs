//! A tensor of any rank on any device, or with a shape and no data at all.
//!
//! Thin over burn's dispatch tensor: burn owns memory and devices, this type owns the choice
//! between the fused host kernels, burn's composed operations, and *meta* execution, in which the
//! same code runs with shapes only and a [`Meter`] follows every allocation. `pipe plan` is such a
//! run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{Bytes, DispatchTensor, Int, TensorData};
use burn_flex::{FlexTensor, Layout};

use crate::stored::Storage;

/// Element types of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// bfloat16.
    BF16,
}

impl DType {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }
    pub(crate) fn burn(self) -> burn::tensor::DType {
        match self {
            DType::F32 => burn::tensor::DType::F32,
            DType::F16 => burn::tensor::DType::F16,
            DType::BF16 => burn::tensor::DType::BF16,
        }
    }
}

/// Follows allocations and work of a meta run.
#[derive(Debug, Default)]
pub struct Meter {
    live: AtomicU64,
    peak: AtomicU64,
    flops: AtomicU64,
    away: AtomicU64,
    away_peak: AtomicU64,
}

impl Meter {
    /// A new meter at zero.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
    /// Bytes alive now.
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }
    /// Most bytes ever alive at once.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
    /// Floating-point operations so far; a multiply-add counts two.
    pub fn flops(&self) -> u64 {
        self.flops.load(Ordering::Relaxed)
    }
    /// Most bytes that ever rested in the host's memory at once, away from the device.
    pub fn away(&self) -> u64 {
        self.away_peak.load(Ordering::Relaxed)
    }
    /// Sets the peak back to what is alive now.
    pub fn reset_peak(&self) {
        self.peak.store(self.live(), Ordering::Relaxed);
        self.away_peak.store(self.away.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    /// Adds work.
    pub fn add_flops(&self, n: u64) {
        self.flops.fetch_add(n, Ordering::Relaxed);
    }
    /// Counts a buffer that lives only inside an operation.
    pub fn scratch(&self, bytes: u64) {
        self.peak.fetch_max(self.live() + bytes, Ordering::Relaxed);
    }
    fn grow(&self, bytes: u64) {
        let live = self.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(live, Ordering::Relaxed);
    }
}

/// Bytes that a meter counts while this lives.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: u64,
    meter: Arc<Meter>,
    away: bool,
}

impl Block {
    /// Bytes on the device.
    pub fn new(meter: &Arc<Meter>, bytes: u64) -> Self {
        meter.grow(bytes);
        Block { bytes, meter: meter.clone(), away: false }
    }
    /// Bytes in the host's memory, away from the device.
    pub fn away(meter: &Arc<Meter>, bytes: u64) -> Self {
        let away = meter.away.fetch_add(bytes, Ordering::Relaxed) + bytes;
        meter.away_peak.fetch_max(away, Ordering::Relaxed);
        Block { bytes, meter: meter.clone(), away: true }
    }
    pub fn is_away(&self) -> bool {
        self.away
    }
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let count = if self.away { &self.meter.away } else { &self.meter.live };
        count.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[derive(Clone, Debug)]
enum Data {
    Meta(Arc<Block>),
    Real(DispatchTensor),
}

/// A tensor. Cloning shares the data.
#[derive(Clone, Debug)]
pub struct Tensor {
    shape: Vec<usize>,
    dtype: DType,
    data: Data,
}

/// A contiguous f32 tensor of the host, readable as a slice.
pub struct Host(FlexTensor);

impl std::ops::Deref for Host {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        self.0.as_slice::<f32>().unwrap_or(&[])
    }
}

impl Tensor {
    /// Sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// Size of axis `i`.
    pub fn dim(&self, i: usize) -> usize {
        self.shape[i]
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// True when an axis is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// The meter, for a tensor without data.
    pub fn meter(&self) -> Option<&Arc<Meter>> {
        match &self.data {
            Data::Meta(block) => Some(&block.meter),
            Data::Real(_) => None,
        }
    }

    /// A tensor of the host from its elements.
    pub fn host(values: Vec<f32>, shape: &[usize]) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "{} values for shape {shape:?}", values.len());
        let flex = FlexTensor::new(
            Bytes::from_elems(values),
            Layout::contiguous(shape.to_vec().into()),
            burn::tensor::DType::F32,
        );
        let kind = DispatchTensorKind::Flex(BackendTensor::Float(flex));
        Tensor {
            shape: shape.to_vec(),
            dtype: DType::F32,
            data: Data::Real(DispatchTensor { kind, autodiff: Default::default() }),
        }
    }

    /// A tensor with a shape and no data.
    pub fn meta(shape: &[usize], dtype: DType, meter: &Arc<Meter>) -> Self {
        let bytes = (shape.iter().product::<usize>() * dtype.size()) as u64;
        Tensor { shape: shape.to_vec(), dtype, data: Data::Meta(Arc::new(Block::new(meter, bytes))) }
    }

    /// A tensor without data whose bytes are counted already.
    pub(crate) fn of_block(shape: &[usize], dtype: DType, block: Arc<Block>) -> Self {
        Tensor { shape: shape.to_vec(), dtype, data: Data::Meta(block) }
    }

    /// The elements as a host slice, when the tensor is f32 on the host.
    pub fn as_host(&self) -> Option<Host> {
        match &self.data {
            Data::Real(DispatchTensor { kind: DispatchTensorKind::Flex(BackendTensor::Float(flex)), .. })
                if self.dtype == DType::F32 =>
            {
                Some(Host(flex.to_contiguous()))
            }
            _ => None,
        }
    }

    /// All elements in f32, copied to the host. Waits for the device. Zeros for a meta tensor.
    pub fn to_vec(&self) -> Vec<f32> {
        if let Some(host) = self.as_host() {
            return host.to_vec();
        }
        match &self.data {
            Data::Meta(_) => vec![0.0; self.len()],
            Data::Real(_) => {
                let flat: burn::Tensor<1> = self.flatten_burn();
                flat.into_data_as::<f32>().try_to_vec::<f32>().unwrap_or_default()
            }
        }
    }

    /// Moves the elements out, without a copy where this is the only holder.
    pub fn into_vec(self) -> Vec<f32> {
        match self.data {
            Data::Real(DispatchTensor { kind: DispatchTensorKind::Flex(BackendTensor::Float(flex)), .. })
                if self.dtype == DType::F32 =>
            {
                flex.into_data().try_into_vec::<f32>().unwrap_or_default()
            }
            _ => self.to_vec(),
        }
    }

    /// Changes the elements in place; shared data is copied first. Host f32 tensors only.
    pub fn update(&mut self, f: impl FnOnce(&mut [f32])) {
        let shape = self.shape.clone();
        let empty = Tensor::host(Vec::new(), &[0]);
        let mut values = std::mem::replace(self, empty).into_vec();
        f(&mut values);
        *self = Tensor::host(values, &shape);
    }

    /// Burn's tensor of rank `D`. Panics on a meta tensor or another rank: callers know both.
    pub fn burn<const D: usize>(&self) -> burn::Tensor<D> {
        assert_eq!(D, self.shape.len(), "rank {D} asked of shape {:?}", self.shape);
        match &self.data {
            Data::Real(tensor) => burn::Tensor::from_dispatch(tensor.clone()),
            Data::Meta(_) => panic!("a meta tensor has no data"),
        }
    }

    /// Burn's tensor, flattened.
    pub fn flatten_burn(&self) -> burn::Tensor<1> {
        self.reshape_burn([self.len()])
    }

    /// Burn's tensor in another shape.
    pub fn reshape_burn<const D: usize>(&self, shape: [usize; D]) -> burn::Tensor<D> {
        match self.shape.len() {
            1 => self.burn::<1>().reshape(shape),
            2 => self.burn::<2>().reshape(shape),
            3 => self.burn::<3>().reshape(shape),
            4 => self.burn::<4>().reshape(shape),
            5 => self.burn::<5>().reshape(shape),
            6 => self.burn::<6>().reshape(shape),
            n => panic!("rank {n} is not supported"),
        }
    }

    /// From burn's tensor.
    pub fn from_burn<const D: usize>(tensor: burn::Tensor<D>) -> Self {
        let shape = tensor.dims().to_vec();
        let dtype = match tensor.dtype() {
            burn::tensor::DType::F16 => DType::F16,
            burn::tensor::DType::BF16 => DType::BF16,
            _ => DType::F32,
        };
        Tensor { shape, dtype, data: Data::Real(tensor.into_dispatch()) }
    }

    /// The same elements in another shape.
    pub fn reshape(&self, shape: &[usize]) -> Self {
        assert_eq!(self.len(), shape.iter().product::<usize>(), "{:?} cannot become {shape:?}", self.shape);
        if self.shape == shape {
            return self.clone();
        }
        match &self.data {
            Data::Meta(_) => Tensor { shape: shape.to_vec(), ..self.clone() },
            Data::Real(_) => match shape.len() {
                1 => Self::from_burn(self.reshape_burn([shape[0]])),
                2 => Self::from_burn(self.reshape_burn([shape[0], shape[1]])),
                3 => Self::from_burn(self.reshape_burn([shape[0], shape[1], shape[2]])),
                4 => Self::from_burn(self.reshape_burn([shape[0], shape[1], shape[2], shape[3]])),
                5 => Self::from_burn(self.reshape_burn([shape[0], shape[1], shape[2], shape[3], shape[4]])),
                6 => Self::from_burn(self.reshape_burn([shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]])),
                n => panic!("rank {n} is not supported"),
            },
        }
    }

    /// In another element type.
    pub fn cast(&self, dtype: DType) -> Self {
        if self.dtype == dtype {
            return self.clone();
        }
        match &self.data {
            Data::Meta(block) => Tensor::meta(&self.shape, dtype, &block.meter),
            Data::Real(_) => Self::from_burn(self.flatten_burn().cast(dtype.burn())).reshape(&self.shape),
        }
    }
}

/// Where tensors live.
#[derive(Clone, Debug)]
pub enum Device {
    /// Nowhere: shapes only.
    Meta(Arc<Meter>),
    /// The CPU through burn's flex, with fused kernels.
    Cpu,
    /// Another burn device (CUDA, wgpu), or flex with composed operations in tests.
    Burn(burn::tensor::Device),
}

impl Device {
    /// The CPU through burn's composed operations, as a GPU would run them: what tests compare the fused kernels with.
    pub fn composed_cpu() -> Self {
        Device::Burn(burn::tensor::Device::flex())
    }

    /// Whether weights can rest on this device in a type.
    pub fn holds(&self, storage: Storage) -> bool {
        match self {
            Device::Burn(device) => storage.dtype().is_none_or(|dtype| device.supports_dtype(dtype.burn())),
            Device::Meta(_) | Device::Cpu => true,
        }
    }

    /// A tensor from f32 elements, in `dtype`, on this device.
    pub fn tensor(&self, values: Vec<f32>, shape: &[usize], dtype: DType) -> Tensor {
        match self {
            Device::Meta(meter) => Tensor::meta(shape, dtype, meter),
            Device::Cpu => Tensor::host(values, shape).cast(dtype),
            Device::Burn(device) => {
                let data = TensorData::new(values, [shape.iter().product::<usize>()]);
                let flat = burn::Tensor::<1>::from_data(data, device);
                Tensor::from_burn(flat).cast(dtype).reshape(shape)
            }
        }
    }

    /// Zeros.
    pub fn zeros(&self, shape: &[usize], dtype: DType) -> Tensor {
        match self {
            Device::Meta(meter) => Tensor::meta(shape, dtype, meter),
            _ => self.tensor(vec![0.0; shape.iter().product()], shape, dtype),
        }
    }

    /// Whole-number indices for burn operations.
    pub(crate) fn indices(device: &burn::tensor::Device, ids: &[u32]) -> burn::Tensor<1, Int> {
        let values: Vec<i32> = ids.iter().map(|&i| i as i32).collect();
        burn::Tensor::from_data(TensorData::new(values, [ids.len()]), device)
    }
}
