//! Files that break the format in every way we could think of are refused, quickly and with their own message.

mod common;

use std::fs;
use std::time::Instant;

use common::file;
use pipe_data::weights::{Damage, FileError, Header, WeightFile};

const ONE: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

fn two(a: &str, b: &str) -> String {
    format!(r#"{{"a":{{"dtype":"F32",{a}}},"b":{{"dtype":"F32",{b}}}}}"#)
}

/// Name, bytes and a piece of the message.
fn cases() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mut cut_header = file(ONE, &[]);
    cut_header.truncate(30);
    let length = |n: u64, rest: &[u8]| [&n.to_le_bytes(), rest].concat();
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let many = {
        let entries: Vec<String> =
            (0..50_000).map(|i| format!(r#""t{i}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#)).collect();
        format!("{{{}}}", entries.join(","))
    };
    vec![
        ("empty", vec![], "the file is empty"),
        ("short", vec![1, 2, 200], "only 3 bytes"),
        ("length only", length(100, &[]), "only 0 follow"),
        ("header cut", cut_header, "unfinished download"),
        ("length too large", length(u64::MAX, b"{\"a\":1}        "), "more than the limit"),
        ("length past the limit", length(100_000_001, b"{\"a\":1}        "), "more than the limit"),
        ("length past the file", length(99_000_000, b"{\"a\":1}        "), "only 15 follow"),
        ("length zero", length(0, b""), "not valid"),
        ("length short of the header", length(10, ONE.as_bytes()), "not valid"),
        ("not an object", file("[1,2,3]  ", &[]), "expected an object"),
        ("an open brace", file("{", &[]), "not valid"),
        ("binary header", file("{\u{1}\u{2}\u{3}", &[]), "not valid"),
        ("not UTF-8", length(6, &[b'{', b'"', 0xff, 0xfe, b'"', b'}']), "not valid"),
        ("deep nesting", file(&deep, &[]), "not valid"),
        ("text after the header", file(&format!("{ONE}x"), &[0; 8]), "not valid"),
        ("entry without shape", file(r#"{"a":{"dtype":"F32","data_offsets":[0,8]}}"#, &[0; 8]), "shape"),
        ("entry without offsets", file(r#"{"a":{"dtype":"F32","shape":[2]}}"#, &[0; 8]), "data_offsets"),
        ("one offset", file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}}"#, &[0; 8]), "not valid"),
        ("negative size", file(r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, &[0; 8]), "not valid"),
        ("fractional size", file(r#"{"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}}"#, &[0; 8]), "not valid"),
        (
            "a size of 2^64",
            file(r#"{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8]}}"#, &[]),
            "not valid",
        ),
        ("unknown type", file(r#"{"a":{"dtype":"F128","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8]), "`F128`"),
        ("same name twice", file(&format!("{},{}", &ONE[..ONE.len() - 1], &ONE[1..]), &[0; 8]), "twice"),
        (
            "shape overflows",
            file(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#, &[0; 8]),
            "impossibly large",
        ),
        (
            "shape overflows through zero",
            file(r#"{"a":{"dtype":"F64","shape":[9223372036854775807,4,0],"data_offsets":[0,0]}}"#, &[]),
            "impossibly large",
        ),
        ("backwards", file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, &[0; 8]), "ends before"),
        (
            "size and shape differ",
            file(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, &[0; 8]),
            "needs 12 bytes",
        ),
        (
            "size and type differ",
            file(r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8]),
            "needs 4 bytes",
        ),
        ("data cut", file(ONE, &[0; 5]), "only 5 are there"),
        ("no data", file(ONE, &[]), "only 0 are there"),
        ("trailing bytes", file(ONE, &[0; 9]), "1 bytes after"),
        (
            "offset far away",
            file(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[9223372036854775800,9223372036854775808]}}"#,
                &[0; 8],
            ),
            "only 8 are there",
        ),
        (
            "overlap",
            file(&two(r#""shape":[2],"data_offsets":[0,8]"#, r#""shape":[2],"data_offsets":[4,12]"#), &[0; 12]),
            "overlap",
        ),
        (
            "same place",
            file(&two(r#""shape":[2],"data_offsets":[0,8]"#, r#""shape":[2],"data_offsets":[0,8]"#), &[0; 8]),
            "overlap",
        ),
        (
            "hole",
            file(&two(r#""shape":[1],"data_offsets":[0,4]"#, r#""shape":[1],"data_offsets":[8,12]"#), &[0; 12]),
            "belong to none",
        ),
        (
            "hole at the start",
            file(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, &[0; 8]),
            "belong to none",
        ),
        ("many overlapping", file(&many, &[0]), "overlap"),
        ("metadata not a map", file(r#"{"__metadata__":3}"#, &[]), "not valid"),
        ("zip", b"PK\x03\x04\x14\0\0\0\x08\x08archive/data.pkl".to_vec(), "zip archive"),
        ("pickle", b"\x80\x02}q\x00(X\x05\x00\x00\x00modelq".to_vec(), "pickle"),
        ("web page", b"<!DOCTYPE html><html><body>Not found</body></html>".to_vec(), "web page"),
        (
            "LFS pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n".to_vec(),
            "Git LFS pointer",
        ),
        ("error text", b"Entry not found".to_vec(), "text file"),
        ("JSON", b"{\"error\":\"gated repository\"}".to_vec(), "JSON"),
        ("zeros", vec![0; 4096], "zeros"),
        ("GGUF", b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0".to_vec(), "GGUF"),
        ("PNG", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec(), "image"),
    ]
}

#[test]
fn are_refused_with_their_own_message() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases();
    assert!(cases.len() >= 25);
    for (name, bytes, wanted) in cases {
        let path = folder.path().join("model.safetensors");
        fs::write(&path, bytes).unwrap();
        let started = Instant::now();
        for error in [Header::read(&path).err(), WeightFile::open(&path).err()] {
            let message = error.unwrap_or_else(|| panic!("{name}: accepted")).to_string();
            assert!(message.contains(wanted), "{name}: {message}");
            assert!(message.contains("model.safetensors") && !message.ends_with('.'), "{name}: {message}");
        }
        assert!(started.elapsed().as_millis() < 5000, "{name}: slow");
    }
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
