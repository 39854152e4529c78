//! A zip archive of stored members, written in one pass (PKWARE APPNOTE 6.3).
//!
//! Sizes are known before a member, its checksum only after: it follows the bytes in a data descriptor, and stands in
//! the directory. Members of 4 GiB and more, and archives of that size, use the 64-bit fields.

use std::io::{self, Write};

use flate2::Crc;

/// Members begin at multiples of this, as in torch's own files.
const ALIGN: u64 = 64;
/// Checksum follows; name is UTF-8.
const FLAGS: u16 = 0x0808;
/// Version that reads 64-bit fields.
const VERSION: u16 = 45;
/// 1980-01-01: equal content gives equal files.
const DATE: u16 = 0x0021;

struct Entry {
    name: String,
    len: u64,
    crc: u32,
    header: u64,
}

/// An archive in the making.
pub(super) struct ZipWriter<'w> {
    out: &'w mut dyn Write,
    at: u64,
    entries: Vec<Entry>,
}

impl<'w> ZipWriter<'w> {
    /// Begins an archive.
    pub fn new(out: &'w mut dyn Write) -> Self {
        ZipWriter { out, at: 0, entries: Vec::new() }
    }

    /// Writes a member of `len` bytes.
    pub fn member(
        &mut self,
        name: &str,
        len: u64,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let header = self.at;
        let large = len >= u32::MAX.into();
        let mut extra = Vec::new();
        if large {
            extra.extend([1u16.to_le_bytes(), 16u16.to_le_bytes()].concat());
            extra.extend([len.to_le_bytes(), len.to_le_bytes()].concat());
        }
        // Torch's own padding: a field `FB` of as many `Z` as are needed.
        let begin = header + 30 + (name.len() + extra.len()) as u64 + 4;
        let padding = begin.next_multiple_of(ALIGN) - begin;
        extra.extend([&b"FB"[..], &(padding as u16).to_le_bytes()].concat());
        extra.resize(extra.len() + padding as usize, b'Z');
        let mut record = 0x0403_4b50u32.to_le_bytes().to_vec();
        for field in [VERSION, FLAGS, 0, 0, DATE] {
            record.extend(field.to_le_bytes());
        }
        let size = if large { u32::MAX } else { 0 };
        for field in [0, size, size] {
            record.extend(field.to_le_bytes());
        }
        for field in [name.len(), extra.len()] {
            record.extend((field as u16).to_le_bytes());
        }
        self.put(&[&record, name.as_bytes(), &extra].concat())?;
        let mut body = Body { out: self.out, crc: Crc::new(), len: 0 };
        write(&mut body)?;
        let (crc, written) = (body.crc.sum(), body.len);
        if written != len {
            return Err(io::Error::other(format!("`{name}` has {written} bytes instead of {len}")));
        }
        self.at += len;
        let mut descriptor = [0x0807_4b50u32.to_le_bytes(), crc.to_le_bytes()].concat();
        for _ in 0..2 {
            if large {
                descriptor.extend(len.to_le_bytes());
            } else {
                descriptor.extend((len as u32).to_le_bytes());
            }
        }
        self.put(&descriptor)?;
        self.entries.push(Entry { name: name.into(), len, crc, header });
        Ok(())
    }

    /// Writes the directory and the end of the archive.
    pub fn finish(mut self) -> io::Result<()> {
        let start = self.at;
        for entry in std::mem::take(&mut self.entries) {
            let saturated = |field: u64| u32::try_from(field).unwrap_or(u32::MAX);
            let mut large = Vec::new();
            for field in [entry.len, entry.len, entry.header] {
                if field >= u32::MAX.into() {
                    large.extend(field.to_le_bytes());
                }
            }
            let extra = if large.is_empty() {
                large
            } else {
                [&1u16.to_le_bytes()[..], &(large.len() as u16).to_le_bytes(), &large].concat()
            };
            let mut record = 0x0201_4b50u32.to_le_bytes().to_vec();
            for field in [VERSION, VERSION, FLAGS, 0, 0, DATE] {
                record.extend(field.to_le_bytes());
            }
            for field in [entry.crc, saturated(entry.len), saturated(entry.len)] {
                record.extend(field.to_le_bytes());
            }
            for field in [entry.name.len(), extra.len(), 0, 0, 0] {
                record.extend((field as u16).to_le_bytes());
            }
            for field in [0, saturated(entry.header)] {
                record.extend(field.to_le_bytes());
            }
            self.put(&[&record, entry.name.as_bytes(), &extra].concat())?;
            self.entries.push(entry);
        }
        self.end(start)
    }

    fn end(&mut self, start: u64) -> io::Result<()> {
        let (count, size, place) = (self.entries.len() as u64, self.at - start, self.at);
        let mut record = Vec::new();
        if count >= 0xffff || size >= u32::MAX.into() || start >= u32::MAX.into() {
            record.extend(0x0606_4b50u32.to_le_bytes());
            record.extend(44u64.to_le_bytes());
            record.extend([VERSION.to_le_bytes(), VERSION.to_le_bytes()].concat());
            record.extend([0; 8]);
            for field in [count, count, size, start] {
                record.extend(field.to_le_bytes());
            }
            record.extend(0x0706_4b50u32.to_le_bytes());
            record.extend(0u32.to_le_bytes());
            record.extend(place.to_le_bytes());
            record.extend(1u32.to_le_bytes());
        }
        record.extend(0x0605_4b50u32.to_le_bytes());
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        for field in [0, 0, count, count] {
            record.extend(field.to_le_bytes());
        }
        for field in [size, start] {
            record.extend(u32::try_from(field).unwrap_or(u32::MAX).to_le_bytes());
        }
        record.extend(0u16.to_le_bytes());
        self.put(&record)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// Sums up what passes through.
struct Body<'w> {
    out: &'w mut dyn Write,
    crc: Crc,
    len: u64,
}

impl Write for Body<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.out.write(bytes)?;
        self.crc.update(&bytes[..len]);
        self.len += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(*bytes[at..].first_chunk().unwrap())
    }

    #[test]
    fn large_archives_use_wide_fields() {
        const FAR: u64 = 5 << 30;
        let mut out = Vec::new();
        let mut zip = ZipWriter { out: &mut out, at: FAR, entries: Vec::new() };
        zip.member("a", 3, |out| out.write_all(b"abc")).unwrap();
        let entry = Entry { name: "b".into(), len: 6 << 30, crc: 7, header: 8 };
        zip.entries.push(entry);
        zip.finish().unwrap();
        let directory = out.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        // The first entry lies far, the second is long: both say so in an extra field.
        assert_eq!((&out[directory + 42..][..4], u64_at(&out, directory + 51)), (&[0xff; 4][..], FAR));
        let second = directory + 46 + 1 + 12;
        assert_eq!((&out[second + 20..][..8], u64_at(&out, second + 51)), (&[0xff; 8][..], 6 << 30));
        assert_eq!(u64_at(&out, second + 59), 6 << 30);
        let end = second + 46 + 1 + 20;
        assert_eq!(&out[end..end + 4], b"PK\x06\x06");
        assert_eq!((u64_at(&out, end + 32), u64_at(&out, end + 48)), (2, FAR + directory as u64));
        let locator = end + 56;
        assert_eq!((&out[locator..][..4], u64_at(&out, locator + 8)), (&b"PK\x06\x07"[..], FAR + end as u64));
        assert_eq!((&out[locator + 20..][..4], out.len()), (&b"PK\x05\x06"[..], locator + 42));
    }

    #[test]
    fn a_member_of_another_length_is_an_error() {
        let mut out = Vec::new();
        assert!(ZipWriter::new(&mut out).member("a", 2, |out| out.write_all(b"abc")).is_err());
    }
}
