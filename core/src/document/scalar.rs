//! Plain scalars of the YAML 1.2 core schema: what is a number, a truth value, nothing, or text.
//!
//! <https://yaml.org/spec/1.2.2/#103-core-schema>: `1e-4` is a number, `no` is text, `0o17` and
//! `0x10` are whole numbers, `1_000` and `12:30` are text.

use super::tree::Value;

/// The value of an unquoted scalar.
pub fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    number(text).unwrap_or_else(|| Value::String(text.to_owned()))
}

fn number(text: &str) -> Option<Value> {
    let radix = |digits: &str, radix| {
        let clean = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
        clean.then(|| i128::from_str_radix(digits, radix).map_or(Value::Float(f64::INFINITY), Value::Int))
    };
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(digits, 8);
    }
    let body = text.strip_prefix(['+', '-']).unwrap_or(text);
    match body {
        ".inf" | ".Inf" | ".INF" => {
            return Some(Value::Float(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY }));
        }
        ".nan" | ".NaN" | ".NAN" if body.len() == text.len() => return Some(Value::Float(f64::NAN)),
        _ => {}
    }
    if !body.is_empty() && body.bytes().all(|b| b.is_ascii_digit()) {
        return Some(text.parse().map_or_else(|_| Value::Float(text.parse().unwrap_or(f64::INFINITY)), Value::Int));
    }
    is_float(body).then(|| Value::Float(text.parse().unwrap_or(f64::NAN)))
}

/// `( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let mantissa_ok = match mantissa.split_once('.') {
        Some((whole, part)) => digits(whole) && digits(part) && !(whole.is_empty() && part.is_empty()),
        None => !mantissa.is_empty() && digits(mantissa),
    };
    let exponent_ok = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    mantissa_ok && exponent_ok
}

/// Whether text must be quoted to be read as text again.
pub fn needs_quotes(text: &str) -> bool {
    !matches!(resolve(text), Value::String(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_schema() {
        for (text, value) in [
            ("1e-4", Value::Float(1e-4)),
            ("1E5", Value::Float(1e5)),
            (".5", Value::Float(0.5)),
            ("1.", Value::Float(1.0)),
            ("+1", Value::Int(1)),
            ("-12", Value::Int(-12)),
            ("017", Value::Int(17)),
            ("0o17", Value::Int(15)),
            ("0x10", Value::Int(16)),
            (".inf", Value::Float(f64::INFINITY)),
            ("-.INF", Value::Float(f64::NEG_INFINITY)),
            ("~", Value::Null),
            ("", Value::Null),
            ("True", Value::Bool(true)),
        ] {
            assert_eq!(resolve(text), value, "{text}");
        }
        assert!(matches!(resolve(".nan"), Value::Float(f) if f.is_nan()));
        let text = ["no", "yes", "on", "1_000", "12:30", "2024-01-01", "e5", ".", "+", "-", "1e", "0x", "0b1", "inf"];
        for text in text.into_iter().chain(["-.nan", "tRUE", "1.2.3", "0o8", "nan", "infinity", "+-1", "1e+"]) {
            assert_eq!(resolve(text), Value::String(text.into()), "{text}");
        }
    }
}
