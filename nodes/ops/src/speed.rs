//! How fast a device multiplies matrices: a short measurement, for plans of machines on which nothing ran yet.

use std::time::{Duration, Instant};

use crate::{Cx, DType, Device, Tensor, Var, op};

/// Floating point operations a second of products of two square matrices in `dtype`: the best of the rounds that go
/// into `time`, at least two of them. Matrices are 512 wide on the CPU, 2048 on other devices. 0 for a meta device.
pub fn matmul_speed(device: &Device, dtype: DType, time: Duration) -> f64 {
    let (size, products) = match device {
        Device::Cpu => (512, 2),
        Device::Burn(_) => (2048, 8),
        Device::Meta(_) => return 0.0,
    };
    let cx = Cx::new(device.clone(), dtype);
    // Values that stay what they are from product to product: each row adds up to 1.
    let rows = vec![1.0 / size as f32; size * size];
    let mut x = Var::constant(device.tensor(rows.clone(), &[size, size], dtype));
    let by = Var::constant(device.tensor(rows, &[size, size], dtype));
    let (begun, mut best, mut rounds) = (Instant::now(), f64::INFINITY, 0);
    while rounds < 2 || begun.elapsed() < time {
        let start = Instant::now();
        for _ in 0..products {
            x = op::matmul(&cx, &x, &by);
        }
        wait(&x.value);
        best = best.min(start.elapsed().as_secs_f64());
        rounds += 1;
    }
    2.0 * (size as f64).powi(3) * f64::from(products) / best
}

/// Returns when the values are there.
fn wait(x: &Tensor) {
    if x.as_host().is_none() {
        let _ = Tensor::from_burn(x.flatten_burn().slice([0; 1])).to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Meter;

    #[test]
    fn speed_is_of_a_device_that_computes() {
        let short = Duration::from_millis(1);
        // Any machine makes more than a million and less than 10¹⁵.
        assert!((1e6..1e15).contains(&matmul_speed(&Device::Cpu, DType::F32, short)));
        assert_eq!(matmul_speed(&Device::Meta(Meter::new()), DType::F32, short), 0.0);
    }
}
