//! TensorBoard's event files: TFRecord frames with masked CRC32C, each an `Event` message of protocol buffers.
//!
//! A frame is `length: u64 | crc(length): u32 | data | crc(data): u32`, little-endian, with
//! `crc = rotr(crc32c, 15) + 0xa282ead8` (tensorflow/core/lib/io/record_writer). The messages are those of `event.proto`,
//! `summary.proto` and `tensor.proto` of TensorBoard; only the fields that are used are here.

/// A TFRecord frame.
pub fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked(data).to_le_bytes());
    out
}

fn masked(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The events of a file with the place where each frame ends, up to the first that is damaged.
pub fn frames(bytes: &[u8]) -> Vec<(usize, &[u8])> {
    let (mut list, mut at) = (Vec::new(), 0);
    while let Some((data, end)) = next(bytes, at) {
        list.push((end, data));
        at = end;
    }
    list
}

fn next(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let head = bytes.get(at..at.checked_add(12)?)?;
    let (length, crc) = head.split_at(8);
    if masked(length).to_le_bytes() != crc {
        return None;
    }
    let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
    let (start, end) = (at + 12, (at + 12).checked_add(length)?);
    let data = bytes.get(start..end)?;
    let crc = bytes.get(end..end.checked_add(4)?)?;
    (masked(data).to_le_bytes() == crc).then_some((data, end + 4))
}

/// A protocol buffer in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
    fn int(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }
    fn f64(mut self, field: u64, value: f64) -> Self {
        self.varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
        self
    }
    fn f32(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }
    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }
    fn message(self, field: u64, value: Message) -> Self {
        self.bytes(field, &value.0)
    }
}

fn event(time: f64, step: u64) -> Message {
    Message::default().f64(1, time).int(2, step)
}

fn summary(time: f64, step: u64, values: impl IntoIterator<Item = Message>) -> Vec<u8> {
    let all = values.into_iter().fold(Message::default(), |all, value| all.message(1, value));
    event(time, step).message(5, all).0
}

/// The first event of a file.
pub fn version(time: f64) -> Vec<u8> {
    Message::default().f64(1, time).bytes(3, b"brain.Event:2").0
}

/// A session begins: TensorBoard forgets what it has of this step and later ones.
pub fn session(time: f64, step: u64) -> Vec<u8> {
    event(time, step).message(7, Message::default().int(1, 1)).0
}

/// Numbers by tag.
pub fn scalars<'a>(time: f64, step: u64, values: impl IntoIterator<Item = (&'a str, f64)>) -> Vec<u8> {
    let value = |(tag, value): (&str, f64)| Message::default().bytes(1, tag.as_bytes()).f32(2, value as f32);
    summary(time, step, values.into_iter().map(value))
}

/// A text in Markdown.
pub fn text(time: f64, step: u64, tag: &str, text: &str) -> Vec<u8> {
    let plugin = Message::default().bytes(1, b"text");
    let shape = Message::default().message(2, Message::default().int(1, 1));
    // DT_STRING
    let tensor = Message::default().int(1, 7).message(2, shape).bytes(8, text.as_bytes());
    let value = Message::default().bytes(1, tag.as_bytes()).message(8, tensor);
    summary(time, step, [value.message(9, Message::default().message(1, plugin))])
}

/// A picture as PNG, with its height and width.
pub fn image(time: f64, step: u64, tag: &str, png: &[u8], (height, width): (u32, u32)) -> Vec<u8> {
    let image = Message::default().int(1, height.into()).int(2, width.into()).int(3, 3).bytes(4, png);
    summary(time, step, [Message::default().bytes(1, tag.as_bytes()).message(4, image)])
}

/// Height and width that a PNG's header tells.
pub fn png_size(png: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| Some(u32::from_be_bytes(png.get(at..at + 4)?.try_into().ok()?));
    (png.get(12..16)? == b"IHDR").then_some(())?;
    Some((number(20)?, number(16)?))
}

/// Step and first tag of an event, if it is one.
pub fn place(event: &[u8]) -> Option<(u64, Option<&str>)> {
    let (mut step, mut tag) = (0, None);
    for (field, value) in fields(event)? {
        match (field, value) {
            (2, Field::Int(value)) => step = value,
            (5, Field::Bytes(summary)) => {
                let Some((1, Field::Bytes(value))) = fields(summary)?.into_iter().next() else { continue };
                let mut inner = fields(value)?.into_iter();
                tag = inner.find_map(|(field, value)| match (field, value) {
                    (1, Field::Bytes(tag)) => std::str::from_utf8(tag).ok(),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some((step, tag))
}

enum Field<'a> {
    Int(u64),
    Bytes(&'a [u8]),
    Other,
}

/// Fields of a message; nothing when it is none.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    fn varint(bytes: &mut &[u8]) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = bytes.split_first()?;
            *bytes = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
    fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = bytes.split_at_checked(n)?;
        *bytes = rest;
        Some(taken)
    }
    let mut list = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Field::Int(varint(&mut bytes)?),
            1 => take(&mut bytes, 8).map(|_| Field::Other)?,
            2 => {
                let n = usize::try_from(varint(&mut bytes)?).ok()?;
                Field::Bytes(take(&mut bytes, n)?)
            }
            5 => take(&mut bytes, 4).map(|_| Field::Other)?,
            _ => return None,
        };
        list.push((key >> 3, value));
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_crc_of_tensorflow() {
        // CRC32C of RFC 3720, B.4: 32 zeros; and its masked form as TensorFlow's `crc32c_test` computes it.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(masked(&[0; 32]), 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8));
        // The first frame of a file that TensorBoard's own writer made.
        let mut file = frame(&version(1.0));
        let expected = "180000000000000 0a37f4b22 09 000000000000f03f 1a 0d 627261696e2e4576656e743a32 86bf577a";
        let hex: String = file.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected.replace(' ', ""));
        let whole = file.len();
        file.extend(frame(&scalars(2.0, 300, [("loss/current", 0.5), ("lr/unet", 1e-4)])));
        let found = frames(&file);
        assert_eq!(found.iter().map(|(end, _)| *end).collect::<Vec<_>>(), [whole, file.len()]);
        assert_eq!(place(found[0].1), Some((0, None)));
        assert_eq!(place(found[1].1), Some((300, Some("loss/current"))));
        // A byte that changed, and a frame cut short.
        for broken in [whole - 1, whole + 3, file.len() - 1] {
            let mut copy = file.clone();
            copy[broken] ^= 1;
            assert!(frames(&copy).len() < 2, "byte {broken}");
        }
        assert_eq!(frames(&file[..file.len() - 1]).len(), 1);
    }

    #[test]
    fn what_is_no_event_is_not_read() {
        assert_eq!(place(&[0x12, 0x7f]).map(|(step, _)| step), None);
        assert_eq!(place(&[0xff; 11]), None);
        assert_eq!(png_size(b"no picture"), None);
        let huge = [u64::MAX.to_le_bytes().to_vec(), masked(&u64::MAX.to_le_bytes()).to_le_bytes().to_vec()].concat();
        assert!(frames(&huge).is_empty());
    }
}
