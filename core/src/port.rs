//! Port types and rates: what may flow along an edge of the graph, and when.
//!
//! Owns the vocabulary of edges. Does not know how a value is made.

use serde::Serialize;

/// What a port carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PortType {
    /// Images with captions, and the bucket each one falls in.
    Samples,
    /// An image autoencoder.
    Vae,
    /// A text encoder with its tokenizer.
    TextEncoder,
    /// A source of training batches.
    Batches,
    /// A denoising network (or an autoencoder under training).
    Model,
    /// A model with the set of its tensors that learn.
    Trainable,
    /// A loss over a trainable and its batches.
    Loss,
    /// The optimizer's step: what drives the run.
    Update,
    /// What a validation measured last.
    Validation,
}

impl PortType {
    /// The name used in messages and reference pages.
    pub fn name(self) -> &'static str {
        match self {
            PortType::Samples => "Samples",
            PortType::Vae => "Vae",
            PortType::TextEncoder => "TextEncoder",
            PortType::Batches => "Batches",
            PortType::Model => "Model",
            PortType::Trainable => "Trainable",
            PortType::Loss => "Loss",
            PortType::Update => "Update",
            PortType::Validation => "Validation",
        }
    }
}

/// When a value is available (on an output) or used (on an input). Ordered: a value may be used
/// at its own rate or a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rate {
    /// Once, before training.
    Setup,
    /// Once an image, while caches are filled.
    Sample,
    /// In every optimizer step.
    Step,
    /// When an event is due: a save, a preview, the end.
    Event,
}

impl Rate {
    /// The name used in messages and reference pages.
    pub fn name(self) -> &'static str {
        match self {
            Rate::Setup => "setup",
            Rate::Sample => "sample",
            Rate::Step => "step",
            Rate::Event => "event",
        }
    }
}

/// How many nodes an input takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arity {
    /// Exactly one node: `model: unet`.
    One,
    /// One node or none.
    Optional,
    /// A list of nodes, possibly empty: `text: [clip, t5]`; a single name counts as a list of one.
    Many,
    /// A list of at least one node: `samples: [photos, others]`.
    Several,
}

/// An input of a node type. In the document it is a field of the node that names another node
/// (`name`, or `name.port` where that node has several outputs).
#[derive(Clone, Debug)]
pub struct Input {
    /// Field name in the document.
    pub name: &'static str,
    /// Types accepted.
    pub accepts: &'static [PortType],
    /// When the node uses the value.
    pub rate: Rate,
    /// How many.
    pub arity: Arity,
    /// One line for hover and reference pages.
    pub doc: &'static str,
    /// The node uses the value alone, before its other inputs are there: [`crate::node::Node::prepare`] reads it, `build`
    /// does not get it.
    pub early: bool,
    /// The node asks what the value is and never for the weights in it, which stay unloaded.
    pub unloaded: bool,
}

impl Arity {
    /// Whether the document must name a node.
    pub fn required(self) -> bool {
        matches!(self, Arity::One | Arity::Several)
    }
    /// Whether it may name several.
    pub fn list(self) -> bool {
        matches!(self, Arity::Many | Arity::Several)
    }
}

impl Input {
    /// A required input used at `rate`.
    pub const fn one(name: &'static str, accepts: &'static [PortType], rate: Rate, doc: &'static str) -> Self {
        Input { name, accepts, rate, arity: Arity::One, doc, early: false, unloaded: false }
    }
    /// An optional input.
    pub const fn optional(name: &'static str, accepts: &'static [PortType], rate: Rate, doc: &'static str) -> Self {
        Input { name, accepts, rate, arity: Arity::Optional, doc, early: false, unloaded: false }
    }
    /// A list input.
    pub const fn many(name: &'static str, accepts: &'static [PortType], rate: Rate, doc: &'static str) -> Self {
        Input { name, accepts, rate, arity: Arity::Many, doc, early: false, unloaded: false }
    }
    /// Used once, before the node's other inputs are there.
    pub const fn early(self) -> Self {
        Input { rate: Rate::Setup, early: true, ..self }
    }
    /// Used without its weights.
    pub const fn unloaded(self) -> Self {
        Input { unloaded: true, ..self }
    }
    /// A list input of at least one node.
    pub const fn several(name: &'static str, accepts: &'static [PortType], rate: Rate, doc: &'static str) -> Self {
        Input { name, accepts, rate, arity: Arity::Several, doc, early: false, unloaded: false }
    }
}

/// An output of a node type.
#[derive(Clone, Debug)]
pub struct Output {
    /// Port name; `out` for the single output of most nodes.
    pub name: &'static str,
    /// What it carries.
    pub ty: PortType,
    /// From when on it is available.
    pub rate: Rate,
    /// One line for reference pages.
    pub doc: &'static str,
}

impl Output {
    /// The single output `out` of a node.
    pub const fn single(ty: PortType, rate: Rate, doc: &'static str) -> Self {
        Output { name: "out", ty, rate, doc }
    }
}
