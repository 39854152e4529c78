//! Reading fixtures, and comparing with them.

use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};

/// Tensors of a fixture.
pub struct Fixture(Vec<u8>);

pub fn path(name: &str) -> PathBuf {
    PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../tests/fixtures").join(name)
}

impl Fixture {
    pub fn open(name: &str) -> Self {
        Fixture(std::fs::read(path(name)).unwrap_or_else(|e| panic!("{name}: {e}")))
    }

    fn view<T>(&self, key: &str, read: impl Fn(Dtype, &[u8]) -> Vec<T>) -> Vec<T> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(key).unwrap_or_else(|e| panic!("{key}: {e}"));
        read(view.dtype(), view.data())
    }

    #[allow(dead_code)]
    pub fn has(&self, key: &str) -> bool {
        SafeTensors::deserialize(&self.0).unwrap().tensor(key).is_ok()
    }

    #[allow(dead_code)]
    pub fn f32(&self, key: &str) -> Vec<f32> {
        self.view(key, |dtype, data| {
            assert_eq!(dtype, Dtype::F32, "{key}");
            data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        })
    }

    #[allow(dead_code)]
    pub fn f64(&self, key: &str) -> Vec<f64> {
        self.view(key, |dtype, data| {
            assert_eq!(dtype, Dtype::F64, "{key}");
            data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
        })
    }

    #[allow(dead_code)]
    pub fn i64(&self, key: &str) -> Vec<i64> {
        self.view(key, |dtype, data| {
            assert_eq!(dtype, Dtype::I64, "{key}");
            data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
        })
    }

    #[allow(dead_code)]
    pub fn u8(&self, key: &str) -> Vec<u8> {
        self.view(key, |dtype, data| {
            assert_eq!(dtype, Dtype::U8, "{key}");
            data.to_vec()
        })
    }
}

/// Largest deviation, relative to the largest value of `theirs`.
pub fn deviation(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    assert!(!ours.is_empty());
    let largest = theirs.iter().fold(0.0f64, |m, x| m.max(x.abs() as f64)).max(1e-30);
    let worst = ours.iter().zip(theirs).map(|(a, b)| (*a as f64 - *b as f64).abs());
    worst.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) }) / largest
}

#[allow(dead_code)]
#[track_caller]
pub fn close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f64) {
    let d = deviation(ours, theirs);
    assert!(d <= tolerance, "{what}: off by {d:.3e} of the largest value");
}
