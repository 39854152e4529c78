//! Lists of a network's tensors, and sizes read from those of a file.

use std::collections::HashMap;

use pipe_data::weights::{ComponentWeights, shown};

/// A network's tensors as `(name, shape)`.
pub type Shapes = Vec<(String, Vec<usize>)>;

/// Collects tensors in order.
#[derive(Default)]
pub(crate) struct List(pub Shapes);

impl List {
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.0.push((name.into(), shape.to_vec()));
    }
    /// `[out, in]`, and a bias where there is one.
    pub fn linear(&mut self, path: &str, i: usize, o: usize, bias: bool) {
        self.add(format!("{path}.weight"), &[o, i]);
        if bias {
            self.add(format!("{path}.bias"), &[o]);
        }
    }
    /// `[out, in, k, k]` and a bias.
    pub fn conv(&mut self, path: &str, i: usize, o: usize, k: usize) {
        self.add(format!("{path}.weight"), &[o, i, k, k]);
        self.add(format!("{path}.bias"), &[o]);
    }
    /// Weight and bias of a norm.
    pub fn norm(&mut self, path: &str, c: usize) {
        self.add(format!("{path}.weight"), &[c]);
        self.add(format!("{path}.bias"), &[c]);
    }
    /// Weight of a norm without bias.
    pub fn rms(&mut self, path: &str, c: usize) {
        self.add(format!("{path}.weight"), &[c]);
    }
}

/// A part of a checkpoint, as far as sizes are read from it.
pub trait Stored {
    /// Shape of an internal tensor.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;
    /// Internal names of all tensors.
    fn names(&self) -> Vec<&str>;
    /// What the file calls an internal tensor, for messages.
    fn called(&self, name: &str) -> String {
        name.to_owned()
    }
}

impl Stored for ComponentWeights {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.shape(name)
    }
    fn names(&self) -> Vec<&str> {
        self.names().collect()
    }
    fn called(&self, name: &str) -> String {
        self.stored_names(name).swap_remove(0)
    }
}

impl Stored for HashMap<String, Vec<usize>> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.get(name).cloned()
    }
    fn names(&self) -> Vec<&str> {
        self.keys().map(String::as_str).collect()
    }
}

/// Why the sizes of a network cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizesError {
    /// A tensor that tells them is not there; its name as the file would have it.
    #[error("tensor `{}` is missing", shown(.0))]
    Missing(String),
    /// Shapes that do not go together.
    #[error("{0}")]
    Odd(String),
}

impl From<String> for SizesError {
    fn from(problem: String) -> Self {
        SizesError::Odd(problem)
    }
}

impl From<SizesError> for String {
    fn from(error: SizesError) -> Self {
        error.to_string()
    }
}

/// Reads shapes of internal names, with messages that name what is missing.
pub(crate) struct Reader<'a>(pub &'a dyn Stored);

impl Reader<'_> {
    /// A tensor that must be there, with this many axes.
    pub fn need(&self, name: &str, axes: usize) -> Result<Vec<usize>, SizesError> {
        let shape = self.0.shape(name).ok_or_else(|| SizesError::Missing(self.0.called(name)))?;
        if shape.len() != axes || shape.contains(&0) {
            return Err(SizesError::Odd(format!(
                "`{}` has shape {shape:?}, not {axes} axes",
                shown(&self.0.called(name))
            )));
        }
        Ok(shape)
    }
    /// How many blocks there are whose names begin with `pattern`, which has `{}` for their number: by the highest, so
    /// that a block that is missing is told as missing.
    pub fn count(&self, pattern: &str) -> usize {
        let names = self.0.names();
        let (head, tail) = pattern.split_once("{}").unwrap_or((pattern, ""));
        let number = |name: &&str| {
            let rest = name.strip_prefix(head)?;
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            rest[end..].starts_with(tail).then(|| rest[..end].parse::<usize>().ok())?
        };
        // No model has more blocks than tensors: a higher number is a name that nothing is known about.
        names.iter().filter_map(number).filter(|i| *i < names.len()).max().map_or(0, |last| last + 1)
    }
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.shape(name)
    }
    pub fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }
}

/// `a / b` where it is whole, else an error that names both.
pub(crate) fn split(what: &str, a: usize, b: usize) -> Result<usize, SizesError> {
    if b == 0 || !a.is_multiple_of(b) {
        return Err(SizesError::Odd(format!("{what}: {a} cannot be split into parts of {b}")));
    }
    Ok(a / b)
}
