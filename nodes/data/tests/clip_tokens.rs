//! Token ids are those of the reference tokenizer.

mod common;

use std::time::Instant;

use common::fixture;
use pipe_data::tokenizer::TokenizerError;
use pipe_data::tokenizer::clip::{BOS, ClipTokenizer, EOS};
use serde_json::Value as Json;

#[test]
fn the_reference_prompts() {
    let started = Instant::now();
    let tokenizer = ClipTokenizer::embedded();
    let elapsed = started.elapsed();
    assert!(cfg!(debug_assertions) || elapsed.as_millis() < 1000, "{elapsed:?}");
    let text = std::fs::read_to_string(fixture("clip_tokens.json")).unwrap();
    let json: Json = serde_json::from_str(&text).unwrap();
    let prompts = json["prompts"].as_array().unwrap();
    assert!(prompts.len() > 30);
    for prompt in prompts {
        let text = prompt["text"].as_str().unwrap();
        let ids: Vec<u32> = prompt["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        // The reference's ids are whole; a sequence is cut to fit and padded.
        assert_eq!(tokenizer.tokens(text), ids[1..ids.len() - 1], "{text:?}");
        let mut padded = [&ids[..ids.len().min(77) - 1], &[EOS]].concat();
        padded.resize(77, EOS);
        assert_eq!(tokenizer.encode(text, 77, EOS), padded, "{text:?}");
    }
}

#[test]
fn padding_and_limits() {
    let tokenizer = ClipTokenizer::embedded();
    assert_eq!(tokenizer.encode("sks dog", 6, 0), [BOS, 48136, 1929, EOS, 0, 0]);
    assert_eq!(tokenizer.encode("a photo of a cat", 4, EOS), [BOS, 320, 1125, EOS]);
    assert_eq!(tokenizer.encode("a", 0, 0), [BOS, EOS]);
    assert_eq!(tokenizer.tokens("!"), [256]);
}

#[test]
fn endless_words_take_no_time() {
    let started = Instant::now();
    let ids = ClipTokenizer::embedded().tokens(&"abcabd".repeat(50_000));
    assert!(ids.len() > 10_000);
    assert!(started.elapsed().as_secs() < 30);
}

#[test]
fn files_give_the_same_as_the_embedded_vocabulary() {
    // A vocabulary written out from the rules themselves.
    let folder = tempfile::tempdir().unwrap();
    let (vocab, merges) = (folder.path().join("vocab.json"), folder.path().join("merges.txt"));
    let rules = {
        use std::io::Read;
        let packed = std::fs::read("assets/clip_merges.txt.gz").unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
        text
    };
    let shown = |b: &u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut signs: Vec<char> = (0..256u32).filter(shown).filter_map(char::from_u32).collect();
    signs.extend((256..256 + 68).filter_map(char::from_u32));
    let mut symbols: Vec<String> = signs.iter().map(char::to_string).collect();
    symbols.extend(signs.iter().map(|sign| format!("{sign}</w>")));
    symbols.extend(rules.lines().map(|line| line.replacen(' ', "", 1)));
    symbols.extend(["<|startoftext|>".to_owned(), "<|endoftext|>".to_owned()]);
    let ids: serde_json::Map<String, Json> = symbols.into_iter().zip((0u32..).map(Json::from)).collect();
    assert_eq!(ids.len(), 49408);
    std::fs::write(&vocab, serde_json::to_string(&ids).unwrap()).unwrap();
    std::fs::write(&merges, format!("#version: 0.2\n{rules}")).unwrap();
    let from_files = ClipTokenizer::from_files(&vocab, &merges).unwrap();
    for text in ["a photo of a cat", "Привет, мир! 猫 é 42", "<|endoftext|>"] {
        assert_eq!(from_files.encode(text, 77, 0), ClipTokenizer::embedded().encode(text, 77, 0));
    }
    std::fs::write(&merges, "a nothing-like-it\n").unwrap();
    assert!(matches!(ClipTokenizer::from_files(&vocab, &merges), Err(TokenizerError::Invalid { .. })));
    std::fs::write(&vocab, "{}").unwrap();
    assert!(matches!(ClipTokenizer::from_files(&vocab, &merges), Err(TokenizerError::Invalid { .. })));
    assert!(ClipTokenizer::from_files(&vocab, folder.path().join("no")).is_err());
}
