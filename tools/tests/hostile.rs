//! Adapter files with any tensors of any shape: refused or used, never a panic.

use std::collections::BTreeMap;

use pipe_data::weights::{Component, DType, TensorOut, write_safetensors};
use pipe_tools::Output;
use pipe_tools::adapter::{AdapterFile, Change, Pair, Place};
use pipe_tools::resize::{Dynamic, Ranks, Resize, resize};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const ENDINGS: [&str; 29] = [
    "lora_down.weight",
    "lora_up.weight",
    "lora_mid.weight",
    "alpha",
    "dora_scale",
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "hada_t1",
    "hada_t2",
    "lokr_w1",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
    "lokr_t2",
    "diff",
    "diff_b",
    "oft_blocks",
    "oft_blocks.1",
    "rescale",
    "weight",
    "on_input",
    "a1.weight",
    "a2.weight",
    "b1.weight",
    "b2.weight",
];

/// Kinds whose tensors stand together, so that some of them fit.
const GROUPS: [&[usize]; 8] = [
    &[0, 1, 2, 3, 4],
    &[5, 6, 7, 8, 9, 10, 3],
    &[11, 12, 13, 14, 15, 16, 17, 3],
    &[18, 19],
    &[20, 21, 22, 3],
    &[0, 1],
    &[23, 24],
    &[25, 26, 27, 28, 3],
];

fn tensors() -> impl Strategy<Value = Vec<(usize, Vec<usize>)>> {
    let shape = vec(select(vec![0usize, 1, 2, 2, 2, 3, 4, 1 << 40]), 0..5);
    (select(GROUPS.to_vec()), vec((any::<prop::sample::Index>(), shape), 1..8)).prop_map(|(group, list)| {
        let mut all: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, shape) in list {
            let elements = shape.iter().try_fold(4usize, |n, size| n.checked_mul(*size));
            if elements.is_some_and(|n| n < 1 << 16) {
                all.insert(group[index.index(group.len())], shape);
            }
        }
        all.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn never_a_panic(list in tensors(), weight in select(vec![vec![4usize, 2], vec![2, 2, 3, 3], vec![4], vec![1, 1], vec![]])) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let tensor = |(ending, shape): &(usize, Vec<usize>)| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32).sin()).collect();
            TensorOut::f32(format!("lora_x.{}", ENDINGS[*ending]), DType::F32, shape.clone(), values)
        };
        write_safetensors(&path, list.iter().map(tensor), &BTreeMap::new()).unwrap();
        let Ok(file) = AdapterFile::open(&path) else { return Ok(()) };
        for (name, layer) in &file.layers {
            let place = Place { component: Component::Unet, path: "x".into(), rows: None, swapped: false, copy: None };
            let change = Change { file: &file, name, layer, place, ratio: 0.5 };
            let fits = change.check(&weight).is_ok();
            let mut values = vec![1.0; weight.iter().product()];
            if !weight.is_empty() {
                prop_assert!(change.apply(&mut values, &weight).is_err() || fits);
                let _ = change.apply_bias(&mut vec![0.0; weight[0]]);
            }
            let _ = Pair::read(&file, name, layer);
        }
        for dynamic in [None, Some(Dynamic::Ratio(2.0))] {
            let what = Resize { ranks: Ranks { linear: 2, conv: 1 }, dynamic, dtype: None };
            let _ = resize(&file, what, &Output { path: dir.path().join("b.safetensors"), force: true });
        }
    }
}
