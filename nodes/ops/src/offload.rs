//! Tensors that wait in the host's memory until a backward pass needs them.

use std::sync::Arc;

use burn::tensor::TensorData;

use crate::tensor::{Block, DType, Device, Tensor};

#[derive(Debug)]
enum Data {
    /// Already in the host's memory.
    Here(Tensor),
    /// Copied from a device.
    Copied(TensorData),
    /// No data, counted by a meter.
    Meta(Block),
}

/// A tensor in the host's memory, in its own type. Cloning shares the data.
#[derive(Clone, Debug)]
pub struct Offloaded {
    shape: Vec<usize>,
    dtype: DType,
    data: Arc<Data>,
}

impl Offloaded {
    /// A copy of a tensor. Waits for the device.
    pub fn of(tensor: &Tensor, device: &Device) -> Self {
        let data = match (device, tensor.meter()) {
            (_, Some(meter)) => Data::Meta(Block::away(meter, (tensor.len() * tensor.dtype().size()) as u64)),
            (Device::Burn(_), None) => Data::Copied(tensor.flatten_burn().into_data()),
            _ => Data::Here(tensor.clone()),
        };
        Offloaded { shape: tensor.shape().to_vec(), dtype: tensor.dtype(), data: Arc::new(data) }
    }

    /// The tensor on the device again, bit for bit.
    pub fn tensor(&self, device: &Device) -> Tensor {
        match (&*self.data, device) {
            (Data::Here(tensor), _) => tensor.clone(),
            (Data::Copied(data), Device::Burn(device)) => {
                let flat = burn::Tensor::<1>::from_data(data.clone(), (device, self.dtype.burn()));
                Tensor::from_burn(flat).reshape(&self.shape)
            }
            (Data::Meta(block), _) => Tensor::meta(&self.shape, self.dtype, block.meter()),
            (Data::Copied(_), _) => unreachable!("copied from a device of burn"),
        }
    }
}
