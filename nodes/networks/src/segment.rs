//! A network as a list of segments.

use pipe_ops::Var;

use crate::net::Net;

/// A tensor that passes between segments.
pub type Slot = usize;

type Forward = Box<dyn Fn(&Net, &[Var]) -> Vec<Var> + Send + Sync>;

/// One step of a network: a residual block with its attention, an embedder, a head.
pub struct Segment {
    /// Name in plans and messages.
    pub name: String,
    /// Index of the component whose weights it reads.
    pub part: usize,
    /// Tensors it reads.
    pub inputs: Vec<Slot>,
    /// Tensors it makes.
    pub outputs: Vec<Slot>,
    /// Prefixes of the weights it uses.
    pub weights: Vec<String>,
    /// The computation.
    pub forward: Forward,
}

/// Segments in order, over one or more components.
#[derive(Default)]
pub struct Model {
    /// Component names, such as `unet`; [`Segment::part`] points here.
    pub parts: Vec<String>,
    /// The segments.
    pub segments: Vec<Segment>,
    /// Number of slots.
    pub slots: usize,
}

/// Builds a [`Model`].
#[derive(Default)]
pub struct Builder {
    model: Model,
    part: usize,
}

impl Builder {
    /// An empty model.
    pub fn new() -> Self {
        Self::default()
    }
    /// Segments that follow read the weights of component `name`.
    pub fn part(&mut self, name: &str) {
        self.part = self.model.parts.iter().position(|p| p == name).unwrap_or_else(|| {
            self.model.parts.push(name.to_string());
            self.model.parts.len() - 1
        });
    }
    /// A slot filled from outside.
    pub fn input(&mut self) -> Slot {
        self.model.slots += 1;
        self.model.slots - 1
    }
    /// Adds a segment with one output.
    pub fn push(
        &mut self,
        name: impl Into<String>,
        weights: &[&str],
        inputs: &[Slot],
        forward: impl Fn(&Net, &[Var]) -> Var + Send + Sync + 'static,
    ) -> Slot {
        let output = self.input();
        self.model.segments.push(Segment {
            name: name.into(),
            part: self.part,
            inputs: inputs.to_vec(),
            outputs: vec![output],
            weights: weights.iter().map(|w| w.to_string()).collect(),
            forward: Box::new(move |net, x| vec![forward(net, x)]),
        });
        output
    }
    /// Adds a segment with two outputs.
    pub fn push_two(
        &mut self,
        name: impl Into<String>,
        weights: &[&str],
        inputs: &[Slot],
        forward: impl Fn(&Net, &[Var]) -> [Var; 2] + Send + Sync + 'static,
    ) -> [Slot; 2] {
        let outputs = [self.input(), self.input()];
        self.model.segments.push(Segment {
            name: name.into(),
            part: self.part,
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
            weights: weights.iter().map(|w| w.to_string()).collect(),
            forward: Box::new(move |net, x| forward(net, x).to_vec()),
        });
        outputs
    }
    /// The model.
    pub fn finish(self) -> Model {
        self.model
    }
}
