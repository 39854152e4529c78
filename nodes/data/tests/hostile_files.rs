//! Damaged safetensors files are survived, and what looks odd but is allowed is read.

mod common;

use std::fs;

use common::file;
use pipe_data::weights::{Damage, FileError, Header, WeightFile};

const ONE: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

fn two(a: &str, b: &str) -> String {
    format!(r#"{{"a":{{"dtype":"F32",{a}}},"b":{{"dtype":"F32",{b}}}}}"#)
}

#[test]
fn every_cut_and_every_flipped_header_byte_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let whole = file(&two(r#""shape":[1],"data_offsets":[0,4]"#, r#""shape":[1,2],"data_offsets":[4,12]"#), &[1; 12]);
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        assert!(WeightFile::open(&path).is_err(), "cut at {cut}");
    }
    for at in 0..whole.len() - 12 {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            fs::write(&path, &bytes).unwrap();
            // Either refused, or every tensor can be read within bounds.
            if let Ok(file) = WeightFile::open(&path) {
                for name in file.names() {
                    let _ = (file.bytes(name).unwrap(), file.f32(name), file.i64(name));
                }
            }
        }
    }
}

#[test]
fn missing_files_and_folders_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Header::read(folder.path().join("no")), Err(FileError::Missing { .. })));
    assert!(matches!(Header::read(folder.path()), Err(FileError::IsFolder { .. })));
    assert!(matches!(WeightFile::open(folder.path()), Err(FileError::IsFolder { .. })));
}

#[test]
fn oddities_that_are_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    // No tensors; empty tensors that share a place; metadata of another kind; spaces; an unaligned header.
    for (header, data) in [
        (r#"{}"#, 0),
        (r#"{"__metadata__":{"format":"pt","odd":3}}"#, 0),
        (r#"{"__metadata__":null}   "#, 0),
        (
            r#"{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"F32","shape":[3,0],"data_offsets":[0,0]}}"#,
            0,
        ),
        (r#"{"a":{"dtype":"I64","shape":[],"data_offsets":[0,8],"note":1}}"#, 8),
    ] {
        fs::write(&path, file(header, &vec![0; data])).unwrap();
        let file = WeightFile::open(&path).unwrap();
        assert_eq!(file.header().data_bytes(), data);
    }
    fs::write(&path, file(ONE, &[0, 0, 128, 63, 0, 0, 0, 192])).unwrap();
    assert_eq!(WeightFile::open(&path).unwrap().f32("a").unwrap(), [1.0, -2.0]);
    let error = WeightFile::open(&path).unwrap().i64("a").unwrap_err();
    assert_eq!(error.to_string().split(" of ").next(), Some("tensor `a`"));
    assert!(matches!(WeightFile::open(&path).unwrap().f32("b"), Err(FileError::NoTensor { .. })));
}

#[test]
fn damage_names_the_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let header = two(r#""shape":[2],"data_offsets":[0,8]"#, r#""shape":[2],"data_offsets":[4,12]"#);
    fs::write(&path, file(&header, &[0; 12])).unwrap();
    match Header::read(&path) {
        Err(FileError::Damaged { damage, .. }) => {
            assert_eq!(damage, Damage::Overlap { first: "a".into(), second: "b".into() });
        }
        other => panic!("{other:?}"),
    }
}
