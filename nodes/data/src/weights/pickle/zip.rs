//! Checkpoints of torch 1.6 and later: a zip of `data.pkl` and one member a storage, all in one folder.
//!
//! Only stored members are read, as torch writes them, so that a member's bytes lie in the file as they are and no
//! archive can unfold into more than itself. Sizes come from the directory at the end, checked against the file, the
//! members' own headers and each other.

use std::collections::HashMap;
use std::ops::Range;

use super::machine::load;
use super::{Contents, MAX_MEMBERS, MAX_PICKLE, Problem, shown, state};

/// Finds the tensors.
pub(super) fn read(file: &[u8]) -> Result<Contents, Problem> {
    let members = members(file)?;
    let root = root(&members)?;
    let member = |name: &str| members.get(format!("{root}/{name}").as_str()).cloned();
    if member("constants.pkl").is_some() {
        return Err(Problem::Unsupported("it is a TorchScript program, not a checkpoint".into()));
    }
    if member("byteorder").is_some_and(|range| &file[range] != b"little") {
        return Err(Problem::Unsupported("it was written by a big-endian machine".into()));
    }
    let range = member("data.pkl").unwrap_or_default();
    if range.len() > MAX_PICKLE {
        return Err(broken(format!("`data.pkl` has {} bytes, more than the limit of {MAX_PICKLE}", range.len())));
    }
    let loaded = load(&file[..range.end], range.start)?;
    if loaded.end != range.end {
        let problem = format!("{} bytes after its end belong to nothing", range.end - loaded.end);
        return Err(Problem::Pickle { at: loaded.end, problem });
    }
    state::contents(&loaded, |key| member(&format!("data/{key}")))
}

/// The folder that holds `data.pkl`.
fn root<'a>(members: &HashMap<&'a str, Range<usize>>) -> Result<&'a str, Problem> {
    let mut roots = members.keys().filter_map(|name| name.strip_suffix("/data.pkl").filter(|root| !root.contains('/')));
    match (roots.next(), roots.next()) {
        (Some(root), None) => Ok(root),
        (Some(_), Some(_)) => Err(Problem::Unsupported("its zip archive holds several `data.pkl`".into())),
        (None, _) => {
            let problem = "it is a zip archive without the `data.pkl` of a torch checkpoint";
            Err(Problem::Unsupported(problem.into()))
        }
    }
}

/// An entry of the directory.
struct Entry<'a> {
    name: &'a str,
    len: u64,
    /// Where the member's own header begins.
    header: u64,
}

/// Names of all members and where their bytes lie.
fn members(file: &[u8]) -> Result<HashMap<&str, Range<usize>>, Problem> {
    let directory = directory(file)?;
    let mut entries = entries(&file[directory.range.clone()], directory.count)?;
    entries.sort_unstable_by_key(|entry| entry.header);
    let mut members = HashMap::with_capacity(entries.len());
    let (mut end, mut before) = (0, "");
    for entry in entries {
        let name = entry.name;
        if entry.header < end {
            return Err(broken(format!("its members `{}` and `{}` overlap", shown(before), shown(name))));
        }
        let data = member(file, &entry, directory.range.start as u64)?;
        end = data.end as u64;
        before = name;
        if members.insert(name, data).is_some() {
            return Err(broken(format!("two of its members are named `{}`", shown(name))));
        }
    }
    Ok(members)
}

/// Where the directory lies and how many entries it has.
struct Directory {
    range: Range<usize>,
    count: u64,
}

/// Finds the directory by the record at the end of the file.
fn directory(file: &[u8]) -> Result<Directory, Problem> {
    const RECORD: usize = 22;
    let none = || broken("it has no end record (an unfinished download?)");
    let last = file.len().checked_sub(RECORD).ok_or_else(none)?;
    let is_end = |&at: &usize| {
        let record = Record(&file[at..]);
        record.u32(0) == Some(0x0605_4b50) && record.u16(20).map(usize::from) == Some(file.len() - at - RECORD)
    };
    let at = (last.saturating_sub(0xffff)..=last).rev().find(is_end).ok_or_else(none)?;
    let end = Record(&file[at..]);
    let fields = || Some((end.u16(4)?, end.u16(6)?, end.u16(8)?, end.u16(10)?, end.u32(12)?, end.u32(16)?));
    let Some((disk, first_disk, here, count, size, offset)) = fields() else { return Err(none()) };
    let (mut count, mut size, mut offset) = (u64::from(count), u64::from(size), u64::from(offset));
    if disk != first_disk || u64::from(here) != count {
        return Err(broken("it is one of several parts"));
    }
    if count == 0xffff || size == 0xffff_ffff || offset == 0xffff_ffff {
        (count, size, offset) =
            large_end(file, at).ok_or_else(|| broken("its end record for large archives is broken"))?;
    }
    let range = offset.checked_add(size).filter(|&end| end <= at as u64).map(|end| offset as usize..end as usize);
    let range =
        range.ok_or_else(|| broken(format!("its directory of {size} bytes at {offset} is not inside the file")))?;
    if count > MAX_MEMBERS as u64 {
        return Err(broken(format!("it states {count} members, more than the limit of {MAX_MEMBERS}")));
    }
    Ok(Directory { range, count })
}

/// Count, size and offset from the 64-bit record, which a locator before the end record at `at` points to.
fn large_end(file: &[u8], at: usize) -> Option<(u64, u64, u64)> {
    let locator = Record(file.get(at.checked_sub(20)?..)?);
    let place = usize::try_from((locator.u32(0)? == 0x0706_4b50).then(|| locator.u64(8))??).ok()?;
    let record = Record(file.get(place..)?);
    (record.u32(0)? == 0x0606_4b50 && record.u64(24)? == record.u64(32)?).then_some(())?;
    Some((record.u64(32)?, record.u64(40)?, record.u64(48)?))
}

fn entries(directory: &[u8], count: u64) -> Result<Vec<Entry<'_>>, Problem> {
    const RECORD: usize = 46;
    if count.saturating_mul(RECORD as u64) > directory.len() as u64 {
        return Err(broken(format!("it states {count} members, but its directory has only {} bytes", directory.len())));
    }
    let mut entries = Vec::with_capacity(count as usize);
    let mut rest = directory;
    for number in 0..count {
        let (entry, len) = entry(rest, number)?;
        entries.extend(entry);
        rest = &rest[len..];
    }
    if !rest.is_empty() {
        return Err(broken(format!("{} bytes of its directory belong to no member", rest.len())));
    }
    Ok(entries)
}

/// Reads the entry at the start of `rest`, none for a folder, and its length.
fn entry(rest: &[u8], number: u64) -> Result<(Option<Entry<'_>>, usize), Problem> {
    let cut = || broken(format!("entry {number} of its directory is broken"));
    let record = Record(rest);
    if record.u32(0) != Some(0x0201_4b50) {
        return Err(cut());
    }
    let (flags, method) = (record.u16(8).ok_or_else(cut)?, record.u16(10).ok_or_else(cut)?);
    let (packed, len) = (record.u32(20).ok_or_else(cut)?, record.u32(24).ok_or_else(cut)?);
    let [names, extras, comment] = [28, 30, 32].map(|at| record.u16(at).map_or(0, usize::from));
    let header = record.u32(42).ok_or_else(cut)?;
    let name = rest.get(46..46 + names).ok_or_else(cut)?;
    let extra = rest.get(46 + names..46 + names + extras).ok_or_else(cut)?;
    let end = 46 + names + extras + comment;
    rest.get(..end).ok_or_else(cut)?;
    let name = std::str::from_utf8(name).map_err(|_| broken(format!("the name of member {number} is not UTF-8")))?;
    if !is_plain(name) {
        return Err(broken(format!("the name `{}` of a member leads out of the archive", shown(name))));
    }
    if flags & 1 != 0 {
        return Err(Problem::Unsupported(format!("member `{}` of its zip archive is encrypted", shown(name))));
    }
    if method != 0 {
        let problem = format!("member `{}` of its zip archive is compressed, which torch never does", shown(name));
        return Err(Problem::Unsupported(format!("{problem} ({packed} bytes for {len})")));
    }
    // Saturated fields stand in the extra field, in this order.
    let mut large = large_fields(extra).into_iter();
    let mut field = |short: u32| {
        if short == u32::MAX { large.next().ok_or_else(cut) } else { Ok(u64::from(short)) }
    };
    let (len, packed, header) = (field(len)?, field(packed)?, field(header)?);
    if len != packed {
        return Err(broken(format!(
            "member `{}` is stored, but its two sizes differ: {packed} and {len}",
            shown(name)
        )));
    }
    let folder = name.ends_with('/');
    if folder && len > 0 {
        return Err(broken(format!("its folder `{}` has content", shown(name))));
    }
    Ok(((!folder).then_some(Entry { name, len, header }), end))
}

/// The numbers of the extra field for large archives.
fn large_fields(mut extra: &[u8]) -> Vec<u64> {
    while let (Some(id), Some(len)) = (Record(extra).u16(0), Record(extra).u16(2)) {
        let Some(body) = extra.get(4..4 + usize::from(len)) else { break };
        if id == 1 {
            return body.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
        }
        extra = &extra[4 + usize::from(len)..];
    }
    Vec::new()
}

/// Checks a member's own header; gives the place of its bytes.
fn member(file: &[u8], entry: &Entry<'_>, limit: u64) -> Result<Range<usize>, Problem> {
    let name = entry.name;
    let wrong = |problem: &str| broken(format!("member `{}` {problem}", shown(name)));
    let at = usize::try_from(entry.header).ok().filter(|&at| at < file.len());
    let at = at.ok_or_else(|| wrong("lies outside the file"))?;
    let record = Record(&file[at..]);
    let (Some(0x0403_4b50), Some(method)) = (record.u32(0), record.u16(8)) else {
        return Err(wrong("has no header where the directory says"));
    };
    let [names, extras] = [26, 28].map(|at| record.u16(at).map_or(0, usize::from));
    if method != 0 || record.0.get(30..30 + names) != Some(name.as_bytes()) {
        return Err(wrong("has a header that differs from its entry in the directory"));
    }
    let start = (at + 30 + names + extras) as u64;
    match start.checked_add(entry.len) {
        Some(end) if end <= limit => Ok(start as usize..end as usize),
        _ => Err(wrong(&format!("states {} bytes, more than there are", entry.len))),
    }
}

/// Whether a name is a path below the archive's top, of usual characters.
fn is_plain(name: &str) -> bool {
    let path = name.strip_suffix('/').unwrap_or(name);
    !name.contains('\\')
        && !name.chars().any(char::is_control)
        && !path.split('/').any(|p| matches!(p, "" | "." | ".."))
}

fn broken(problem: impl Into<String>) -> Problem {
    Problem::Zip(problem.into())
}

/// Little-endian fields of a record that may be cut short.
struct Record<'a>(&'a [u8]);

impl Record<'_> {
    fn u16(&self, at: usize) -> Option<u16> {
        self.0.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.0.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.0.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
    }
}
