//! Which devices this build has, and which the machine has.

use crate::{DType, Device};

/// A family of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The CPU: burn-flex memory, fused kernels.
    Cpu,
    /// NVIDIA GPUs through CUDA.
    Cuda,
    /// Any GPU through Vulkan.
    Wgpu,
}

impl Kind {
    /// Name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Cpu => "cpu",
            Kind::Cuda => "cuda",
            Kind::Wgpu => "wgpu",
        }
    }
    /// Compiled into this binary.
    pub fn in_build(self) -> bool {
        match self {
            Kind::Cpu => true,
            Kind::Cuda => cfg!(feature = "cuda"),
            Kind::Wgpu => cfg!(feature = "wgpu"),
        }
    }
}

/// Reads `auto`, `cpu`, `cuda`, `cuda:1`, `wgpu`, ….
pub fn parse(text: &str) -> Option<(Option<Kind>, usize)> {
    let (name, index) = match text.split_once(':') {
        Some((name, index)) => (name, index.parse().ok()?),
        None => (text, 0),
    };
    let kind = match name {
        "auto" => None,
        "cpu" => Some(Kind::Cpu),
        "cuda" => Some(Kind::Cuda),
        "wgpu" => Some(Kind::Wgpu),
        _ => return None,
    };
    Some((kind, index))
}

/// Opens a device, with the reason when there is none.
pub fn open(text: &str) -> Result<(Kind, Device), String> {
    let Some((kind, index)) = parse(text) else {
        return Err(format!("`{text}` is no device; use `auto`, `cpu`, `cuda` or `wgpu`"));
    };
    match kind {
        Some(kind) => open_kind(kind, index).map(|device| (kind, device)),
        None => Ok([Kind::Cuda, Kind::Wgpu]
            .into_iter()
            .find_map(|kind| open_kind(kind, index).ok().map(|device| (kind, device)))
            .unwrap_or((Kind::Cpu, Device::Cpu))),
    }
}

/// Opens a device of one family.
pub fn open_kind(kind: Kind, index: usize) -> Result<Device, String> {
    if !kind.in_build() {
        return Err(format!("this build has no `{0}`; build with `--features {0}`", kind.name()));
    }
    match kind {
        Kind::Cpu => Ok(Device::Cpu),
        #[cfg(feature = "cuda")]
        Kind::Cuda => probe(kind, move || burn::tensor::Device::cuda(index)),
        #[cfg(feature = "wgpu")]
        Kind::Wgpu => probe(kind, move || {
            // Number 0 is the driver's own choice, integrated and software devices included.
            let which = if index == 0 {
                burn::tensor::DeviceKind::DefaultDevice
            } else {
                burn::tensor::DeviceKind::DiscreteGpu(index)
            };
            burn::tensor::Device::vulkan(which)
        }),
        #[allow(unreachable_patterns)]
        _ => {
            let _ = index;
            Err("not in this build".into())
        }
    }
}

/// Opens the device and runs one addition on it: drivers that are missing are found here, not in the first step.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn probe(kind: Kind, open: impl Fn() -> burn::tensor::Device) -> Result<Device, String> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    // Nothing of a failed attempt is used again.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let device = open();
        let x = burn::Tensor::<1>::from_data([1.0f32, 2.0], &device);
        let sum: Vec<f32> = (x.clone() + x).into_data().try_to_vec().unwrap_or_default();
        (sum == [2.0, 4.0]).then_some(device)
    }));
    std::panic::set_hook(hook);
    match result {
        Ok(Some(device)) => Ok(Device::Burn(device)),
        Ok(None) => Err(format!("the `{}` device computes wrong sums", kind.name())),
        Err(_) => Err(format!("no `{}` device answers on this machine", kind.name())),
    }
}

/// Whether the device computes in `dtype`.
pub fn supports(device: &Device, dtype: DType) -> bool {
    match device {
        Device::Meta(_) => true,
        Device::Cpu => dtype == DType::F32,
        Device::Burn(device) => device.supports_dtype(match dtype {
            DType::F32 => burn::tensor::DType::F32,
            DType::F16 => burn::tensor::DType::F16,
            DType::BF16 => burn::tensor::DType::BF16,
        }),
    }
}
