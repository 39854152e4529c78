//! Sizes as people write them: `12GiB`, `800 MB`, `1.5g`.

use std::fmt;
use std::str::FromStr;

use pipe_core::plan::bytes_text;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&bytes_text(self.0))
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        // A bare letter means the binary unit, as memory is sold.
        let unit: f64 = match unit.trim().to_ascii_lowercase().as_str() {
            "b" => 1.0,
            "k" | "kib" => 1024.0,
            "kb" => 1e3,
            "m" | "mib" => 1024.0 * 1024.0,
            "mb" => 1e6,
            "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
            "gb" => 1e9,
            "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            "tb" => 1e12,
            "" => return Err("a size needs a unit, as in `12GiB` or `800MB`".into()),
            other => return Err(format!("`{other}` is no unit of size; use KiB, MiB, GiB or TiB")),
        };
        match number.parse::<f64>() {
            Ok(number) if number > 0.0 => Ok(Size((number * unit) as u64)),
            _ => Err("a size is a number above 0 with a unit, as in `12GiB`".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!("12GiB".parse(), Ok(Size(12 << 30)));
        assert_eq!(" 1.5 g ".parse(), Ok(Size(3 << 29)));
        assert_eq!("800MB".parse(), Ok(Size(800_000_000)));
        for wrong in ["12", "GiB", "12 GiBs", "-1GiB", "0GiB", "1e3MB", "", "1.2.3MiB"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }
}
