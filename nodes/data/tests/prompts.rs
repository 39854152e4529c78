//! Prompts in windows and prompts with weights.

mod common;

use std::time::Instant;

use common::Numbers;
use pipe_data::tokenizer::clip::{BOS, ClipTokenizer, EOS, LENGTH, WINDOW};
use pipe_data::tokenizer::{Run, parse_weights};

fn words(n: usize) -> String {
    vec!["word"; n].join(" ")
}

#[test]
fn windows_padded_with_the_end() {
    let tokenizer = ClipTokenizer::embedded();
    let word = tokenizer.tokens("word")[0];
    let windows = tokenizer.encode_windows(&words(100), 2, EOS);
    assert_eq!(windows.len(), 2);
    assert_eq!((windows[0][0], windows[0][75], windows[0][76]), (BOS, word, EOS));
    assert_eq!((windows[1][0], windows[1][25], windows[1][26], windows[1][76]), (BOS, word, EOS, EOS));
    assert_eq!(tokenizer.encode_windows("", 3, EOS)[2][..3], [BOS, EOS, EOS]);
    let windows = tokenizer.encode_windows(&words(500), 3, EOS);
    assert!(windows.iter().all(|c| c[0] == BOS && c[1..76] == [word; 75] && c[76] == EOS));
}

#[test]
fn windows_padded_with_zero() {
    let tokenizer = ClipTokenizer::embedded();
    let word = tokenizer.tokens("word")[0];
    // A full window gets its end, an empty one starts with it.
    let windows = tokenizer.encode_windows(&words(75), 3, 0);
    assert_eq!((windows[0][75], windows[0][76]), (word, EOS));
    assert_eq!(windows[1][..3], [BOS, EOS, 0]);
    assert_eq!(windows[2][..3], [BOS, EOS, 0]);
    assert_eq!(windows[2][76], 0);
    // The end fits in just so, and the next window is empty.
    let windows = tokenizer.encode_windows(&words(74), 2, 0);
    assert_eq!((windows[0][74], windows[0][75], windows[0][76]), (word, EOS, 0));
    assert_eq!(windows[1][..3], [BOS, EOS, 0]);
    let windows = tokenizer.encode_windows(&words(76), 2, 0);
    assert_eq!((windows[0][76], windows[1][1], windows[1][2], windows[1][3]), (EOS, word, EOS, 0));
    let windows = tokenizer.encode_windows(&words(500), 3, 0);
    assert!(windows.iter().all(|c| c[0] == BOS && c[75] == word && c[76] == EOS));
}

#[test]
fn one_window_is_a_plain_sequence() {
    let tokenizer = ClipTokenizer::embedded();
    for text in ["", "a photo of a cat", "!a", "!\u{2603}", &words(75), &words(200)] {
        for pad in [0, EOS] {
            assert_eq!(tokenizer.encode_windows(text, 1, pad)[0][..], tokenizer.encode(text, LENGTH, pad));
        }
    }
    assert!(tokenizer.encode_windows("a", 0, 0).is_empty());
}

#[test]
fn pooled_vectors_are_taken_at_the_first_end() {
    let tokenizer = ClipTokenizer::embedded();
    let ends = |text: &str, pad: u32| -> Vec<usize> {
        tokenizer.encode_windows(text, 2, pad).iter().map(|window| tokenizer.first_end(window)).collect()
    };
    for pad in [0, EOS] {
        assert_eq!(ends("a photo of a cat", pad), [6, 1]);
        assert_eq!(ends("", pad), [1, 1]);
        assert_eq!(ends(&words(80), pad), [76, 6]);
        assert_eq!(ends(&words(75), pad), [76, 1]);
    }
    assert_eq!(tokenizer.first_end(&[BOS, 5, 49408, EOS, EOS]), 3);
    assert_eq!(tokenizer.first_end(&[BOS, 5]), 1);
    assert_eq!(tokenizer.first_end(&[]), 0);
}

/// Text and weight, the weight in ten-thousandths.
fn parsed(prompt: &str) -> Vec<(String, i64)> {
    let runs = parse_weights(prompt).unwrap();
    runs.into_iter().map(|run| (run.text, (f64::from(run.weight) * 1e4).round() as i64)).collect()
}

fn expected(runs: &[(&str, i64)]) -> Vec<(String, i64)> {
    runs.iter().map(|(text, weight)| (text.to_string(), *weight)).collect()
}

#[test]
fn weights_as_specified() {
    let house = [("a ", 10_000), ("house", 15_730), (" ", 11_000), ("on", 10_000), (" a ", 11_000), ("hill", 5_500)];
    let sky = [(", sun, ", 11_000), ("sky", 14_641), (".", 11_000)];
    let prompt = "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).";
    assert_eq!(parsed(prompt), expected(&[&house[..], &sky[..]].concat()));
    assert_eq!(parsed("(unbalanced"), expected(&[("unbalanced", 11_000)]));
    assert_eq!(parsed(r"\(literal\]"), expected(&[("(literal]", 10_000)]));
}

#[test]
fn grammar_of_weights() {
    assert_eq!(parsed("normal text"), expected(&[("normal text", 10_000)]));
    assert!(parsed("").is_empty() && parsed("()").is_empty() && parsed("([(").is_empty());
    // Neighbours of equal weight become one run.
    assert_eq!(parsed("(unnecessary)(parens)"), expected(&[("unnecessaryparens", 11_000)]));
    assert_eq!(parsed("(a)(b:1.1)(c:1.10)"), expected(&[("abc", 11_000)]));
    assert_eq!(parsed("[(x)] y"), expected(&[("x y", 10_000)]));
    // Square brackets weaken, and neither kind minds the other.
    assert_eq!(parsed("[x] [[y"), expected(&[("x", 9_091), (" ", 10_000), ("y", 8_264)]));
    assert_eq!(parsed("(a [b) c]"), expected(&[("a ", 11_000), ("b", 10_000), (" c", 9_091)]));
    // Numbers belong to round brackets only, and stand right before their end.
    assert_eq!(parsed("[x:1.5]"), expected(&[("x:1.5", 9_091)]));
    assert_eq!(parsed("(x:1.5 )"), expected(&[("x:1.5 ", 11_000)]));
    assert_eq!(parsed("(a:2:3)"), expected(&[("a:2", 30_000)]));
    assert_eq!(parsed("(a:b)"), expected(&[("a:b", 11_000)]));
    assert_eq!(parsed("(x:.5) (y:+2.)"), expected(&[("x", 5_000), (" ", 10_000), ("y", 20_000)]));
    // Signs without a partner are text.
    assert_eq!(parsed("a) b] c: d:1.5) :)"), expected(&[("a) b] c: d:1.5) :)", 10_000)]));
    // Escapes.
    assert_eq!(parsed(r"(a\)\\b)"), expected(&[(r"a)\b", 11_000)]));
    assert_eq!(parsed(r"a\b\"), expected(&[("ab", 10_000)]));
    assert_eq!(parsed("(猫:1.2)犬"), expected(&[("猫", 12_000), ("犬", 10_000)]));
}

#[test]
fn weights_that_are_none() {
    for (prompt, number, at) in
        [("(x:0)", "0", 4), ("猫 (x:-1.5)", "-1.5", 6), ("(a:1.2.3)", "1.2.3", 4), ("(:.)", ".", 3)]
    {
        let error = parse_weights(prompt).unwrap_err();
        assert_eq!((error.number.as_str(), error.at), (number, at), "{prompt}");
        assert!(error.to_string().contains(r"brackets that are text are written `\(` and `\)`"));
    }
    let huge = format!("(x:{})", "9".repeat(400));
    assert!(parse_weights(&huge).is_err());
}

#[test]
fn weighted_windows() {
    let tokenizer = ClipTokenizer::embedded();
    let [a, house, cat] = ["a", "house", "cat"].map(|word| tokenizer.tokens(word)[0]);
    let windows = tokenizer.encode_weighted("a (house:1.5) cat", 1, 0).unwrap();
    assert_eq!(windows.ids[0][..6], [BOS, a, house, cat, EOS, 0]);
    assert_eq!(windows.weights[0][..6], [1.0, 1.0, 1.5, 1.0, 1.0, 1.0]);
    // Begin, end and padding of every window count once; texts that are cut off take their weights along.
    for (n, count) in [(10, 1), (80, 2), (75, 2), (300, 3)] {
        let windows = tokenizer.encode_weighted(&format!("({}:0.5)", words(n)), count, 0).unwrap();
        assert_eq!(windows.ids, tokenizer.encode_windows(&words(n), count, 0));
        for (j, weights) in windows.weights.iter().enumerate() {
            for (i, &weight) in weights.iter().enumerate() {
                let weighted = (1..=WINDOW).contains(&i) && WINDOW * j + i <= n;
                assert_eq!(weight, if weighted { 0.5 } else { 1.0 }, "{n} words, window {j}, place {i}");
            }
        }
    }
    // Runs are tokenized on their own: a word cut by brackets is two.
    let (whole, cut) = (tokenizer.tokens("household"), tokenizer.encode_weighted("house(hold)", 1, 0).unwrap());
    assert_eq!(whole.len(), 1);
    assert_eq!(cut.ids[0][1..3], [house, tokenizer.tokens("hold")[0]]);
    assert!(tokenizer.encode_weighted("(x:0)", 1, 0).is_err());
    assert_eq!(tokenizer.encode_weighted("", 2, 0).unwrap().ids, tokenizer.encode_windows("", 2, 0));
}

/// A text of letters, signs of the grammar and stranger things.
fn made_up(rng: &mut Numbers, parts: &[&str]) -> String {
    (0..rng.below(40)).map(|_| rng.one_of(parts)).collect()
}

#[test]
fn any_text_has_weights_or_an_error() {
    let signs = [
        "(", ")", "[", "]", "\\", ":", ":1.3)", ":-1)", ":0.", "5", ".", "a", "red ", "猫", "\u{301}", "\n", "\0", "🐱",
    ];
    let mut rng = Numbers(1);
    let mut errors = 0;
    for _ in 0..20_000 {
        let text = made_up(&mut rng, &signs);
        let Ok(runs) = parse_weights(&text) else {
            errors += 1;
            continue;
        };
        for Run { text, weight } in &runs {
            assert!(weight.is_finite() && *weight > 0.0 && !text.is_empty());
        }
        assert!(runs.windows(2).all(|pair| pair[0].weight != pair[1].weight), "{text:?}");
    }
    assert!(errors > 100 && errors < 10_000, "{errors}");
}

#[test]
fn texts_without_brackets_have_their_plain_ids() {
    let plain = ["a", "red ", "house", ":", "1.3", ", ", "'s", "猫", "e\u{301}", "\n", "🐱", "<|endoftext|>", "{x}"];
    let tokenizer = ClipTokenizer::embedded();
    let mut rng = Numbers(2);
    for _ in 0..2000 {
        let text = made_up(&mut rng, &plain);
        for (windows, pad) in [(1, 0), (2, EOS), (3, 0)] {
            let weighted = tokenizer.encode_weighted(&text, windows, pad).unwrap();
            assert_eq!(weighted.ids, tokenizer.encode_windows(&text, windows, pad), "{text:?}");
            assert!(weighted.weights.as_flattened().iter().all(|&w| w == 1.0));
        }
        // Written with escapes, brackets are text too.
        let escaped = parse_weights(&format!(r"{text}\({text}\]")).unwrap();
        assert_eq!(escaped, [Run { text: format!("{text}({text}]"), weight: 1.0 }]);
    }
}

#[test]
fn endless_brackets_take_no_time() {
    let started = Instant::now();
    for part in ["(", "(a", "[b", "(c:1.5)", "((d:2)", "(e)", "\\", "\\(", ":", ":1", "a)", "(f:0.1"] {
        let runs = parse_weights(&part.repeat(100_000)).unwrap();
        assert!(runs.iter().all(|run| run.weight.is_finite() && run.weight > 0.0));
    }
    assert!(started.elapsed().as_secs() < 30);
}
