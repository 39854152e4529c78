//! How a tensor is made from others: as they are, parts of their rows, joined, turned round.
//!
//! Checkpoints of the same model differ not only in names: one keeps query, key and value in one matrix where another
//! has three, exchanges the halves of a modulation, or stores a projection transposed. A recipe says for one tensor
//! which others it is made of, in either direction, for elements of any type, and is carried out one tensor at a time.

use std::borrow::Cow;
use std::slice;

use super::convert::f32_to_bytes;
use super::dtype::DType;

/// What a tensor is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// All values of a tensor, in their order; the shape may differ.
    Whole(String),
    /// Some rows (sizes of the first axis) of a tensor.
    Rows {
        /// The tensor.
        of: String,
        /// First row.
        start: usize,
        /// One past the last row.
        end: usize,
    },
    /// The rows of several tensors, one after the other.
    Joined(Vec<String>),
    /// The second half of a tensor's rows, then the first.
    SwappedHalves(String),
    /// A matrix with rows and columns exchanged.
    Transposed(String),
    /// Ones: a weight other programs insist on and nothing uses.
    Ones,
    /// The identity matrix.
    Identity,
}

/// A tensor, and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// What it is made of.
    pub source: Source,
    /// Its sizes, outermost first.
    pub shape: Vec<usize>,
}

impl Recipe {
    /// A tensor as it is.
    pub fn whole(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Recipe {
        Recipe { source: Source::Whole(name.into()), shape: shape.into() }
    }

    /// The tensors it needs, in order; none for constants.
    pub fn names(&self) -> &[String] {
        match &self.source {
            Source::Whole(name) | Source::SwappedHalves(name) | Source::Transposed(name) => slice::from_ref(name),
            Source::Rows { of, .. } => slice::from_ref(of),
            Source::Joined(names) => names,
            Source::Ones | Source::Identity => &[],
        }
    }

    /// Number of values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The bytes in `dtype`, from those of [`names`](Self::names) in the same type and order.
    ///
    /// Nothing when a part is missing or too short, or a constant is wanted in an integer type.
    pub fn bytes<'a>(&self, dtype: DType, parts: Vec<Cow<'a, [u8]>>) -> Option<Cow<'a, [u8]>> {
        let one = match dtype {
            DType::F8E4M3 => Some(vec![0x38]),
            DType::F8E5M2 => Some(vec![0x3c]),
            _ => f32_to_bytes(&[1.0], dtype),
        };
        self.assemble(dtype.size(), 0, one, parts)
    }

    /// The values as `f32`, from those of [`names`](Self::names) in the same order.
    ///
    /// Nothing when a part is missing or too short.
    pub fn values<'a>(&self, parts: Vec<Cow<'a, [f32]>>) -> Option<Cow<'a, [f32]>> {
        self.assemble(1, 0.0, Some(vec![1.0]), parts)
    }

    /// Carries it out on elements of `unit` pieces each; `one` is the number 1.
    fn assemble<'a, T: Copy>(
        &self,
        unit: usize,
        zero: T,
        one: Option<Vec<T>>,
        mut parts: Vec<Cow<'a, [T]>>,
    ) -> Option<Cow<'a, [T]>> {
        let len = self.elements().checked_mul(unit)?;
        if parts.len() != self.names().len() {
            return None;
        }
        let out = match &self.source {
            Source::Whole(_) => parts.pop()?,
            Source::Rows { start, end, .. } => {
                let row = self.shape.iter().skip(1).product::<usize>() * unit;
                part_of(parts.pop()?, start.checked_mul(row)?, end.checked_mul(row)?)?
            }
            Source::Joined(_) => Cow::Owned(parts.concat()),
            Source::SwappedHalves(_) => {
                let mut values = parts.pop()?.into_owned();
                let half = values.len() / 2;
                values.rotate_left(half);
                Cow::Owned(values)
            }
            Source::Transposed(_) => match *self.shape {
                [rows, columns] => Cow::Owned(transposed(&parts.pop()?, columns, rows, unit)?),
                _ => return None,
            },
            Source::Ones => Cow::Owned(one?.repeat(self.elements())),
            Source::Identity => {
                let one = one?;
                let mut values = vec![zero; len];
                let step = (self.shape.last()? + 1) * unit;
                values.chunks_mut(step).for_each(|row| row[..unit].copy_from_slice(&one));
                Cow::Owned(values)
            }
        };
        (out.len() == len).then_some(out)
    }
}

fn part_of<T: Copy>(values: Cow<'_, [T]>, start: usize, end: usize) -> Option<Cow<'_, [T]>> {
    Some(match values {
        Cow::Borrowed(values) => Cow::Borrowed(values.get(start..end)?),
        Cow::Owned(values) => Cow::Owned(values.get(start..end)?.to_vec()),
    })
}

/// A matrix of `rows` × `columns` elements with both exchanged.
fn transposed<T: Copy>(values: &[T], rows: usize, columns: usize, unit: usize) -> Option<Vec<T>> {
    if values.len() != rows.checked_mul(columns)?.checked_mul(unit)? {
        return None;
    }
    let mut out = Vec::with_capacity(values.len());
    for column in 0..columns {
        for row in 0..rows {
            let at = (row * columns + column) * unit;
            out.extend_from_slice(&values[at..at + unit]);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(source: Source, shape: &[usize], parts: &[&[f32]]) -> Option<Vec<f32>> {
        let parts = parts.iter().map(|part| Cow::Borrowed(*part)).collect();
        Recipe { source, shape: shape.to_vec() }.values(parts).map(Cow::into_owned)
    }

    #[test]
    fn every_way_of_making_a_tensor() {
        let name = || "x".to_owned();
        let six: &[f32] = &[1., 2., 3., 4., 5., 6.];
        assert_eq!(make(Source::Whole(name()), &[2, 3], &[six]).unwrap(), six);
        let rows = |start, end| Source::Rows { of: name(), start, end };
        assert_eq!(make(rows(1, 2), &[1, 3], &[six]).unwrap(), [4., 5., 6.]);
        let joined = Source::Joined(vec![name(), name()]);
        assert_eq!(make(joined.clone(), &[3, 2], &[&six[..2], &six[2..]]).unwrap(), six);
        assert_eq!(make(Source::SwappedHalves(name()), &[2, 3], &[six]).unwrap(), [4., 5., 6., 1., 2., 3.]);
        assert_eq!(make(Source::Transposed(name()), &[3, 2], &[six]).unwrap(), [1., 4., 2., 5., 3., 6.]);
        assert_eq!(make(Source::Ones, &[2], &[]).unwrap(), [1., 1.]);
        assert_eq!(make(Source::Identity, &[2, 2], &[]).unwrap(), [1., 0., 0., 1.]);
        // Parts that are missing, too short or too long give nothing.
        assert_eq!(make(Source::Whole(name()), &[2, 3], &[]), None);
        assert_eq!(make(Source::Whole(name()), &[2, 4], &[six]), None);
        assert_eq!(make(rows(1, 3), &[2, 3], &[six]), None);
        assert_eq!(make(rows(usize::MAX, 3), &[2, 3], &[six]), None);
        assert_eq!(make(joined, &[3, 3], &[six, six]), None);
        assert_eq!(make(Source::Transposed(name()), &[2, 2], &[six]), None);
    }

    #[test]
    fn bytes_of_any_type_and_constants() {
        let swap = Recipe { source: Source::SwappedHalves("x".into()), shape: vec![4] };
        let parts = |bytes: &'static [u8]| vec![Cow::Borrowed(bytes)];
        assert_eq!(&*swap.bytes(DType::F8E4M3, parts(&[1, 2, 3, 4])).unwrap(), [3, 4, 1, 2]);
        assert_eq!(&*swap.bytes(DType::BF16, parts(&[1, 2, 3, 4, 5, 6, 7, 8])).unwrap(), [5, 6, 7, 8, 1, 2, 3, 4]);
        let one = Recipe { source: Source::Ones, shape: vec![] };
        assert_eq!(&*one.bytes(DType::F16, Vec::new()).unwrap(), [0x00, 0x3c]);
        for dtype in [DType::F8E4M3, DType::F8E5M2, DType::BF16, DType::F32] {
            let bytes = one.bytes(dtype, Vec::new()).unwrap();
            assert_eq!(super::super::convert::to_f32(dtype, &bytes).unwrap(), [1.0]);
        }
        assert_eq!(one.bytes(DType::I64, Vec::new()), None);
        let whole = Recipe::whole("x", [2]);
        assert!(matches!(whole.bytes(DType::U8, parts(&[1, 2])), Some(Cow::Borrowed([1, 2]))));
    }
}
