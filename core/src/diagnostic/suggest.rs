//! Suggestions: the names nearest to a misspelt one.

use std::borrow::Cow;

/// At most three of `candidates` that `word` may stand for, the nearest first.
///
/// ```
/// use pipe_core::diagnostic::suggest;
/// assert_eq!(suggest("min_snr_gama", ["min_snr_gamma", "timesteps"]), ["min_snr_gamma"]);
/// ```
pub fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let folded = fold(word);
    if folded.is_empty() {
        return Vec::new();
    }
    let limit = (folded.chars().count() / 3).clamp(1, 4);
    let length = folded.chars().count();
    let mut near: Vec<(usize, &str)> = Vec::new();
    for candidate in candidates {
        let other = fold(candidate);
        // `grad_norm` for `max_grad_norm`; `lr` is too short to tell.
        let part = folded.len() >= 4 && (other.contains(&*folded) || (other.len() >= 4 && folded.contains(&*other)));
        let close = other.chars().count().abs_diff(length) <= limit;
        let distance = if close { strsim::osa_distance(&folded, &other) } else { usize::MAX };
        if part || distance <= limit {
            near.push((if part { distance.min(limit) } else { distance }, candidate));
        }
    }
    near.sort();
    near.dedup();
    near.truncate(3);
    near.into_iter().map(|(_, candidate)| candidate).collect()
}

/// `did you mean …?`, if there is anything to suggest.
pub fn did_you_mean(names: &[&str]) -> Option<String> {
    (!names.is_empty()).then(|| format!("did you mean {}?", or_list(names)))
}

/// `` `a`, `b` or `c` ``.
pub fn or_list<S: AsRef<str>>(names: &[S]) -> String {
    join(names, "or")
}

/// `` `a`, `b` and `c` ``.
pub fn and_list<S: AsRef<str>>(names: &[S]) -> String {
    join(names, "and")
}

fn join<S: AsRef<str>>(names: &[S], word: &str) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} {word} {last}", first.join(", ")),
    }
}

/// Case and the kind of separator do not matter.
fn fold(word: &str) -> Cow<'_, str> {
    match word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.') {
        true => Cow::Borrowed(word),
        false => Cow::Owned(word.to_lowercase().replace(['-', ' '], "_")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_first_and_no_noise() {
        assert_eq!(suggest("rnak", ["rank", "alpha"]), ["rank"]);
        assert_eq!(suggest("Learning-Rate", ["learning_rate"]), ["learning_rate"]);
        assert!(suggest("zebra", ["rank", "alpha", "model"]).is_empty());
        assert_eq!(suggest("grad_norm", ["max_grad_norm"]), ["max_grad_norm"]);
        assert_eq!(did_you_mean(&["a", "b", "c"]).unwrap(), "did you mean `a`, `b` or `c`?");
    }
}
