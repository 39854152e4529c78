//! Tensors under other names: what a table makes of them, and what it cannot.

use indexmap::IndexMap;

use super::rules::How;
use crate::weights::recipe::{Recipe, Source};

/// A tensor to be mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given<'a> {
    /// Its name as the tables have it.
    pub name: &'a str,
    /// What recipes call it.
    pub source: &'a str,
    /// Its sizes.
    pub shape: &'a [usize],
}

/// Something that keeps tensors from being mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A part of a joined tensor is not there.
    Missing {
        /// The part, named like its neighbours.
        name: String,
    },
    /// A tensor has a shape that does not fit.
    Shape {
        /// The tensor, as recipes call it.
        source: String,
        /// Its sizes.
        shape: Vec<usize>,
        /// What was needed.
        wanted: &'static str,
    },
}

/// Tensors under other names.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    /// New name → how it is made.
    pub tensors: IndexMap<String, Recipe>,
    /// Tensors no table knows.
    pub unknown: Vec<String>,
    /// Tensors that repeat another.
    pub copies: Vec<String>,
    /// Those of them that a program holds beside the first and computes with: the name they share, and how they are made.
    pub tied: Vec<(String, Recipe)>,
    /// What keeps others from being mapped.
    pub faults: Vec<Fault>,
}

impl Mapped {
    /// Adds a tensor unless the name is taken.
    pub fn add(&mut self, name: String, recipe: Recipe, given: &Given) {
        if self.tensors.contains_key(&name) {
            self.copies.push(given.source.to_owned());
        } else {
            self.tensors.insert(name, recipe);
        }
    }

    /// Notes a shape that does not fit.
    pub fn misfit(&mut self, given: &Given, wanted: &'static str) {
        self.faults.push(Fault::Shape { source: given.source.into(), shape: given.shape.into(), wanted });
    }

    /// Adds a tensor turned round.
    pub(super) fn turn(&mut self, name: String, how: How, tensor: &Given) {
        let source = tensor.source.to_owned();
        match (how, tensor.shape) {
            (How::Transposed, &[rows, columns]) => {
                self.add(name, Recipe { source: Source::Transposed(source), shape: vec![columns, rows] }, tensor);
            }
            (How::Swapped, [rows, ..]) if rows % 2 == 0 => {
                let recipe = Recipe { source: Source::SwappedHalves(source), shape: tensor.shape.to_vec() };
                self.add(name, recipe, tensor);
            }
            (How::Transposed, _) => self.misfit(tensor, "a matrix is"),
            _ => self.misfit(tensor, "two equal halves of its rows are"),
        }
    }

    /// Adds a tensor of several parts.
    pub fn gather(&mut self, name: String, first: &Given, names: &[String], parts: &[Option<&Given>]) {
        let mut shape = first.shape.to_vec();
        let mut sources = Vec::with_capacity(parts.len());
        let mut rows = 0usize;
        for (part_name, part) in names.iter().zip(parts) {
            let Some(part) = part else {
                // Named as the others are: with their prefix.
                let prefix = first.source.strip_suffix(first.name).unwrap_or_default();
                return self.faults.push(Fault::Missing { name: format!("{prefix}{part_name}") });
            };
            if part.shape.is_empty() || part.shape[1..] != shape[1..] {
                return self.misfit(part, "rows as long as those it is joined with are");
            }
            rows += part.shape[0];
            sources.push(part.source.to_owned());
        }
        shape[0] = rows;
        self.add(name, Recipe { source: Source::Joined(sources), shape }, first);
    }
}

/// A convolution's kernel as a matrix `[out, in · height · width]`.
pub(super) fn flat(shape: &[usize]) -> Vec<usize> {
    match shape {
        [out, rest @ ..] if rest.len() > 1 => vec![*out, rest.iter().product()],
        _ => shape.to_vec(),
    }
}
