//! Prompts with weights: `(x)` strengthens by 1.1, `[x]` weakens by it, `(x:1.3)` multiplies by a number.
//!
//! Brackets nest and multiply, `\(`, `\)`, `\[`, `\]` and `\\` are the signs themselves, a bracket that is never closed
//! holds to the end, one that is never opened is text, and so is a lone `:`. The grammar is that of the web UI of
//! AUTOMATIC1111, which the usual trainers share.
//!
//! ```
//! use pipe_data::tokenizer::parse_weights;
//! let runs = parse_weights("a (red:1.3) ((cat))").unwrap();
//! let texts: Vec<&str> = runs.iter().map(|run| run.text.as_str()).collect();
//! assert_eq!(texts, ["a ", "red", " ", "cat"]);
//! assert_eq!(runs[1].weight, 1.3);
//! ```

use super::clip::{ClipTokenizer, LENGTH, WINDOW};

/// A part of a prompt and how much it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The text, free of markup.
    pub text: String,
    /// Factor of its tokens' embeddings; finite and above zero.
    pub weight: f32,
}

/// A weight that is no weight.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the weight `{number}` at character {at} is not a number above zero; brackets that are text are written `\\(` and \
     `\\)`"
)]
pub struct PromptError {
    /// The number as written.
    pub number: String,
    /// The character it begins at, counted from 1.
    pub at: usize,
}

/// Weights are kept as logarithms in whole steps of 2⁻⁴⁰, so that equal brackets give equal weights in any order and a
/// bracket's end undoes its begin exactly.
const STEPS: f64 = (1u64 << 40) as f64;

/// Greatest logarithm of a weight, either way; the weight stays within `f32`.
const LIMIT: f64 = 80.0;

/// Cuts a prompt into runs of equal weight; neighbours always differ. No markup gives one run, no text none.
///
/// # Errors
/// When a number in `(x:number)` is not above zero, or not a number (`1.2.3`).
pub fn parse_weights(prompt: &str) -> Result<Vec<Run>, PromptError> {
    let steps = |weight: f64| (weight.ln() * STEPS).round() as i128;
    let bracket = steps(1.1);
    let mut parts: Vec<&str> = Vec::new();
    // What the weight's logarithm changes by before a part.
    let mut changes: Vec<i128> = vec![0];
    let (mut round, mut square): (Vec<usize>, Vec<usize>) = Default::default();
    let close = |changes: &mut Vec<i128>, from: usize, by: i128| {
        changes[from] += by;
        if let Some(here) = changes.last_mut() {
            *here -= by;
        }
    };
    let mut rest = prompt;
    while let Some(sign) = rest.chars().next() {
        let mut len = sign.len_utf8();
        let mut text = None;
        match sign {
            '\\' => {
                // Before anything else it stands for nothing.
                let escaped = rest[1..].chars().next().filter(|c| "()[]\\".contains(*c));
                if escaped.is_some() {
                    text = Some(&rest[1..2]);
                    len = 2;
                }
            }
            '(' => round.push(parts.len()),
            '[' => square.push(parts.len()),
            ')' | ':' if !round.is_empty() => {
                let number = if sign == ':' { number(&rest[1..]) } else { None };
                let factor = match number {
                    None if sign == ':' => None,
                    None => Some(bracket),
                    Some(number) => {
                        len = number.len() + 2;
                        let weight = number.parse::<f64>().ok().filter(|w| *w > 0.0 && w.is_finite());
                        let before = || &prompt[..=prompt.len() - rest.len()];
                        let bad = || PromptError { number: number.into(), at: before().chars().count() + 1 };
                        Some(steps(weight.ok_or_else(bad)?))
                    }
                };
                match (factor, factor.and_then(|_| round.pop())) {
                    (Some(factor), Some(from)) => close(&mut changes, from, factor),
                    _ => text = Some(&rest[..1]),
                }
            }
            ']' => match square.pop() {
                Some(from) => close(&mut changes, from, -bracket),
                None => text = Some(&rest[..1]),
            },
            _ => {
                let end = rest[len..].find(['\\', '(', ')', '[', ']', ':']).map_or(rest.len(), |at| at + len);
                len = end;
                text = Some(&rest[..end]);
            }
        }
        if let Some(text) = text {
            parts.push(text);
            changes.push(0);
        }
        rest = &rest[len..];
    }
    round.into_iter().for_each(|from| close(&mut changes, from, bracket));
    square.into_iter().for_each(|from| close(&mut changes, from, -bracket));
    Ok(merge(&parts, &changes))
}

/// Joins neighbours of equal weight.
fn merge(parts: &[&str], changes: &[i128]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let (mut log, mut of_last) = (0, None);
    for (text, change) in parts.iter().zip(changes) {
        log += change;
        match runs.last_mut() {
            Some(run) if of_last == Some(log) => run.text.push_str(text),
            _ => {
                let weight = (log as f64 / STEPS).clamp(-LIMIT, LIMIT).exp() as f32;
                runs.push(Run { text: (*text).to_owned(), weight });
            }
        }
        of_last = Some(log);
    }
    runs
}

/// The number that a text begins with, if `)` follows it.
fn number(text: &str) -> Option<&str> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let after = unsigned.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    (after.len() < unsigned.len() && after.starts_with(')')).then(|| &text[..text.len() - after.len()])
}

/// Windows of token ids and what each embedding is to be multiplied by after encoding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightedWindows {
    /// As from [`ClipTokenizer::encode_windows`].
    pub ids: Vec<[u32; LENGTH]>,
    /// A factor for each id; 1 for begin, end and padding.
    pub weights: Vec<[f32; LENGTH]>,
}

impl ClipTokenizer {
    /// A prompt with weights as windows. Each run is tokenized on its own, which can change ids where two of them meet.
    /// The vectors of an encoder are to be multiplied by the weights without changing their mean back; pooled vectors
    /// stay as they are.
    ///
    /// # Errors
    /// As [`parse_weights`].
    pub fn encode_weighted(&self, prompt: &str, windows: usize, pad_id: u32) -> Result<WeightedWindows, PromptError> {
        let (mut tokens, mut factors) = (Vec::new(), Vec::new());
        for run in parse_weights(prompt)? {
            tokens.extend(self.tokens(&run.text));
            factors.resize(tokens.len(), run.weight);
        }
        let mut weights = vec![[1.0; LENGTH]; windows];
        for (window, factors) in weights.iter_mut().zip(factors.chunks(WINDOW)) {
            window[1..=factors.len()].copy_from_slice(factors);
        }
        Ok(WeightedWindows { ids: self.windows(&tokens, windows, pad_id), weights })
    }
}
