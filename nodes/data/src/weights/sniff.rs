//! Guesses what a file that holds no weights is, so that the message can say it.

/// What these first bytes look like, if they are something known. `head` is the start of the file.
pub(crate) fn looks_like(head: &[u8]) -> Option<&'static str> {
    let text: String = head
        .iter()
        .skip_while(|b| b.is_ascii_whitespace())
        .take(64)
        .map(|&b| (b as char).to_ascii_lowercase())
        .collect();
    let starts = |magic: &[u8]| head.starts_with(magic);
    Some(if text.starts_with("version https://git-lfs") {
        "a Git LFS pointer: the file itself was not downloaded (`git lfs pull` gets it)"
    } else if text.starts_with("<!doctype") || text.starts_with("<html") || text.starts_with("<head") {
        "a web page: the download failed or needs a login"
    } else if text.starts_with("<?xml") {
        "an XML document: the download failed or needs a login"
    } else if starts(b"GGUF") {
        "a GGUF file"
    } else if starts(b"\n") && head.get(2) == Some(&b'\n') && head.get(4) == Some(&b'<') {
        "a SentencePiece model: a tokenizer, which is found beside the weights"
    } else if starts(&[0x1f, 0x8b]) {
        "a gzip archive"
    } else if starts(b"7z\xbc\xaf") || starts(b"Rar!") {
        "a compressed archive"
    } else if starts(b"\x89HDF") {
        "an HDF5 file"
    } else if starts(b"\x89PNG") || starts(&[0xff, 0xd8, 0xff]) || (starts(b"RIFF") && head.get(8..12) == Some(b"WEBP"))
    {
        "an image"
    } else if starts(b"\x08\x00\x00\x00") && head.get(8..11) == Some(b"ON") {
        "an ONNX model"
    } else if text.starts_with('{') || text.starts_with('[') {
        "a JSON document"
    } else if head.len() >= 64 && head.iter().all(|&b| b == 0) {
        "a file of zeros: an unfinished download"
    } else if !head.is_empty() && head.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
        "a text file"
    } else {
        return None;
    })
}

#[cfg(test)]
mod tests {
    use super::looks_like;

    #[test]
    fn names_the_common_mistakes() {
        for (head, word) in [
            (&b"version https://git-lfs.github.com/spec/v1\n"[..], "Git LFS"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"\n\x0e\n\x05<pad>\x15\0\0\0\0\x18\x03", "SentencePiece"),
            (b"{\"error\": \"gated\"}", "JSON"),
            (b"Invalid username or password.", "text"),
            (&[0; 64], "zeros"),
        ] {
            assert!(looks_like(head).is_some_and(|s| s.contains(word)), "{word}");
        }
        assert_eq!(looks_like(&[0x93, 1, 200, 7, 3, 9]), None);
    }
}
