//! Caption processing, stage by stage.

use std::collections::BTreeSet;

use pipe_data::captions::{CaptionOptions, Random, TokenWarmup, flexible_tags, process, variants, whole};

/// A small generator of uniform values (SplitMix64).
fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn once(caption: &str, options: &CaptionOptions) -> String {
    process(caption, options, &mut numbers(1), 0, 1)
}

fn all(caption: &str, options: &CaptionOptions) -> BTreeSet<String> {
    (0..400).map(|seed| process(caption, options, &mut numbers(seed), 0, 1)).collect()
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|t| t.to_string()).collect()
}

#[test]
fn prefix_suffix_and_first_line() {
    let plain = CaptionOptions::default();
    assert!(plain.is_constant());
    assert_eq!(once("a,  b\nsecond", &plain), "a,  b");
    let options = CaptionOptions { prefix: "sks".into(), suffix: "photo".into(), ..plain };
    assert_eq!(once("a cat", &options), "sks a cat photo");
    assert_eq!(once("", &options), "sks  photo");
    // The suffix goes to the last line and is lost with it.
    assert_eq!(once("a\nb", &options), "sks a");
}

#[test]
fn dropout() {
    let options = CaptionOptions { dropout: 0.25, ..Default::default() };
    let dropped = (0..4000).filter(|&seed| process("a", &options, &mut numbers(seed), 0, 1).is_empty()).count();
    assert!((850..1150).contains(&dropped), "{dropped}");
    assert!(!options.is_constant());
    let options = CaptionOptions { dropout_every_epochs: Some(3), ..Default::default() };
    let texts: Vec<String> = (1..=6).map(|epoch| process("a", &options, &mut numbers(0), 0, epoch)).collect();
    assert_eq!(texts, ["a", "a", "", "a", "a", ""]);
    let options = CaptionOptions { dropout: 1.0, ..Default::default() };
    assert_eq!(once("a", &options), "");
}

#[test]
fn what_uses_are_made_of() {
    let plain = CaptionOptions::default();
    assert_eq!(variants("a, {b|c}\nsecond", &plain), ["a, {b|c}"]);
    let drawn = CaptionOptions { wildcards: true, shuffle: true, ..plain.clone() };
    // Every line, and every alternative of each wildcard; tags are joined as they are at each use.
    assert_eq!(variants("a,{b|c|d} {1|2}\nsks,dog", &drawn), ["a, b 1", "a, c 2", "a, d 2", "sks, dog"]);
    let grouped = CaptionOptions { secondary_separator: ";".into(), ..plain.clone() };
    assert_eq!(variants("a;b, c", &grouped), ["a,b, c"]);
    for (caption, options, count) in [
        ("no separator here", &drawn, 1),
        ("one\na, b, {c|c, d}", &drawn, 4),
        ("a, b", &CaptionOptions { keep_tokens: 3, ..plain.clone() }, 0),
        (
            "a, b ||| c, d ||| e",
            &CaptionOptions { keep_tokens_separator: "|||".into(), keep_tokens: 9, ..plain.clone() },
            2,
        ),
    ] {
        assert_eq!(flexible_tags(caption, options), count, "{caption}");
    }
}

#[test]
fn wildcards() {
    let options = CaptionOptions { wildcards: true, ..Default::default() };
    assert_eq!(all("a {red|blue|} cat", &options), set(&["a red cat", "a blue cat", "a  cat"]));
    assert_eq!(all("one\ntwo\nthree", &options), set(&["one", "two", "three"]));
    assert_eq!(all("{{a|b}} {x}", &options), set(&["{a|b} x"]));
    assert_eq!(all("{a|b}{c|d}", &options), set(&["ac", "ad", "bc", "bd"]));
    for odd in ["{", "}", "a{b", "a}b", "{a{b", "\u{732b}{\u{e9}|\u{e9}}"] {
        assert!(!once(odd, &options).is_empty());
    }
    assert_eq!(once("{a|b}", &CaptionOptions::default()), "{a|b}");
}

#[test]
fn shuffling_and_fixed_parts() {
    let options = CaptionOptions { shuffle: true, keep_tokens: 1, ..Default::default() };
    assert_eq!(all("a, b,c", &options), set(&["a, b, c", "a, c, b"]));
    let options = CaptionOptions { shuffle: true, keep_tokens: 9, ..Default::default() };
    assert_eq!(all("a, b,,c", &options), set(&["a, b, , c"]));
    let options = CaptionOptions { shuffle: true, keep_tokens_separator: "|||".into(), ..Default::default() };
    assert_eq!(all("a, b ||| c, , d ||| e", &options), set(&["a, b, c, d, e", "a, b, d, c, e"]));
    assert_eq!(all("x ||| y", &options), set(&["x, y"]));
    let options = CaptionOptions { keep_tokens_separator: "|||".into(), ..Default::default() };
    assert_eq!(once("a ||| b", &options), "a ||| b");
    let options =
        CaptionOptions { shuffle: true, separator: ";".into(), secondary_separator: "+".into(), ..Default::default() };
    assert_eq!(all("a+b;c", &options), set(&["a;b, c", "c, a;b"]));
    let options = CaptionOptions { shuffle: true, separator: String::new(), ..Default::default() };
    assert_eq!(once("a, b", &options), "a, b");
    // Every order of three tags comes about equally often.
    let options = CaptionOptions { shuffle: true, ..Default::default() };
    let mut counts = std::collections::BTreeMap::new();
    for seed in 0..6000 {
        *counts.entry(process("a,b,c", &options, &mut numbers(seed), 0, 1)).or_insert(0) += 1;
    }
    assert!(counts.len() == 6 && counts.values().all(|n| (850..1150).contains(n)), "{counts:?}");
}

#[test]
fn tag_dropout_and_warm_up() {
    let options = CaptionOptions { tag_dropout: 0.5, keep_tokens: 1, ..Default::default() };
    assert_eq!(all("a,b,c", &options), set(&["a", "a, b", "a, c", "a, b, c"]));
    let warmup = TokenWarmup::new(1, 10.0, 1000);
    assert_eq!(warmup, Some(TokenWarmup { min: 1, steps: 10 }));
    let options = CaptionOptions { warmup, ..Default::default() };
    let at = |step| process("a,b,c,d,e", &options, &mut numbers(0), step, 1);
    assert_eq!(at(0), "a");
    assert_eq!(at(3), "a, b");
    assert_eq!(at(9), "a, b, c, d");
    assert_eq!(at(10), "a, b, c, d, e");
    assert_eq!(TokenWarmup::new(1, 0.25, 1000), Some(TokenWarmup { min: 1, steps: 250 }));
    assert_eq!(TokenWarmup::new(1, 0.0, 1000), None);
    // More at the start than there are: all of them.
    let options = CaptionOptions { warmup: TokenWarmup::new(9, 10.0, 1), ..Default::default() };
    assert_eq!(process("a,b", &options, &mut numbers(0), 5, 1), "a, b");
}

#[test]
fn whole_captions_keep_every_tag_in_its_place() {
    let options = CaptionOptions {
        dropout: 1.0,
        shuffle: true,
        tag_dropout: 0.9,
        warmup: TokenWarmup::new(1, 10.0, 1),
        keep_tokens_separator: "|||".into(),
        secondary_separator: "+".into(),
        ..Default::default()
    };
    let texts: BTreeSet<String> =
        (0..50).map(|seed| whole("a ||| b, c+d,,e ||| f", &options, &mut numbers(seed))).collect();
    assert_eq!(texts, set(&["a, b, c,d, e, f"]));
    // What is never cut is not joined anew.
    assert_eq!(whole("a,b", &CaptionOptions { dropout: 1.0, ..Default::default() }, &mut numbers(0)), "a,b");
    let options = CaptionOptions { wildcards: true, ..Default::default() };
    let texts: BTreeSet<String> = (0..50).map(|seed| whole("{a|b}", &options, &mut numbers(seed))).collect();
    assert_eq!(texts, set(&["a", "b"]));
}

#[test]
fn replacements_come_last() {
    let replacements = vec![("cat".to_owned(), vec!["<c1> <c2>".to_owned()])];
    let options = CaptionOptions { replacements, ..Default::default() };
    assert_eq!(once("a cat, cat", &options), "a <c1> <c2>, <c1> <c2>");
    let replacements = vec![(String::new(), vec!["x".to_owned(), "y".to_owned()])];
    assert_eq!(all("a cat", &CaptionOptions { replacements, ..Default::default() }), set(&["x", "y"]));
}

#[test]
fn numbers_are_uniform_and_in_range() {
    let mut extreme = || u64::MAX;
    assert!(extreme.unit() < 1.0 && extreme.below(7) == 6 && extreme.below(0) == 0);
    let mut least = || 0;
    assert!(least.unit() == 0.0 && least.below(7) == 0);
}
