//! Zips: bombs, sizes that lie, members that overlap, names that lead elsewhere, and cuts.

use std::io::Write;

use super::Case;
use super::common::torch::*;

/// A checkpoint that is whole, to be made wrong.
fn whole() -> Zip {
    parts(&program(&one()), &[("0", &[0; 8])])
}

/// A checkpoint made wrong by `edit`.
fn with(edit: impl FnOnce(&mut Zip)) -> Vec<u8> {
    let mut zip = whole();
    edit(&mut zip);
    zip.bytes()
}

/// The field for large archives.
fn large(numbers: &[u64]) -> Vec<u8> {
    let numbers: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    [&1u16.to_le_bytes()[..], &(numbers.len() as u16).to_le_bytes(), &numbers].concat()
}

/// The records of a large archive, as they are written.
fn large_end(count: u64, size: u64, offset: u64, locator: u64) -> Vec<u8> {
    let numbers: Vec<u8> = [count, count, size, offset].iter().flat_map(|n| n.to_le_bytes()).collect();
    let record = [b"PK\x06\x06", &44u64.to_le_bytes()[..], &[45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0], &numbers].concat();
    [&record[..], b"PK\x06\x07\0\0\0\0", &locator.to_le_bytes(), &[1, 0, 0, 0]].concat()
}

fn deflated(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, bytes, wanted) in [
        ("empty zip", Zip::default().bytes(), "without the `data.pkl`"),
        (
            "zip of other things",
            Zip { members: vec![Member::new("a/b.txt", b"hello")], ..Zip::default() }.bytes(),
            "without the `data.pkl`",
        ),
        ("data.pkl without a folder", with(|z| rename(z, 0, "data.pkl")), "without the `data.pkl`"),
        ("data.pkl too deep", with(|z| rename(z, 0, "a/b/data.pkl")), "without the `data.pkl`"),
        ("two of data.pkl", with(|z| rename(z, 1, "other/data.pkl")), "several `data.pkl`"),
        ("TorchScript", with(|z| z.members.push(Member::new("archive/constants.pkl", b"x"))), "TorchScript"),
        ("big-endian", with(|z| z.members.push(Member::new("archive/byteorder", b"big"))), "big-endian"),
        ("only the first bytes", b"PK\x03\x04\x14\0\0\0\x08\x08archive/data.pkl".to_vec(), "no end record"),
        ("folder with content", with(|z| rename(z, 1, "archive/data/")), "has content"),
        ("encrypted", with(|z| z.members[1].flags = 1), "is encrypted"),
        ("several parts", with(|z| z.disk = 1), "several parts"),
        ("deflated pickle", with(|z| deflate(z, 0, &program(&one()))), "is compressed"),
        ("bomb", with(|z| deflate(z, 1, &vec![0; 1 << 22])), "bytes for 4194304"),
        (
            "bomb that states four gigabytes",
            with(|z| (z.members[1].method, z.members[1].len) = (8, u32::MAX - 1)),
            "is compressed",
        ),
        ("unknown method", with(|z| z.members[0].method = 99), "is compressed"),
        ("four gigabytes", with(|z| sizes(z, 1, u32::MAX - 1)), "more than there are"),
        ("a pickle of four gigabytes", with(|z| sizes(z, 0, u32::MAX - 1)), "more than there are"),
        ("four bytes too many", with(|z| sizes(z, 1, 12)), "overlap"),
        ("two sizes", with(|z| z.members[1].len = 4), "two sizes differ: 8 and 4"),
        ("size left out", with(|z| sizes(z, 1, u32::MAX)), "entry 1 of its directory is broken"),
        (
            "size of an exabyte",
            with(|z| (sizes(z, 1, u32::MAX), z.members[1].extra = large(&[1 << 60, 1 << 60])).1),
            "more than there are",
        ),
        (
            "size past all numbers",
            with(|z| (sizes(z, 1, u32::MAX), z.members[1].extra = large(&[u64::MAX, u64::MAX])).1),
            "more than there are",
        ),
        (
            "extra field cut",
            with(|z| (sizes(z, 1, u32::MAX), z.members[1].extra = vec![1, 0, 200, 0, 1, 2]).1),
            "entry 1",
        ),
        ("header outside", with(|z| z.members[2].header = Some(1 << 30)), "outside the file"),
        ("header in the middle", with(|z| z.members[2].header = Some(last_header() + 2)), "has no header"),
        ("header of another", with(|z| z.members[1].header = Some(0)), "overlap"),
        (
            "another name in its header",
            with(|z| z.members[1].own_name = b"archive/data/1".to_vec()),
            "differs from its entry",
        ),
        ("a member within a member", quoted(), "overlap"),
        ("a member in the directory", with(|z| z.offset = Some(20)), "its directory"),
        ("same name twice", with(|z| rename(z, 2, "archive/data/0")), "two of its members are named"),
        (
            "more members than entries",
            with(|z| (z.count = Some(4), z.rest = vec![0; 46]).0),
            "entry 3 of its directory is broken",
        ),
        ("many more members", with(|z| z.count = Some(60_000)), "its directory has only"),
        ("fewer members", with(|z| z.count = Some(2)), "belong to no member"),
        ("bytes in the directory", with(|z| z.rest = vec![0; 7]), "7 bytes of its directory"),
        ("directory outside", with(|z| z.offset = Some(u32::MAX - 1)), "not inside the file"),
        ("directory without end", with(|z| z.size = Some(u32::MAX - 1)), "not inside the file"),
        ("large without record", with(|z| z.count = Some(u16::MAX)), "end record for large archives"),
        (
            "large record elsewhere",
            with(|z| (z.count = Some(u16::MAX), z.before_end = large_end(3, 9, 9, 1 << 50)).0),
            "end record for large archives",
        ),
        (
            "large record past all numbers",
            with(|z| (z.count = Some(u16::MAX), z.before_end = large_end(3, 9, 9, u64::MAX)).0),
            "end record for large archives",
        ),
        ("number of members past all memory", huge_count(1 << 60), "members, more than the limit"),
        ("directory past all numbers", huge_directory(), "not inside the file"),
        ("a zip in the zip", parts(&whole().bytes(), &[]).bytes(), "operation 0x50"),
        ("safetensors in the zip", parts(b"\x02\0\0\0\0\0\0\0{}", &[]).bytes(), "operation 0x02"),
        ("no pickle at all", parts(b"", &[]).bytes(), "ends in the middle"),
        ("pickle without end", parts(b"\x80\x02}", &[]).bytes(), "ends in the middle"),
        ("two pickles", parts(&[program(b"}"), program(b"}")].concat(), &[]).bytes(), "4 bytes after its end"),
        ("name that is not UTF-8", with(|z| z.members[2].name = b"archive/\xff\xfe".to_vec()), "not UTF-8"),
    ] {
        cases.push(Case::new(name, bytes, wanted));
    }
    for name in [
        "../data/0",
        "archive/../../data/0",
        "/archive/data/0",
        "archive//data/0",
        "./archive/data/0",
        "archive\\data\\0",
        "archive/data/\u{7}",
        "",
    ] {
        cases.push(Case::new(format!("named {name:?}"), with(|z| rename(z, 1, name)), "leads out of the archive"));
    }
    let bytes = whole().bytes();
    for at in (4..bytes.len()).step_by(13) {
        cases.push(Case::new(format!("cut at {at}"), bytes[..at].to_vec(), "no end record"));
    }
    cases.push(Case::large(
        "a pickle of 33 MB",
        || parts(&vec![0; 33 << 20], &[]).bytes(),
        "more than the limit of 33554432",
    ));
    cases.push(Case::large("140 000 members", many, "members, more than the limit of 131072"));
    cases.push(Case::large("60 000 times the same member", same, "overlap"));
    cases
}

fn rename(zip: &mut Zip, member: usize, name: &str) {
    zip.members[member].name = name.as_bytes().to_vec();
    zip.members[member].own_name = name.as_bytes().to_vec();
}

/// Where the header of the last member is.
fn last_header() -> u32 {
    let bytes = whole().bytes();
    bytes.windows(15).position(|w| w == b"archive/version").unwrap() as u32 - 30
}

fn sizes(zip: &mut Zip, member: usize, size: u32) {
    (zip.members[member].packed, zip.members[member].len) = (size, size);
}

fn deflate(zip: &mut Zip, member: usize, data: &[u8]) {
    let member = &mut zip.members[member];
    (member.data, member.method, member.len) = (deflated(data), 8, data.len() as u32);
    member.packed = member.data.len() as u32;
}

/// The storage's bytes contain a second member's header: two members share them.
fn quoted() -> Vec<u8> {
    let inner = Zip { members: vec![Member::new("archive/data/1", &[0; 8])], ..Zip::default() }.bytes();
    let mut zip = parts(&program(&one()), &[("0", &inner[..52])]);
    let place = zip.bytes().windows(52).position(|w| w == &inner[..52]).unwrap() as u32;
    let mut member = Member::new("archive/data/1", &[0; 8]);
    member.header = Some(place);
    zip.members.push(member);
    zip.bytes()
}

fn huge_count(count: u64) -> Vec<u8> {
    let plain = whole().bytes();
    let directory = plain.windows(4).position(|w| w == b"PK\x01\x02").unwrap() as u64;
    let size = plain.len() as u64 - 22 - directory;
    with(|z| (z.count = Some(u16::MAX), z.before_end = large_end(count, size, directory, directory + size)).0)
}

fn huge_directory() -> Vec<u8> {
    let plain = whole().bytes();
    let place = plain.len() as u64 - 22;
    with(|z| (z.offset = Some(u32::MAX), z.before_end = large_end(3, u64::MAX, u64::MAX, place)).0)
}

/// A directory of more members than are read, all of them true.
fn many() -> Vec<u8> {
    let members: Vec<Member> = (0..140_000).map(|i| Member::new(&format!("a/{i}"), b"")).collect();
    let mut zip = Zip { members, count: Some(u16::MAX), ..Zip::default() };
    let plain = zip.bytes();
    let [size, offset] =
        [10, 6].map(|from_end| u32::from_le_bytes(*plain[plain.len() - from_end..].first_chunk().unwrap()));
    let (size, offset) = (u64::from(size), u64::from(offset));
    zip.before_end = large_end(140_000, size, offset, offset + size);
    zip.bytes()
}

/// A directory that names one member again and again.
fn same() -> Vec<u8> {
    let mut zip = whole();
    let mut member = Member::new("archive/data.pkl", &[]);
    member.header = Some(0);
    zip.members.extend(vec![member; 60_000]);
    zip.bytes()
}
