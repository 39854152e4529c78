//! Tensors on their way to a file: read when their turn comes, one at a time.

use std::io::{Error, ErrorKind};

use pipe_core::node::Facts;
use pipe_core::plan::{Bytes, Category};
use pipe_core::settings::Settings;
use pipe_data::weights::{DType, TensorOut};
use pipe_networks::Shapes;
use pipe_networks::vae::VaeConfig;
use pipe_ops::Tensor;
use pipe_ops::backend::Kind;

use super::facts::{network_of, read, trained_texts};

/// A writer's own buffers: the file's, and the piece that is cast.
const BUFFERS: u64 = 2 << 20;

/// A tensor to write as `name`. On the CPU its numbers are borrowed, from another device they are read back when the
/// writer asks for them, and dropped before the next tensor's. Values that are no numbers are not written: an error of
/// the kind `InvalidData`.
pub fn tensor_out<'a>(
    name: impl Into<String>,
    dtype: DType,
    shape: impl Into<Vec<usize>>,
    tensor: &'a Tensor,
) -> TensorOut<'a> {
    let name = name.into();
    let told = name.clone();
    TensorOut::stream(name, dtype, shape, move |sink| {
        let mut sound = |values: &[f32]| match values.iter().all(|value| value.is_finite()) {
            true => sink(values),
            false => Err(Error::new(ErrorKind::InvalidData, format!("`{told}` holds values that are no numbers"))),
        };
        match tensor.as_host() {
            Some(values) => sound(&values),
            None => sound(&tensor.to_vec()),
        }
    })
}

/// What writing takes in memory when the largest tensor has `largest` values.
pub fn event(settings: &Settings, largest: u64) -> Vec<Bytes> {
    let copy = if crate::planned_kind(settings) == Kind::Cpu { 0 } else { 4 * largest };
    vec![Bytes { category: Category::Working, bytes: BUFFERS + copy }]
}

/// Values of the largest tensor that learns, from the facts of a trainable.
pub fn largest(facts: &Facts) -> u64 {
    if let Some(values) = facts.u64("largest") {
        return values;
    }
    let mut shapes: Shapes = Vec::new();
    shapes.extend(network_of(facts).map(|n| n.shapes()).unwrap_or_default());
    shapes.extend(read::<VaeConfig>(facts, "vae").map(|c| c.shapes()).unwrap_or_default());
    shapes.extend(trained_texts(facts).iter().flat_map(|t| t.network.shapes()));
    shapes.iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pipe_data::weights::write_safetensors;
    use pipe_ops::{DType as Kept, Device};

    use super::*;
    use crate::common::errors;

    #[test]
    fn no_file_holds_what_is_no_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let write = |last: f32| {
            let tensor = Device::Cpu.tensor(vec![1.0, last], &[2], Kept::F32);
            write_safetensors(&path, [tensor_out("up", DType::F32, [2], &tensor)], &BTreeMap::new())
                .map_err(|e| errors::write_error(&e))
        };
        write(2.0).unwrap();
        let before = std::fs::read(&path).unwrap();
        for bad in [f32::NAN, f32::INFINITY] {
            let error = write(bad).unwrap_err();
            assert_eq!(error.code, "P0901");
            assert!(error.message.contains("`up` holds values that are no numbers"), "{}", error.message);
        }
        assert_eq!(std::fs::read(&path).unwrap(), before, "the good file stays");
    }
}
