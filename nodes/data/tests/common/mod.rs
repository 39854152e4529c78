//! Helpers of the integration tests: where the fixtures are, and safetensors files built by hand.
#![allow(dead_code)]

pub mod torch;

use std::path::{Path, PathBuf};

/// A file made by the reference scripts; missing ones fail the test.
pub fn fixture(name: &str) -> PathBuf {
    let path = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../tests/fixtures").join(name);
    assert!(path.exists(), "`{}` is missing: make the fixtures with the scripts in tests/reference", path.display());
    path
}

/// A safetensors file with that header text and data, header length as it is.
pub fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// A safetensors file of zeros with these tensor names and shapes, as `F32`.
pub fn zeros<'a>(path: &Path, shapes: impl IntoIterator<Item = (&'a str, &'a [usize])>) {
    use pipe_data::weights::{DType, TensorOut, write_safetensors};
    let tensors = shapes.into_iter().map(|(name, shape)| {
        let len = shape.iter().product::<usize>();
        TensorOut::f32(name, DType::F32, shape, vec![0.0; len])
    });
    write_safetensors(path, tensors, &Default::default()).unwrap();
}

/// A small generator of uniform numbers (SplitMix64) for made-up inputs.
pub struct Numbers(pub u64);

impl Numbers {
    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    /// One of some values.
    pub fn one_of<'a, T: ?Sized>(&mut self, values: &[&'a T]) -> &'a T {
        values[self.below(values.len())]
    }
}
