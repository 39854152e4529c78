//! Changes to a model's weights, made when a tensor is written.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;

use pipe_data::weights::convert::infinite_from;
use pipe_data::weights::{Component, ComponentWeights, DType};

use crate::adapter::Change;
use crate::error::{Result, ToolError};

/// Changes by part and internal name.
#[derive(Debug, Default)]
pub struct Edits<'a> {
    changes: HashMap<(Component, String), Vec<Change<'a>>>,
    /// The first thing that went wrong while tensors were made.
    fault: Mutex<Option<ToolError>>,
}

impl<'a> Edits<'a> {
    /// Adds a change to a weight or a bias; they are made in this order.
    pub fn push(&mut self, component: Component, name: String, change: Change<'a>) {
        self.changes.entry((component, name)).or_default().push(change);
    }

    /// Whether an internal tensor changes.
    pub fn touches(&self, component: Component, name: &str) -> bool {
        !self.changes.is_empty() && self.changes.contains_key(&(component, name.to_owned()))
    }

    /// Internal names that change in a part.
    pub fn of(&self, component: Component) -> impl Iterator<Item = &str> {
        self.changes.keys().filter(move |(part, _)| *part == component).map(|(_, name)| name.as_str())
    }

    /// Values of an internal tensor with its changes.
    pub fn values(&self, part: &ComponentWeights, name: &str) -> io::Result<Vec<f32>> {
        self.try_values(part, name).map_err(|error| self.fail(error))
    }

    /// Refuses values that a type has no number for. What is infinite already is not made so here.
    pub fn check_range(&self, name: &str, values: &[f32], dtype: DType) -> io::Result<()> {
        let Some(limit) = infinite_from(dtype) else { return Ok(()) };
        let beyond = values.iter().filter(|x| x.is_finite() && x.abs() >= limit).count();
        if beyond == 0 {
            return Ok(());
        }
        let most = values.iter().filter(|x| x.is_finite()).fold(0.0f32, |most, x| most.max(x.abs()));
        let what = if beyond == 1 { "1 value".into() } else { format!("{beyond} values") };
        let dtype = dtype.to_string().to_lowercase();
        let message = format!("`{name}` has {what} beyond the range of {dtype}, up to {most:e}");
        let error = ToolError::new("P0403", message).help("`--dtype bf16` has nearly the range of f32 in as few bytes");
        Err(self.fail(error))
    }

    /// Keeps the first fault, for the writer knows but its words.
    fn fail(&self, error: ToolError) -> io::Error {
        let text = error.to_string();
        if let Ok(mut fault) = self.fault.lock() {
            fault.get_or_insert(error);
        }
        io::Error::other(text)
    }

    fn try_values(&self, part: &ComponentWeights, name: &str) -> Result<Vec<f32>> {
        let mut values = part.f32(name)?;
        let Some(changes) = self.changes.get(&(part.component, name.to_owned())) else { return Ok(values) };
        let shape = part.shape(name).unwrap_or_default();
        let before = values.iter().filter(|x| !x.is_finite()).count();
        for change in changes {
            match name.ends_with(".bias") {
                true => change.apply_bias(&mut values)?,
                false => change.apply(&mut values, &shape)?,
            }
        }
        let beyond = values.iter().filter(|x| !x.is_finite()).count().saturating_sub(before);
        if beyond > 0 {
            let what = if beyond == 1 { "1 value".into() } else { format!("{beyond} values") };
            let message = format!("`{name}` would have {what} beyond the range of f32 after merging");
            return Err(ToolError::new("P0403", message).help("a lower strength, or another file: this one is damaged"));
        }
        Ok(values)
    }

    /// What went wrong while a file was written, in place of the writer's own words.
    pub fn fault(&self) -> Option<ToolError> {
        self.fault.lock().ok()?.take()
    }
}

#[cfg(test)]
mod tests {
    use pipe_data::weights::convert::f32_to_bytes;

    use super::*;

    /// What is refused is what would be infinite.
    #[test]
    fn ranges_are_those_of_the_casts() {
        for (dtype, infinity) in [(DType::F16, 0x7c00u16), (DType::BF16, 0x7f80)] {
            let limit = infinite_from(dtype).unwrap();
            for (value, beyond) in [(limit, true), (f32::from_bits(limit.to_bits() - 1), false)] {
                let bytes = f32_to_bytes(&[value], dtype).unwrap();
                assert_eq!(u16::from_le_bytes([bytes[0], bytes[1]]) == infinity, beyond, "{dtype} {value}");
                let edits = Edits::default();
                assert_eq!(edits.check_range("a", &[0.0, -value, f32::INFINITY], dtype).is_err(), beyond);
                assert_eq!(edits.fault().is_some(), beyond);
            }
        }
        for dtype in [DType::F32, DType::F8E4M3, DType::F8E5M2] {
            assert!(Edits::default().check_range("a", &[f32::MAX], dtype).is_ok());
        }
    }
}
