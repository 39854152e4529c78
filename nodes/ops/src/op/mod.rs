//! Differentiable operations: the seam between networks and devices.
//!
//! Each file holds a family. An operation has up to three bodies: shapes only (meta), a fused host
//! kernel, and a composition of burn operations for every other device. The composed body also
//! runs on the host in tests, where the two are compared, forward and gradient.

mod act;
mod arith;
mod attention;
mod cayley;
mod conv;
mod decompose;
mod linear;
mod loss;
mod matmul;
mod modulate;
mod norm;
mod permute;
mod rms;
mod rope;
mod shape;

pub use act::{geglu, gelu, gelu_tanh, quick_gelu, silu, tanh};
pub use arith::{add, add_channels, add_positions, add_tensors, cast, mul, mul_const, offset, scale, scale_tensor};
pub use attention::{AttentionArgs, attention};
pub use cayley::cayley_transposed;
pub use conv::{conv2d, downsample_pad};
pub use decompose::with_row_norms;
pub use linear::{embedding, linear};
pub use loss::{Elementwise, Weigh, loss_and_grad, sample_gaussian};
pub use matmul::matmul;
pub use modulate::{gate, modulate, weighted_sum};
pub use norm::{group_norm, layer_norm, layer_norm_plain};
pub use permute::{PatchOrder, patchify, permute, unpatchify};
pub use rms::rms_norm;
pub use rope::{Pairs, RopeTable, rope};
pub use shape::{concat, from_tokens, narrow, reshape, select_rows, to_tokens, upsample};

use crate::tensor::Tensor;

/// Which body runs.
pub(crate) enum Place {
    Meta,
    Host,
    Burn,
}

/// Meta when any tensor has no data, host when the first is an f32 host tensor of the fused device.
pub(crate) fn place(cx: &crate::Cx, x: &Tensor) -> Place {
    match cx.device {
        crate::Device::Meta(_) => Place::Meta,
        crate::Device::Cpu => {
            debug_assert!(x.meter().is_none(), "meta tensor on the CPU");
            Place::Host
        }
        crate::Device::Burn(_) => Place::Burn,
    }
}

/// A meta tensor like `x`.
pub(crate) fn meta_like(x: &Tensor) -> Tensor {
    meta(x, x.shape())
}

/// A meta tensor of the meter and type of `x`.
pub(crate) fn meta(x: &Tensor, shape: &[usize]) -> Tensor {
    match x.meter() {
        Some(meter) => Tensor::meta(shape, x.dtype(), meter),
        None => unreachable!("meta body with real data"),
    }
}

/// The host slice of a tensor that is known to be on the host.
pub(crate) fn host(x: &Tensor) -> crate::tensor::Host {
    match x.as_host() {
        Some(host) => host,
        None => panic!("host kernel with a tensor of another device or type: {:?} {:?}", x.shape(), x.dtype()),
    }
}
