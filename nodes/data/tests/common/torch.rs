//! Torch checkpoints built by hand: pickles operation by operation, zips with any field wrong.
#![allow(dead_code)]

/// A pickle of protocol 2 with this body.
pub fn program(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub fn int(number: i64) -> Vec<u8> {
    [b"\x8a\x08", &number.to_le_bytes()[..]].concat()
}

pub fn tuple(parts: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &parts.concat()[..], b"t"].concat()
}

pub fn ints(numbers: &[i64]) -> Vec<u8> {
    tuple(&numbers.iter().map(|n| int(*n)).collect::<Vec<_>>())
}

pub fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<u8> = entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(", &entries[..], b"u"].concat()
}

pub fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

/// `module.name(*args)`
pub fn call(module: &str, name: &str, args: &[Vec<u8>]) -> Vec<u8> {
    [global(module, name), tuple(args), b"R".to_vec()].concat()
}

/// A storage of `torch.FloatStorage`, or what `kind` says.
pub fn storage(kind: &str, key: &str, len: i64) -> Vec<u8> {
    let id = [text("storage"), global("torch", kind), text(key), text("cpu"), int(len)];
    [tuple(&id), b"Q".to_vec()].concat()
}

/// The same with the sixth part that old files have.
pub fn old_storage(kind: &str, key: &str, len: i64, view: Vec<u8>) -> Vec<u8> {
    let id = [text("storage"), global("torch", kind), text(key), text("cpu"), int(len), view];
    [tuple(&id), b"Q".to_vec()].concat()
}

pub fn tensor(storage: Vec<u8>, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let args = [storage, int(offset), ints(shape), ints(strides), b"\x89".to_vec(), b"N".to_vec()];
    call("torch._utils", "_rebuild_tensor_v2", &args)
}

/// A dictionary of one tensor `a` of two floats.
pub fn one() -> Vec<u8> {
    dict(&[("a", tensor(storage("FloatStorage", "0", 2), 0, &[2], &[1]))])
}

/// A member of a zip, and what is said of it.
#[derive(Clone)]
pub struct Member {
    pub name: Vec<u8>,
    /// Name in the member's own header.
    pub own_name: Vec<u8>,
    pub data: Vec<u8>,
    pub method: u16,
    pub flags: u16,
    /// Sizes in the directory.
    pub packed: u32,
    pub len: u32,
    pub extra: Vec<u8>,
    /// Place of the header in the directory, when it is not the true one.
    pub header: Option<u32>,
}

impl Member {
    pub fn new(name: &str, data: &[u8]) -> Member {
        let len = data.len() as u32;
        let (name, data) = (name.as_bytes().to_vec(), data.to_vec());
        let own_name = name.clone();
        Member { name, own_name, data, method: 0, flags: 0, packed: len, len, extra: vec![], header: None }
    }
}

/// A zip, and what its end says of it.
#[derive(Clone, Default)]
pub struct Zip {
    pub members: Vec<Member>,
    pub count: Option<u16>,
    pub size: Option<u32>,
    pub offset: Option<u32>,
    pub disk: u16,
    /// Bytes at the end of the directory.
    pub rest: Vec<u8>,
    /// Records between directory and end.
    pub before_end: Vec<u8>,
}

impl Zip {
    /// Directory and end come after all members.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut directory = Vec::new();
        let short = |n: usize| (n as u16).to_le_bytes();
        for m in &self.members {
            let header = m.header.unwrap_or(out.len() as u32);
            out.extend(b"PK\x03\x04\x14\0");
            out.extend([m.flags, m.method, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
            out.extend([0, m.packed, m.len].iter().flat_map(|n| n.to_le_bytes()));
            out.extend([short(m.own_name.len()), short(0)].concat());
            out.extend([&m.own_name[..], &m.data].concat());
            directory.extend(b"PK\x01\x02\x14\0\x14\0");
            directory.extend([m.flags, m.method, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
            directory.extend([0, m.packed, m.len].iter().flat_map(|n| n.to_le_bytes()));
            directory.extend([short(m.name.len()), short(m.extra.len()), [0; 2], [0; 2], [0; 2]].concat());
            directory.extend([0, header].iter().flat_map(|n| n.to_le_bytes()));
            directory.extend([&m.name[..], &m.extra].concat());
        }
        directory.extend(&self.rest);
        let offset = self.offset.unwrap_or(out.len() as u32);
        let size = self.size.unwrap_or(directory.len() as u32);
        let count = self.count.unwrap_or(self.members.len() as u16);
        out.extend([&directory[..], &self.before_end, b"PK\x05\x06"].concat());
        out.extend([self.disk, 0, count, count].iter().flat_map(|n| n.to_le_bytes()));
        out.extend([size, offset].iter().flat_map(|n| n.to_le_bytes()));
        out.extend([0, 0]);
        out
    }
}

/// The zip of a checkpoint, to be made wrong.
pub fn parts(pickle: &[u8], storages: &[(&str, &[u8])]) -> Zip {
    let mut members = vec![Member::new("archive/data.pkl", pickle)];
    members.extend(storages.iter().map(|(key, data)| Member::new(&format!("archive/data/{key}"), data)));
    members.push(Member::new("archive/version", b"3\n"));
    Zip { members, ..Zip::default() }
}

/// A checkpoint whose pickle has this body, with one storage `0` of two floats.
pub fn zip(body: &[u8]) -> Vec<u8> {
    parts(&program(body), &[("0", &[0, 0, 128, 63, 0, 0, 0, 192])]).bytes()
}

/// The magic number, protocol and machine of the old form.
pub fn old_head() -> Vec<u8> {
    let machine = dict(&[("protocol_version", int(1001)), ("little_endian", b"\x88".to_vec())]);
    [program(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"), program(&int(1001)), program(&machine)].concat()
}

/// A checkpoint of the old form, as far as the storages.
pub fn old(body: &[u8], keys: &[&str]) -> Vec<u8> {
    let keys: Vec<u8> = keys.iter().flat_map(|key| text(key)).collect();
    [old_head(), program(body), program(&[b"](", &keys[..], b"e"].concat())].concat()
}

/// A storage of the old form.
pub fn old_data(len: i64, data: &[u8]) -> Vec<u8> {
    [&len.to_le_bytes()[..], data].concat()
}
