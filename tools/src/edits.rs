//! Changes to a model's weights, made when a tensor is written.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;

use pipe_data::weights::{Component, ComponentWeights};

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
        self.try_values(part, name).map_err(|error| {
            let text = error.to_string();
            if let Ok(mut fault) = self.fault.lock() {
                fault.get_or_insert(error);
            }
            io::Error::other(text)
        })
    }

    fn try_values(&self, part: &ComponentWeights, name: &str) -> Result<Vec<f32>> {
        let mut values = part.f32(name)?;
        let Some(changes) = self.changes.get(&(part.component, name.to_owned())) else { return Ok(values) };
        let shape = part.shape(name).unwrap_or_default();
        for change in changes {
            match name.ends_with(".bias") {
                true => change.apply_bias(&mut values)?,
                false => change.apply(&mut values, &shape)?,
            }
        }
        Ok(values)
    }

    /// What went wrong while a file was written, in place of the writer's own words.
    pub fn fault(&self) -> Option<ToolError> {
        self.fault.lock().ok()?.take()
    }
}
