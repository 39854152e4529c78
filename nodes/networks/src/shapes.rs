//! Lists of a network's tensors.

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

/// Reads shapes of internal names, with messages that name what is missing.
pub(crate) struct Reader<'a>(pub &'a dyn Fn(&str) -> Option<Vec<usize>>);

impl Reader<'_> {
    /// A tensor that must be there, with this many axes.
    pub fn need(&self, name: &str, axes: usize) -> Result<Vec<usize>, String> {
        let shape = (self.0)(name).ok_or_else(|| format!("tensor `{name}` is missing"))?;
        if shape.len() != axes || shape.contains(&0) {
            return Err(format!("`{name}` has shape {shape:?}, not {axes} axes"));
        }
        Ok(shape)
    }
    /// How many blocks `pattern` with `{}` counts, from 0 on.
    pub fn count(&self, pattern: &str) -> usize {
        (0..).take_while(|i| (self.0)(&pattern.replace("{}", &i.to_string())).is_some()).count()
    }
    pub fn has(&self, name: &str) -> bool {
        (self.0)(name).is_some()
    }
}

/// `a / b` where it is whole, else an error that names both.
pub(crate) fn split(what: &str, a: usize, b: usize) -> Result<usize, String> {
    if b == 0 || !a.is_multiple_of(b) {
        return Err(format!("{what}: {a} cannot be split into parts of {b}"));
    }
    Ok(a / b)
}
