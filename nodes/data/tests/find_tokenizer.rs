//! Tokenizers are found beside the weights they belong to.

mod common;

use std::fs;
use std::path::Path;

use common::{file, fixture};
use pipe_data::tokenizer::{GemmaTokenizer, Origin, T5Tokenizer, TokenizerError, TokenizerKind, find_tokenizer};

fn small(name: &str) -> Vec<u8> {
    fs::read(fixture("gemma_small").join(name)).unwrap()
}

/// A weight file with one tensor of bytes.
fn weights(path: &Path, name: &str, bytes: &[u8]) {
    let len = bytes.len();
    let header = format!(r#"{{"{name}":{{"dtype":"U8","shape":[{len}],"data_offsets":[0,{len}]}}}}"#);
    fs::write(path, file(&header, bytes)).unwrap();
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn gemma_in_every_place_the_nearest_first() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let component = at("text_encoder/model.safetensors");
    fs::create_dir(at("text_encoder")).unwrap();
    weights(&component, "model.norm.weight", &[0; 4]);
    let find = || find_tokenizer(&component, TokenizerKind::Gemma).unwrap();
    // From the farthest place to the nearest, each is preferred to those before it.
    for (place, name) in [
        ("tokenizer/tokenizer.json", "tokenizer.json"),
        ("text_encoder/spiece.model", "tokenizer.model"),
        ("text_encoder/tokenizer.model", "tokenizer.model"),
        ("text_encoder/tokenizer.json", "tokenizer.json"),
        ("text_encoder/tokenizer/tokenizer.model", "tokenizer.model"),
    ] {
        put(&at(place), &small(name));
        assert_eq!(find(), Origin::File(at(place)));
        assert_eq!(find_tokenizer(at("text_encoder"), TokenizerKind::Gemma).unwrap(), Origin::File(at(place)));
        assert!(!GemmaTokenizer::open(&find()).unwrap().tokens("a cat").is_empty());
    }
    // A whole Diffusers folder has it right inside.
    assert_eq!(
        find_tokenizer(folder.path(), TokenizerKind::Gemma).unwrap(),
        Origin::File(at("tokenizer/tokenizer.json"))
    );
    weights(&component, "model.spiece_model", &small("tokenizer.model"));
    let origin = find();
    assert_eq!(origin, Origin::Tensor { path: component.clone(), name: "model.spiece_model".into() });
    assert!(origin.to_string().starts_with("tensor `model.spiece_model` of `"));
    let from_file = GemmaTokenizer::from_file(at("text_encoder/tokenizer.model")).unwrap();
    assert_eq!(GemmaTokenizer::open(&origin).unwrap().tokens("a cat²"), from_file.tokens("a cat²"));
}

#[test]
fn gemma_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gemma.safetensors");
    weights(&path, "norm.weight", &[0; 4]);
    // Of another kind: the byte-pair vocabulary of CLIP, say.
    put(&folder.path().join("tokenizer_2/tokenizer.json"), br#"{"model": {"type": "BPE", "vocab": {}, "merges": []}}"#);
    put(&folder.path().join("tokenizer/vocab.json"), b"{}");
    let error = find_tokenizer(&path, TokenizerKind::Gemma).unwrap_err();
    let TokenizerError::NotFound { kind, looked, .. } = &error else { panic!("{error}") };
    assert_eq!(*kind, TokenizerKind::Gemma);
    let looked = looked.join("\n");
    for part in ["tensor `spiece_model`", "tokenizer`, without", "tokenizer_2/tokenizer.json`, of another kind"] {
        assert!(looked.contains(part), "{part}: {looked}");
    }
    let text = error.to_string();
    assert!(text.contains("no Gemma tokenizer found for") && text.contains("beside the weights. Looked at: tensor"));
    // Weights that are not there, or not weights, change nothing.
    fs::write(folder.path().join("x.ckpt"), b"nothing").unwrap();
    for name in ["x.ckpt", "none.safetensors"] {
        let error = find_tokenizer(folder.path().join(name), TokenizerKind::Gemma).unwrap_err();
        assert!(matches!(error, TokenizerError::NotFound { .. }), "{error}");
    }
}

#[test]
fn t5_is_embedded_unless_something_lies_nearer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t5xxl_fp16.safetensors");
    weights(&path, "spiece_model", &small("tokenizer.model"));
    let find = || find_tokenizer(&path, TokenizerKind::T5).unwrap();
    assert_eq!(find(), Origin::Embedded);
    assert_eq!(find().to_string(), "the embedded vocabulary");
    assert_eq!(T5Tokenizer::open(&Origin::Embedded).unwrap().encode("sun", 4).ids, [1997, 1, 0, 0]);
    assert!(GemmaTokenizer::open(&Origin::Embedded).is_err());
    // Diffusers folders have CLIP's or Gemma's in `tokenizer`, T5's in another.
    put(&folder.path().join("tokenizer/tokenizer.json"), &small("tokenizer.json"));
    assert_eq!(find(), Origin::Embedded);
    let json = r#"{"model": {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 0}}"#;
    let there = folder.path().join("tokenizer_2/tokenizer.json");
    put(&there, json.as_bytes());
    assert_eq!(find(), Origin::File(there));
    assert!(matches!(T5Tokenizer::open(&find()), Err(TokenizerError::Invalid { .. })));
}

#[test]
fn damaged_files_are_not_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gemma.safetensors");
    weights(&path, "norm.weight", &[0; 4]);
    for (name, bytes) in [("tokenizer.model", &small("tokenizer.model")[..999]), ("tokenizer.json", b"{\"model\": ")] {
        put(&folder.path().join(name), bytes);
        for kind in [TokenizerKind::Gemma, TokenizerKind::T5] {
            let error = find_tokenizer(&path, kind).unwrap_err();
            assert!(matches!(&error, TokenizerError::Invalid { path, .. } if path.ends_with(name)), "{error}");
        }
    }
    weights(&path, "spiece_model", b"cut off");
    let error = find_tokenizer(&path, TokenizerKind::Gemma).unwrap_err();
    assert!(matches!(&error, TokenizerError::Invalid { path, .. } if path.ends_with("gemma.safetensors")), "{error}");
    let none = GemmaTokenizer::from_file(folder.path().join("none"));
    assert!(matches!(none, Err(TokenizerError::Io { .. })));
}
