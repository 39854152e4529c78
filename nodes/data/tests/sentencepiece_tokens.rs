//! Token ids of T5 and Gemma are those of the reference tokenizers; broken files are refused.

mod common;

use std::path::{Path, PathBuf};
use std::time::Instant;

use common::{Numbers, fixture};
use pipe_data::tokenizer::gemma::{LUMINA2_SYSTEM_PROMPT, lumina2_prompt};
use pipe_data::tokenizer::{GemmaTokenizer, T5Tokenizer, TokenizerError};
use serde_json::{Value as Json, json};

/// The texts of a fixture with the ids under `key`, or else under `ids`.
fn texts(name: &str, key: &str) -> Vec<(String, Vec<u32>)> {
    let json: Json = serde_json::from_str(&std::fs::read_to_string(fixture(name)).unwrap()).unwrap();
    let entry = |entry: &Json| {
        let ids = entry.get(key).unwrap_or(&entry["ids"]).as_array().unwrap();
        let ids = ids.iter().map(|id| id.as_u64().unwrap() as u32).collect();
        (entry["text"].as_str().unwrap().to_owned(), ids)
    };
    json["texts"].as_array().unwrap().iter().map(entry).collect()
}

fn model() -> Vec<u8> {
    use std::io::Read;
    let packed = std::fs::read("assets/t5_spiece.model.gz").unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
    bytes
}

fn gemma(name: &str) -> GemmaTokenizer {
    GemmaTokenizer::from_file(fixture("gemma_small").join(name)).unwrap()
}

#[test]
fn t5_as_the_references() {
    let tokenizer = T5Tokenizer::embedded();
    assert_eq!(tokenizer.vocabulary(), 32_100);
    let texts = texts("t5_tokens.json", "ids");
    assert!(texts.len() >= 200);
    for (text, ids) in texts {
        assert_eq!(tokenizer.tokens(&text), ids[..ids.len() - 1], "{text:?}");
    }
}

#[test]
fn t5_ends_and_is_padded() {
    let tokenizer = T5Tokenizer::embedded();
    let tokens = tokenizer.encode("a photo of a cat", 256);
    assert_eq!((tokens.ids.len(), tokens.mask.len()), (256, 256));
    assert_eq!(tokens.ids[..10], [3, 9, 1202, 13, 3, 9, 1712, 1, 0, 0]);
    assert_eq!(tokens.mask.iter().map(|&m| usize::from(m)).sum::<usize>(), 8);
    assert_eq!(tokenizer.encode("a photo of a cat", 4).ids, [3, 9, 1202, 1]);
    assert_eq!(tokenizer.encode("a photo of a cat", 4).mask, [1; 4]);
    assert_eq!(tokenizer.encode("a photo", 0).ids, [1]);
    assert_eq!(tokenizer.encode(" \u{200b}\n", 3).ids, [1, 0, 0]);
}

/// `tokenizer.json` of T5 in the two forms that exist, made from the embedded model.
fn t5_json(old: bool) -> Json {
    let pieces = T5Pieces::read(&model());
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let precompiled = json!({"type": "Precompiled", "precompiled_charsmap": pieces.charsmap});
    let (normalizer, pre_tokenizer) = match old {
        true => (precompiled, json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]})),
        false => {
            let spaces = json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"});
            let strip = json!({"type": "Strip", "strip_left": false, "strip_right": true});
            (json!({"type": "Sequence", "normalizers": [precompiled, strip, spaces]}), metaspace)
        }
    };
    let mut vocab: Vec<Json> = pieces.pieces.iter().map(|(text, score)| json!([text, score])).collect();
    let extra = (0..100).map(|i| format!("<extra_id_{}>", 99 - i));
    vocab.extend(extra.clone().map(|text| json!([text, 0.0])));
    let special = |(id, content): (usize, String)| json!({"id": id, "content": content, "normalized": false});
    let first = ["<pad>", "</s>", "<unk>"].map(str::to_owned).into_iter().enumerate();
    let added: Vec<Json> = first.chain((32_000..).zip(extra)).map(special).collect();
    json!({
        "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": false},
    })
}

/// What `tokenizer.json` holds of a model, read as plainly as this one file allows.
struct T5Pieces {
    pieces: Vec<(String, f32)>,
    charsmap: String,
}

impl T5Pieces {
    fn read(bytes: &[u8]) -> T5Pieces {
        use base64::Engine;
        let mut found = T5Pieces { pieces: Vec::new(), charsmap: String::new() };
        for (field, value) in fields(bytes) {
            if field == 1 {
                let piece = fields(value);
                let score = f32::from_le_bytes(piece[1].1.try_into().unwrap());
                found.pieces.push((std::str::from_utf8(piece[0].1).unwrap().to_owned(), score));
            } else if field == 3 {
                let table = fields(value).into_iter().find(|(field, _)| *field == 2).unwrap().1;
                found.charsmap = base64::engine::general_purpose::STANDARD.encode(table);
            }
        }
        found
    }
}

fn fields(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> usize {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            number |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return number;
            }
        }
    }
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let len = match key & 7 {
            2 => varint(&mut bytes),
            5 => 4,
            _ => {
                varint(&mut bytes);
                continue;
            }
        };
        let (value, rest) = bytes.split_at(len);
        out.push(((key >> 3) as u8, value));
        bytes = rest;
    }
    out
}

#[test]
fn t5_from_each_kind_of_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spiece.model");
    std::fs::write(&path, model()).unwrap();
    let json = |old: bool| serde_json::to_vec(&t5_json(old)).unwrap();
    let from_json = |old: bool| T5Tokenizer::from_bytes(&json(old), "tokenizer.json").unwrap();
    let tokenizers = [T5Tokenizer::from_file(&path).unwrap(), from_json(false), from_json(true)];
    for tokenizer in &tokenizers {
        assert_eq!(tokenizer.vocabulary(), 32_100);
        for (text, _) in texts("t5_tokens.json", "ids") {
            assert_eq!(tokenizer.tokens(&text), T5Tokenizer::embedded().tokens(&text), "{text:?}");
        }
    }
}

#[test]
fn gemma_as_the_references() {
    // Both forms of the small vocabulary; they differ where runs of spaces meet words.
    for (file, key) in [("tokenizer.json", "ids"), ("tokenizer.model", "sentencepiece")] {
        let tokenizer = gemma(file);
        let texts = texts("gemma_small/tokens.json", key);
        assert!(texts.len() >= 200);
        for (text, ids) in texts {
            assert_eq!(tokenizer.tokens(&text), ids[1..], "{file}: {text:?}");
        }
    }
    assert_ne!(texts("gemma_small/tokens.json", "ids"), texts("gemma_small/tokens.json", "sentencepiece"));
}

#[test]
#[ignore = "needs Gemma's own tokenizer.json (17 MB, not committed) named in PIPE_GEMMA_TOKENIZER"]
fn gemma_with_its_own_vocabulary() {
    let path = PathBuf::from(std::env::var_os("PIPE_GEMMA_TOKENIZER").expect("PIPE_GEMMA_TOKENIZER names a file"));
    let started = Instant::now();
    let tokenizer = GemmaTokenizer::from_file(path).unwrap();
    println!("read in {:?}", started.elapsed());
    assert_eq!(tokenizer.vocabulary(), 256_000);
    for (text, ids) in texts("gemma_tokens.json", "ids") {
        assert_eq!(tokenizer.tokens(&text), ids[1..], "{text:?}");
    }
    let prompt = lumina2_prompt(LUMINA2_SYSTEM_PROMPT, "a cat");
    assert_eq!(tokenizer.encode(&prompt, 23).ids[..4], [2, 2045, 708, 671]);
}

#[test]
fn gemma_begins_and_is_padded() {
    let tokenizer = gemma("tokenizer.json");
    let whole = tokenizer.tokens("a photo of a cat");
    let tokens = tokenizer.encode("a photo of a cat", 256);
    assert_eq!((tokens.ids.len(), tokens.mask.len(), tokens.ids[0]), (256, 256, 2));
    assert_eq!(tokens.ids[1..=whole.len()], whole);
    assert_eq!(tokens.mask.iter().map(|&m| usize::from(m)).sum::<usize>(), whole.len() + 1);
    assert!(tokens.ids[whole.len() + 1..].iter().all(|&id| id == 0));
    assert_eq!(tokenizer.encode("a photo of a cat", 3).ids, [2, whole[0], whole[1]]);
    assert_eq!(tokenizer.encode("", 3), tokenizer.encode("", 3));
    assert_eq!(tokenizer.encode("", 3).mask, [1, 0, 0]);
    assert_eq!(tokenizer.encode("a", 0).ids, [2]);
    assert_eq!(lumina2_prompt("", "a cat"), "a cat");
    assert_eq!(lumina2_prompt("You paint.", "a cat"), "You paint. <Prompt Start> a cat");
}

#[test]
fn gemma_spells_unknown_characters_in_bytes() {
    let tokenizer = gemma("tokenizer.model");
    let bytes = tokenizer.tokens("\u{12345}");
    assert_eq!(bytes.len(), 4);
    // Byte tokens are consecutive: the character's bytes are F0 92 8D 85.
    let apart: Vec<i64> = bytes.windows(2).map(|pair| i64::from(pair[1]) - i64::from(pair[0])).collect();
    assert_eq!(apart, [0x92 - 0xf0, 0x8d - 0x92, 0x85 - 0x8d]);
}

#[test]
fn gemma_needs_no_byte_that_is_a_piece() {
    // As in Gemma's own vocabulary, which has a tab but no `<0x09>`.
    let text = std::fs::read_to_string(fixture("gemma_small").join("tokenizer.json")).unwrap();
    let renamed = |from: &str, to: &str| {
        assert!(text.contains(from));
        GemmaTokenizer::from_bytes(text.replace(from, to).as_bytes(), "x")
    };
    let tokens = renamed(r#""<0x09>":"#, r#""\t":"#).unwrap().tokens("\t");
    assert_eq!(tokens, gemma("tokenizer.json").tokens("\t"));
    let error = renamed(r#""<0x80>":"#, r#""x80":"#).unwrap_err();
    assert!(error.to_string().contains("it has no `<0x80>`"));
}

#[test]
fn endless_words_take_no_time() {
    let started = Instant::now();
    let tokenizers = [gemma("tokenizer.json"), gemma("tokenizer.model")];
    let texts = ["abcabd".repeat(40_000), "a".repeat(200_000), " ".repeat(200_000), "\u{301}".repeat(100_000)];
    for text in texts.iter().chain([&"<".repeat(200_000), &"\u{12345}".repeat(50_000)]) {
        for tokenizer in &tokenizers {
            assert!(tokenizer.tokens(text).len() > 1000);
        }
        let ids = T5Tokenizer::embedded().tokens(text);
        assert!(ids.len() <= text.len() + 1);
        assert_eq!(T5Tokenizer::embedded().encode(text, 512).ids.len(), 512);
    }
    assert!(started.elapsed().as_secs() < 60);
}

#[test]
fn files_of_other_kinds_are_named() {
    let problem = |error: TokenizerError| error.to_string();
    let t5 = |bytes: &[u8]| problem(T5Tokenizer::from_bytes(bytes, "x").unwrap_err());
    let gemma = |bytes: &[u8]| problem(GemmaTokenizer::from_bytes(bytes, "x").unwrap_err());
    let small = std::fs::read(fixture("gemma_small").join("tokenizer.model")).unwrap();
    assert!(t5(&small).contains("`x` is not a T5 tokenizer: its model is not of the unigram type"));
    assert!(gemma(&model()).contains("`x` is not a Gemma tokenizer: its model is not of the byte-pair type"));
    assert!(t5(b"").contains("no pieces"));
    assert!(t5(b"not a model at all").contains("not a T5 tokenizer"));
    assert!(gemma(b"{}").contains("missing field `model`"));
    assert!(gemma(&small[..999]).contains("middle of a field"));

    let small: Json =
        serde_json::from_slice(&std::fs::read(fixture("gemma_small").join("tokenizer.json")).unwrap()).unwrap();
    let changed = |place: &str, value: Json| {
        let mut changed = small.clone();
        *changed.pointer_mut(place).unwrap() = value;
        gemma(&serde_json::to_vec(&changed).unwrap())
    };
    assert!(changed("/normalizer", json!({"type": "Prepend", "prepend": "▁"})).contains("normaliser"));
    assert!(changed("/normalizer", Json::Null).contains("normaliser"));
    assert!(changed("/pre_tokenizer", json!({"type": "ByteLevel"})).contains("`ByteLevel`"));
    assert!(changed("/model/byte_fallback", json!(false)).contains("settings"));
    assert!(changed("/model/ignore_merges", json!(true)).contains("settings"));
    assert!(changed("/model/merges", json!([["a", "no such piece"]])).contains("`no such piece`"));
    assert!(changed("/model/merges", json!(["a"])).contains("two parts"));
    assert!(changed("/model/merges", json!([["a", "b", "c"]])).contains("two parts"));
    assert!(changed("/model/vocab", json!({"a": 4_000_000_000u32})).contains("limit"));
    assert!(changed("/model/vocab", json!({"a": 1})).contains("its merges need"));
    assert!(changed("/added_tokens/5/lstrip", json!(true)).contains("is of a kind that Gemma has not"));

    let t5_json = t5_json(false);
    let changed = |place: &str, value: Json| {
        let mut changed = t5_json.clone();
        *changed.pointer_mut(place).unwrap() = value;
        t5(&serde_json::to_vec(&changed).unwrap())
    };
    assert!(changed("/normalizer", json!({"type": "NFKC"})).contains("`NFKC`"));
    assert!(changed("/normalizer", Json::Null).contains("no table"));
    assert!(changed("/normalizer/normalizers/0/precompiled_charsmap", json!("?")).contains("damaged"));
    assert!(changed("/normalizer/normalizers/0/precompiled_charsmap", json!("/////w==")).contains("damaged"));
    assert!(changed("/pre_tokenizer", Json::Null).contains("no space"));
    assert!(changed("/pre_tokenizer/prepend_scheme", json!("never")).contains("`Metaspace`"));
    assert!(changed("/model/unk_id", json!(40_000)).contains("unknown characters"));
    assert!(changed("/model/vocab", json!([["<unk>", 0], ["a", 0], ["b", 0]])).contains("it has no `</s>`"));
    assert!(changed("/added_tokens/0/normalized", json!(true)).contains("is of a kind that T5 has not"));
}

/// Bytes changed, cut or doubled at random must neither panic nor hang.
#[test]
fn damaged_files_never_panic() {
    let text = "a photo of ½ cat²\u{331} <b>  猫</s>\n\n\u{1f431} ﬁne";
    let mut rng = Numbers(7);
    let mut damage = |bytes: &[u8], rounds: usize, read: &dyn Fn(&[u8])| {
        for _ in 0..rounds {
            let mut bytes = bytes.to_vec();
            for _ in 0..1 + rng.below(8) {
                let at = rng.below(bytes.len().max(1));
                match rng.below(6) {
                    0 => bytes.truncate(at + 1),
                    1 => bytes.insert(at, 0xff),
                    2 => drop(bytes.drain(at..(at + 1).min(bytes.len()))),
                    3 => bytes.insert(at, rng.below(256) as u8),
                    _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.below(8)),
                }
            }
            read(&bytes);
        }
    };
    let read_gemma = |bytes: &[u8]| {
        if let Ok(tokenizer) = GemmaTokenizer::from_bytes(bytes, Path::new("x")) {
            assert_eq!(tokenizer.encode(text, 40).ids.len(), 40);
        }
    };
    for name in ["tokenizer.model", "tokenizer.json"] {
        damage(&std::fs::read(fixture("gemma_small").join(name)).unwrap(), 1500, &read_gemma);
    }
    damage(&model(), 60, &|bytes| {
        if let Ok(tokenizer) = T5Tokenizer::from_bytes(bytes, Path::new("x")) {
            assert_eq!(tokenizer.encode(text, 40).ids.len(), 40);
        }
    });
}
