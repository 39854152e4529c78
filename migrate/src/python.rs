//! Python literals: what the reference reads with `ast.literal_eval` in `--optimizer_args` and `--lr_scheduler_args`.
//!
//! Numbers, strings, `True`, `False`, `None`, tuples and lists; tuples become lists. An unquoted word is no literal.

use serde_json::{Number, Value as Json};

/// The value of a literal; `None` where Python would raise an error, or the value has no JSON form.
pub fn literal(text: &str) -> Option<Json> {
    let mut parser = Parser { text, at: 0 };
    let first = parser.value()?;
    parser.blanks();
    if !parser.eat(',') {
        return parser.done().then_some(first);
    }
    // A bare tuple, `0.9,0.999`.
    let mut items = vec![first];
    loop {
        parser.blanks();
        if parser.done() {
            return Some(Json::Array(items));
        }
        items.push(parser.value()?);
        parser.blanks();
        if !parser.eat(',') {
            return parser.done().then_some(Json::Array(items));
        }
    }
}

/// `int(text)` of Python.
pub fn int(text: &str) -> Option<i64> {
    digits(text.trim())?.parse().ok()
}

/// `float(text)` of Python, without `inf` and `nan`.
pub fn float(text: &str) -> Option<f64> {
    let clean = digits(text.trim())?;
    let plain = clean.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    clean.parse().ok().filter(|f: &f64| plain && f.is_finite())
}

/// A float as JSON, whole ones as integers.
pub fn number(f: f64) -> Json {
    if f.fract() == 0.0 && f.abs() < 9e15 {
        return Json::from(f as i64);
    }
    Number::from_f64(f).map_or(Json::Null, Json::Number)
}

/// Without underscores between digits; `None` where they stand elsewhere.
fn digits(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let between =
        |i: usize| i > 0 && bytes[i - 1].is_ascii_digit() && bytes.get(i + 1).is_some_and(|next| next.is_ascii_digit());
    let fine = bytes.iter().enumerate().all(|(i, b)| *b != b'_' || between(i));
    (fine && !text.is_empty()).then(|| text.replace('_', ""))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

/// Deepest nesting that is read.
const DEPTH: usize = 32;

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }
    fn done(&self) -> bool {
        self.rest().is_empty()
    }
    fn blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }
    fn eat(&mut self, c: char) -> bool {
        let found = self.rest().starts_with(c);
        self.at += if found { c.len_utf8() } else { 0 };
        found
    }

    fn value(&mut self) -> Option<Json> {
        self.nested(0)
    }

    fn nested(&mut self, depth: usize) -> Option<Json> {
        self.blanks();
        match self.rest().chars().next()? {
            '(' if depth < DEPTH => self.items(')', depth),
            '[' if depth < DEPTH => self.items(']', depth),
            quote @ ('\'' | '"') => self.string(quote),
            _ => self.word(),
        }
    }

    fn items(&mut self, close: char, depth: usize) -> Option<Json> {
        self.at += 1;
        let (mut items, mut commas) = (Vec::new(), 0);
        loop {
            self.blanks();
            if self.eat(close) {
                // `(1)` is no tuple.
                return match items.len() {
                    1 if close == ')' && commas == 0 => items.pop(),
                    _ => Some(Json::Array(items)),
                };
            }
            items.push(self.nested(depth + 1)?);
            self.blanks();
            if self.eat(',') {
                commas += 1;
            } else if !self.rest().starts_with(close) {
                return None;
            }
        }
    }

    fn string(&mut self, quote: char) -> Option<Json> {
        self.at += 1;
        let mut out = String::new();
        let mut chars = self.text[self.at..].char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at += i + c.len_utf8();
                    return Some(Json::String(out));
                }
                '\\' => match chars.next()?.1 {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    e @ ('\\' | '\'' | '"') => out.push(e),
                    other => out.extend(['\\', other]),
                },
                c => out.push(c),
            }
        }
        None
    }

    fn word(&mut self) -> Option<Json> {
        let end = self.rest().find([',', ')', ']', ' ', '\t', '\n']).unwrap_or(self.rest().len());
        let word = self.rest()[..end].to_owned();
        self.at += end;
        match word.as_str() {
            "True" => Some(Json::Bool(true)),
            "False" => Some(Json::Bool(false)),
            "None" => Some(Json::Null),
            word => int(word).map(Json::from).or_else(|| float(word).map(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn literals() {
        for (text, value) in [
            ("0.01", json!(0.01)),
            ("1e-2", json!(0.01)),
            ("0.9,0.999", json!([0.9, 0.999])),
            ("(0.9, 0.999)", json!([0.9, 0.999])),
            ("[1e-30, 1e-3,]", json!([1e-30, 1e-3])),
            ("True", json!(true)),
            ("None", json!(null)),
            ("(1)", json!(1)),
            ("(1,)", json!([1])),
            ("1_000", json!(1000)),
            ("'a b'", json!("a b")),
            ("1.0", json!(1)),
            ("((1, 2), 'x')", json!([[1, 2], "x"])),
        ] {
            assert_eq!(literal(text), Some(value), "{text}");
        }
        for text in ["", "true", "word", "1 2", "(1", "'a", "1__0", "inf", "float('inf')", "0.9;0.99", "[1 2]", "é"] {
            assert_eq!(literal(text), None, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(literal(&"(".repeat(100_000)), None);
    }
}
