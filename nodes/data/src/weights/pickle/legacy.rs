//! Checkpoints of torch before 1.6: five pickles in a row, then the storages.
//!
//! The pickles are a magic number, a protocol version, facts of the machine, the object, and the names of its storages;
//! then, for each name, the number of elements as `i64` and the elements.

use std::collections::HashMap;
use std::ops::Range;

use super::machine::{Loaded, load};
use super::value::Value;
use super::{Contents, Problem, shown, state};

/// `0x1950a86a20f9469cfc6c`, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

/// Finds the tensors.
pub(super) fn read(file: &[u8]) -> Result<Contents, Problem> {
    let magic = load(file, 0)?;
    if !matches!(magic.value, Value::Long(number) if number == MAGIC) {
        let problem = "it is a Python pickle, but not one that `torch.save` wrote";
        return Err(Problem::Unsupported(problem.into()));
    }
    let protocol = load(file, magic.end)?;
    if !matches!(protocol.value, Value::Int(PROTOCOL)) {
        return Err(Problem::Unsupported("it is a torch checkpoint of an unknown version".into()));
    }
    let machine = load(file, protocol.end)?;
    if state::flag(&machine, "little_endian") == Some(false) {
        return Err(Problem::Unsupported("it was written by a big-endian machine".into()));
    }
    let object = load(file, machine.end)?;
    let names = load(file, object.end)?;
    let places = places(file, &object, &names)?;
    state::contents(&object, |key| places.get(key).cloned())
}

/// Where each storage lies.
fn places<'a>(file: &[u8], object: &Loaded<'a>, names: &Loaded<'a>) -> Result<HashMap<&'a str, Range<usize>>, Problem> {
    let broken = |at: usize, problem: String| Problem::Pickle { at, problem };
    let known = state::storages(&object.heap);
    let mut places = HashMap::new();
    let mut at = names.end;
    let keys = names.heap.sequence(names.value);
    for key in keys.ok_or_else(|| broken(object.end, "the names of its storages are not a list".into()))? {
        let Value::Text(key) = *key else {
            return Err(broken(object.end, "the name of a storage is not a text".into()));
        };
        let Some(&(len, size)) = known.get(key) else {
            return Err(broken(object.end, format!("storage `{}` belongs to no tensor", shown(key))));
        };
        let short = || broken(at, format!("storage `{}` goes past the end (an unfinished download?)", shown(key)));
        let stated = file.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or_else(short)?;
        let stated = i64::from_le_bytes(*stated);
        if u64::try_from(stated) != Ok(len) {
            let problem = format!("storage `{}` has {stated} elements where its tensors say {len}", shown(key));
            return Err(broken(at, problem));
        }
        let start = at + 8;
        let bytes = len.checked_mul(size as u64).filter(|&bytes| bytes <= (file.len() - start) as u64);
        let end = start + bytes.ok_or_else(short)? as usize;
        if places.insert(key, start..end).is_some() {
            return Err(broken(object.end, format!("storage `{}` is named twice", shown(key))));
        }
        at = end;
    }
    if at < file.len() {
        return Err(broken(at, format!("{} bytes after the last storage belong to none", file.len() - at)));
    }
    Ok(places)
}
