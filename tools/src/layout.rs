//! The tensors of a model on their way to a file: as they lie in theirs, or in another layout.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io;

use pipe_data::weights::convert::f32_to_bytes;
use pipe_data::weights::keymap::{Form, StoredTensor, plan};
use pipe_data::weights::{ComponentWeights, DType, Family, Recipe, Source, TensorOut, WeightSet};

use crate::edits::Edits;
use crate::error::Result;

/// The tensors of a part in a form of its family, in their own type or in `dtype`.
///
/// # Errors
/// When the part does not fit the form.
pub fn planned<'a>(
    part: &'a ComponentWeights,
    family: Family,
    form: Form,
    dtype: Option<DType>,
    edits: &'a Edits<'a>,
) -> Result<Vec<TensorOut<'a>>> {
    let all = part.tensors.iter().chain(&part.optional);
    let named: Vec<(&str, &[usize])> = all.map(|(name, recipe)| (name.as_str(), recipe.shape.as_slice())).collect();
    let stored = plan(part.component, family, form, named)?;
    // What is made up has the type of the others.
    let usual = part.names().find_map(|name| part.dtype(name)).unwrap_or(DType::F32);
    Ok(stored.into_iter().map(|tensor| made(part, tensor, usual, dtype, edits)).collect())
}

fn made<'a>(
    part: &'a ComponentWeights,
    StoredTensor { name, recipe }: StoredTensor,
    usual: DType,
    wanted: Option<DType>,
    edits: &'a Edits<'a>,
) -> TensorOut<'a> {
    let own = recipe.names().first().and_then(|name| part.dtype(name)).unwrap_or(usual);
    let dtype = wanted.filter(|_| own.is_float()).unwrap_or(own);
    let shape = recipe.shape.clone();
    let touched = recipe.names().iter().any(|name| edits.touches(part.component, name));
    let lost = || io::Error::other("a tensor it is made of is not there");
    if !touched && dtype == own {
        return TensorOut::lazy(name, dtype, shape, move || {
            let parts: Result<Vec<_>, _> = recipe.names().iter().map(|source| part.bytes(source)).collect();
            let bytes = recipe.bytes(dtype, parts.map_err(io::Error::other)?).ok_or_else(lost)?;
            Ok(bytes.into_owned())
        });
    }
    let written = name.clone();
    TensorOut::stream(name, dtype, shape, move |sink| {
        let parts: io::Result<Vec<Cow<[f32]>>> =
            recipe.names().iter().map(|source| Ok(Cow::Owned(edits.values(part, source)?))).collect();
        let values = recipe.values(parts?).ok_or_else(lost)?;
        edits.check_range(&written, &values, dtype)?;
        sink(&values)
    })
}

/// The tensors of a file as they lie in it, with those that change, and the floats of known parts cast to `dtype`.
/// `parts` are the parts found in this set.
pub fn as_stored<'a>(
    set: &'a WeightSet,
    parts: &[&'a ComponentWeights],
    dtype: Option<DType>,
    edits: &'a Edits<'a>,
) -> Vec<TensorOut<'a>> {
    let mut known: HashSet<&str> = HashSet::new();
    // Stored tensor → what changes in it: the internal tensor, and how that is made.
    let mut changed: HashMap<&str, Vec<(&'a ComponentWeights, &'a str, &'a Recipe)>> = HashMap::new();
    for part in parts.iter().copied() {
        let tied = part.tied.iter().map(|(name, recipe)| (name, recipe));
        for (name, recipe) in part.tensors.iter().chain(&part.optional).chain(tied) {
            known.extend(recipe.names().iter().map(String::as_str));
            if edits.touches(part.component, name) {
                for stored in recipe.names() {
                    changed.entry(stored).or_default().push((part, name, recipe));
                }
            }
        }
    }
    let mut out = Vec::new();
    for name in set.names() {
        let Some(info) = set.info(name) else { continue };
        if dtype.is_some() && set.is_scale(name) {
            continue;
        }
        let target = dtype.filter(|_| info.dtype.is_float() && known.contains(name)).unwrap_or(info.dtype);
        let shape = info.shape.clone();
        let pieces = changed.remove(name).unwrap_or_default();
        if pieces.is_empty() && target == info.dtype && !(dtype.is_some() && has_scale(set, name)) {
            out.push(TensorOut::lazy(name, target, shape, move || {
                set.bytes(name).map(Cow::into_owned).map_err(io::Error::other)
            }));
            continue;
        }
        out.push(TensorOut::lazy(name, target, shape, move || {
            let mut values = set.f32(name).map_err(io::Error::other)?;
            for (part, internal, recipe) in &pieces {
                let new = edits.values(part, internal)?;
                scatter(&mut values, name, set, recipe, &new)
                    .ok_or_else(|| io::Error::other("its parts do not fit"))?;
            }
            edits.check_range(name, &values, target)?;
            f32_to_bytes(&values, target).ok_or_else(|| io::Error::other("its type cannot be written"))
        }));
    }
    out
}

fn has_scale(set: &WeightSet, name: &str) -> bool {
    matches!(set.scale(name), Ok(Some(_)))
}

/// Puts the values of an internal tensor where they lie in the stored tensor `name`.
fn scatter(values: &mut [f32], name: &str, set: &WeightSet, recipe: &Recipe, new: &[f32]) -> Option<()> {
    match &recipe.source {
        Source::Whole(_) => values.get_mut(..new.len())?.copy_from_slice(new),
        Source::Rows { start, .. } => {
            let row: usize = recipe.shape.iter().skip(1).product();
            let start = start.checked_mul(row)?;
            values.get_mut(start..start.checked_add(new.len())?)?.copy_from_slice(new);
        }
        Source::Joined(names) => {
            let before = names.iter().take_while(|other| *other != name);
            let start: usize = before.map(|other| set.info(other).map_or(0, |info| info.elements())).sum();
            let len = values.len();
            values.copy_from_slice(new.get(start..start + len)?);
        }
        Source::SwappedHalves(_) => {
            let half = new.len() / 2;
            values.get_mut(..new.len() - half)?.copy_from_slice(&new[half..]);
            values.get_mut(new.len() - half..)?.copy_from_slice(&new[..half]);
        }
        Source::Transposed(_) => {
            let [rows, columns] = *recipe.shape.as_slice() else { return None };
            for r in 0..rows {
                for c in 0..columns {
                    *values.get_mut(c * rows + r)? = *new.get(r * columns + c)?;
                }
            }
        }
        Source::Ones | Source::Identity => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pipe_data::weights::write_safetensors;

    use super::*;

    /// What an internal tensor is made of, put back, gives what it was made of.
    #[test]
    fn scattered_values_lie_where_they_were_gathered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let stored: BTreeMap<&str, Vec<f32>> = [("a", 2), ("b", 4), ("c", 6)]
            .map(|(name, rows)| (name, (0..2 * rows).map(|i| (i + 100 * rows) as f32).collect()))
            .into();
        let tensors = stored.iter().map(|(name, v)| TensorOut::f32(*name, DType::F32, [v.len() / 2, 2], v.clone()));
        write_safetensors(&path, tensors, &BTreeMap::new()).unwrap();
        let set = WeightSet::open(&path).unwrap();
        let name = |name: &str| name.to_owned();
        for (source, shape) in [
            (Source::Whole(name("c")), vec![6, 2]),
            (Source::Rows { of: name("c"), start: 2, end: 5 }, vec![3, 2]),
            (Source::Joined(vec![name("a"), name("b"), name("c")]), vec![12, 2]),
            (Source::SwappedHalves(name("b")), vec![4, 2]),
            (Source::Transposed(name("b")), vec![2, 4]),
        ] {
            let recipe = Recipe { source, shape };
            let parts = recipe.names().iter().map(|n| Cow::Borrowed(stored[n.as_str()].as_slice())).collect();
            let changed: Vec<f32> = recipe.values(parts).unwrap().iter().map(|x| -x).collect();
            for part in recipe.names() {
                let mut values = stored[part.as_str()].clone();
                scatter(&mut values, part, &set, &recipe, &changed).unwrap();
                let rows = if let Source::Rows { start, end, .. } = recipe.source {
                    2 * start..2 * end
                } else {
                    0..values.len()
                };
                for (i, (new, old)) in values.iter().zip(&stored[part.as_str()]).enumerate() {
                    assert_eq!(*new, if rows.contains(&i) { -old } else { *old }, "{:?} {part} {i}", recipe.source);
                }
            }
        }
        let ones = Recipe { source: Source::Ones, shape: vec![1] };
        assert!(scatter(&mut [0.0], "a", &set, &ones, &[1.0]).is_none());
        assert!(scatter(&mut [0.0], "a", &set, &Recipe::whole("a", [2]), &[1.0, 2.0]).is_none());
    }
}
