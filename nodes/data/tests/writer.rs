//! Written files are those of the reference writer, byte for byte where it matters.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::io;

use pipe_data::hash;
use pipe_data::weights::{DType, FileError, SafetensorsWriter, TensorOut, WeightFile, write_safetensors};
use safetensors::tensor::{Dtype, TensorView};

fn tensors() -> Vec<TensorOut<'static>> {
    vec![
        TensorOut::f32("b.half", DType::F16, [2, 2], vec![1.0, -2.0, 0.5, 65504.0]),
        TensorOut::f32("a.brain", DType::BF16, [3], vec![1.0, 2.0, 3.0]),
        TensorOut::f32("z.full", DType::F32, [2], vec![0.1, f32::MIN_POSITIVE]),
        TensorOut::bytes("flag", DType::Bool, [1], vec![1u8]),
        TensorOut::bytes("ids", DType::I64, [], 7i64.to_le_bytes().to_vec()),
        TensorOut::lazy("eight", DType::F8E4M3, [3], || Ok(vec![0x38, 0x40, 0x7e])),
        TensorOut::f32("a.full", DType::F32, [1, 1], vec![3.5]),
        TensorOut::f32("none", DType::F32, [0, 4], vec![]),
    ]
}

#[test]
fn as_the_reference_writes_it() {
    let ours = SafetensorsWriter::new(tensors(), &BTreeMap::new()).unwrap();
    let mut bytes = Vec::new();
    ours.write(&mut bytes).unwrap();
    assert_eq!(bytes.len(), ours.file_bytes());
    let owned: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = {
        let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        parsed.tensors().iter().map(|(n, v)| (n.clone(), v.dtype(), v.shape().to_vec(), v.data().to_vec())).collect()
    };
    assert_eq!(owned.len(), 8);
    let views = owned.iter().map(|(n, d, s, b)| (n.clone(), TensorView::new(*d, s.clone(), b).unwrap()));
    assert_eq!(safetensors::serialize(views, None).unwrap(), bytes);
}

#[test]
fn metadata_and_values_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    let metadata = BTreeMap::from([("ss_note".to_owned(), "\"quoted\" \u{1f600}\n".to_owned())]);
    write_safetensors(&path, tensors(), &metadata).unwrap();
    let file = WeightFile::open(&path).unwrap();
    assert_eq!(file.header().metadata, metadata);
    assert_eq!(file.header().data_start % 8, 0);
    assert_eq!(file.names().next(), Some("ids"));
    assert_eq!(file.f32("b.half").unwrap(), [1.0, -2.0, 0.5, 65504.0]);
    assert_eq!(file.f32("a.brain").unwrap(), [1.0, 2.0, 3.0]);
    assert_eq!(file.f32("eight").unwrap(), [1.0, 2.0, 448.0]);
    assert_eq!(file.i64("ids").unwrap(), [7]);
    assert!(file.f32("none").unwrap().is_empty());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn mistakes_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    let write = |tensors: Vec<TensorOut<'static>>| write_safetensors(&path, tensors, &BTreeMap::new()).unwrap_err();
    let same = || TensorOut::f32("a", DType::F32, [1], vec![1.0]);
    for (tensors, wanted) in [
        (vec![same(), same()], "two tensors are named `a`"),
        (vec![TensorOut::f32("a", DType::F32, [2], vec![1.0])], "needs 8 bytes for its shape and has 4"),
        (vec![TensorOut::f32("a", DType::F8E4M3, [1], vec![1.0])], "cannot be cast"),
        (vec![TensorOut::f32("__metadata__", DType::F32, [1], vec![1.0])], "cannot be the name"),
        (vec![TensorOut::bytes("a", DType::U8, [usize::MAX, 2], vec![])], "overflows"),
    ] {
        let error = write(tensors);
        assert!(matches!(error, FileError::BadTensors { .. }) && error.to_string().contains(wanted), "{error}");
    }
    let error = write(vec![same(), TensorOut::lazy("b", DType::U8, [2], || Ok(vec![1]))]);
    assert!(error.to_string().contains("needs 2 bytes"), "{error}");
    let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
    let error = write(vec![same(), TensorOut::lazy("b", DType::U8, [2], full)]);
    assert!(matches!(error, FileError::DiskFull { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn values_are_asked_for_when_their_turn_comes() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    struct Alive<'c>(&'c [AtomicUsize; 2], Vec<f32>);
    impl Drop for Alive<'_> {
        fn drop(&mut self) {
            self.0[0].fetch_sub(1, Ordering::SeqCst);
        }
    }
    let count = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let tensor = |i: usize| {
        let count = &count;
        let values = vec![i as f32, 1.5, -2.0];
        TensorOut::stream(format!("t{i}"), DType::F16, [3], move |sink| {
            let now = count[0].fetch_add(1, Ordering::SeqCst) + 1;
            count[1].fetch_max(now, Ordering::SeqCst);
            let alive = Alive(count, values.clone());
            // In parts: the sink adds them up.
            sink(&alive.1[..1])?;
            sink(&alive.1[1..])
        })
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    let writer = SafetensorsWriter::new((0..50).map(tensor), &BTreeMap::new()).unwrap();
    assert_eq!(count[1].load(Ordering::SeqCst), 0, "nothing is asked for before it is written");
    writer.save(&path).unwrap();
    assert_eq!(count[1].load(Ordering::SeqCst), 1, "one tensor at a time");
    let file = WeightFile::open(&path).unwrap();
    assert_eq!(file.f32("t7").unwrap(), [7.0, 1.5, -2.0]);
    let short = TensorOut::stream("s", DType::F32, [4], |sink| sink(&[1.0]));
    let error = write_safetensors(&path, [short], &BTreeMap::new()).unwrap_err();
    assert!(error.to_string().contains("`s` needs 16 bytes for its shape and has 4"), "{error}");
    let whole = TensorOut::stream("s", DType::U8, [4], |sink| sink(&[1.0; 4]));
    assert!(write_safetensors(&path, [whole], &BTreeMap::new()).unwrap_err().to_string().contains("cannot be cast"));
    assert_eq!(WeightFile::open(&path).unwrap().names().len(), 50, "the good file is still there");
}

#[test]
fn hashes_as_the_reference_computes_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    let metadata =
        BTreeMap::from([("ss_network_dim".to_owned(), "4".to_owned()), ("modelspec.title".to_owned(), "a".to_owned())]);
    let kept = hash::legacy_metadata(&metadata);
    assert_eq!(kept.len(), 1);
    let small = SafetensorsWriter::new(tensors(), &kept).unwrap();
    // Not the hash of nothing, which the reference gives every file this small.
    assert_ne!(hash::sshs_legacy_hash(&small).unwrap(), "e3b0c442");
    // Large enough for the window; the numbers are recomputed here from the written file.
    let big = || TensorOut::f32("w", DType::F32, [300_000], (0..300_000).map(|i| i as f32).collect::<Vec<_>>());
    let writer = SafetensorsWriter::new([big()], &kept).unwrap();
    writer.save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let sha = |bytes: &[u8]| -> String {
        use sha2::Digest;
        sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
    };
    let start = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    assert_eq!(hash::sshs_model_hash(&writer).unwrap(), sha(&bytes[start..]));
    assert_eq!(hash::sshs_legacy_hash(&writer).unwrap(), sha(&bytes[0x100000..0x110000])[..8]);
    assert_eq!(hash::file_short_hash(&path).unwrap(), sha(&bytes[0x100000..0x110000])[..8]);
    assert_eq!(hash::file_sha256(&path).unwrap(), sha(&bytes));
    // Metadata do not change the model hash.
    let plain = SafetensorsWriter::new([big()], &BTreeMap::new()).unwrap();
    assert_eq!(hash::sshs_model_hash(&plain).unwrap(), hash::sshs_model_hash(&writer).unwrap());
    // The reference's one-tensor file has the same bytes.
    let data: Vec<u8> = (0..300_000).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![300_000], &data).unwrap();
    let theirs = safetensors::serialize([("w", view)], Some(HashMap::from_iter(kept))).unwrap();
    assert_eq!(theirs, bytes);
}
