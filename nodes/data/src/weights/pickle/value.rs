//! The values a pickle can make: numbers, texts, containers and descriptions of tensors.
//!
//! Containers live in one list and refer to each other by number. A pickle may therefore nest or share them as it
//! likes, in circles too: nothing here follows them deeper than one level.

use super::{MAX_ITEMS, MAX_NODES};
use crate::weights::dtype::DType;

/// Why a step of the machine cannot be done.
#[derive(Debug)]
pub(super) enum Fault {
    /// In words.
    Broken(String),
    /// A name that is not on the list.
    Forbidden(String),
}

/// A fault in words.
pub(super) fn broken<T>(problem: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Broken(problem.into()))
}

/// A name on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    RebuildTensorV2,
    RebuildTensor,
    RebuildParameter,
    Storage(DType),
    OrderedDict,
    Size,
    Device,
    NumpyScalar,
    NumpyType,
    Encode,
    /// A class of Lightning's callbacks, which becomes nothing.
    Callback,
}

/// A value on the stack or in a container.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// A number of more than eight bytes, as written.
    Long(&'a [u8]),
    /// A number with a fraction; which one does not matter here.
    Float,
    Text(&'a str),
    Bytes(&'a [u8]),
    /// The bytes that a text of characters below 256 stands for.
    Latin(&'a str),
    Global(Global),
    /// Something that was made by a name on the list and carries no weights.
    Inert,
    /// Number of a node.
    Node(u32),
}

/// What has parts.
#[derive(Debug)]
pub(super) enum Node<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    NumpyType(&'a str),
    Storage(Storage<'a>),
    Tensor(Box<Tensor<'a>>),
}

/// A run of elements in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    pub dtype: DType,
    /// Its name in the file.
    pub key: &'a str,
    /// Elements.
    pub len: u64,
    /// First element and length of a view of it, in the oldest files.
    pub view: Option<(u64, u64)>,
}

/// A view of a storage; all in elements.
#[derive(Clone, Debug)]
pub(super) struct Tensor<'a> {
    pub storage: Storage<'a>,
    pub offset: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
}

/// All nodes of a pickle.
#[derive(Debug, Default)]
pub(super) struct Heap<'a> {
    nodes: Vec<Node<'a>>,
    items: usize,
}

impl<'a> Heap<'a> {
    /// Adds a node.
    pub fn add(&mut self, node: Node<'a>) -> Result<Value<'a>, Fault> {
        if self.nodes.len() >= MAX_NODES {
            return broken(format!("it makes more than {MAX_NODES} containers and tensors"));
        }
        self.nodes.push(node);
        Ok(Value::Node((self.nodes.len() - 1) as u32))
    }

    /// Counts values that are put into a container.
    pub fn spend(&mut self, items: usize) -> Result<(), Fault> {
        self.items = self.items.saturating_add(items);
        if self.items > MAX_ITEMS {
            broken(format!("it puts more than {MAX_ITEMS} values into containers"))
        } else {
            Ok(())
        }
    }

    /// All nodes in the order they were made.
    pub fn nodes(&self) -> &[Node<'a>] {
        &self.nodes
    }

    /// The node a value names.
    pub fn node(&self, value: Value<'a>) -> Option<&Node<'a>> {
        if let Value::Node(number) = value { self.nodes.get(number as usize) } else { None }
    }

    /// The node a value names, to change it.
    pub fn node_mut(&mut self, value: Value<'a>) -> Option<&mut Node<'a>> {
        if let Value::Node(number) = value { self.nodes.get_mut(number as usize) } else { None }
    }

    /// Parts of a tuple.
    pub fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        if let Some(Node::Tuple(parts)) = self.node(value) { Some(parts) } else { None }
    }

    /// Parts of a tuple or a list.
    pub fn sequence(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.node(value)? {
            Node::Tuple(parts) | Node::List(parts) => Some(parts),
            _ => None,
        }
    }

    /// Entries of a dictionary, as written: a later entry replaces an earlier one of the same name.
    pub fn dict(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        if let Some(Node::Dict(entries)) = self.node(value) { Some(entries) } else { None }
    }

    /// A dictionary's value under a text.
    pub fn get(&self, dict: Value<'a>, name: &str) -> Option<Value<'a>> {
        let named = |(key, _): &&(Value<'a>, Value<'a>)| matches!(key, Value::Text(text) if *text == name);
        self.dict(dict)?.iter().rev().find(named).map(|(_, value)| *value)
    }

    /// A tensor.
    pub fn tensor(&self, value: Value<'a>) -> Option<&Tensor<'a>> {
        if let Some(Node::Tensor(tensor)) = self.node(value) { Some(tensor) } else { None }
    }

    /// What a value is, in words.
    pub fn kind(&self, value: Value<'a>) -> &'static str {
        match value {
            Value::None => "nothing",
            Value::Bool(_) => "a truth value",
            Value::Int(_) | Value::Long(_) | Value::Float => "a number",
            Value::Text(_) => "a text",
            Value::Bytes(_) | Value::Latin(_) => "bytes",
            Value::Global(_) => "a class or function",
            Value::Inert => "an object",
            Value::Node(_) => match self.node(value) {
                Some(Node::Tuple(_)) => "a tuple",
                Some(Node::List(_)) => "a list",
                Some(Node::Dict(_)) => "a dictionary",
                Some(Node::NumpyType(_)) => "a type",
                Some(Node::Storage(_)) => "a storage",
                Some(Node::Tensor(_)) => "a tensor",
                None => "nothing",
            },
        }
    }
}
