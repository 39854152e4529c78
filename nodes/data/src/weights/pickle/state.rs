//! From what a pickle made to named tensors with a place in the file.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use indexmap::IndexMap;

use super::machine::Loaded;
use super::value::{Heap, Node, Tensor, Value};
use super::view::{elements, is_contiguous, reach};
use super::{Contents, MAX_EXPANDED, Problem, shown};
use crate::weights::header::{Header, TensorInfo};

/// Entries of a Lightning dictionary that are kept as metadata.
const KEPT: [&str; 3] = ["epoch", "global_step", "pytorch-lightning_version"];
/// Longest text kept as metadata.
const MAX_KEPT: usize = 200;

/// Finds the state dictionary and where each of its tensors is; `place` knows where a storage lies in the file.
pub(super) fn contents(loaded: &Loaded<'_>, place: impl Fn(&str) -> Option<Range<usize>>) -> Result<Contents, Problem> {
    let (heap, top) = (&loaded.heap, loaded.value);
    if heap.dict(top).is_none() {
        return Err(Problem::Unsupported(format!("it holds {}, not a dictionary of tensors", heap.kind(top))));
    }
    let state = heap.get(top, "state_dict").unwrap_or(top);
    let Some(entries) = heap.dict(state) else {
        return Err(Problem::Unsupported(format!("its `state_dict` is {}, not a dictionary", heap.kind(state))));
    };
    let mut header = Header { metadata: metadata(heap, top), ..Header::default() };
    let mut strides = HashMap::new();
    let mut others = Vec::new();
    let mut last: IndexMap<&str, Value<'_>> = IndexMap::new();
    for (key, value) in entries {
        match (key, heap.tensor(*value)) {
            // The later entry of a name counts, at the place of the first, as in Python.
            (Value::Text(name), _) => {
                last.insert(name, *value);
            }
            (_, Some(_)) => {
                let problem = format!("the name of a tensor is {}, not a text", heap.kind(*key));
                return Err(Problem::Unsupported(problem));
            }
            _ => {}
        }
    }
    for (name, value) in last {
        let Some(tensor) = heap.tensor(value) else {
            others.push(name);
            continue;
        };
        let (info, steps) =
            resolve(tensor, &place).map_err(|problem| Problem::Tensor { tensor: shown(name), problem })?;
        strides.extend(steps.map(|steps| (name.to_owned(), steps)));
        header.tensors.insert(name.to_owned(), info);
    }
    if header.tensors.is_empty() && !others.is_empty() {
        let names: Vec<String> = others.iter().take(5).map(|name| format!("`{}`", shown(name))).collect();
        return Err(Problem::Unsupported(format!(
            "no entry of its dictionary is a tensor: it has {}",
            names.join(", ")
        )));
    }
    Ok(Contents { header, strides })
}

/// The entries that tell how far a model was trained.
fn metadata(heap: &Heap<'_>, top: Value<'_>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::Int(number) => Some(number.to_string()),
        Value::Text(text) if text.len() <= MAX_KEPT => Some(text.to_owned()),
        _ => None,
    };
    KEPT.iter().filter_map(|key| Some(((*key).to_owned(), text(heap.get(top, key)?)?))).collect()
}

/// Type, shape and place of a tensor, and its strides when it is not contiguous.
fn resolve(
    tensor: &Tensor<'_>,
    place: impl Fn(&str) -> Option<Range<usize>>,
) -> Result<(TensorInfo, Option<Vec<usize>>), String> {
    let storage = &tensor.storage;
    let (dtype, key) = (storage.dtype, shown(storage.key));
    let size = dtype.size();
    let range = place(storage.key).ok_or_else(|| format!("lies in storage `{key}`, which is not in the file"))?;
    let needed = storage.len.checked_mul(size as u64);
    if needed.is_none_or(|needed| needed > range.len() as u64) {
        let stated = storage.len;
        return Err(format!("lies in storage `{key}` of {stated} {dtype}, but that has only {} bytes", range.len()));
    }
    let (first, len) = storage.view.unwrap_or((0, storage.len));
    if first.checked_add(len).is_none_or(|end| end > storage.len) {
        return Err(format!("lies in a view that goes past the end of storage `{key}`"));
    }
    let too_large = || "has an impossibly large shape".to_owned();
    let count = elements(&tensor.shape).ok_or_else(too_large)?;
    let whole = |n: &u64| usize::try_from(*n).map_err(|_| too_large());
    let shape: Vec<usize> = tensor.shape.iter().map(whole).collect::<Result<_, _>>()?;
    if count == 0 {
        return Ok((TensorInfo { dtype, shape, start: range.start, end: range.start }, None));
    }
    let last = reach(&tensor.shape, &tensor.strides).and_then(|reach| reach.checked_add(tensor.offset));
    if last.is_none_or(|last| last >= len) {
        return Err(format!("goes past the end of storage `{key}`, which has {len} elements"));
    }
    // Both lie inside the file now, and so in `usize`.
    let start = range.start + (first + tensor.offset) as usize * size;
    let contiguous = is_contiguous(&tensor.shape, &tensor.strides);
    let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(size)).ok_or_else(too_large)?;
    if !contiguous && bytes > MAX_EXPANDED.max(range.len()) {
        return Err(format!("is a view that repeats {} stored bytes to {bytes}", range.len()));
    }
    let strides = tensor.strides.iter().map(|&n| n as usize).collect();
    Ok((TensorInfo { dtype, shape, start, end: start + bytes }, (!contiguous).then_some(strides)))
}

/// Whether a value is the dictionary entry `true`; nothing when there is no such entry.
pub(super) fn flag(loaded: &Loaded<'_>, name: &str) -> Option<bool> {
    match loaded.heap.get(loaded.value, name)? {
        Value::Bool(flag) => Some(flag),
        _ => None,
    }
}

/// Every storage the pickle names, with its bytes: the first mention of a name counts.
pub(super) fn storages<'a>(heap: &Heap<'a>) -> HashMap<&'a str, (u64, usize)> {
    let mut found = HashMap::new();
    for node in heap.nodes() {
        if let Node::Storage(storage) = node {
            found.entry(storage.key).or_insert((storage.len, storage.dtype.size()));
        }
    }
    found
}
