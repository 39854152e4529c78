//! Values written as Python's `str` writes them.

use std::collections::BTreeMap;

/// A value with Python's text.
pub trait PyText {
    /// The text.
    fn py_text(&self) -> String;
}

impl PyText for String {
    fn py_text(&self) -> String {
        self.clone()
    }
}

impl PyText for bool {
    fn py_text(&self) -> String {
        if *self { "True".into() } else { "False".into() }
    }
}

impl PyText for u64 {
    fn py_text(&self) -> String {
        self.to_string()
    }
}

impl PyText for f64 {
    fn py_text(&self) -> String {
        py_float(*self)
    }
}

impl PyText for (u64, u64) {
    fn py_text(&self) -> String {
        format!("({}, {})", self.0, self.1)
    }
}

impl PyText for Vec<f64> {
    fn py_text(&self) -> String {
        format!("[{}]", self.iter().map(|x| py_float(*x)).collect::<Vec<_>>().join(", "))
    }
}

impl PyText for BTreeMap<String, String> {
    /// As `json.dumps` writes it.
    fn py_text(&self) -> String {
        let json = |text: &String| serde_json::Value::from(text.as_str()).to_string();
        let entries: Vec<String> = self.iter().map(|(key, value)| format!("{}: {}", json(key), json(value))).collect();
        format!("{{{}}}", entries.join(", "))
    }
}

/// A float as Python's `repr` gives it: the shortest digits that read back the same, with an exponent below 1e-4 and
/// from 1e16 on.
pub fn py_float(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{x:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        exponent @ -4..16 if x != 0.0 || exponent == 0 => format!("{x:?}"),
        exponent => format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::py_float;

    #[test]
    fn floats_as_python_writes_them() {
        for (x, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (2.5e-7, "2.5e-07"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e16, "1e+16"),
            (1e100, "1e+100"),
            (-3.25e-10, "-3.25e-10"),
            (1700000000.123, "1700000000.123"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(py_float(x), text);
        }
    }
}
