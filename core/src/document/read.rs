//! The text of a document from a file or standard input, or why there is none.

use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;

use super::{MAX_BYTES, plain};

/// What stands for standard input in place of a path.
pub const STDIN: &str = "-";

/// Why a text could not be read.
pub(super) struct Unread {
    pub code: &'static str,
    pub message: String,
    pub help: Option<&'static str>,
    /// The text as far as it can be shown, and the bytes of it to point at.
    pub shown: Option<(String, std::ops::Range<usize>)>,
}

/// Reads a document.
pub(super) fn read(path: &Path) -> Result<String, Unread> {
    let bytes = if path == Path::new(STDIN) { stdin()? } else { file(path)? };
    if bytes.len() > MAX_BYTES {
        return Err(fail("P0011", format!("the document has more than the limit of {MAX_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| not_text(path, error.as_bytes(), error.utf8_error().valid_up_to()))
}

fn fail(code: &'static str, message: String) -> Unread {
    Unread { code, message, help: None, shown: None }
}

fn file(path: &Path) -> Result<Vec<u8>, Unread> {
    let refuse = |why: &str| fail("P0001", format!("cannot read `{}`: {why}", path.display()));
    let about = std::fs::metadata(path).map_err(|error| refuse(&plain(&error)))?;
    if about.is_dir() {
        return Err(refuse("it is a folder"));
    }
    if !about.is_file() && !is_stream(path) {
        return Err(refuse("it is a pipe or a device, not a file"));
    }
    if about.len() > MAX_BYTES as u64 {
        // A checkpoint is told by its first bytes.
        let mut head = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(64).read_to_end(&mut head));
        if read.is_ok() && kind(&head).is_some() {
            return Ok(head);
        }
        return Err(fail("P0011", format!("the document has {} bytes, the limit is {MAX_BYTES}", about.len())));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| refuse(&plain(&error)))?;
    // A stream tells no length.
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| refuse(&plain(&error)))?;
    Ok(bytes)
}

/// All of standard input; it can be read once only, a document several times.
fn stdin() -> Result<Vec<u8>, Unread> {
    static READ: OnceLock<Result<Vec<u8>, String>> = OnceLock::new();
    let read = READ.get_or_init(|| {
        let mut bytes = Vec::new();
        let all = std::io::stdin().lock().take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes);
        all.map(|_| bytes).map_err(|error| plain(&error))
    });
    read.clone().map_err(|why| fail("P0001", format!("cannot read standard input: {why}")))
}

/// What the shell or the caller has opened for reading: `/dev/stdin`, `<(…)`. Any other pipe may have nobody at its
/// other end, and reading it would wait for ever.
fn is_stream(path: &Path) -> bool {
    path == Path::new("/dev/stdin") || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}

/// Bytes that are no UTF-8: another kind of file, another encoding, or a letter of one at `at`.
fn not_text(path: &Path, bytes: &[u8], at: usize) -> Unread {
    let name = path.display();
    if let Some((what, help)) = kind(bytes) {
        return Unread { help: Some(help), ..fail("P0002", format!("`{name}` is {what}, not a document")) };
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        let help = Some("save it as UTF-8: in Notepad under `Encoding`, in PowerShell with `-Encoding utf8`");
        return Unread { help, ..fail("P0002", format!("`{name}` is UTF-16 text, not UTF-8")) };
    }
    // What stands before the fault is UTF-8, so its place in the shown text is the same.
    let shown = String::from_utf8_lossy(bytes).into_owned();
    let message = format!("`{name}` is not UTF-8 text: the byte 0x{:02x} is no letter of it", bytes[at]);
    let help = Some("save the file as UTF-8; it looks like Latin-1 or Windows-1252");
    Unread { code: "P0002", message, help, shown: Some((shown, at..at + '\u{fffd}'.len_utf8())) }
}

/// Files that are often given by mistake, with what to do.
fn kind(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const LOOK: &str = "`pipe inspect` looks at weights; a document is YAML or TOML text";
    const TEXT: &str = "a document is YAML or TOML text; `pipe init` writes one to begin with";
    let safetensors = bytes.get(8) == Some(&b'{') && bytes.get(4..8) == Some(&[0; 4]);
    Some(match bytes {
        _ if safetensors => ("a safetensors file", LOOK),
        [b'P', b'K', 3, 4, ..] => ("a torch checkpoint or another archive", LOOK),
        [0x80, 2..=5, ..] => ("a torch checkpoint", LOOK),
        [b'G', b'G', b'U', b'F', ..] => ("a GGUF file", LOOK),
        [0x89, b'P', b'N', b'G', ..] => ("a PNG image", TEXT),
        [0xff, 0xd8, 0xff, ..] => ("a JPEG image", TEXT),
        [b'R', b'I', b'F', b'F', ..] if bytes.get(8..12) == Some(b"WEBP") => ("a WebP image", TEXT),
        [0x1f, 0x8b, ..] => ("a gzip archive", TEXT),
        _ => return None,
    })
}
