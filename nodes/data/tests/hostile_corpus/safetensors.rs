//! Headers of safetensors files.

use super::Case;
use super::common::file;

const ONE: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

fn two(a: &str, b: &str) -> String {
    format!(r#"{{"a":{{"dtype":"F32",{a}}},"b":{{"dtype":"F32",{b}}}}}"#)
}

/// Safetensors files that break the format in every way we could think of, and files of other kinds.
pub fn cases() -> Vec<Case> {
    let mut cut_header = file(ONE, &[]);
    cut_header.truncate(30);
    let length = |n: u64, rest: &[u8]| [&n.to_le_bytes(), rest].concat();
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let many = {
        let entries: Vec<String> =
            (0..50_000).map(|i| format!(r#""t{i}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#)).collect();
        format!("{{{}}}", entries.join(","))
    };
    let small = vec![
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
    ];
    let mut cases: Vec<Case> = small.into_iter().map(|(name, bytes, wanted)| Case::new(name, bytes, wanted)).collect();
    cases.push(Case::large("sizes without end", wanted_sizes, "more than 64 dimensions"));
    cases.push(Case::large("tensors without end", too_many, "more than 200000 tensors"));
    cases.push(Case::large("metadata of arrays", odd_metadata, "not valid"));
    cases
}

/// A tensor of four million dimensions.
fn wanted_sizes() -> Vec<u8> {
    let sizes = "1,".repeat(4_000_000);
    file(&format!(r#"{{"a":{{"dtype":"F32","shape":[{sizes}1],"data_offsets":[0,4]}}}}"#), &[0; 4])
}

/// 300 000 tensors without elements.
fn too_many() -> Vec<u8> {
    let entries: Vec<String> =
        (0..300_000).map(|i| format!(r#""t{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    file(&format!("{{{}}}", entries.join(",")), &[])
}

/// Metadata that would unfold to a gigabyte if anyone kept them, and a header that ends too early.
fn odd_metadata() -> Vec<u8> {
    file(&format!(r#"{{"__metadata__":{{"a":[{}0]}}"#, "0,".repeat(12_000_000)), &[])
}
