//! Least and largest values of numbers, and what a machine type adds to them.

use serde_json::{Number, Value as Json};

/// Limits of a number.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    pub min: Option<Number>,
    pub max: Option<Number>,
    pub above: Option<Number>,
    pub below: Option<Number>,
    /// Range of the machine type that reads it: checked, but not worth a word.
    pub machine: Option<(Number, Number)>,
}

impl Limits {
    pub fn read(schema: &Json) -> Limits {
        let number = |keyword: &str| schema.get(keyword).and_then(whole);
        let integer = schema["type"] == "integer";
        let machine = if integer { machine(schema.get("format").and_then(Json::as_str)) } else { None };
        Limits {
            min: number("minimum"),
            max: number("maximum"),
            above: number("exclusiveMinimum"),
            below: number("exclusiveMaximum"),
            machine,
        }
    }

    /// Both limits at once.
    pub fn tighten(&mut self, other: &Limits) {
        fn pick(own: &mut Option<Number>, other: &Option<Number>, larger: bool) {
            if let Some(other) = other
                && own.as_ref().is_none_or(|own| (other.as_f64() > own.as_f64()) == larger)
            {
                *own = Some(other.clone());
            }
        }
        pick(&mut self.min, &other.min, true);
        pick(&mut self.above, &other.above, true);
        pick(&mut self.max, &other.max, false);
        pick(&mut self.below, &other.below, false);
    }

    /// The only value allowed, if there is only one.
    pub fn only(&self) -> Option<&Number> {
        self.min.as_ref().filter(|min| self.max.as_ref() == Some(min))
    }

    /// Least value as a schema keyword, the machine type's included.
    pub fn least(&self) -> Option<&Number> {
        let machine = self.machine.as_ref().map(|(low, _)| low);
        match (&self.min, machine) {
            (Some(own), Some(low)) if own.as_f64() < low.as_f64() => Some(low),
            (own, low) => own.as_ref().or(low),
        }
    }

    /// Largest value as a schema keyword, the machine type's included.
    pub fn largest(&self) -> Option<&Number> {
        let machine = self.machine.as_ref().map(|(_, high)| high);
        match (&self.max, machine) {
            (Some(own), Some(high)) if own.as_f64() > high.as_f64() => Some(high),
            (own, high) => own.as_ref().or(high),
        }
    }

    /// `from 1 to 8`, `at least 1`, `more than 0 and at most 1`. What the machine type says alone
    /// is left out, as is "at least 0" of unsigned numbers.
    pub fn words(&self) -> Option<String> {
        let told = |own: &Option<Number>, machine: Option<&Number>| own.clone().filter(|own| Some(own) != machine);
        let min = told(&self.min, self.machine.as_ref().map(|(low, _)| low));
        let max = told(&self.max, self.machine.as_ref().map(|(_, high)| high));
        if let (Some(_), None, None, None) = (&max, &min, &self.above, &self.below)
            && let Some(min) = &self.min
        {
            return Some(format!("from {min} to {}", self.max.as_ref()?));
        }
        if let (Some(min), Some(max), None, None) = (&min, &max, &self.above, &self.below) {
            return Some(if min == max { format!("only {min}") } else { format!("from {min} to {max}") });
        }
        let mut parts = Vec::new();
        parts.extend(self.above.as_ref().map(|limit| format!("more than {limit}")));
        parts.extend(min.map(|limit| format!("at least {limit}")));
        parts.extend(self.below.as_ref().map(|limit| format!("less than {limit}")));
        parts.extend(max.map(|limit| format!("at most {limit}")));
        (!parts.is_empty()).then(|| parts.join(" and "))
    }
}

/// A number of a schema; 1.0 is 1.
fn whole(value: &Json) -> Option<Number> {
    match (value, value.as_f64()) {
        (Json::Number(number), Some(float)) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => {
            Some(Number::from(float as i64))
        }
        (Json::Number(number), _) => Some(number.clone()),
        _ => None,
    }
}

fn machine(format: Option<&str>) -> Option<(Number, Number)> {
    let signed = |low: i64, high: i64| (low.into(), high.into());
    Some(match format? {
        "uint8" => signed(0, u8::MAX.into()),
        "uint16" => signed(0, u16::MAX.into()),
        "uint32" => signed(0, u32::MAX.into()),
        "uint64" | "uint" => (0.into(), u64::MAX.into()),
        "int8" => signed(i8::MIN.into(), i8::MAX.into()),
        "int16" => signed(i16::MIN.into(), i16::MAX.into()),
        "int32" => signed(i32::MIN.into(), i32::MAX.into()),
        "int64" | "int" => signed(i64::MIN, i64::MAX),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Limits;

    #[test]
    fn words() {
        for (schema, words) in [
            (json!({ "type": "integer", "format": "uint32", "minimum": 0 }), None),
            (json!({ "type": "integer", "format": "uint16", "minimum": 1, "maximum": 65535 }), Some("at least 1")),
            (json!({ "type": "integer", "format": "uint32", "minimum": 0, "maximum": 9 }), Some("from 0 to 9")),
            (json!({ "type": "integer", "minimum": 1, "maximum": 8 }), Some("from 1 to 8")),
            (json!({ "type": "integer", "minimum": 1, "maximum": 1 }), Some("only 1")),
            (json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 1 }), Some("more than 0 and at most 1")),
            (json!({ "type": "number", "minimum": 0.0, "maximum": 0.5 }), Some("from 0 to 0.5")),
            (json!({ "type": "number" }), None),
        ] {
            assert_eq!(Limits::read(&schema).words().as_deref(), words, "{schema}");
        }
    }
}
