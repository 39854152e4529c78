//! Torch checkpoints as we write them; `tests/reference/check_ckpt.py` judges the same bytes with torch.

mod common;

use std::fs;
use std::io;

use common::fixture;
use pipe_data::weights::{CkptWriter, DType, FileError, Progress, TensorOut, WeightFile, write_ckpt};

const PROGRESS: Progress = Progress { epoch: 3, global_step: 70_000 };

fn tensors(file: &WeightFile) -> Vec<TensorOut<'_>> {
    let names = file.names();
    names
        .map(|n| {
            TensorOut::bytes(
                n,
                file.info(n).unwrap().dtype,
                file.info(n).unwrap().shape.clone(),
                file.bytes(n).unwrap(),
            )
        })
        .collect()
}

#[test]
fn the_bytes_are_those_that_torch_was_seen_to_load() {
    let source = WeightFile::open(fixture("pickles/state.safetensors")).unwrap();
    let mut bytes = Vec::new();
    CkptWriter::new(tensors(&source), PROGRESS).unwrap().write(&mut bytes).unwrap();
    assert!(bytes == fs::read(fixture("pickles/ours.ckpt")).unwrap(), "make it again, see tests/reference/README.md");
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ckpt");
    let source = WeightFile::open(fixture("pickles/state.safetensors")).unwrap();
    write_ckpt(&path, tensors(&source), PROGRESS).unwrap();
    let file = WeightFile::open(&path).unwrap();
    assert_eq!(file.progress(), Some(PROGRESS));
    // The order is the caller's.
    assert!(file.names().eq(source.names()));
    for name in source.names() {
        assert_eq!(file.bytes(name).unwrap(), source.bytes(name).unwrap(), "{name}");
        assert_eq!(file.info(name).unwrap().shape, source.info(name).unwrap().shape, "{name}");
        assert_eq!(file.info(name).unwrap().start % 64, 0, "{name}");
    }
}

#[test]
fn many_none_and_large_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ckpt");
    let one =
        |i: usize| TensorOut::lazy(format!("t.{i}"), DType::F32, [1], move || Ok((i as f32).to_le_bytes().to_vec()));
    write_ckpt(&path, (0..30_000).map(one), Progress { epoch: u64::from(u32::MAX), global_step: i64::MAX as u64 })
        .unwrap();
    let file = WeightFile::open(&path).unwrap();
    assert_eq!(file.names().len(), 30_000);
    assert_eq!((file.f32("t.999").unwrap(), file.f32("t.29999").unwrap()), (vec![999.0], vec![29_999.0]));
    let progress = Progress { epoch: u64::from(u32::MAX), global_step: i64::MAX as u64 };
    assert_eq!(file.progress(), Some(progress));
    assert_eq!(PROGRESS + Progress { epoch: 1, global_step: 30_000 }, Progress { epoch: 4, global_step: 100_000 });
    write_ckpt(&path, [], Progress::default()).unwrap();
    let file = WeightFile::open(&path).unwrap();
    assert_eq!((file.names().len(), file.progress()), (0, Some(Progress::default())));
}

#[test]
fn bad_tensors_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ckpt");
    let f32s = |name: &str, len: usize| TensorOut::f32(name, DType::F32, [2], vec![0.0; len]);
    let f8 = TensorOut::bytes("a", DType::F8E4M3, [2], vec![0; 2]);
    for (tensors, wanted) in [
        (vec![f32s("a", 2), f32s("a", 2)], "two tensors are named `a`"),
        (vec![f32s("a", 3)], "needs 8 bytes"),
        (vec![f8], "cannot hold"),
    ] {
        let error = write_ckpt(&path, tensors, Progress::default()).unwrap_err();
        assert!(matches!(error, FileError::BadTensors { .. }) && error.to_string().contains(wanted), "{error}");
    }
    let short = TensorOut::lazy("a", DType::F32, [2], || Ok(vec![0; 4]));
    let failing = TensorOut::lazy("a", DType::F32, [2], || Err(io::Error::from(io::ErrorKind::StorageFull)));
    assert!(write_ckpt(&path, [short], Progress::default()).unwrap_err().to_string().contains("needs 8 bytes"));
    assert!(matches!(write_ckpt(&path, [failing], Progress::default()), Err(FileError::DiskFull { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
